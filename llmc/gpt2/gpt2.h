// GPT-2 (Radford et al., 2019): pre-LN transformer with learned positions, biases and tanh-GELU. Written once, as lists
// of op calls (forward.cpp, backward.cpp), for all backends and parametrizations.
//
//   x = embedding(tokens)
//   for each block:  x = x + c_proj(attention(c_attn(ln_1(x))));  x = x + mlp.c_proj(gelu(c_fc(ln_2(x))))
//   loss = cross_entropy(lm_head(ln_f(x)), targets)
//
// N = B*T rows. Only a chunk of rows of the logits, (N, Vp), is in memory at a time: in training, the chunk's loss, its
// gradient and the head's two gradient products are computed in sequence. Other activations: activations.h.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "llmc/gpt2/activations.h"
#include "llmc/gpt2/parameters.h"
#include "llmc/ops/ops.h"

namespace llmc {

class GPT2 {
public:
    GPT2(const ModelShape& shape, const Parametrization& rules, const GPT2Options& options);

    // The batch that all functions below work on: B*T token ids on the host, every one below vocab_size. targets may be
    // null for inference; one that is kNoTarget does not count.
    void set_batch(const int32_t* tokens, const int32_t* targets, int B, int T);

    // tokens -> ln_f's output, of rows [first, T); keys and values of earlier rows come from the cache (cache_keys; one
    // sequence only).
    void forward(int64_t first = 0);
    void evaluate(float loss_scale) { head(loss_scale, false); }  // loss += loss_scale * sum of the batch's losses
    // The same, with the gradients of the head's weight and of ln_f's output, which backward() continues from.
    void loss_and_head_backward(float loss_scale) { head(loss_scale, true); }
    void backward();  // gradients of everything below the head, accumulated

    // One micro-batch of a training step: mean loss over `total_tokens` tokens and its gradients, added to those of the
    // step's earlier micro-batches. `first`: the step's first micro-batch, which starts from zero. completed(i) is called
    // once the work that completes the gradients of gradient_parts()[i] is enqueued.
    void train_micro_batch(int64_t total_tokens, bool first, const std::function<void(size_t part)>& completed = {});
    const std::vector<Parameters::Part>& gradient_parts() const { return parts_; }
    // Mean loss of the current batch's targets, nats per token, without gradients; waits for the device.
    float mean_loss();
    // Host copy of the loss of every target of the current batch, (B, T), nats, 0 for kNoTarget; computes the forward
    // pass and waits for the device.
    std::vector<float> losses();
    // Host copy of logits[n, :V], as used by the loss, of `count` rows of the last forward() from row `begin` on.
    std::vector<float> logits(int64_t begin, int64_t count);

    // Keeps the keys and values of forward() from call to call, so that text can be continued token by token.
    void cache_keys(bool keep);

    int batch_size() const { return B_; }  // of the current batch
    int seq_len() const { return T_; }
    int64_t target_count() const { return targets_; }  // of the current batch, without kNoTarget

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
        size_t scratch;  // of the ops
        size_t total() const { return parameters + gradients + activations + scratch; }
    };
    static Memory memory(const ModelShape& shape, const GPT2Options& options);  // before anything is allocated
    static double flops_per_token(const ModelShape& shape, int seq_len);        // llmc/ops/cost.h
    double executed_flops_per_token(int seq_len) const;                         // llmc/ops/cost.h

    // The largest batch size whose training needs at most `bytes`, optimizer state of `state_bytes` included; 0: none.
    static int batch_that_fits(const ModelShape& shape, GPT2Options options, size_t state_bytes, size_t bytes);

private:
    void observe(const char* prefix, int layer, const char* name, Tensor value) const;
    void observe(const char* name, Tensor value) const {
        if (observer) observer(name, value);
    }
    enum class Pass {
        forward,
        again
    };  // again: for the backward pass, without the last product, whose result is not needed
    void block_forward(int layer, Tensor x, Pass pass);
    void recompute(int layer, Tensor x);
    void start_micro_batch(int64_t total_tokens, bool first);
    void backward_blocks(int end, int begin);  // blocks end - 1, ..., begin
    void backward_embedding();
    void run_part(size_t part, int64_t total_tokens, bool first);
    void block_backward(int layer, Tensor x);
    void head(float loss_scale, bool backward);
    void head_logits(int64_t begin, int64_t rows, Tensor logits);
    Tensor block_input(int layer) const {
        return layer > 0 ? acts_.blocks[size_t(layer - 1)].residual_mlp : acts_.embedding;
    }
    int64_t row_count() const { return int64_t{B_} * T_ - first_; }
    Tensor rows(Tensor t) const { return t.row_slice(first_, row_count()); }  // of the current batch, to be computed
    LayerNormActivations rows(const LayerNormActivations& a) const {
        return {rows(a.out), a.mean.slice(first_, row_count()), a.rstd.slice(first_, row_count())};
    }
    Tensor qkv_of(int layer) const;  // (N, 3C) or more; the cache's if there is a cache

    GPT2Options options_;
    int B_ = 0, T_ = 0;
    int64_t targets_ = 0;
    bool overwrite_ = false;  // products overwrite gradients instead of adding to them
    int64_t first_ = 0;       // row of the current batch; 0 unless text is continued
    device::Buffer cache_;    // (depth, seq_len, 3C), or nothing
    device::Buffer arena_;
    Activations acts_;
    std::vector<Parameters::Part> parts_;
    std::vector<device::Recording> first_micro_batch_, later_micro_batch_;  // of a step, one for each part
};

}  // namespace llmc
