#include "llmc/train/info_command.h"

#include <cstdio>
#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/train/checkpoint/checkpoint.h"
#include "llmc/train/checkpoint/own_metadata.h"
#include "llmc/train/checkpoint/plain_gpt2.h"
#include "llmc/train/model_setup.h"

namespace llmc {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// The options of the run that differ from the defaults: "depth = 2, lr = 0.01".
std::string changed_options(const Config& config) {
    const ordered_json stored = to_json(config), usual = to_json(Config());
    std::string out;
    for (auto& [key, value] : stored.items())
        if (value != usual.at(key) && value != nullptr) out += str(out.empty() ? "" : ", ", key, " = ", value.dump());
    return out;
}

std::string optimizer_line(const fs::path& folder) {
    const fs::path path = folder / "optimizer.safetensors";
    if (!fs::exists(path)) return "";
    const SafetensorsFile file(path.string());
    const nlohmann::json state = parse_metadata(file, "state");
    return str("state   ", plural(state.value("updates", int64_t{0}), "update"), " of ",
               state.value("optimizer", "an unknown optimizer"), ", ",
               plural(state.value("tokens", int64_t{0}), "token"), "; ", with_commas(int64_t(fs::file_size(path))),
               " bytes\n");
}

}  // namespace

std::string describe_checkpoint(const std::string& given) {
    const auto file = ModelFile::open(given);
    const ModelShape& s = file->shape;
    const fs::path folder = fs::path(file->path).parent_path();
    int64_t count = 0;
    for (const TensorSpec& spec : tensor_specs(s)) count += spec.count();
    std::string out = str("file    ", file->path, ", ", with_commas(file->bytes), " bytes\n");
    out += str("model   depth ", s.depth, ", width ", s.width, ", heads ", s.heads, " x ", s.head_dim(), ", positions ",
               s.max_seq_len, ", vocabulary ", s.vocab_size, ", head ", s.tie_embeddings ? "tied" : "untied", ": ",
               with_commas(count), " parameters\n");
    for (const std::string& note : assumptions(*file, {})) out += "note    " + note + "\n";
    out += str("tokens  of the tokenizer ", file->tokenizer, "\n");
    if (file->parametrization.is_null())
        return out + "rules   none in the file: a standard GPT-2" +
               (file->scaled_attention ? "\n" : ", but attention logits without 1/sqrt(head size)\n");
    const ordered_json rules = file->parametrization;
    const std::string outside = factors_outside(rules, s.head_dim());
    char text[200];
    std::snprintf(text, sizeof text, "rules   %s, width_mult %g, depth_mult %g\n",
                  rules.value("scheme", "unknown").c_str(), rules.value("width_mult", 1.0),
                  rules.value("depth_mult", 1.0));
    out += str(text, "plain   ", outside.empty() ? "yes: its weights are a GPT-2 for every program" : "no: " + outside,
               "\n");
    std::string optimizer;
    naming_intact(file->path, [&] { optimizer = optimizer_line(folder); });
    out += str("step    ", with_commas(file->step), "\n", optimizer);
    return out + "options " + changed_options(from_json(file->config, file->path)) + "\n";
}

}  // namespace llmc
