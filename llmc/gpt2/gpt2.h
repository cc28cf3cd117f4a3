// GPT-2 (Radford et al., 2019): pre-LN transformer with learned positions, biases and tanh-GELU. Written once, as lists
// of op calls (forward.cpp, backward.cpp), for every backend and every parametrization: what differs between those is
// data.
//
//   x = embedding(tokens)
//   for each block:  x = x + c_proj(attention(c_attn(ln_1(x))));  x = x + mlp.c_proj(gelu(c_fc(ln_2(x))))
//   loss = cross_entropy(lm_head(ln_f(x)), targets)
//
// With N = B*T rows. The logits, (N, Vp), exist only a chunk of rows at a time: in training, a chunk's loss, its
// gradient and the head's two gradient products follow each other directly.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "llmc/gpt2/parameters.h"
#include "llmc/ops.h"

namespace llmc {

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

struct GPT2Options {
    int batch_size, seq_len;  // the largest that will be asked for
    DType dtype = DType::f32;
    bool train = true;        // room for gradients
    int64_t logits_rows = 0;  // rows of logits at a time; 0: what fits 128 MiB
};

class GPT2 {
public:
    GPT2(const ModelShape& shape, const Parametrization& rules, const GPT2Options& options);

    // The batch that all functions below work on: B*T token ids on the host, every one below vocab_size. targets may be
    // null for inference.
    void set_batch(const int32_t* tokens, const int32_t* targets, int B, int T);

    void forward();                                               // tokens -> ln_f's output
    void evaluate(float loss_scale) { head(loss_scale, false); }  // loss += loss_scale * sum of the batch's losses
    // The same, and the gradient of that: of the head's weight, and of ln_f's output, for backward().
    void loss_and_head_backward(float loss_scale) { head(loss_scale, true); }
    void backward();  // gradients of everything below the head, accumulated

    // One micro-batch of a training step: mean loss over `total_tokens` tokens and its gradients, both accumulated.
    void train_micro_batch(int64_t total_tokens) {
        forward();
        loss_and_head_backward(float(1.0 / double(total_tokens)));
        backward();
    }
    // logits[n, :V] for `count` rows of the last forward() from row `begin` on, to the host.
    std::vector<float> logits(int64_t begin, int64_t count);

    void zero_loss();
    float loss();  // waits for the device

    // Called with each activation of forward() once it is computed, by name: "embedding", "h.0.ln_1",
    // "h.0.attn.c_attn", "h.0.attn", "h.0.resid_attn", "h.0.ln_2", "h.0.mlp.c_fc", "h.0.mlp.gelu", "h.0.resid_mlp",
    // "ln_f", and "logits" chunk by chunk.
    std::function<void(const std::string& name, Tensor value)> observer;

    ModelShape shape;
    Parametrization rules;
    Parameters parameters;

    struct Memory {
        size_t parameters, gradients, activations;
    };
    static Memory memory(const ModelShape& shape, const GPT2Options& options);  // before anything is allocated
    // 6 P + 12 L C T, as PaLM's appendix B counts (causality ignored)
    static double flops_per_token(const ModelShape& shape, int seq_len);

private:
    struct Layout;  // assigns the arena
    void observe(const char* prefix, int layer, const char* name, Tensor value) const;
    void observe(const char* name, Tensor value) const {
        if (observer) observer(name, value);
    }
    void block_forward(int layer, Tensor x);
    void block_backward(int layer, Tensor x);
    void head(float loss_scale, bool backward);
    void head_logits(int64_t begin, int64_t rows, Tensor logits);
    Tensor rows(Tensor t) const { return t.row_slice(0, int64_t{B_} * T_); }  // of the current batch
    LayerNormActivations rows(const LayerNormActivations& a) const {
        const int64_t N = int64_t{B_} * T_;
        return {rows(a.out), a.mean.reshape({N}), a.rstd.reshape({N})};
    }

    GPT2Options options_;
    int B_ = 0, T_ = 0;
    device::Buffer arena_;
    Tensor tokens_, targets_;  // (B, T) int32
    Tensor embedding_;         // (N, C)
    std::vector<BlockActivations> blocks_;
    LayerNormActivations ln_f_;
    Tensor logits_, losses_, loss_;               // (rows, Vp), (N), (1)
    Tensor dresidual_, dbranch_, dwide_, dattn_;  // (N, C), (N, C), (N, 4C), (N, C): gradients on their way down
};

}  // namespace llmc
