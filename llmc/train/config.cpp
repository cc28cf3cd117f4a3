#include "llmc/train/config.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace llmc {
namespace {

// Calls visit(name, value) for every option, in the order of the struct.
template <class ConfigType, class Visitor>
void for_each_option(ConfigType& c, Visitor visit) {
#define OPTION(name) visit(#name, c.name)
    OPTION(train_data), OPTION(val_data), OPTION(tokenizer), OPTION(shuffle), OPTION(overfit_single_batch);
    OPTION(preset), OPTION(init), OPTION(depth), OPTION(width), OPTION(heads), OPTION(seq_len), OPTION(vocab_size),
        OPTION(tie_embeddings);
    OPTION(batch_size), OPTION(total_batch_size), OPTION(steps), OPTION(tokens), OPTION(epochs), OPTION(dtype),
        OPTION(recompute), OPTION(rounding);
    OPTION(parametrization), OPTION(base_width), OPTION(base_heads), OPTION(base_depth), OPTION(depth_alpha),
        OPTION(attn_mult), OPTION(output_mult), OPTION(embed_mult);
    OPTION(init_std), OPTION(zero_init_query), OPTION(zero_init_head), OPTION(scale_eps);
    OPTION(ffn_act_mult), OPTION(attn_softmax_mult), OPTION(residual_mult), OPTION(residual_attn_ratio),
        OPTION(loss_softmax_mult);
    OPTION(optimizer), OPTION(lr), OPTION(warmup_steps), OPTION(schedule), OPTION(final_lr_frac), OPTION(weight_decay);
    OPTION(weight_decay_mode), OPTION(beta1), OPTION(beta2), OPTION(eps), OPTION(momentum), OPTION(grad_clip);
    OPTION(skip_loss_zscore), OPTION(skip_grad_zscore);
    OPTION(eval_every), OPTION(eval_batches), OPTION(sample_every), OPTION(prompt), OPTION(temperature), OPTION(top_k),
        OPTION(sample_tokens);
    OPTION(out), OPTION(coord_check), OPTION(profile), OPTION(overwrite), OPTION(resume), OPTION(checkpoint_every),
        OPTION(keep), OPTION(seed), OPTION(threads);
#undef OPTION
}

template <class T>
nlohmann::ordered_json json_of(const T& value) {
    return value;
}
template <class T>
nlohmann::ordered_json json_of(const std::optional<T>& value) {
    return value ? nlohmann::ordered_json(*value) : nullptr;
}

template <class T>
void take(const nlohmann::json& json, T& value) {
    value = json.get<T>();
}
template <class T>
void take(const nlohmann::json& json, std::optional<T>& value) {
    value = json.get<T>();
}

}  // namespace

nlohmann::ordered_json to_json(const Config& config) {
    nlohmann::ordered_json out;
    for_each_option(config, [&](const char* name, const auto& value) { out[name] = json_of(value); });
    return out;
}

Config from_json(const nlohmann::json& options) {
    Config config;
    for_each_option(config, [&](const char* name, auto& value) {
        if (options.is_object() && options.contains(name) && !options.at(name).is_null()) take(options.at(name), value);
    });
    return config;
}

std::string to_toml(const Config& config) {
    std::string out;
    const nlohmann::ordered_json options = to_json(config);
    for (auto& [key, value] : options.items()) {
        std::string name = key;
        std::replace(name.begin(), name.end(), '_', '-');
        bool unset = value.is_null() || value == "";  // an unset option, or one whose default depends on others
        // --tokens and --epochs exclude --steps: print those in use only
        bool unused = (name == "steps" || name == "tokens" || name == "epochs") && value < 0;
        if (!unset && !unused) out += name + " = " + value.dump() + "\n";
    }
    return out;
}

}  // namespace llmc
