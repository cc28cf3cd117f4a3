// The list of ops of which each instruction set has its own kernels. The kernels of this folder are compiled once for
// each set (ISAS in the Makefile), in the namespace llmc::cpu::LLMC_ISA. kernels.cpp collects the ops of a set in a
// table, and dispatch.cpp implements the ops of llmc/ops/ops.h by the table that it chooses. A new op is one more line
// of this list.
#pragma once
#include "llmc/ops/ops.h"

#ifndef LLMC_ISA
#define LLMC_ISA generic
#endif

// OP(name, (parameters), (arguments))
#define LLMC_CPU_OPS(OP)                                                           \
    OP(embedding_forward, (const EmbeddingForward& a), (a))                        \
    OP(embedding_backward, (const EmbeddingBackward& a), (a))                      \
    OP(layernorm_forward, (const LayerNormForward& a), (a))                        \
    OP(layernorm_backward, (const LayerNormBackward& a), (a))                      \
    OP(matmul_forward, (const MatmulForward& a), (a))                              \
    OP(matmul_backward, (const MatmulBackward& a), (a))                            \
    OP(attention_forward, (const AttentionForward& a), (a))                        \
    OP(attention_backward, (const AttentionBackward& a), (a))                      \
    OP(attention_logits, (const AttentionLogits& a), (a))                          \
    OP(gelu_forward, (const GeluForward& a), (a))                                  \
    OP(gelu_backward, (const GeluBackward& a), (a))                                \
    OP(classifier, (const Classifier& a), (a))                                     \
    OP(accumulate_sum, (const Sum& a), (a))                                        \
    OP(statistics, (const Statistics& a), (a))                                     \
    OP(global_norm, (Tensor out, std::span<const Tensor> tensors), (out, tensors)) \
    OP(cast, (Tensor dst, Tensor src), (dst, src))                                 \
    OP(adamw_step, (const OptimizerStep& a, float b1, float b2), (a, b1, b2))      \
    OP(sgd_step, (const OptimizerStep& a, float momentum), (a, momentum))

namespace llmc::cpu {

struct Kernels {
#define LLMC_OP(name, parameters, arguments) void(*name) parameters;
    LLMC_CPU_OPS(LLMC_OP)
#undef LLMC_OP
};

// Defined in the files of the kernels and in kernels.cpp.
namespace LLMC_ISA {
#define LLMC_OP(name, parameters, arguments) void name parameters;
LLMC_CPU_OPS(LLMC_OP)
#undef LLMC_OP
extern const Kernels kernels;
}  // namespace LLMC_ISA

}  // namespace llmc::cpu
