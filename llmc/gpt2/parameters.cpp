#include "llmc/gpt2/parameters.h"

#include <algorithm>

#include "llmc/core/alignment.h"
#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/core/random.h"

namespace llmc {
namespace {

// In memory wte and lm_head have whole tiles of rows.
int64_t stored_rows(const TensorSpec& spec, const ModelShape& shape) {
    bool tokens = spec.name == "wte.weight" || spec.name == "lm_head.weight";
    return tokens ? shape.padded_vocab() : spec.shape[0];
}

// Elements from one tensor to the next, so that tensors of both float types start at multiples of kAlignment.
int64_t spaced(int64_t count) {
    constexpr int64_t kSpace = kAlignment / int64_t(sizeof(bf16));
    return (count + kSpace - 1) / kSpace * kSpace;
}

}  // namespace

std::vector<TensorSpec> tensor_specs(const ModelShape& s) {
    const int64_t C = s.width;
    std::vector<TensorSpec> specs;
    auto layer_norm = [&](const std::string& name, Part part) {
        specs.push_back({.name = name + ".weight", .role = Role::vector, .shape = {C}, .part = part, .gain = true});
        specs.push_back({.name = name + ".bias", .role = Role::vector, .shape = {C}, .part = part});
    };
    auto linear = [&](const std::string& name, Part part, int64_t out, int64_t in, bool residual_projection,
                      int64_t query_rows) {
        specs.push_back({.name = name + ".weight",
                         .role = Role::hidden,
                         .shape = {out, in},
                         .part = part,
                         .residual_projection = residual_projection,
                         .query_rows = query_rows,
                         .fan_in = in,
                         .fan_out = out});
        specs.push_back(
            {.name = name + ".bias", .role = Role::vector, .shape = {out}, .part = part, .fan_in = in, .fan_out = out});
    };
    specs.push_back({.name = "wte.weight", .role = Role::input, .shape = {s.vocab_size, C}, .part = Part::embedding});
    specs.push_back({.name = "wpe.weight", .role = Role::input, .shape = {s.max_seq_len, C}, .part = Part::embedding});
    for (int l = 0; l < s.depth; ++l) {
        const std::string h = "h." + std::to_string(l);
        layer_norm(h + ".ln_1", Part::attention);
        linear(h + ".attn.c_attn", Part::attention, 3 * C, C, false, C);
        linear(h + ".attn.c_proj", Part::attention, C, C, true, 0);
        layer_norm(h + ".ln_2", Part::mlp);
        linear(h + ".mlp.c_fc", Part::mlp, 4 * C, C, false, 0);
        linear(h + ".mlp.c_proj", Part::mlp, C, 4 * C, true, 0);
    }
    layer_norm("ln_f", Part::head);
    if (!s.tie_embeddings)
        specs.push_back(
            {.name = "lm_head.weight", .role = Role::output, .shape = {s.vocab_size, C}, .part = Part::head});
    return specs;
}

int64_t stored_count(const TensorSpec& spec, const ModelShape& shape) {
    return spec.count() / spec.shape[0] * stored_rows(spec, shape);
}

Parameters::Parameters(const ModelShape& shape, const Parametrization& rules, DType dtype) {
    int64_t elements = 0;
    for (TensorSpec& spec : tensor_specs(shape)) {
        elements += spaced(stored_count(spec, shape));
        Rule rule = rules.rule(spec);
        all_.push_back({std::move(spec), rule, {}, {}});
    }
    values_ = device::Buffer(size_t(elements) * size_of(dtype));
    grads_ = device::Buffer(size_t(elements) * sizeof(float));
    int64_t next = 0;
    auto place = [&](Parameter& p) {
        const int64_t rows = stored_rows(p.spec, shape);
        const auto view = [&](void* data, DType type) {
            return p.spec.shape.size() == 1 ? Tensor(data, type, {rows}) : Tensor(data, type, {rows, p.spec.shape[1]});
        };
        p.value = view(element(values_, dtype, next), dtype);
        p.grad = view(element(grads_, DType::f32, next), DType::f32);
        p.offset = next;
        next += spaced(p.grad.numel());
    };
    auto multiplies = [&](const Parameter& p) {
        return p.spec.role == Role::hidden || p.spec.role == Role::output ||
               (shape.tie_embeddings && p.spec.name == "wte.weight");
    };
    for (Parameter& p : all_)
        if (!multiplies(p)) place(p);
    other_grad_bytes_ = size_t(next) * sizeof(float);
    for (Parameter& p : all_)
        if (multiplies(p)) place(p);

    auto layer_norm = [&](const std::string& name) {
        return LayerNormParameters{&find(name + ".weight"), &find(name + ".bias")};
    };
    auto linear = [&](const std::string& name) {
        return LinearParameters{&find(name + ".weight"), &find(name + ".bias")};
    };
    wte = &find("wte.weight");
    wpe = &find("wpe.weight");
    for (int l = 0; l < shape.depth; ++l) {
        const std::string h = "h." + std::to_string(l);
        blocks.push_back({layer_norm(h + ".ln_1"), linear(h + ".attn.c_attn"), linear(h + ".attn.c_proj"),
                          layer_norm(h + ".ln_2"), linear(h + ".mlp.c_fc"), linear(h + ".mlp.c_proj")});
    }
    ln_f = layer_norm("ln_f");
    lm_head = shape.tie_embeddings ? wte : &find("lm_head.weight");
}

std::vector<Parameters::Part> Parameters::parts_by_completion(size_t bytes) const {
    const int depth = int(blocks.size());
    const int64_t all = int64_t(grads_.bytes() / sizeof(float));
    int64_t end = all;  // of what no part has yet
    std::vector<Part> parts;
    if (bytes > 0 && lm_head != wte) {
        parts.push_back({{lm_head->offset, end - lm_head->offset}, depth});
        end = lm_head->offset;
    }
    for (int block = depth - 1; bytes > 0 && block >= 0; --block) {  // its matrices are next to each other
        const int64_t begin = blocks[size_t(block)].attn_c_attn.weight->offset;
        if (size_t(end - begin) * sizeof(float) < bytes && block > 0) continue;
        parts.push_back({{begin, end - begin}, block});
        end = begin;
    }
    parts.push_back({{0, end}, -1});
    return parts;
}

Parameter& Parameters::find(const std::string& name) {
    for (Parameter& p : all_)
        if (p.spec.name == name) return p;
    fail("the model has no parameter named '", name, "'");
}

int64_t Parameters::count() const {
    int64_t n = 0;
    for (const Parameter& p : all_) n += p.spec.count();
    return n;
}

void Parameters::zero_grad() { device::fill_zero(grads_.data(), grads_.bytes()); }

void Parameters::initialise(uint64_t seed) {
    for (Parameter& p : all_) set(p, initial_values(p.spec, p.rule, seed));
}

void Parameters::set(Parameter& p, const std::vector<float>& values) {
    if (int64_t(values.size()) != p.spec.count())
        fail(p.spec.name, ": ", plural(int64_t(values.size()), "value"), " given, ", p.spec.count(), " expected");
    device::fill_zero(p.value.data, p.value.bytes());  // padding rows
    upload(p.value, values);
}

std::vector<float> initial_values(const TensorSpec& spec, const Rule& rule, uint64_t seed) {
    const int64_t n = spec.count(), zeros = rule.zero_rows * (n / spec.shape[0]);
    std::vector<float> values(n, float(rule.init_mean));
    if (rule.init_std != 0) {
        const uint32_t stream = stream_of(spec.name);
#pragma omp parallel for schedule(static)
        for (int64_t block = zeros / 4; block < (n + 3) / 4; ++block) {
            auto z = normal4(draw(seed, Purpose::init, stream, uint64_t(block)));
            for (int64_t i = 4 * block; i < std::min(4 * block + 4, n); ++i)
                values[i] = float(rule.init_mean + rule.init_std * z[i - 4 * block]);
        }
    }
    std::fill(values.begin(), values.begin() + zeros, 0.0f);
    return values;
}

void upload(Tensor dst, const std::vector<float>& values) {
    if (dst.dtype == DType::f32) return device::copy_to_device(dst.data, values.data(), values.size() * 4);
    std::vector<bf16> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), to_bf16);
    device::copy_to_device(dst.data, rounded.data(), values.size() * 2);
}

std::vector<float> download(Tensor src, int64_t count) {
    std::vector<float> out(count);
    if (src.dtype == DType::f32) {
        device::copy_to_host(out.data(), src.data, count * 4);
        return out;
    }
    std::vector<bf16> values(count);
    device::copy_to_host(values.data(), src.data, count * 2);
    std::transform(values.begin(), values.end(), out.begin(), [](bf16 x) { return to_float(x); });
    return out;
}

}  // namespace llmc
