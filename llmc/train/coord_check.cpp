#include "llmc/train/coord_check.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "llmc/core/error.h"

namespace llmc {
namespace {

std::string program() {
    const std::string backend = device::backend();
    return backend == "cuda" ? "train_gpt2cu" : backend == "emulated" ? "train_gpt2emu" : "train_gpt2";
}

Tensor matrix(Tensor t) { return t.reshape({t.rows(), t.last()}); }

// A parameter or its gradient without padding rows.
Tensor trained(const Parameter& p, Tensor t) {
    return p.spec.shape.size() == 1 ? t.reshape({1, p.spec.shape[0]}) : t.row_slice(0, p.spec.shape[0]);
}

}  // namespace

CoordinateCheck::CoordinateCheck(const std::string& path, GPT2& model, const Optimizer& optimizer, int64_t seed,
                                 double lr)
    : path_(path), model_(model), statistics_(kStatistics * sizeof(float)) {
    for (const Optimizer::State& s : optimizer.state())
        if (s.name.starts_with("master.")) masters_[s.parameter->spec.name] = s.value;
    std::error_code ignored;
    const std::filesystem::path folder = std::filesystem::path(path).parent_path();
    if (!folder.empty()) std::filesystem::create_directories(folder, ignored);
    file_ = std::fopen(path.c_str(), "w");
    if (!file_) fail("cannot write --coord-check ", path, ": ", std::strerror(errno));
    const nlohmann::ordered_json rules = model.rules.to_json({});
    char text[256];
    std::snprintf(text, sizeof text, "%s,%s,%d,%d,%d,%d,%d,%lld,%.7g", program().c_str(),
                  rules["scheme"].get<std::string>().c_str(), rules["base_width"].get<int>(), model.shape.width,
                  rules["base_depth"].get<int>(), model.shape.depth, model.shape.heads, static_cast<long long>(seed),
                  lr);
    run_ = text;
    std::fputs(
        "program,parametrization,base_width,width,base_depth,depth,heads,seed,lr,step,kind,tensor,role,multiplier,"
        "mean_abs,std,delta\n",
        file_);
}

CoordinateCheck::~CoordinateCheck() {
    model_.observer = nullptr;
    std::fclose(file_);
}

void CoordinateCheck::begin_step() {
    ++step_;
    seen_.clear();
    pieces_.clear();
    model_.observer = [this](const std::string& name, Tensor value) { activation(name, value); };
}

void CoordinateCheck::end_step() {
    model_.observer = nullptr;
    for (auto& [name, sums] : seen_) row("activation", name, "", 1, sums, true);
    parameters();
    if (std::fflush(file_) || std::ferror(file_))
        fail("cannot write --coord-check ", path_, ": ", std::strerror(errno));
}

void CoordinateCheck::activation(const std::string& name, Tensor value) {
    const auto ends = [&](const char* ending) { return name.ends_with(ending); };
    const std::string block = name.substr(0, name.find('.', 2));  // "h.3"
    if (ends(".attn.c_attn")) return heads(block, value);
    add(name, value, remember(name, value), 0, name == "logits" ? model_.shape.vocab_size : 0);
    if (ends(".attn") || ends(".mlp.gelu")) {
        const BlockParameters& p = model_.parameters.blocks[size_t(std::stoi(block.substr(2)))];
        if (ends(".attn"))
            branch(name + ".c_proj", value, p.attn_c_proj);
        else
            branch(block + ".mlp.c_proj", value, p.mlp_c_proj);
    }
}

// Queries, keys, values, and the attention logits, which the fused kernel does not store.
void CoordinateCheck::heads(const std::string& block, Tensor qkv) {
    const int64_t C = model_.shape.width, T = model_.seq_len(), H = model_.shape.heads, causal = T * (T + 1) / 2;
    const Tensor before = remember(block + ".attn.c_attn", qkv);
    const char* const names[] = {".attn.q", ".attn.k", ".attn.v"};
    for (int i = 0; i < 3; ++i) add(block + names[i], qkv, before, i * C, C);

    constexpr int64_t kMost = 1 << 24;  // logits in memory; further sequences are left out
    const int64_t B = std::clamp<int64_t>(kMost / (H * causal), 1, model_.batch_size());
    const Tensor logits = scratch("logits", DType::f32, B * H, causal);
    attention_logits({.out = logits.reshape({B, H, causal}),
                      .qkv = qkv.reshape({B, T, 3 * C}),
                      .logit_scale = model_.rules.scales().attention});
    add(block + ".attn.logits", logits, remember(block + ".attn.logits", logits));
}

// A branch's output before it is added to the stream; the model's kernel fuses both.
void CoordinateCheck::branch(const std::string& name, Tensor inp, const LinearParameters& layer) {
    const Tensor out = scratch("branch", inp.dtype, inp.rows(), layer.weight->spec.shape[0]);
    matmul_forward({.out = out,
                    .inp = inp,
                    .weight = layer.weight->value,
                    .bias = layer.bias->value,
                    .scale = layer.weight->rule.multiplier,
                    .bias_scale = layer.bias->rule.multiplier});
    add(name, out, remember(name, out));
}

void CoordinateCheck::add(const std::string& name, Tensor value, Tensor first_value, int64_t first_column,
                          int64_t columns) {
    if (seen_.empty() || seen_.back().first != name) seen_.push_back({name, {}});
    Sums& sums = seen_.back().second;
    const std::vector<float> now = reduce(value, {}, first_column, columns);
    const double n = double(value.rows()) * double(columns ? columns : value.last() - first_column);
    sums.count += n;
    sums.absolute += n * double(now[0]);
    sums.sum += n * double(now[1]);
    sums.squares += n * double(now[2]) * double(now[2]);
    if (first_value) sums.difference += n * double(reduce(value, first_value, first_column, columns)[0]);
}

Tensor CoordinateCheck::remember(const std::string& name, Tensor value) {
    const std::string key = name + "#" + std::to_string(pieces_[name]++);
    const auto [place, is_new] = first_.try_emplace(key);
    Tensor copy = value;
    if (is_new) {
        place->second = device::Buffer(value.bytes());
        copy.data = place->second.data();
        cast(copy, value);
        return {};
    }
    copy.data = place->second.data();
    return copy;
}

std::vector<float> CoordinateCheck::reduce(Tensor value, Tensor minus, int64_t first_column, int64_t columns) {
    const Tensor out(statistics_.data(), DType::f32, {kStatistics});
    statistics({.out = out,
                .inp = matrix(value),
                .minus = minus ? matrix(minus) : Tensor{},
                .first_column = first_column,
                .columns = columns});
    return download(out, kStatistics);
}

Tensor CoordinateCheck::scratch(const std::string& name, DType dtype, int64_t rows, int64_t columns) {
    device::Buffer& buffer = scratch_[name];
    Tensor t(nullptr, dtype, {rows, columns});
    if (buffer.bytes() < t.bytes()) buffer = device::Buffer(t.bytes());
    t.data = buffer.data();
    return t;
}

void CoordinateCheck::parameters() {
    for (const Parameter& p : model_.parameters.all()) {
        const float multiplier = p.spec.role == Role::output ? model_.rules.head().multiplier : p.rule.multiplier;
        const auto master = masters_.find(p.spec.name);
        const Tensor tensors[] = {trained(p, master == masters_.end() ? p.value : master->second), trained(p, p.grad)};
        for (const Tensor& tensor : tensors) {
            const bool value = &tensor == tensors;
            const Tensor before = value ? remember(p.spec.name, tensor) : Tensor{};
            seen_.clear();
            add(p.spec.name, tensor, before);
            row(value ? "parameter" : "gradient", p.spec.name, name_of(p.spec.role), multiplier, seen_[0].second,
                value);
        }
    }
}

void CoordinateCheck::row(const char* kind, const std::string& tensor, const char* role, float multiplier,
                          const Sums& s, bool has_difference) {
    const double mean = s.sum / s.count, variance = std::max(0.0, s.squares / s.count - mean * mean);
    std::fprintf(file_, "%s,%lld,%s,%s,%s,%.7g,%.7g,%.7g,", run_.c_str(), static_cast<long long>(step_), kind,
                 tensor.c_str(), role, double(multiplier), s.absolute / s.count, std::sqrt(variance));
    if (has_difference) std::fprintf(file_, "%.7g", s.difference / s.count);
    std::fputc('\n', file_);
}

}  // namespace llmc
