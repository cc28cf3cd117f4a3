#include "llmc/mup/parametrization.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "llmc/core/error.h"

namespace llmc {

// --- The schemes. To add a scheme, add an entry. -------------------------------------------------------------------

namespace {

// clang-format off
//                           A     B     Adam  SGD  eps
constexpr Powers kInput8  = {0,    0,    0,    1,   -1};    // and vectors
constexpr Powers kHidden  = {0,    -0.5, -1,   0,   -1};
constexpr Powers kOutput8 = {-1,   0,    0,    1,   -1};
constexpr Powers kOutput3 = {0,    -1,   -1,   -1,  0};
constexpr Powers kInput9  = {0.5,  -0.5, -0.5, 0,   -0.5};  // and vectors
constexpr Powers kOutput9 = {-0.5, -0.5, -0.5, 0,   -0.5};

const Scheme kSchemes[] = {
    {.name = "sp", .has_base = false, .zero_init = false, .ties = true},
    {.name = "mup", .input = kInput8, .hidden = kHidden, .output = kOutput8, .vector = kInput8},
    {.name = "mup-table3", .input = kInput8, .hidden = kHidden, .output = kOutput3, .vector = kInput8,
     .why_untied = "in Table 3 an embedding and a head start with different deviations"},
    {.name = "mup-table9", .input = kInput9, .hidden = kHidden, .output = kOutput9, .vector = kInput9},
    {.name = "completep", .input = kInput8, .hidden = kHidden, .output = kOutput8, .vector = kInput8,
     .scales_depth = true},
    {.name = "u-mup", .has_base = false, .zero_init = false, .unit_scaled = true, .grad_clip = 0,
     .why_untied = "in u-muP an embedding and a head have different learning rates"},
};
// clang-format on

const Powers& powers_of(const Scheme& scheme, Role role) {
    switch (role) {
        case Role::input:
            return scheme.input;
        case Role::hidden:
            return scheme.hidden;
        case Role::output:
            return scheme.output;
        default:
            return scheme.vector;
    }
}

}  // namespace

std::span<const Scheme> Parametrization::schemes() { return kSchemes; }

const Scheme& Parametrization::scheme(const std::string& name) {
    for (const Scheme& scheme : kSchemes)
        if (name == scheme.name) return scheme;
    fail_usage("--parametrization ", name, " is unknown");
}

std::vector<std::string> Parametrization::names() {
    std::vector<std::string> out;
    for (const Scheme& scheme : kSchemes) out.push_back(scheme.name);
    return out;
}

const char* name_of(Role role) {
    switch (role) {
        case Role::input:
            return "input";
        case Role::hidden:
            return "hidden";
        case Role::output:
            return "output";
        default:
            return "vector";
    }
}

// --- Resolving ------------------------------------------------------------------------------------------------------

Parametrization::Parametrization(const MupOptions& mup, const OptimizerOptions& optimizer, const Geometry& g,
                                 const StepShape& step)
    : mup_(mup), optimizer_(optimizer), geometry_(g), step_(step), scheme_(scheme(mup.scheme)) {
    if (g.tied && scheme_.why_untied)
        fail_usage("--tie-embeddings has no meaning under --parametrization ", scheme_.name, ": ", scheme_.why_untied,
                   "; add --no-tie-embeddings");
    resolve_base();
    zero_query_ = mup.zero_init_query.value_or(scheme_.zero_init);
    zero_head_ = mup.zero_init_head.value_or(scheme_.zero_init && !g.tied);
    if (zero_head_ && g.tied)
        fail_usage(
            "--zero-init-head with tied embeddings would start all token embeddings at zero: add --no-tie-embeddings, "
            "or drop it");
    scales_ = scheme_.unit_scaled ? unit_scales() : relative_scales();
}

void Parametrization::resolve_base() {
    const Geometry& g = geometry_;
    base_depth_ = scheme_.scales_depth && mup_.base_depth ? mup_.base_depth : g.depth;
    depth_mult_ = g.depth / base_depth_;
    const bool based = scheme_.has_base && mup_.base_width;
    base_width_ = based ? mup_.base_width : g.width;
    width_mult_ = g.width / base_width_;
    int64_t base_heads = based ? mup_.base_heads : g.heads;
    if (base_heads == 0) {  // keep the head size
        if (int64_t(base_width_) % g.head_dim)
            fail_usage("the head size ", g.head_dim, " does not divide --base-width ", int64_t(base_width_),
                       ": give --base-heads");
        base_heads = int64_t(base_width_) / g.head_dim;
    }
    if (int64_t(base_width_) % base_heads)
        fail_usage("--base-heads ", base_heads, " does not divide --base-width ", int64_t(base_width_));
    base_head_dim_ = base_width_ / double(base_heads);
}

double Parametrization::power(double exponent) const { return std::pow(width_mult_, exponent); }

Rule Parametrization::rule(const TensorSpec& spec) const {
    Rule r = scheme_.unit_scaled ? unit_scaled_rule(spec) : relative_rule(spec);
    if (spec.role == Role::output && zero_head_) r.init_std = 0;
    if (zero_query_) r.zero_rows = spec.query_rows;
    return r;
}

Rule Parametrization::head() const {
    return rule({.name = "lm_head.weight", .role = Role::output, .shape = {}, .part = Part::head});
}

// lambda of a tensor whose learning rate has this factor.
double Parametrization::lr_decay(double lr_factor) const {
    return optimizer_.weight_decay_mode == DecayMode::scaled ? optimizer_.weight_decay / lr_factor
                                                             : optimizer_.weight_decay;
}

double Parametrization::decay(const Rule& rule, double schedule) const {
    return optimizer_.weight_decay_mode == DecayMode::scaled ? rule.lr * schedule * rule.weight_decay
                                                             : schedule * rule.weight_decay;
}

// --- Relative to a base model: sp, mup, completep -------------------------------------------------------------------

Rule Parametrization::relative_rule(const TensorSpec& spec) const {
    const Powers& powers = powers_of(scheme_, spec.role);
    const bool sgd = optimizer_.kind == OptimizerKind::sgd, vector = spec.role == Role::vector;
    const double width_factor = power(sgd ? powers.sgd_lr : powers.adam_lr), alpha = mup_.depth_alpha;
    double depth_factor = 1, depth_eps = 1;
    if (scheme_.scales_depth && spec.in_block()) {
        depth_factor = std::pow(depth_mult_, sgd ? 2 * alpha - 1 : alpha - 1);
        depth_eps = std::pow(depth_mult_, -alpha);  // like the branch's gradients
    }
    Rule r;
    r.init_mean = spec.gain ? power(powers.init_std) : 0;
    if (!vector) r.init_std = mup_.init_std * power(powers.init_std);
    if (spec.residual_projection) r.init_std /= std::sqrt(2 * (scheme_.scales_depth ? base_depth_ : geometry_.depth));
    const double output_mult = spec.role == Role::output ? mup_.output_mult : 1;
    r.multiplier = r.dinp_multiplier = r.dweight_multiplier = float(power(powers.multiplier) * output_mult);
    r.lr = optimizer_.lr * width_factor * depth_factor;
    r.weight_decay = vector ? 0 : lr_decay(width_factor);  // biases and layer norms are not decayed
    r.eps = sgd ? 0 : optimizer_.eps * (mup_.scale_eps ? power(powers.eps) * depth_eps : 1);
    return r;
}

Scales Parametrization::relative_scales() const {
    Scales s;
    s.embedding = s.wte_grad = s.wpe_grad = float(mup_.embed_mult * power(scheme_.input.multiplier));
    s.attention = float(mup_.attn_mult.value_or(std::sqrt(base_head_dim_)) / geometry_.head_dim);
    const float branch = float(std::pow(depth_mult_, -mup_.depth_alpha));
    s.residual.assign(2 * size_t(geometry_.depth), {.skip = 1, .branch = branch, .dskip = 1, .dbranch = branch});
    return s;
}

// --- Absolute: u-µP -------------------------------------------------------------------------------------------------
// Every tensor has unit variance at the start, forward and backward. The backward factors are not those of the chain
// rule, but each is the same for all elements of a tensor, so Adam's update does not depend on it. Follows
// graphcore-research/unit-scaling 0.3.5, except that
// * layer norms have gains and biases (off by default there). Their learning rate is divided by the root of the width,
//   and in blocks by that of the depth; theirs by the latter only, with which gains would change by their own size in
//   one step, as the rate is of the order of 1;
// * a GELU's output is multiplied by 1 / its root mean square, 1.5336 at mult 1, so that the next product gets numbers
//   of unit size; theirs is multiplied by 1.7668, which leaves a root mean square of 1.15.

namespace {

// Root of E[gelu(z)^2] for z ~ N(0, 1), by the trapezoidal rule.
double gelu_deviation(double mult) {
    constexpr int kPoints = 4001;
    constexpr double kEnd = 12, kStep = 2 * kEnd / (kPoints - 1);
    double sum = 0;
    for (int i = 0; i < kPoints; ++i) {
        const double z = -kEnd + i * kStep, x = mult * z;
        const double gelu = 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x))) / mult;
        sum += gelu * gelu * std::exp(-0.5 * z * z);
    }
    return std::sqrt(sum * kStep / std::sqrt(2 * M_PI));
}

