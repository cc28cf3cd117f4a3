// Everything a run is told: one plain struct, filled by options.cpp, stored as JSON in the log and in every checkpoint.
// The member names are the long options with underscores.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace llmc {

struct Config {
    // Data
    std::string train_data, val_data;  // glob patterns of token shards
    std::string tokenizer = "auto";    // auto (from the shard), byte, gpt2
    bool shuffle = true;
    bool overfit_single_batch = false;

    // Model
    std::string preset;  // gpt2, gpt2-medium, ..., gpt3-13b; the numbers below override it
    std::string init;    // checkpoint whose weights to start from
    int depth = 12, width = 768, heads = 12, head_dim = 0, seq_len = 1024;
    int vocab_size = 0;  // 0: from the data
    std::optional<bool> tie_embeddings;

    // Batch and length of the run
    int batch_size = 4;
    int64_t total_batch_size = 0;  // tokens per optimizer step; 0: batch_size * seq_len
    int64_t steps = -1, tokens = -1;
    double epochs = -1;
    std::string dtype = "fp32";        // fp32, bf16
    std::string recompute = "none";    // none, gelu, block: what the backward pass computes again to save memory
    std::string rounding = "nearest";  // of bf16 weights from their fp32 masters: nearest, stochastic

    // Parametrization
    std::string parametrization = "sp";
    int base_width = 0, base_heads = 0, base_depth = 0;
    double depth_alpha = 1;           // completep: residual branches are multiplied by depth_mult^-alpha
    std::optional<double> attn_mult;  // default sqrt(head size of the base model)
    double output_mult = 1, embed_mult = 1, init_std = 0.02;
    std::optional<bool> zero_init_query, zero_init_head;
    bool scale_eps = true;
    double ffn_act_mult = 1, attn_softmax_mult = 1, residual_mult = 1, residual_attn_ratio = 1,
           loss_softmax_mult = 1;  // u-mup

    // Optimizer
    std::string optimizer = "adamw";
    double lr = 3e-4;
    int64_t warmup_steps = 0;
    std::string schedule = "cosine";  // cosine, linear, constant, wsd
    double final_lr_frac = 0;
    double weight_decay = 0;
    std::string weight_decay_mode = "scaled";  // scaled, independent
    double beta1 = 0.9, beta2 = 0.95, eps = 1e-8, momentum = 0.9;
    std::optional<double> grad_clip;                    // 0: off; default 1, for u-mup 0
    double skip_loss_zscore = 0, skip_grad_zscore = 0;  // 0: off

    // Evaluation and sampling
    int64_t eval_every = 100;
    int64_t eval_batches = 20;
    int64_t sample_every = 0;
    std::string prompt;
    double temperature = 0.8;
    int top_k = 0;
    int sample_tokens = 256;

    // Output
    std::string out;
    bool profile = false;     // time every op
    std::string coord_check;  // CSV of a coordinate check: llmc/train/coord_check.h
    bool overwrite = false, resume = false;
    int64_t checkpoint_every = 0;
    int keep = 2;

    // Machine
    uint64_t seed = 42;
    int threads = 0;

    int64_t micro_steps() const { return total_batch_size / (int64_t{batch_size} * seq_len); }
};

nlohmann::ordered_json to_json(const Config& config);  // an option that was left to its default rule is null
Config from_json(const nlohmann::json& options);       // the reverse; options that are absent keep their defaults
std::string to_toml(const Config& config);             // what --config reads

}  // namespace llmc
