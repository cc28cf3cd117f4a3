#include "gpt2.h"

#include <algorithm>

#include "llmc/error.h"

namespace llmc {

// Walks over all activations once, either to count their bytes (base == nullptr) or to hand out their memory.
struct GPT2::Layout {
    char* base;
    size_t used = 0;

    Tensor take(DType dtype, std::initializer_list<int64_t> dims) {
        Tensor t(nullptr, dtype, dims);
        t.data = base ? base + used : nullptr;
        used += (t.bytes() + 255) / 256 * 256;
        return t;
    }
    LayerNormActivations layer_norm(DType dtype, int64_t N, int64_t C) {
        return {take(dtype, {N, C}), take(DType::f32, {N}), take(DType::f32, {N})};
    }
    static int64_t logits_rows(const ModelShape& shape, const GPT2Options& o) {
        int64_t N = int64_t{o.batch_size} * o.seq_len;
        int64_t rows = o.logits_rows ? o.logits_rows
                                     : (int64_t{128} << 20) / (shape.padded_vocab() * int64_t(size_of(o.dtype)));
        return std::clamp<int64_t>(rows, 1, N);
    }
    // `model` may be null: then only `used` is of interest.
    void walk(const ModelShape& shape, const GPT2Options& o, GPT2* model) {
        const int64_t B = o.batch_size, T = o.seq_len, N = B * T, C = shape.channels;
        Tensor tokens = take(DType::i32, {B, T}), targets = take(DType::i32, {B, T}), embedding = take(o.dtype, {N, C});
        std::vector<BlockActivations> blocks;
        for (int l = 0; l < shape.depth; ++l) {
            if (l > 0 && !o.train) {  // inference: one block's memory serves all of them, in place
                blocks.push_back(blocks[0]);
                continue;
            }
            blocks.push_back({.ln_1 = layer_norm(o.dtype, N, C),
                              .qkv = take(o.dtype, {N, 3 * C}),
                              .attn = take(o.dtype, {N, C}),
                              .lse = take(DType::f32, {B, shape.heads, T}),
                              .residual_attn = take(o.dtype, {N, C}),
                              .ln_2 = layer_norm(o.dtype, N, C),
                              .fc = take(o.dtype, {N, 4 * C}),
                              .fc_gelu = take(o.dtype, {N, 4 * C}),
                              .residual_mlp = take(o.dtype, {N, C})});
        }
        LayerNormActivations ln_f = layer_norm(o.dtype, N, C);
        Tensor logits = take(o.dtype, {logits_rows(shape, o), shape.padded_vocab()});
        Tensor losses = take(DType::f32, {N}), loss = take(DType::f32, {1});
        Tensor dresidual, dbranch, dwide, dattn;
        if (o.train) {
            dresidual = take(o.dtype, {N, C});
            dbranch = take(o.dtype, {N, C});
            dwide = take(o.dtype, {N, 4 * C});
            dattn = take(o.dtype, {N, C});
        }
        if (!model) return;
        model->tokens_ = tokens, model->targets_ = targets, model->embedding_ = embedding, model->blocks_ = blocks,
        model->ln_f_ = ln_f;
        model->logits_ = logits, model->losses_ = losses, model->loss_ = loss;
        model->dresidual_ = dresidual, model->dbranch_ = dbranch, model->dwide_ = dwide, model->dattn_ = dattn;
    }
};

GPT2::GPT2(const ModelShape& shape, const Parametrization& rules, const GPT2Options& options)
    : shape(shape), rules(rules), parameters(shape, rules, options.dtype), options_(options) {
    if (options.seq_len > shape.max_seq_len)
        fail_usage("--seq-len ", options.seq_len, " is longer than the model's ", shape.max_seq_len,
                   " learned positions: shorten it, or train a model with more");
    Layout counting{nullptr};
    counting.walk(shape, options, nullptr);
    arena_ = device::Buffer(counting.used);
    Layout assigning{arena_.data()};
    assigning.walk(shape, options, this);
}

GPT2::Memory GPT2::memory(const ModelShape& shape, const GPT2Options& options) {
    Layout counting{nullptr};
    counting.walk(shape, options, nullptr);
    size_t values = 0, grads = 0;
    for (const TensorSpec& spec : tensor_specs(shape)) {
        size_t n = size_t(spec.count());
        values += n * size_of(options.dtype);
        grads += n * 4;
    }
    return {values, options.train ? grads : 0, counting.used};
}

double GPT2::flops_per_token(const ModelShape& s, int seq_len) {
    double C = s.channels, matrices = s.depth * 12 * C * C + C * s.vocab_size;
    return 6 * matrices + 12.0 * s.depth * C * seq_len;
}

void GPT2::set_batch(const int32_t* tokens, const int32_t* targets, int B, int T) {
    if (B < 1 || T < 1 || B > options_.batch_size || T > options_.seq_len)
        fail("a batch of ", B, " x ", T, " tokens does not fit the model's activations for ", options_.batch_size,
             " x ", options_.seq_len);
    B_ = B, T_ = T;
    const size_t bytes = size_t(B) * T * sizeof(int32_t);
    device::copy_to_device(tokens_.data, tokens, bytes);
    if (targets) device::copy_to_device(targets_.data, targets, bytes);
}

void GPT2::zero_loss() { device::fill_zero(loss_.data, sizeof(float)); }

float GPT2::loss() {
    float value;
    device::copy_to_host(&value, loss_.data, sizeof value);
    return value;
}

std::vector<float> GPT2::logits(int64_t begin, int64_t count) {
    const int64_t V = shape.vocab_size, Vp = shape.padded_vocab();
    std::vector<float> out(count * V);
    for (int64_t row = 0; row < count; row += logits_.shape[0]) {
        const int64_t n = std::min(logits_.shape[0], count - row);
        head_logits(begin + row, n, logits_.row_slice(0, n));
        const std::vector<float> padded = download(logits_, n * Vp);
        for (int64_t i = 0; i < n; ++i) std::copy_n(&padded[i * Vp], V, &out[(row + i) * V]);
    }
    return out;
}

void GPT2::observe(const char* prefix, int layer, const char* name, Tensor value) const {
    if (observer) observer(str(prefix, layer, name), value);
}

}  // namespace llmc