// Deviation of causal attention's output for unit-variance values: between that of an average over all earlier values
// (small mult, large heads) and that of a single value.
double attention_deviation(double mult, double head_dim, double length) {
    const double alone = 1 / (1 + 4 * head_dim / (mult * mult));
    return length > 1 ? std::pow(std::log(length) / length, 0.5 * (1 - alone)) : 1;
}

}  // namespace

Rule Parametrization::unit_scaled_rule(const TensorSpec& spec) const {
    const Geometry& g = geometry_;
    const double d = g.width, tokens = double(step_.total_batch_size);
    const double depth_factor = spec.in_block() ? 1 / std::sqrt(double(g.depth)) : 1;
    double forward = 1, dinp = 1, dweight = 1 / std::sqrt(tokens), lr_factor = depth_factor;
    switch (spec.role) {
        case Role::input:
            dweight = 1;  // scales().wte_grad and wpe_grad
            lr_factor = 1 / std::sqrt(d);
            break;
        case Role::output:
            forward = 1 / d;
            dinp = 1 / std::sqrt(double(g.vocab_size));
            break;
        case Role::hidden:
            forward = 1 / std::sqrt(double(spec.fan_in));
            dinp = spec.part == Part::mlp ? 1 / std::sqrt(double(spec.fan_out)) : forward;
            lr_factor = depth_factor / std::sqrt(double(spec.fan_in));
            if (spec.part == Part::mlp && spec.residual_projection) {  // carries the unit scale of the GELU before it
                const double unit = 1 / gelu_deviation(mup_.ffn_act_mult);
                forward *= unit, dinp *= unit, dweight *= unit;
            }
            break;
        case Role::vector:
            if (spec.fan_in)
                forward = 1 / std::sqrt(double(spec.fan_in));  // a bias is added before its layer's factor
            else
                lr_factor = depth_factor / std::sqrt(d);
            dinp = forward;
    }
    return {.init_mean = spec.gain ? 1.0 : 0.0,
            .init_std = spec.role == Role::vector ? 0.0 : 1.0,
            .multiplier = float(forward),
            .dinp_multiplier = float(dinp),
            .dweight_multiplier = float(dweight),
            .lr = optimizer_.lr * lr_factor,
            .weight_decay = spec.role == Role::vector ? 0 : lr_decay(lr_factor),
            .eps = optimizer_.kind == OptimizerKind::sgd ? 0 : optimizer_.eps};
}

