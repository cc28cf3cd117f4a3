// The FLOPs and bytes that each op of ops.h needs, from its arguments. The profile, percent of peak, the benchmarks'
// floors and doc/kernels.md use these numbers.
//
// FLOPs: those of matrix products, a multiply-add counted as 2, and only those that the result needs: attention's up to
// the diagonal, and five products in its backward pass, even if a kernel computes two of them twice. Elementwise work
// counts as 0.
// Bytes: every input is read once and every output written once, in its own element type; an output that is accumulated
// is read too. Of an embedding table, as many rows as there are tokens, at most all of them.
#pragma once
#include <span>
#include <string>
#include "llmc/ops/ops.h"

namespace llmc {

struct Cost {
    double flops = 0, bytes = 0;
};

Cost cost(const EmbeddingForward& args);
Cost cost(const EmbeddingBackward& args);
Cost cost(const LayerNormForward& args);
Cost cost(const LayerNormBackward& args);
Cost cost(const MatmulForward& args);
Cost cost(const MatmulBackward& args);
Cost cost(const AttentionForward& args);
Cost cost(const AttentionBackward& args);
Cost cost(const AttentionLogits& args);
Cost cost(const GeluForward& args);
Cost cost(const GeluBackward& args);
Cost cost(const Classifier& args);
Cost cost(const Sum& args);
Cost cost(const Statistics& args);
Cost cost(const Tensor& out, std::span<const Tensor> tensors);           // global_norm
Cost cost(const Tensor& dst, const Tensor& src);                         // cast
Cost cost(const OptimizerStep& args, float beta1 = 0, float beta2 = 0);  // adamw_step, sgd_step

// The op with its shape, as the profile prints it: "matmul_forward 4096 x 128 -> 384, gelu".
std::string label(const EmbeddingForward& args);
std::string label(const EmbeddingBackward& args);
std::string label(const LayerNormForward& args);
std::string label(const LayerNormBackward& args);
std::string label(const MatmulForward& args);
std::string label(const MatmulBackward& args);
std::string label(const AttentionForward& args);
std::string label(const AttentionBackward& args);
std::string label(const AttentionLogits& args);
std::string label(const GeluForward& args);
std::string label(const GeluBackward& args);
std::string label(const Classifier& args);
std::string label(const Sum& args);
std::string label(const Statistics& args);
std::string label(const Tensor& out, std::span<const Tensor> tensors);
std::string label(const Tensor& dst, const Tensor& src);
std::string label(const OptimizerStep& args, float beta1, float beta2);  // adamw_step
std::string label(const OptimizerStep& args, float momentum);            // sgd_step

// FLOPs for each token of a training step of GPT-2 with L blocks of width C: 6 N + 12 L C T, where N = 12 L C^2 + V C
// is the number of elements of its matrices, with the head and without the embeddings. As appendix B of "PaLM"
// (Chowdhery et al., 2022) counts: attention as if it were not causal, so that a step needs fewer FLOPs than this.
double flops_per_token(int64_t depth, int64_t width, int64_t seq_len, int64_t vocab_size);

// What the ops of such a step cost together: attention up to the diagonal, the head with its padding rows, and with
// `recompute_blocks` the products that the backward pass computes again. Percent of peak uses it.
double executed_flops_per_token(int64_t depth, int64_t width, int64_t seq_len, int64_t padded_vocab,
                                bool recompute_blocks);

}  // namespace llmc
