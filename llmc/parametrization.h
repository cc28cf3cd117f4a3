// THE µP file: (tensor role, shape ratios, scheme) -> initial standard deviation, learning rate, weight decay, epsilon,
// multipliers. Everything that a parametrization changes is a number in the two structs below; nothing else in the
// program knows which scheme is in use.
//
// A scheme is a table of powers of the width multiplier m = width / base_width, by role. With W_eff = A w,
// w ~ N(0, (B s)^2) and learning rate C eta:
//     sp   A = B = C = 1 (the standard parametrization)
//     mup  Table 8 of "Tensor Programs V" (arXiv 2203.03466), with the forms of microsoft/mup for weight decay and SGD.
// This project's choices on top of the tables:
//   * attention logits = attn_mult / head_dim * q.k with attn_mult = sqrt(base head_dim) by default, so the base model
//     is exactly SP;
//   * the head is untied and starts at zero under mup, query weights start at zero; each has a switch;
//   * a tied head is Table 8's shared form: multiplier 1 as the embedding, output_mult / m as the head;
//   * weight decay `scaled`: lambda / (lr factor), so that lr * lambda does not depend on the width; `independent`:
//     schedule * lambda;
//   * epsilon follows the gradient's size, 1/m on every tensor (switch: --no-scale-eps);
//   * the clip on the global gradient norm is a constant (the one thing that Tables 3, 8 and 9 do not share).
#pragma once
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>
#include "config.h"

namespace llmc {

// What a tensor is to the tables: input = maps a finite dimension to the width (wte, wpe); hidden = width to width;
// output = width to a finite dimension (an untied head); vector = one number a channel (biases, layer norms).
enum class Role { input, hidden, output, vector };
const char* name_of(Role role);

struct TensorSpec {
    std::string name;  // Hugging Face's: "h.3.attn.c_attn.weight"
    Role role;
    std::vector<int64_t> shape;        // (out, in), or (C)
    bool gain = false;                 // starts at 1: layer norm weights
    bool residual_projection = false;  // writes to the residual stream: GPT-2 divides its init by sqrt(2 * depth)
    int64_t query_rows = 0;            // c_attn: so many leading rows make the queries

    int64_t count() const {
        int64_t n = 1;
        for (int64_t d : shape) n *= d;
        return n;
    }
};

// The numbers of one tensor, resolved. `lr` is at the schedule's peak; decay per step is lr_t * weight_decay (scaled)
// or lr_t / lr_peak * weight_decay (independent).
struct Rule {
    double init_mean = 0, init_std = 0;
    int64_t zero_rows = 0;         // leading rows that start at zero
    float multiplier = 1;          // A, in the forward pass
    float dinp_multiplier = 1;     // A, towards the input's gradient
    float dweight_multiplier = 1;  // A, towards its own gradient
    double lr = 0, weight_decay = 0, eps = 0;
};

// y = skip * x + branch * f(x). Backward, the stream's gradient is multiplied by dskip, the branch's by dbranch where
// it enters f and by dsplit where it leaves. The chain rule is (skip, branch, 1); u-µP delays the branch's factor to
// the end: (skip, 1, branch).
struct Residual {
    float skip = 1, branch = 1, dskip = 1, dbranch = 1, dsplit = 1;
};

// The numbers of the forward and backward pass that belong to no single tensor.
struct Scales {
    float embedding = 1, embedding_grad = 1;  // of wte[token] + wpe[t]
    float attention = 1;                      // logit scale
    float attention_out = 1;
    float gelu = 1;                  // temperature
    float loss = 1;                  // temperature of the classifier
    std::vector<Residual> residual;  // attention, mlp, attention, mlp, ...
};

// The base model's view of the model: all a rule may depend on.
struct Geometry {
    int depth, width, heads, head_dim;
    bool tied;  // head shares wte
};

class Parametrization {
public:
    // Resolves defaults and refuses what has no meaning, with the reason (usage error).
    Parametrization(const Config& config, const Geometry& geometry);

    Rule rule(const TensorSpec& spec) const;
    const Scales& scales() const { return scales_; }
    // Head matmul, logits = multiplier * x @ W^T: of lm_head, or of wte when tied (whose own multiplier as an embedding
    // is another).
    Rule head() const;
    double width_mult() const { return width_mult_; }
    // By how much one optimizer step shrinks a tensor. schedule = lr_t / lr_peak.
    double decay(const Rule& rule, double schedule) const;

    // {"scheme", "base_width", "base_head_dim", "width_mult", "tensors": [...], "scales": {...}}: doc/formats.md.
    nlohmann::ordered_json to_json(const std::vector<TensorSpec>& specs) const;
    static bool ties_by_default(const std::string& scheme) { return scheme == "sp"; }

private:
    double power(double exponent) const;  // width_mult ^ exponent, exactly 1 at the base width

    Config config_;
    Geometry geometry_;
    double width_mult_ = 1, base_width_ = 0, base_head_dim_ = 0, attn_mult_ = 1;
    bool zero_query_ = false, zero_head_ = false;
    Scales scales_;
};

// The table for people, as --dry-run prints it.
std::string rule_table(const nlohmann::ordered_json& parametrization);

}  // namespace llmc
