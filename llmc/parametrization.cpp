#include "parametrization.h"

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "error.h"

namespace llmc {
namespace {

// Exponents of the width multiplier m, for one role.
struct Powers {
    double multiplier, init_std, adam_lr, sgd_lr, eps;
};
struct Table {
    Powers input, hidden, output, vector;
};

constexpr Table kStandard = {};

// Tensor Programs V, Table 8.        A   B     Adam SGD eps
constexpr Table kMup = {
    .input = {0, 0, 0, 1, -1}, .hidden = {0, -0.5, -1, 0, -1}, .output = {-1, 0, 0, 1, -1}, .vector = {0, 0, 0, 1, -1}};

const Table& table_of(const std::string& scheme) {
    if (scheme == "sp") return kStandard;
    if (scheme == "mup") return kMup;
    fail_usage("--parametrization ", scheme, " is unknown");
}

const Powers& powers_of(const std::string& scheme, Role role) {
    const Table& table = table_of(scheme);
    switch (role) {
        case Role::input:
            return table.input;
        case Role::hidden:
            return table.hidden;
        case Role::output:
            return table.output;
        default:
            return table.vector;
    }
}

}  // namespace

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

Parametrization::Parametrization(const Config& config, const Geometry& g) : config_(config), geometry_(g) {
    const bool standard = config.parametrization == "sp";
    if (standard && (config.base_width || config.base_heads))
        fail_usage(
            "--base-width and --base-heads have no meaning under --parametrization sp: leave them out, or choose mup");
    if (!standard && config.base_width == 0)
        fail_usage("--parametrization ", config.parametrization,
                   " needs --base-width: the width at which your learning rate was tuned (equal to --width for the "
                   "base model itself)");
    base_width_ = standard ? g.width : config.base_width;
    width_mult_ = g.width / base_width_;

    int64_t base_heads = config.base_heads;
    if (standard) base_heads = g.heads;
    if (base_heads == 0) {  // keep the head size
        if (int64_t(base_width_) % g.head_dim)
            fail_usage("the head size ", g.head_dim, " does not divide --base-width ", int64_t(base_width_),
                       ": give --base-heads");
        base_heads = int64_t(base_width_) / g.head_dim;
    }
    if (int64_t(base_width_) % base_heads)
        fail_usage("--base-heads ", base_heads, " does not divide --base-width ", int64_t(base_width_));
    base_head_dim_ = base_width_ / double(base_heads);
    attn_mult_ = config.attn_mult.value_or(std::sqrt(base_head_dim_));

    zero_query_ = config.zero_init_query.value_or(!standard);
    zero_head_ = config.zero_init_head.value_or(!standard && !g.tied);
    if (zero_head_ && g.tied)
        fail_usage(
            "--zero-init-head with tied embeddings would start all token embeddings at zero: add --no-tie-embeddings, "
            "or drop it");

    scales_.embedding = scales_.embedding_grad = float(config.embed_mult);
    scales_.attention = float(attn_mult_ / g.head_dim);
    scales_.residual.resize(2 * g.depth);
}

double Parametrization::power(double exponent) const { return std::pow(width_mult_, exponent); }

Rule Parametrization::rule(const TensorSpec& spec) const {
    const Powers& powers = powers_of(config_.parametrization, spec.role);
    const bool sgd = config_.optimizer == "sgd";
    const double lr_factor = power(sgd ? powers.sgd_lr : powers.adam_lr);
    Rule r;
    r.init_mean = spec.gain ? 1 : 0;
    if (spec.role != Role::vector) r.init_std = config_.init_std * power(powers.init_std);
    if (spec.residual_projection) r.init_std /= std::sqrt(2.0 * geometry_.depth);
    if (spec.role == Role::output && zero_head_) r.init_std = 0;
    if (zero_query_) r.zero_rows = spec.query_rows;
    r.multiplier = r.dinp_multiplier = r.dweight_multiplier = float(
        power(powers.multiplier) * (spec.role == Role::output ? config_.output_mult : 1));
    r.lr = config_.lr * lr_factor;
    const bool decayed = spec.role != Role::vector;  // biases and layer norms are not
    r.weight_decay = !decayed                                ? 0
                     : config_.weight_decay_mode == "scaled" ? config_.weight_decay / lr_factor
                                                             : config_.weight_decay;
    r.eps = sgd ? 0 : config_.eps * (config_.scale_eps ? power(powers.eps) : 1);
    return r;
}

Rule Parametrization::head() const { return rule({.name = "lm_head.weight", .role = Role::output, .shape = {}}); }

double Parametrization::decay(const Rule& rule, double schedule) const {
    return config_.weight_decay_mode == "scaled" ? rule.lr * schedule * rule.weight_decay
                                                 : schedule * rule.weight_decay;
}

nlohmann::ordered_json Parametrization::to_json(const std::vector<TensorSpec>& specs) const {
    nlohmann::ordered_json tensors = nlohmann::ordered_json::array();
    for (const TensorSpec& spec : specs) {
        Rule r = rule(spec);
        tensors.push_back({{"name", spec.name},
                           {"role", name_of(spec.role)},
                           {"shape", spec.shape},
                           {"init_std", r.init_std},
                           {"zero_rows", r.zero_rows},
                           {"multiplier", r.multiplier},
                           {"lr", r.lr},
                           {"weight_decay", r.weight_decay},
                           {"eps", r.eps}});
    }
    return {{"scheme", config_.parametrization},
            {"base_width", int64_t(base_width_)},
            {"base_head_dim", int64_t(base_head_dim_)},
            {"width_mult", width_mult_},
            {"tensors", tensors},
            {"scales",
             {{"embedding", scales_.embedding}, {"attention", scales_.attention}, {"output", head().multiplier}}}};
}

std::string rule_table(const nlohmann::ordered_json& p) {
    char line[256];
    std::snprintf(line, sizeof line, "parametrization %s: width_mult %.10g (base width %d, base head size %d)\n",
                  p["scheme"].get<std::string>().c_str(), p["width_mult"].get<double>(), p["base_width"].get<int>(),
                  p["base_head_dim"].get<int>());
    std::string out = line;
    std::snprintf(line, sizeof line, "scales: embedding %g, attention logits %g, output logits %g\n",
                  p["scales"]["embedding"].get<double>(), p["scales"]["attention"].get<double>(),
                  p["scales"]["output"].get<double>());
    out += line;
    std::snprintf(line, sizeof line, "%-26s %-7s %-14s %10s %10s %10s %10s %10s\n", "tensor", "role", "shape",
                  "init_std", "multiplier", "lr", "decay", "eps");
    out += line;
    for (auto& t : p["tensors"]) {
        std::string shape;
        for (auto& d : t["shape"]) shape += (shape.empty() ? "" : " x ") + d.dump();
        std::snprintf(line, sizeof line, "%-26s %-7s %-14s %10.4g %10.4g %10.4g %10.4g %10.4g\n",
                      t["name"].get<std::string>().c_str(), t["role"].get<std::string>().c_str(), shape.c_str(),
                      t["init_std"].get<double>(), t["multiplier"].get<double>(), t["lr"].get<double>(),
                      t["weight_decay"].get<double>(), t["eps"].get<double>());
        out += line;
        if (t["zero_rows"].get<int64_t>())
            out += str("    (its first ", t["zero_rows"].get<int64_t>(), " rows, the queries, start at zero)\n");
    }
    return out;
}

}  // namespace llmc
