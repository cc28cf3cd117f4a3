// Checks of the arguments of every op, the same on every backend. Each error names the op, the tensor, its shape or
// type, and what it must be.
#pragma once
#include "llmc/core/error.h"
#include "llmc/ops/ops.h"

namespace llmc {

void check(const EmbeddingForward& args);
void check(const EmbeddingBackward& args);
void check(const LayerNormForward& args);
void check(const LayerNormBackward& args);
void check(const MatmulForward& args);
void check(const MatmulBackward& args);
void check(const GeluForward& args);
void check(const GeluBackward& args);
void check(const Classifier& args);
void check(const Sum& args);
void check(const Statistics& args);
void check_global_norm(const Tensor& out, std::span<const Tensor> tensors);
void check_cast(const Tensor& dst, const Tensor& src);
void check_optimizer(const char* op, const OptimizerStep& args, bool second_moment);

// The sizes of an attention op, from the shapes of its tensors.
struct AttentionShape {
    int64_t B, T, H, D;
    int64_t C() const { return H * D; }
};
AttentionShape check(const AttentionForward& args);
AttentionShape check(const AttentionBackward& args);
AttentionShape check(const AttentionLogits& args);

// Channels of a linear layer's input; some of its tensors may be absent.
inline int64_t channels_of(const MatmulBackward& args) {
    return args.weight ? args.weight.last() : args.inp ? args.inp.last() : 0;
}

// Calls f(float{}) or f(bf16{}), according to the element type.
template <class F>
void with_type(const char* op, const char* name, DType dtype, F&& f) {
    if (dtype == DType::f32) return f(float{});
    if (dtype == DType::bf16) return f(bf16{});
    fail(op, ": ", name, " is ", name_of(dtype), ", it must be fp32 or bf16");
}

}  // namespace llmc
