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
    const int count = c.sampling.samples;
    SampleOptions options{.prompt = c.sampling.prompt,
                          .choice = c.sampling.choice,
                          .count = c.sampling.tokens,
                          .stop = c.sampling.stop,
                          .seed = uint64_t(c.machine.seed)};
    try {
        for (; options.number < uint32_t(count); ++options.number) {
            const std::string text = sample(*opened.model, *tokenizer, opened.file->shape.max_seq_len, options);
            if (count > 1) std::printf("---- sample %u of %d ----\n", options.number + 1, count);
            std::printf("%s%s\n", c.sampling.prompt.c_str(), text.c_str());
            std::fflush(stdout);  // the next one may take long
        }
    } catch (const NotFinite&) {
        throw Error(kExitDiverged, str("the logits of ", opened.file->path, " are not finite"));
    }
    return kExitOk;
}

}  // namespace llmc