Scales Parametrization::unit_scales() const {
    const MupOptions& c = mup_;
    const double tokens = double(step_.total_batch_size), V = geometry_.vocab_size, depth = geometry_.depth;
    Scales s;
    s.embedding = float(std::sqrt(0.5));  // a sum of two
    s.wte_grad = float(std::sqrt(V / tokens));
    s.wpe_grad = float(std::sqrt(step_.seq_len / tokens));
    s.attention = float(c.attn_softmax_mult / geometry_.head_dim);
    s.attention_out = float(1 / attention_deviation(c.attn_softmax_mult, geometry_.head_dim, step_.seq_len));
    s.gelu = float(c.ffn_act_mult);
    s.loss = float(c.loss_softmax_mult);
    s.loss_grad = float(tokens * V / std::sqrt(std::max(1.0, V - 1)) / c.loss_softmax_mult);
    // The branches' variances add up to residual_mult^2 times the embedding's, attention's to ratio^2 times the MLP's.
    const double ratio = c.residual_attn_ratio;
    const double mlp = 2 * c.residual_mult * c.residual_mult / (1 + ratio * ratio), attention = ratio * ratio * mlp;
    for (int i = 0; i < 2 * geometry_.depth; ++i) {
        const int attention_branches = (i + 1) / 2, mlp_branches = i / 2;  // before this one
        const double before = depth + attention_branches * attention + mlp_branches * mlp;
        const double tau2 = (i % 2 ? mlp : attention) / before;
        const float skip = float(1 / std::sqrt(1 + tau2)), branch = float(std::sqrt(tau2 / (1 + tau2)));
        s.residual.push_back({.skip = skip, .branch = branch, .dskip = skip, .dbranch = 1, .dsplit = branch});
    }
    return s;
}

