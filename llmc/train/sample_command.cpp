#include "llmc/train/sample_command.h"

#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/train/checkpoint_model.h"
#include "llmc/train/sampler.h"
#include "llmc/train/setup.h"

namespace llmc {

int sample_command(const CommandLine& line) {
    const Config& c = line.config;
    std::unique_ptr<ModelFile> file = ModelFile::open(line.checkpoint);
    const std::string kind = c.data.tokenizer == TokenizerChoice::automatic ? file->tokenizer
                                                                            : name_of(c.data.tokenizer);
    std::string why;
    const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(kind, file->tokenizer_path, why);
    if (!tokenizer) fail_data("cannot sample from ", file->path, ": ", why);
    CheckpointModel opened = open_model(line, std::move(file), 1);
    const SampleOptions options{.prompt = c.sampling.prompt,
                                .temperature = c.sampling.temperature,
                                .top_k = c.sampling.top_k,
                                .count = c.sampling.tokens,
                                .seed = uint64_t(c.machine.seed)};
    try {
        const std::string text = sample(*opened.model, *tokenizer, opened.file->shape.max_seq_len, options);
        std::printf("%s%s\n", c.sampling.prompt.c_str(), text.c_str());
    } catch (const NotFinite&) {
        throw Error(kExitDiverged, str("the logits of ", opened.file->path, " are not finite"));
    }
    return kExitOk;
}

}  // namespace llmc
