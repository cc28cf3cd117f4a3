// Every op a backend provides: llmc/cpu, llmc/cuda and the emulator implement exactly this list. Ops are pure functions
// of tensors and plain numbers: they allocate nothing that outlives a call, keep no state, and know neither GPT-2 nor
// any parametrization.
//
// Conventions, for all of them:
//  * B batch, T sequence length, N = B*T rows, C channels, OC output channels, H heads, D = C/H head size, V
//    vocabulary, Vp padded.
//  * Activations, weights and activation gradients are fp32 or bf16, one and the same type within a call; sums are
//    taken in fp32.
//  * Parameter gradients (dweight, dbias, dwte, dwpe), moments, master weights, statistics (mean, rstd, lse) and losses
//    are fp32.
//  * Parameter gradients are accumulated (+=) unless told otherwise; every other output is overwritten, so it may hold
//    anything before.
//  * Backward ops take their own scales: a scheme such as u-muP uses other numbers in the backward pass than the chain
//    rule gives.
//  * An optional tensor is absent when empty (`Tensor{}`).
//  * Same inputs, same number of threads: same bits.
//  * FLOPs and bytes of each op: cost.h.
#pragma once
#include <cstdint>
#include <span>
#include "llmc/core/no_target.h"
#include "llmc/core/tensor.h"

