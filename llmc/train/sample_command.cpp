#include "llmc/train/sample_command.h"

#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/train/model_setup.h"
#include "llmc/train/sampler.h"
#include "llmc/train/setup.h"

namespace llmc {

int sample_command(const CommandLine& line) {
    const Config& c = line.config;
    const std::unique_ptr<ModelFile> file = ModelFile::open(line.checkpoint);
    const std::string kind = c.data.tokenizer == TokenizerChoice::automatic ? file->tokenizer
                                                                            : name_of(c.data.tokenizer);
    std::string why;
    const std::unique_ptr<Tokenizer> tokenizer = open_tokenizer(kind, file->tokenizer_path, why);
    if (!tokenizer) fail_data("cannot sample from ", file->path, ": ", why);
    Config trained = from_json(file->config, file->path);
    trained.model.heads = c.model.heads;
    trained.model.head_dim = c.model.head_dim;
    const ModelShape shape = take_shape(trained, line.given, *file);
    if (const std::string note = assumed_heads(*file, line.given); !note.empty())
        std::fprintf(stderr, "%s\n", note.c_str());
    GPT2 model(shape, make_rules(trained, shape),
               {.batch_size = 1, .seq_len = shape.max_seq_len, .dtype = trained.model.dtype, .train = false});
    load_weights(*file, model);
    const std::string text = sample(model, *tokenizer, shape.max_seq_len,
                                    {.prompt = c.sampling.prompt,
                                     .temperature = c.sampling.temperature,
                                     .top_k = c.sampling.top_k,
                                     .count = c.sampling.tokens,
                                     .seed = uint64_t(c.machine.seed)});
    std::printf("%s%s\n", c.sampling.prompt.c_str(), text.c_str());
    return kExitOk;
}

}  // namespace llmc
