// The µP rules: (tensor role, shape ratios, scheme) -> initial standard deviation, learning rate, weight decay,
// epsilon, multipliers. Everything that a parametrization changes is a number in the structs below; no other part of
// the program depends on the scheme.
//
// With W_eff = A w, w ~ N(0, (B s)^2) and learning rate C eta, a scheme is one of two things (parametrization.cpp):
//   * relative to a base model, a table of powers of m = width / base width, by role. At the base shape it is SP.
//       sp                       A = B = C = 1: the standard parametrization
//       mup, -table3, -table9    Tables 8, 3 and 9 of Yang et al., "Tensor Programs V" (arXiv 2203.03466): one
//                                parametrization in three coordinates
//       completep                mup, and the depth: Dey et al., "CompleteP" (arXiv 2505.01618)
//   * absolute: u-mup, Blake et al., "u-µP: the unit-scaled maximal update parametrization" (arXiv 2407.17465).
//
// Choices of this project beyond the tables:
//   * attention logits = attn_mult / head_dim * q.k with attn_mult = sqrt(base head_dim) by default, so the base model
//     is exactly SP;
//   * the head is untied and starts at zero, query weights start at zero, except under sp and u-mup; each has a switch;
//   * a tied head has the embedding's A when used as the embedding, and the output's A when used as the head;
//   * weight decay `scaled`: lambda / (the width factor of lr), so that lr * lambda does not depend on the width;
//     `independent`: schedule * lambda;
//   * epsilon follows the gradient's size (switch: --no-scale-eps);
//   * the clip on the global gradient norm is a constant (with it, Tables 3, 8 and 9 are no longer equivalent).
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>
#include "llmc/mup/mup_options.h"

namespace llmc {

// The role of a tensor in the tables: input = maps a finite dimension to the width (wte, wpe); hidden = width to width;
// output = width to a finite dimension (an untied head); vector = one number per channel (biases, layer norms).
enum class Role { input, hidden, output, vector };
const char* name_of(Role role);

// The part of the model. A layer norm belongs to the branch that follows it.
enum class Part { embedding, attention, mlp, head };

struct TensorSpec {
    std::string name;  // Hugging Face's: "h.3.attn.c_attn.weight"
    Role role;
    std::vector<int64_t> shape;  // (out, in), or (C)
    Part part;
    bool gain = false;                 // starts at 1: layer norm weights
    bool residual_projection = false;  // writes to the residual stream: GPT-2 divides its init by sqrt(2 * depth)
    int64_t query_rows = 0;            // c_attn: number of leading rows that make the queries
    int64_t fan_in = 0, fan_out = 0;   // of a linear layer's weight and bias

    int64_t count() const {
        int64_t n = 1;
        for (int64_t d : shape) n *= d;
        return n;
    }
    bool in_block() const { return part == Part::attention || part == Part::mlp; }
};

// The numbers of one tensor, resolved. `lr` is at the schedule's peak; decay per step is lr_t * weight_decay (scaled)
// or lr_t / lr_peak * weight_decay (independent).
struct Rule {
    double init_mean = 0, init_std = 0;
    int64_t zero_rows = 0;         // leading rows that start at zero
    float multiplier = 1;          // A, in the forward pass
    float dinp_multiplier = 1;     // in the input's gradient; A by the chain rule
    float dweight_multiplier = 1;  // in its own gradient; A by the chain rule
    double lr = 0, weight_decay = 0, eps = 0;
};

// y = skip * x + branch * f(x). Backward, the stream's gradient is multiplied by dskip, the branch's by dbranch where
// it enters f and by dsplit where it leaves. The chain rule is (skip, branch, 1); u-µP applies the branch's factor at
// the end: (skip, 1, branch).
struct Residual {
    float skip = 1, branch = 1, dskip = 1, dbranch = 1, dsplit = 1;
};

// The numbers of the forward and backward pass that do not belong to a single tensor.
struct Scales {
    float embedding = 1, wte_grad = 1, wpe_grad = 1;  // of wte[token] + wpe[t]; include A of wte and wpe
    float attention = 1;                              // logits = this * q.k
    float attention_out = 1;
    float gelu = 1;                       // temperature: gelu(x) = u(this * x) / this
    float loss = 1;                       // multiplies the logits in the loss and in sampling
    float loss_grad = 1;                  // multiplies the gradient of the mean loss
    std::vector<Residual> residual = {};  // attention, mlp, attention, mlp, ...
};

// The parts of the model's shape that a rule may depend on.
struct Geometry {
    int depth, width, heads, head_dim, vocab_size;
    bool tied;  // head shares wte
};

// The tokens of one optimizer step, and of one sequence: u-mup's gradients have unit scale for these.
struct StepShape {
    int64_t total_batch_size;
    int seq_len;
};

// Exponents of the width multiplier m, for one role.
struct Powers {
    double multiplier, init_std, adam_lr, sgd_lr, eps;
};

// One parametrization: an entry of the table in parametrization.cpp.
struct Scheme {
    const char* name;
    Powers input, hidden, output, vector;
    bool has_base = true;              // its factors are relative to a base model
    bool zero_init = true;             // queries and an untied head start at zero by default
    bool scales_depth = false;         // CompleteP's rules for the depth
    bool unit_scaled = false;          // u-mup: the table of powers is not used
    bool ties = false;                 // the head shares wte by default
    double grad_clip = 1;              // the default of --grad-clip
    const char* why_untied = nullptr;  // the reason, if the head cannot share wte
};

class Parametrization {
public:
    // Resolves defaults. Usage error for a tied head if the scheme does not allow it, and for heads that do not divide
    // the base width. Options that have no meaning under the scheme are refused earlier (train/options).
    Parametrization(const MupOptions& mup, const OptimizerOptions& optimizer, const Geometry& geometry,
                    const StepShape& step);

    Rule rule(const TensorSpec& spec) const;
    const Scales& scales() const { return scales_; }
    // The head's matmul, logits = multiplier * x @ W^T: of lm_head, or of wte when tied (whose multiplier as an
    // embedding is different).
    Rule head() const;
    double width_mult() const { return width_mult_; }
    // The fraction by which one optimizer step shrinks a tensor. schedule = lr_t / lr_peak.
    double decay(const Rule& rule, double schedule) const;

    // The table of doc/formats.md: {"scheme", "base_width", ..., "tensors": [...], "scales": {...}}.
    nlohmann::ordered_json to_json(const std::vector<TensorSpec>& specs) const;

    static std::span<const Scheme> schemes();
    static std::vector<std::string> names();               // of all schemes
    static const Scheme& scheme(const std::string& name);  // usage error for an unknown name

private:
    void resolve_base();
    Rule relative_rule(const TensorSpec& spec) const;
    Scales relative_scales() const;
    Rule unit_scaled_rule(const TensorSpec& spec) const;
    Scales unit_scales() const;
    double lr_decay(double lr_factor) const;
    double power(double exponent) const;  // width_mult ^ exponent, exactly 1 at the base width

    MupOptions mup_;
    OptimizerOptions optimizer_;
    Geometry geometry_;
    StepShape step_;
    const Scheme& scheme_;
    double width_mult_ = 1, base_width_ = 0, base_head_dim_ = 0;
    double depth_mult_ = 1, base_depth_ = 0;
    bool zero_query_ = false, zero_head_ = false;
    Scales scales_;
};

}  // namespace llmc
