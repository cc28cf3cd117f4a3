// What a GPT-2 computes on its way through a batch, and where it lies: one arena, planned from the moments at which each
// tensor is needed. With N = B*T rows.
#pragma once
#include <string>
#include <vector>
#include "llmc/core/names.h"
#include "llmc/gpt2/parameters.h"
#include "llmc/ops/device.h"

namespace llmc {

// What the backward pass computes again instead of keeping it since the forward pass.
enum class Recompute {
    none,   // nothing
    gelu,   // the GELU of each block, from its input: 8C of 32C bytes a token and block less in bf16
    block,  // all of a block but its output: 30C less, for one more forward pass (a third more arithmetic)
};

template <>
struct Names<Recompute> {
    static constexpr std::pair<const char*, Recompute> list[] = {
        {"none", Recompute::none}, {"gelu", Recompute::gelu}, {"block", Recompute::block}};
};

struct GPT2Options {
    int batch_size, seq_len;  // the largest that will be asked for
    DType dtype = DType::f32;
    bool train = true;  // room for gradients
    Recompute recompute = Recompute::none;
    int64_t logits_rows = 0;  // rows of logits at a time; 0: what suits the device
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
    // Gradients on their way down: of the residual stream (N, C); of a branch's input (N, C); of what is 4C or 3C wide
    // (N, 4C); of attention's output (N, C).
    Tensor dresidual, dbranch, dwide, dattn;
};

// Fills in shapes and memory from `base` on (null: only the size is of interest). Returns the bytes that are needed.
size_t lay_out(Activations& activations, const ModelShape& shape, const GPT2Options& options, char* base);

}  // namespace llmc