namespace llmc {

// out[b,t,:] = scale * (wte[tokens[b,t],:] + wpe[t,:]).
struct EmbeddingForward {
    Tensor out;     // (B, T, C)
    Tensor tokens;  // (B, T) int32, each in [0, V)
    Tensor wte;     // (Vp, C)
    Tensor wpe;     // (maxT, C), maxT >= T
    float scale = 1;
};
void embedding_forward(const EmbeddingForward& args);

// dwte[v,:] += dwte_scale * sum of dout over the positions with token v;
// dwpe[t,:] += dwpe_scale * sum over b of dout[b,t,:].
struct EmbeddingBackward {
    Tensor dwte;    // (Vp, C) fp32, +=
    Tensor dwpe;    // (maxT, C) fp32, +=
    Tensor dout;    // (B, T, C)
    Tensor tokens;  // (B, T) int32
    float dwte_scale = 1, dwpe_scale = 1;
};
void embedding_backward(const EmbeddingBackward& args);

// out = weight_scale * weight * (inp - mean) * rstd + bias_scale * bias, with rstd = 1/sqrt(var + 1e-5), per row.
// Ba, Kiros, Hinton, "Layer normalization", 2016.
struct LayerNormForward {
    Tensor out;           // (N, C)
    Tensor mean, rstd;    // (N) fp32, kept for the backward pass
    Tensor inp;           // (N, C)
    Tensor weight, bias;  // (C)
    float weight_scale = 1, bias_scale = 1;
};
void layernorm_forward(const LayerNormForward& args);

// dinp = skip_scale * dskip + dinp_scale * (layer norm's input gradient): the gradient of the residual stream, from the
// skip connection and from the branch. dinp may be dskip's memory.
// With w = weight_scale*weight, xhat = (inp-mean)*rstd, g = w*dout:
//   input gradient = rstd * (g - mean_C(g) - xhat * mean_C(g*xhat));  dweight += dweight_scale * sum_N(dout*xhat);
//   dbias += dbias_scale * sum_N(dout).
struct LayerNormBackward {
    Tensor dinp;            // (N, C)
    Tensor dweight, dbias;  // (C) fp32, +=
    Tensor dout, inp;       // (N, C)
    Tensor weight;          // (C)
    Tensor mean, rstd;      // (N) fp32
    Tensor dskip{};         // (N, C), optional
    float weight_scale = 1, skip_scale = 1, dinp_scale = 1, dweight_scale = 1, dbias_scale = 1;
};
void layernorm_backward(const LayerNormBackward& args);

// linear = scale * inp @ weight^T + bias_scale * bias
// out    = skip_scale * residual + (pre_gelu ? gelu(pre_gelu) : linear);  pre_gelu, if given, receives `linear`.
// gelu(x) = u(gelu_scale * x) / gelu_scale,  u(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
struct MatmulForward {
    Tensor out;         // (N, OC)
    Tensor inp;         // (N, C)
    Tensor weight;      // (OC, C)
    Tensor bias{};      // (OC), optional
    Tensor pre_gelu{};  // (N, OC), optional, written
    Tensor residual{};  // (N, OC), optional, read; not together with pre_gelu
    float scale = 1, bias_scale = 1, skip_scale = 1, gelu_scale = 1;
};
void matmul_forward(const MatmulForward& args);

// dinp     = dinp_scale * dout @ weight, times gelu'(pre_gelu) where inp was gelu(pre_gelu)
// dweight += dweight_scale * dout^T @ inp;   dbias += dbias_scale * sum_N(dout).   Any of the three may be left out.
// With overwrite_dweight, dweight = ... instead: its contents are not read, which saves reading and zeroing them.
struct MatmulBackward {
    Tensor dinp{};      // (N, C)
    Tensor dweight{};   // (OC, C) fp32, +=, or = with overwrite_dweight
    Tensor dbias{};     // (OC) fp32, +=
    Tensor dout;        // (N, OC)
    Tensor inp{};       // (N, C), needed for dweight
    Tensor weight{};    // (OC, C), needed for dinp
    Tensor pre_gelu{};  // (N, C), optional
    float dinp_scale = 1, dweight_scale = 1, dbias_scale = 1, gelu_scale = 1;
    bool overwrite_dweight = false;
};
void matmul_backward(const MatmulBackward& args);

// Causal attention of every head: out = out_scale * softmax(logit_scale * q k^T) v, without a T x T matrix in memory.
// lse[b,h,t] = log sum_j exp(logit_scale * q_t k_j), for the backward pass.
// With first_query, only the rows from there on are needed (a new token with cached keys and values); earlier ones may
// be written or not.
// Dao, "FlashAttention-2", 2023.
struct AttentionForward {
    Tensor out;  // (B, T, C)
    Tensor lse;  // (B, H, T) fp32
    Tensor qkv;  // (B, T, 3C): q, k, v one after the other, each with its heads side by side
    float logit_scale;
    float out_scale = 1;
    int64_t first_query = 0;
};
void attention_forward(const AttentionForward& args);

// dqkv from dout. With P = exp(logit_scale * q k^T - lse) and delta_t = dout_t . out_t:
//   dv = out_scale * P^T dout;            dS = P * (out_scale * dout v^T - delta);
//   dq = logit_scale * dS k;              dk = logit_scale * dS^T q.
struct AttentionBackward {
    Tensor dqkv;  // (B, T, 3C)
    Tensor dout;  // (B, T, C)
    Tensor out;   // (B, T, C), of the forward pass
    Tensor lse;   // (B, H, T) fp32
    Tensor qkv;   // (B, T, 3C)
    float logit_scale;
    float out_scale = 1;
};
void attention_backward(const AttentionBackward& args);

// out[b,h,i(i+1)/2+j] = logit_scale * q_i k_j for j <= i: the input of attention_forward's softmax. For coordinate
// checks; training never stores these.
struct AttentionLogits {
    Tensor out;  // (B, H, T(T+1)/2) fp32
    Tensor qkv;  // (B, T, 3C)
    float logit_scale;
};
void attention_logits(const AttentionLogits& args);

// gelu as above: out = gelu(inp), and dinp = dout * gelu'(inp). dinp may be dout's memory.
struct GeluForward {
    Tensor out, inp;  // (N, C)
    float gelu_scale = 1;
};
void gelu_forward(const GeluForward& args);
struct GeluBackward {
    Tensor dinp, dout, inp;  // (N, C)
    float gelu_scale = 1;
};
void gelu_backward(const GeluBackward& args);

// losses[n] = -log softmax(logit_scale * logits[n, :vocab_size])[targets[n]]; columns from vocab_size on are ignored.
// If dloss is not 0, logits is overwritten by d(dloss * sum of losses)/d(logits), padding columns by 0.
// A row whose target is kNoTarget has the loss 0 and the gradient 0, whatever its logits are.
struct Classifier {
    Tensor losses;   // (N) fp32
    Tensor logits;   // (N, Vp), in and out
    Tensor targets;  // (N) int32, each in [0, vocab_size) or kNoTarget
    int vocab_size;
    float logit_scale = 1;
    float dloss = 0;
};
void classifier(const Classifier& args);

// out[0] += scale * sum(inp), both fp32.
struct Sum {
    Tensor out, inp;
    float scale = 1;
};
void accumulate_sum(const Sum& args);

// Statistics of x = inp, or x = inp - minus, in columns [first_column, first_column + columns) of all rows, for
// coordinate checks: out = {mean |x|, mean x, root of the mean x^2, max |x|}.
constexpr int kStatistics = 4;
struct Statistics {
    Tensor out;                             // (4) fp32
    Tensor inp;                             // (N, C)
    Tensor minus{};                         // (N, C), optional
    int64_t first_column = 0, columns = 0;  // columns = 0: all from first_column on
};
void statistics(const Statistics& args);

// out[0] = sqrt(sum over all tensors of their squared elements); fp32 tensors, one launch.
void global_norm(Tensor out, std::span<const Tensor> tensors);

// dst = src, rounded to nearest if dst is bf16. Both may have either float type.
void cast(Tensor dst, Tensor src);

// One parameter tensor in an optimizer step, or a part of one, with its own numbers.
struct ParameterUpdate {
    Tensor param;     // fp32 or bf16, updated
    Tensor master{};  // fp32 master weights, updated and rounded into param; absent for fp32 params
    Tensor grad;      // fp32
    Tensor m;         // fp32, first moment (AdamW) or momentum buffer (SGD)
    Tensor v{};       // fp32, second moment; absent for SGD
    float lr;         // of this tensor at this step
    float decay;      // fraction of the weight removed at this step
    float eps = 0;
    uint32_t stream = 0;  // for stochastic rounding: random.h
    int64_t first = 0;    // of a part: its first element in the tensor, a multiple of 4
};
struct OptimizerStep {
    std::span<const ParameterUpdate> parameters;
    // (1) fp32 on the device: the gradient is multiplied by min(1, grad_clip / grad_norm); absent: no clipping
    Tensor grad_norm{};
    float grad_clip = 0;
    int64_t step;  // 1 for the first update
    bool stochastic_rounding = false;
    uint64_t seed = 0;
};

// m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2;
// w = (1 - decay) w - lr * (m/(1-beta1^step)) / (sqrt(v/(1-beta2^step)) + eps).
// Loshchilov, Hutter, "Decoupled weight decay regularization", 2019. One launch over all tensors.
void adamw_step(const OptimizerStep& args, float beta1, float beta2);

// m = momentum m + g (m = g at step 1);  w = (1 - decay) w - lr * m.
void sgd_step(const OptimizerStep& args, float momentum);

}  // namespace llmc
