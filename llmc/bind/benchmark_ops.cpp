#include "llmc/bind/benchmark_ops.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <span>

#include "llmc/core/error.h"

namespace llmc {

int64_t Arguments::operator[](const char* name) const {
    const auto found = sizes_.find(name);
    if (found == sizes_.end()) fail_usage("sizes has no \"", name, "\", which this op needs");
    if (found->second < 1) fail_usage("the size \"", name, "\" is ", found->second, ", it must be at least 1");
    return found->second;
}

Tensor Arguments::empty(std::initializer_list<int64_t> dims, DType dtype) {
    static char somewhere;  // a tensor without memory counts as absent
    Tensor t(&somewhere, dtype, dims);
    if (kind_ == Kind::shapes) return t;
    buffers_.emplace_back(t.bytes());
    t.data = buffers_.back().data();
    return t;
}

Tensor Arguments::integers(std::initializer_list<int64_t> dims, int64_t high) {
    const Tensor t = empty(dims, DType::i32);
    if (kind_ == Kind::shapes) return t;
    std::uniform_int_distribution<int32_t> distribution(0, int32_t(high - 1));
    std::vector<int32_t> values(size_t(t.numel()));
    for (int32_t& v : values) v = distribution(random_);
    device::copy_to_device(t.data, values.data(), t.bytes());
    return t;
}

// Up to 2^18 normal numbers, repeated: the period is long compared with the tiles of a product.
Tensor Arguments::filled(Tensor t) {
    if (kind_ == Kind::shapes) return t;
    const size_t count = size_t(std::min<int64_t>(t.numel(), 1 << 18));
    std::normal_distribution<float> distribution;
    std::vector<float> values(count);
    for (float& v : values) v = distribution(random_);
    std::vector<bf16> rounded(count);
    std::transform(values.begin(), values.end(), rounded.begin(), to_bf16);
    const void* source = t.dtype == DType::bf16 ? static_cast<void*>(rounded.data()) : values.data();
    for (int64_t begin = 0; begin < t.numel(); begin += int64_t(count)) {
        const Tensor piece = t.slice(begin, std::min<int64_t>(int64_t(count), t.numel() - begin));
        device::copy_to_device(piece.data, source, piece.bytes());
    }
    return t;
}

namespace {

// The op with these arguments, in the order of its declaration in ops.h.
template <class... Parameters, class... Values>
BenchmarkOp op_of(void (*op)(Parameters...), const Values&... values) {
    return {[=] { op(values...); }, cost(values...), {}};
}

MatmulForward matmul(Arguments& s) {
    const int64_t N = s["N"], C = s["C"], OC = s["OC"];
    return {.out = s.floats({N, OC}), .inp = s.floats({N, C}), .weight = s.floats({OC, C}), .bias = s.floats({OC})};
}
BenchmarkOp matmul_with_gelu(Arguments& s) {
    MatmulForward a = matmul(s);
    a.pre_gelu = s.floats({s["N"], s["OC"]});
    return op_of(matmul_forward, a);
}
BenchmarkOp matmul_with_residual(Arguments& s) {
    MatmulForward a = matmul(s);
    a.residual = s.floats({s["N"], s["OC"]});
    return op_of(matmul_forward, a);
}
BenchmarkOp matmul_dinp(Arguments& s, bool with_gelu) {
    const int64_t N = s["N"], C = s["C"], OC = s["OC"];
    MatmulBackward a{.dinp = s.floats({N, C}), .dout = s.floats({N, OC}), .weight = s.floats({OC, C})};
    if (with_gelu) a.pre_gelu = s.floats({N, C});
    return op_of(matmul_backward, a);
}
BenchmarkOp matmul_dweight(Arguments& s) {
    const int64_t N = s["N"], C = s["C"], OC = s["OC"];
    return op_of(
        matmul_backward,
        MatmulBackward{
            .dweight = s.fp32({OC, C}), .dbias = s.fp32({OC}), .dout = s.floats({N, OC}), .inp = s.floats({N, C})});
}

AttentionForward attention(Arguments& s) {
    const int64_t B = s["B"], T = s["T"], H = s["H"], C = H * s["D"];
    return {.out = s.floats({B, T, C}),
            .lse = s.fp32({B, H, T}),
            .qkv = s.floats({B, T, 3 * C}),
            .logit_scale = 1 / std::sqrt(float(s["D"]))};
}
BenchmarkOp attention_gradient(Arguments& s) {
    const AttentionForward f = attention(s);
    const int64_t B = f.out.shape[0], T = f.out.shape[1], C = f.out.shape[2];
    BenchmarkOp op = op_of(attention_backward, AttentionBackward{.dqkv = s.floats({B, T, 3 * C}),
                                                                 .dout = s.floats({B, T, C}),
                                                                 .out = f.out,
                                                                 .lse = f.lse,
                                                                 .qkv = f.qkv,
                                                                 .logit_scale = f.logit_scale});
    op.prepare = [f] { attention_forward(f); };
    return op;
}
BenchmarkOp logits_of_attention(Arguments& s) {
    const int64_t B = s["B"], T = s["T"], H = s["H"], C = H * s["D"];
    return op_of(attention_logits, AttentionLogits{.out = s.fp32({B, H, T * (T + 1) / 2}),
                                                   .qkv = s.floats({B, T, 3 * C}),
                                                   .logit_scale = 1 / std::sqrt(float(s["D"]))});
}

LayerNormForward layernorm(Arguments& s) {
    const int64_t N = s["N"], C = s["C"];
    return {.out = s.floats({N, C}),
            .mean = s.fp32({N}),
            .rstd = s.fp32({N}),
            .inp = s.floats({N, C}),
            .weight = s.floats({C}),
            .bias = s.floats({C})};
}
// Adds to the gradient of the residual stream in place, as in a block.
BenchmarkOp layernorm_gradient(Arguments& s) {
    const LayerNormForward f = layernorm(s);
    const int64_t N = s["N"], C = s["C"];
    const Tensor dx = s.floats({N, C});
    BenchmarkOp op = op_of(layernorm_backward, LayerNormBackward{.dinp = dx,
                                                                 .dweight = s.fp32({C}),
                                                                 .dbias = s.fp32({C}),
                                                                 .dout = s.floats({N, C}),
                                                                 .inp = f.inp,
                                                                 .weight = f.weight,
                                                                 .mean = f.mean,
                                                                 .rstd = f.rstd,
                                                                 .dskip = dx});
    op.prepare = [f] { layernorm_forward(f); };
    return op;
}

BenchmarkOp embedding(Arguments& s) {
    const int64_t B = s["B"], T = s["T"], C = s["C"], V = s["V"];
    return op_of(embedding_forward, EmbeddingForward{.out = s.floats({B, T, C}),
                                                     .tokens = s.integers({B, T}, V),
                                                     .wte = s.floats({V, C}),
                                                     .wpe = s.floats({T, C})});
}
BenchmarkOp embedding_gradient(Arguments& s) {
    const int64_t B = s["B"], T = s["T"], C = s["C"], V = s["V"];
    return op_of(embedding_backward, EmbeddingBackward{.dwte = s.fp32({V, C}),
                                                       .dwpe = s.fp32({T, C}),
                                                       .dout = s.floats({B, T, C}),
                                                       .tokens = s.integers({B, T}, V)});
}
BenchmarkOp classifier_with_gradient(Arguments& s) {
    const int64_t N = s["N"], V = s["V"];
    return op_of(classifier, Classifier{.losses = s.fp32({N}),
                                        .logits = s.floats({N, s["Vp"]}),
                                        .targets = s.integers({N}, V),
                                        .vocab_size = int(V),
                                        .dloss = 1});
}

// One tensor of P parameters; with master weights in bf16.
BenchmarkOp optimizer(Arguments& s, bool adam, bool stochastic) {
    const int64_t P = s["P"];
    const auto update = std::make_shared<ParameterUpdate>(
        ParameterUpdate{.param = s.floats({P}),
                        .master = s.dtype() == DType::bf16 ? s.fp32({P}) : Tensor{},
                        .grad = s.fp32({P}),
                        .m = s.fp32({P}),
                        .v = adam ? s.empty({P}, DType::f32) : Tensor{},
                        .lr = 1e-3f,
                        .decay = 1e-4f,
                        .eps = 1e-8f});
    const OptimizerStep step{.parameters = std::span(update.get(), 1), .step = 10, .stochastic_rounding = stochastic};
    const Cost cost = llmc::cost(step);
    if (adam) return {[=, keep = update] { adamw_step(step, 0.9f, 0.95f); }, cost, {}};
    return {[=, keep = update] { sgd_step(step, 0.9f); }, cost, {}};
}
BenchmarkOp norm(Arguments& s) {
    const auto grads = std::make_shared<std::vector<Tensor>>(1, s.fp32({s["P"]}));
    const Tensor out = s.fp32({1});
    return {[=] { global_norm(out, *grads); }, cost(out, *grads), {}};
}

using Maker = BenchmarkOp (*)(Arguments&);
const std::map<std::string, Maker> kMakers = {
    {"embedding_forward", embedding},
    {"embedding_backward", embedding_gradient},
    {"layernorm_forward", [](Arguments& s) { return op_of(layernorm_forward, layernorm(s)); }},
    {"layernorm_backward", layernorm_gradient},
    {"matmul_forward", [](Arguments& s) { return op_of(matmul_forward, matmul(s)); }},
    {"matmul_forward_gelu", matmul_with_gelu},
    {"matmul_forward_residual", matmul_with_residual},
    {"matmul_dinp", [](Arguments& s) { return matmul_dinp(s, false); }},
    {"matmul_dinp_gelu", [](Arguments& s) { return matmul_dinp(s, true); }},
    {"matmul_dweight", matmul_dweight},
    {"attention_forward", [](Arguments& s) { return op_of(attention_forward, attention(s)); }},
    {"attention_backward", attention_gradient},
    {"attention_logits", logits_of_attention},
    {"gelu_forward",
     [](Arguments& s) {
         const int64_t N = s["N"], C = s["C"];
         return op_of(gelu_forward, GeluForward{.out = s.floats({N, C}), .inp = s.floats({N, C})});
     }},
    {"gelu_backward",
     [](Arguments& s) {
         const int64_t N = s["N"], C = s["C"];
         const Tensor dinp = s.floats({N, C}), dout = s.floats({N, C}), inp = s.floats({N, C});
         return op_of(gelu_backward, GeluBackward{.dinp = dinp, .dout = dout, .inp = inp});
     }},
    {"classifier", classifier_with_gradient},
    {"accumulate_sum",
     [](Arguments& s) { return op_of(accumulate_sum, Sum{.out = s.fp32({1}), .inp = s.fp32({s["N"]})}); }},
    {"statistics",
     [](Arguments& s) {
         return op_of(statistics, Statistics{.out = s.fp32({kStatistics}), .inp = s.floats({s["N"], s["C"]})});
     }},
    {"cast", [](Arguments& s) { return op_of(cast, s.floats({s["P"]}), s.fp32({s["P"]})); }},
    {"global_norm", norm},
    {"adamw", [](Arguments& s) { return optimizer(s, true, false); }},
    {"adamw_stochastic", [](Arguments& s) { return optimizer(s, true, true); }},
    {"sgd", [](Arguments& s) { return optimizer(s, false, false); }},
};

}  // namespace

BenchmarkOp benchmark_op(const std::string& name, Arguments& arguments) {
    const auto found = kMakers.find(name);
    if (found != kMakers.end()) return found->second(arguments);
    std::string names;
    for (const auto& [known, maker] : kMakers) names += (names.empty() ? "" : ", ") + known;
    fail_usage("there is no op named \"", name, "\": choose from ", names);
}

}  // namespace llmc
