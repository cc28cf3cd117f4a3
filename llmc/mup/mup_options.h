// The options that a parametrization depends on, with the program's defaults. Their names are those of train/options.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

#include "llmc/core/names.h"

namespace llmc {

struct MupOptions {
    std::string scheme = "sp";  // --parametrization: a name of Parametrization::schemes()
    int base_width = 0, base_heads = 0, base_depth = 0;
    double depth_alpha = 1;           // completep: residual branches are multiplied by depth_mult^-alpha
    std::optional<double> attn_mult;  // default: sqrt(head size of the base model)
    double output_mult = 1, embed_mult = 1, init_std = 0.02;
    std::optional<bool> zero_init_query, zero_init_head;
    bool scale_eps = true;
    // u-mup
    double ffn_act_mult = 1, attn_softmax_mult = 1, residual_mult = 1, residual_attn_ratio = 1, loss_softmax_mult = 1;
};

enum class OptimizerKind { adamw, sgd };
template <>
struct Names<OptimizerKind> {
    static constexpr std::pair<const char*, OptimizerKind> list[] = {{"adamw", OptimizerKind::adamw},
                                                                     {"sgd", OptimizerKind::sgd}};
};

enum class DecayMode { scaled, independent };
template <>
struct Names<DecayMode> {
    static constexpr std::pair<const char*, DecayMode> list[] = {{"scaled", DecayMode::scaled},
                                                                 {"independent", DecayMode::independent}};
};

struct OptimizerOptions {
    OptimizerKind kind = OptimizerKind::adamw;
    double lr = 3e-4, weight_decay = 0;
    DecayMode weight_decay_mode = DecayMode::scaled;
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, momentum = 0.9;
    std::optional<double> grad_clip;  // 0: off; default: the scheme's
};

}  // namespace llmc
