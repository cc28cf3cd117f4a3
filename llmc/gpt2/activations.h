// The activations of a GPT-2 and their memory: one arena, planned from the times at which each tensor is needed.
// N = B*T rows.
#pragma once
#include <string>
#include <vector>
#include "llmc/core/names.h"
#include "llmc/gpt2/parameters.h"
#include "llmc/ops/device.h"

namespace llmc {

// The activations that the backward pass computes again; the others are kept from the forward pass.
enum class Recompute {
    none,   // nothing
    gelu,   // the GELU of each block, from its input: saves 8C of 32C bytes per token and block in bf16
    block,  // all of a block except its output: saves 30C, costs one more forward pass (a third more FLOPs)
};

template <>
struct Names<Recompute> {
    static constexpr std::pair<const char*, Recompute> list[] = {
        {"none", Recompute::none}, {"gelu", Recompute::gelu}, {"block", Recompute::block}};
};

struct GPT2Options {
    int batch_size, seq_len;  // the largest batch
    DType dtype = DType::f32;
    bool train = true;  // allocate gradients
    Recompute recompute = Recompute::none;
    int64_t logits_rows = 0;  // rows of logits at a time; 0: chosen for the device
    size_t part_bytes = 0;    // of gradients that are completed together (Parameters::parts_by_completion)
};

struct LayerNormActivations {
    Tensor out, mean, rstd;
};  // (N, C), (N), (N)

struct BlockActivations {
    LayerNormActivations ln_1;
    Tensor qkv;            // (N, 3C)
    Tensor attn, lse;      // (N, C), (B, H, T)
    Tensor residual_attn;  // (N, C): x after the attention branch
    LayerNormActivations ln_2;
    Tensor fc, fc_gelu;   // (N, 4C): before and after the GELU
    Tensor residual_mlp;  // (N, C): x after the MLP branch
};

struct Activations {
    Tensor tokens, targets;  // (B, T) int32
    Tensor embedding;        // (N, C)
    std::vector<BlockActivations> blocks;
    LayerNormActivations ln_f;
    Tensor logits, losses, loss;  // (rows, Vp), (N), (1)
    // Gradients of: the residual stream (N, C); a branch's input (N, C); tensors with 4C or 3C columns (N, 4C);
    // attention's output (N, C).
    Tensor dresidual, dbranch, dwide, dattn;
};

// Sets the shapes, and the addresses from `base` on (null: shapes only). Returns the bytes needed.
size_t lay_out(Activations& activations, const ModelShape& shape, const GPT2Options& options, char* base);

}  // namespace llmc