// --- As JSON --------------------------------------------------------------------------------------------------------

nlohmann::ordered_json Parametrization::to_json(const std::vector<TensorSpec>& specs) const {
    nlohmann::ordered_json tensors = nlohmann::ordered_json::array(), residual = nlohmann::ordered_json::array();
    for (const TensorSpec& spec : specs) {
        const Rule r = rule(spec);
        tensors.push_back({{"name", spec.name},
                           {"role", name_of(spec.role)},
                           {"shape", spec.shape},
                           {"init_mean", r.init_mean},
                           {"init_std", r.init_std},
                           {"zero_rows", r.zero_rows},
                           {"multiplier", r.multiplier},
                           {"dinp_multiplier", r.dinp_multiplier},
                           {"dweight_multiplier", r.dweight_multiplier},
                           {"lr", r.lr},
                           {"weight_decay", r.weight_decay},
                           {"eps", r.eps}});
    }
    const Scales& s = scales_;
    for (const Residual& r : s.residual) residual.push_back({r.skip, r.branch, r.dskip, r.dbranch, r.dsplit});
    const Rule output = head();
    return {{"scheme", mup_.scheme},
            {"base_width", int64_t(base_width_)},
            {"base_head_dim", int64_t(base_head_dim_)},
            {"width_mult", width_mult_},
            {"base_depth", int64_t(base_depth_)},
            {"depth_mult", depth_mult_},
            {"tensors", tensors},
            {"scales",
             {{"embedding", s.embedding},
              {"wte_grad", s.wte_grad},
              {"wpe_grad", s.wpe_grad},
              {"attention", s.attention},
              {"attention_out", s.attention_out},
              {"gelu", s.gelu},
              {"loss", s.loss},
              {"loss_grad", s.loss_grad},
              {"output", output.multiplier},
              {"output_dinp", output.dinp_multiplier},
              {"output_dweight", output.dweight_multiplier},
              {"residual", residual}}}};
}

}  // namespace llmc
