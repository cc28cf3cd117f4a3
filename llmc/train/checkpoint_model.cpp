#include "llmc/train/checkpoint_model.h"

#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/model_setup.h"

namespace llmc {

CheckpointModel open_model(const CommandLine& line, std::unique_ptr<ModelFile> file, int batch_size) {
    CheckpointModel out{std::move(file), {}, nullptr};
    Config& config = out.config = from_json(out.file->config, out.file->path);
    for (const Option& option : options())
        if (line.given.has(option.name)) option.field.set(config, option.field.get(line.config));
    config.model.preset.clear();  // its numbers are the checkpoint's
    if (batch_size == 0) batch_size = config.run.batch_size;
    const ModelShape shape = take_shape(config, line.given, *out.file);
    for (const std::string& note : assumptions(*out.file, line.given)) std::fprintf(stderr, "%s\n", note.c_str());
    const GPT2Options options{
        .batch_size = batch_size, .seq_len = config.model.seq_len, .dtype = config.model.dtype, .train = false};
    const GPT2::Memory needs = GPT2::memory(shape, options);
    const size_t bytes = needs.parameters + needs.activations + needs.scratch, available = device::memory_available();
    if (bytes > available)
        fail("out of memory: the model and --batch-size ", batch_size, " x --seq-len ", options.seq_len, " need ",
             bytes_text(bytes), ", ", device::backend(), " has ", bytes_text(available), " available: lower them");
    out.model = std::make_unique<GPT2>(shape, make_rules(config, shape), options);
    naming_intact(out.file->path, [&] { load_weights(*out.file, *out.model); });
    return out;
}

}  // namespace llmc
