// All options of a run, in one struct for each part of the program. The table of options (options/table.cpp) has the
// name, range and help of every member; to_json stores them as one flat object in the log and in every checkpoint.
#pragma once
#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "llmc/comm/world.h"
#include "llmc/core/tensor.h"
#include "llmc/gpt2/activations.h"
#include "llmc/mup/mup_options.h"
#include "llmc/train/optimizer.h"
#include "llmc/train/schedule.h"
#include "llmc/train/token_choice.h"

namespace llmc {

enum class TokenizerChoice { automatic, byte, gpt2 };
template <>
struct Names<TokenizerChoice> {
    static constexpr std::pair<const char*, TokenizerChoice> list[] = {
        {"auto", TokenizerChoice::automatic}, {"byte", TokenizerChoice::byte}, {"gpt2", TokenizerChoice::gpt2}};
};

struct DataOptions {
    std::vector<std::string> train_data, val_data;  // glob patterns of token shards
    TokenizerChoice tokenizer = TokenizerChoice::automatic;
    bool shuffle = true;
    bool overfit_single_batch = false;
};

struct ModelOptions {
    std::string preset;
    std::string init;  // checkpoint whose weights to start from
    int depth = 12, width = 768, heads = 12;
    std::optional<int> head_dim;  // instead of heads; resolved into heads
    int seq_len = 1024;
    int vocab_size = 0;  // 0: from the data
    std::optional<bool> tie_embeddings;
    DType dtype = DType::f32;
    Recompute recompute = Recompute::none;
};

struct RunOptions {
    int batch_size = 4;            // sequences per micro-batch
    int64_t total_batch_size = 0;  // tokens per optimizer step; 0: one micro-batch
    int64_t steps = -1, tokens = -1;
    double epochs = -1;
    ScheduleOptions schedule;
    double skip_loss_zscore = 0, skip_grad_zscore = 0;  // 0: off
};

constexpr int64_t kEvalTokens = 81920;

struct EvaluationOptions {
    int64_t every = 100;
    int64_t early_stop = 0;
    std::optional<int64_t> tokens;   // 0: all; without --eval-batches kEvalTokens
    std::optional<int64_t> batches;  // micro-batches, 0: all: another text at another batch size or sequence length
    std::optional<int> stride;       // between windows; not given: the sequence length
    std::string hellaswag;           // file of multiple-choice examples
    int64_t hellaswag_limit = 0;     // 0: all
};

struct SamplingOptions {
    int64_t every = 0;
    std::string prompt;
    Choice choice;
    int tokens = 256;
    std::string stop;
    int samples = 1;
};

struct OutputOptions {
    std::string out;
    bool overwrite = false, resume = false, allow_data_change = false;
    int64_t checkpoint_every = 0;
    std::optional<double> checkpoint_minutes;  // not given: 15
    int keep = 2;
    bool keep_best = false;
    std::string coord_check;  // CSV of a coordinate check: coord_check.h
    bool profile = false;
};

struct MachineOptions {
    int64_t seed = 42;
    int threads = 0;
    MatmulKernel matmul_kernel = MatmulKernel::automatic;
};

// One of several processes that train together.
struct ProcessOptions {
    int zero_stage = 0;  // 1: each process has a part of the optimizer's state
    WorldOptions world;
};

struct Config {
    DataOptions data;
    ModelOptions model;
    RunOptions run;
    MupOptions mup;
    OptimizerOptions optimizer;
    Rounding rounding = Rounding::nearest;
    EvaluationOptions evaluation;
    SamplingOptions sampling;
    OutputOptions output;
    MachineOptions machine;
    ProcessOptions processes;
};

// By option name with underscores; null: not given, the default depends on other options.
nlohmann::ordered_json to_json(const Config& config);
// The options of a checkpoint or log. Unknown keys are ignored: other versions may have other options. Data error that
// starts with `source` for a value that its option does not allow.
Config from_json(const nlohmann::json& options, const std::string& source);

}  // namespace llmc
