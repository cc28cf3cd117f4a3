#include "llmc/train/model_setup.h"

#include <algorithm>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/data/tokenizer.h"

namespace llmc {
namespace {

void agree(bool given, const char* option, int64_t wanted, int64_t has, const std::string& path) {
    if (given && wanted != has)
        fail_data(option, " ", wanted, " does not fit the checkpoint ", path, ", which has ", has,
                  ": leave the option out, or choose another checkpoint");
}

}  // namespace

std::vector<std::string> assumptions(const ModelFile& file, const Given& given) {
    std::vector<std::string> out;
    if (!file.heads_known && !given.has("heads") && !given.has("head-dim") && !given.has("preset"))
        out.push_back(str("heads assumed ", file.shape.heads, " x ", file.shape.head_dim(),
                          ", as in GPT-2, because neither ", file.path,
                          " nor a config.json beside it says them: give --heads"));
    if (!file.tie_note.empty() && !given.has("tie-embeddings")) out.push_back(file.tie_note);
    if (!file.cut_note.empty()) out.push_back(file.cut_note);
    return out;
}

std::string take_parametrization(Config& config, const Given& given, const ModelFile& file) {
    if (!file.config.is_object()) return "";
    const Config trained = from_json(file.config, file.path);
    if (given.has("parametrization") && config.mup.scheme != trained.mup.scheme) return "";
    const std::string group = find_option("parametrization")->group;
    std::string taken;
    for (const Option& option : options()) {
        const nlohmann::ordered_json theirs = option.field.get(trained);
        if (option.group != group || given.has(option.name) || theirs == option.field.get(config)) continue;
        option.field.set(config, theirs);
        taken += str(" --", option.name, " ", theirs.is_string() ? theirs.get<std::string>() : theirs.dump());
    }
    return taken.empty() ? "" : str("parametrization of ", file.path, ":", taken);
}

ModelShape take_shape(Config& config, const Given& given, const ModelFile& file) {
    ModelOptions& m = config.model;
    ModelShape shape = file.shape;
    const bool preset = !m.preset.empty();
    const auto said = [&](const char* name) { return given.has(name) || preset; };
    if (m.head_dim) m.heads = std::max(1, shape.width / *m.head_dim);
    m.head_dim.reset();
    const bool heads_said = said("heads") || given.has("head-dim");
    agree(said("depth"), "--depth", m.depth, shape.depth, file.path);
    agree(said("width"), "--width", m.width, shape.width, file.path);
    if (!file.heads_known && heads_said) shape.heads = m.heads;
    agree(heads_said, "--heads", m.heads, shape.heads, file.path);
    agree(given.has("vocab-size") && m.vocab_size > 0, "--vocab-size", m.vocab_size, shape.vocab_size, file.path);
    if (file.head_optional && m.tie_embeddings) shape.tie_embeddings = *m.tie_embeddings;
    agree(m.tie_embeddings.has_value(), "--tie-embeddings", m.tie_embeddings.value_or(false), shape.tie_embeddings,
          file.path);
    if (shape.width % shape.heads)
        fail_data(file.path, " has width ", shape.width, ", which ", shape.heads, " heads do not divide: give --heads");
    m.depth = shape.depth, m.width = shape.width, m.heads = shape.heads, m.vocab_size = shape.vocab_size;
    m.tie_embeddings = shape.tie_embeddings;
    if (!file.scaled_attention && !config.mup.attn_mult) config.mup.attn_mult = shape.head_dim();
    if (!said("seq-len")) m.seq_len = shape.max_seq_len;
    if (m.seq_len > shape.max_seq_len)
        fail_data("--seq-len ", m.seq_len, " is longer than the ", plural(shape.max_seq_len, "learned position"),
                  " of ", file.path, ": shorten it");
    return shape;
}

ModelShape new_shape(Config& config, int data_vocab_size) {
    ModelOptions& m = config.model;
    resolve_heads(config);
    if (m.vocab_size == 0) m.vocab_size = data_vocab_size ? data_vocab_size : kGpt2VocabSize;
    if (!m.tie_embeddings) m.tie_embeddings = Parametrization::scheme(config.mup.scheme).ties;
    return {m.depth, m.heads, m.width, m.seq_len, m.vocab_size, *m.tie_embeddings};
}

Parametrization make_rules(const Config& config, const ModelShape& shape) {
    return Parametrization(config.mup, config.optimizer, shape.geometry(),
                           {config.run.total_batch_size, config.model.seq_len});
}

GPT2Options gpt2_options(const Config& config) {
    return {.batch_size = config.run.batch_size,
            .seq_len = config.model.seq_len,
            .dtype = config.model.dtype,
            .recompute = config.model.recompute};
}

}  // namespace llmc
