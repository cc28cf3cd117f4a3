// How long each op takes on the device, for dev/cuda/bench.py: arguments of the given sizes, filled with random numbers,
// several sets of them in turn so that no call finds its inputs in a cache.
#include <pybind11/stl.h>
#include <algorithm>
#include <functional>
#include <map>
#include <random>
#include <string>
#include <vector>
#include "llmc/bind/arrays.h"
#include "llmc/bind/bind.h"
#include "llmc/ops/ops.h"

namespace llmc {
namespace {

using namespace python;
using Sizes = std::map<std::string, int64_t>;
using Call = std::function<void()>;

// Memory of one set of arguments.
class Set {
public:
    Set(const Sizes& sizes, DType dtype, uint32_t seed) : sizes_(sizes), dtype_(dtype), random_(seed) {}

    int64_t operator[](const char* name) const {
        auto found = sizes_.find(name);
        if (found == sizes_.end()) fail_usage("the benchmark needs a size \"", name, "\"");
        return found->second;
    }
    Tensor empty(std::initializer_list<int64_t> dims, DType dtype) {
        Tensor t(nullptr, dtype, dims);
        buffers_.emplace_back(t.bytes());
        t.data = buffers_.back().data();
        return t;
    }
    Tensor floats(std::initializer_list<int64_t> dims) { return filled(empty(dims, dtype_)); }
    Tensor fp32(std::initializer_list<int64_t> dims) { return filled(empty(dims, DType::f32)); }
    Tensor integers(std::initializer_list<int64_t> dims, int64_t high) {
        Tensor t = empty(dims, DType::i32);
        std::uniform_int_distribution<int32_t> distribution(0, int32_t(high - 1));
        std::vector<int32_t> values(size_t(t.numel()));
        for (int32_t& v : values) v = distribution(random_);
        device::copy_to_device(t.data, values.data(), t.bytes());
        return t;
    }

private:
    // A piece of normal numbers, again and again: enough to be no pattern to a tensor core.
    Tensor filled(Tensor t) {
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
    Sizes sizes_;
    DType dtype_;
    std::mt19937 random_;
    std::vector<device::Buffer> buffers_;
};

Call matmul_call(const std::string& op, Set& s) {
    const int64_t N = s["N"], C = s["C"], OC = s["OC"];
    if (op.starts_with("matmul_forward")) {
        MatmulForward a{
            .out = s.floats({N, OC}), .inp = s.floats({N, C}), .weight = s.floats({OC, C}), .bias = s.floats({OC})};
        if (op == "matmul_forward_gelu") a.pre_gelu = s.floats({N, OC});
        if (op == "matmul_forward_residual") a.residual = s.floats({N, OC});
        return [a] { matmul_forward(a); };
    }
    MatmulBackward a{.dout = s.floats({N, OC})};
    if (op == "matmul_dweight") {
        a.dweight = s.fp32({OC, C}), a.dbias = s.fp32({OC}), a.inp = s.floats({N, C});
    } else {
        a.dinp = s.floats({N, C}), a.weight = s.floats({OC, C});
        if (op == "matmul_dinp_gelu") a.pre_gelu = s.floats({N, C});
    }
    return [a] { matmul_backward(a); };
}

Call attention_call(const std::string& op, Set& s) {
    const int64_t B = s["B"], T = s["T"], H = s["H"], C = H * s["D"];
    const float scale = 1 / std::sqrt(float(s["D"]));
    const AttentionForward forward{
        .out = s.floats({B, T, C}), .lse = s.fp32({B, H, T}), .qkv = s.floats({B, T, 3 * C}), .logit_scale = scale};
    if (op == "attention_forward") return [forward] { attention_forward(forward); };
    attention_forward(forward);
    const AttentionBackward backward{.dqkv = s.floats({B, T, 3 * C}),
                                     .dout = s.floats({B, T, C}),
                                     .out = forward.out,
                                     .lse = forward.lse,
                                     .qkv = forward.qkv,
                                     .logit_scale = scale};
    return [backward] { attention_backward(backward); };
}

Call layernorm_call(const std::string& op, Set& s) {
    const int64_t N = s["N"], C = s["C"];
    const LayerNormForward forward{.out = s.floats({N, C}),
                                   .mean = s.fp32({N}),
                                   .rstd = s.fp32({N}),
                                   .inp = s.floats({N, C}),
                                   .weight = s.floats({C}),
                                   .bias = s.floats({C})};
    if (op == "layernorm_forward") return [forward] { layernorm_forward(forward); };
    layernorm_forward(forward);
    const Tensor dx = s.floats({N, C});
    const LayerNormBackward backward{.dinp = dx,
                                     .dweight = s.fp32({C}),
                                     .dbias = s.fp32({C}),
                                     .dout = s.floats({N, C}),
                                     .inp = forward.inp,
                                     .weight = forward.weight,
                                     .mean = forward.mean,
                                     .rstd = forward.rstd,
                                     .dskip = dx};
    return [backward] { layernorm_backward(backward); };
}

Call embedding_call(const std::string& op, Set& s) {
    const int64_t B = s["B"], T = s["T"], C = s["C"], V = s["V"];
    const Tensor tokens = s.integers({B, T}, V);
    if (op == "embedding_forward") {
        const EmbeddingForward a{
            .out = s.floats({B, T, C}), .tokens = tokens, .wte = s.floats({V, C}), .wpe = s.floats({T, C})};
        return [a] { embedding_forward(a); };
    }
    const EmbeddingBackward a{
        .dwte = s.fp32({V, C}), .dwpe = s.fp32({T, C}), .dout = s.floats({B, T, C}), .tokens = tokens};
    return [a] { embedding_backward(a); };
}

Call optimizer_call(const std::string& op, Set& s, DType dtype) {
    const int64_t P = s["P"];
    const Tensor grad = s.fp32({P});
    if (op == "global_norm") {
        const Tensor out = s.fp32({1});
        return [=] { global_norm(out, std::span(&grad, 1)); };
    }
    const ParameterUpdate update{.param = s.floats({P}),
                                 .master = dtype == DType::bf16 ? s.fp32({P}) : Tensor{},
                                 .grad = grad,
                                 .m = s.fp32({P}),
                                 .v = s.empty({P}, DType::f32),
                                 .lr = 1e-3f,
                                 .decay = 1e-4f,
                                 .eps = 1e-8f};
    const bool stochastic = op == "adamw_stochastic";
    return [=] {
        adamw_step({.parameters = std::span(&update, 1), .step = 10, .stochastic_rounding = stochastic}, 0.9f, 0.95f);
    };
}

Call call_of(const std::string& op, Set& s, DType dtype) {
    if (op.starts_with("matmul_")) return matmul_call(op, s);
    if (op.starts_with("attention_")) return attention_call(op, s);
    if (op.starts_with("layernorm_")) return layernorm_call(op, s);
    if (op.starts_with("embedding_")) return embedding_call(op, s);
    if (op.starts_with("adamw") || op == "global_norm") return optimizer_call(op, s, dtype);
    if (op == "gelu_forward") {
        const GeluForward a{.out = s.floats({s["N"], s["C"]}), .inp = s.floats({s["N"], s["C"]})};
        return [a] { gelu_forward(a); };
    }
    if (op == "classifier") {
        const Classifier a{.losses = s.fp32({s["N"]}),
                           .logits = s.floats({s["N"], s["Vp"]}),
                           .targets = s.integers({s["N"]}, s["V"]),
                           .vocab_size = int(s["V"]),
                           .dloss = 1};
        return [a] { classifier(a); };
    }
    fail_usage("no benchmark is named \"", op, "\"");
}

// Seconds per call: medians need several figures, each the mean over one call on every set.
std::vector<double> time_op(const std::string& op, const Sizes& sizes, const std::string& dtype, int sets,
                            int repeats) {
    const DType type = parse_dtype(dtype);
    std::vector<std::unique_ptr<Set>> memory;
    std::vector<Call> calls;
    for (int i = 0; i < std::max(sets, 1); ++i) {
        memory.push_back(std::make_unique<Set>(sizes, type, uint32_t(i + 1)));
        calls.push_back(call_of(op, *memory.back(), type));
    }
    std::vector<double> seconds;
    device::Stopwatch watch;
    for (int i = 0; i <= repeats; ++i) {
        watch.start();
        for (const Call& call : calls) call();
        watch.stop();
        if (i > 0) seconds.push_back(watch.seconds() / double(calls.size()));  // the first round warms up
    }
    device::synchronize();
    return seconds;
}

}  // namespace

void bind_benchmarks(pybind11::module_& m) {
    m.def(
        "time_op", &time_op,
        "Seconds a call of an op takes on the device, `repeats` figures, each the mean over `sets` sets of arguments.",
        py::arg("op"), py::arg("sizes"), py::arg("dtype") = "bf16", py::arg("sets") = 4, py::arg("repeats") = 10);
}

}  // namespace llmc
