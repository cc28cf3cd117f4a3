// From options to the parts of a run: data, model shape, rules, length. Nothing is written or trained here.
#pragma once
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "llmc/data/dataset.h"
#include "llmc/data/multiple_choice.h"
#include "llmc/data/tokenizer.h"
#include "llmc/train/checkpoint/run_folder.h"
#include "llmc/train/model_setup.h"
#include "llmc/train/options/command_line.h"

namespace llmc {

struct Setup {
    Config config;  // completed: shape of --init, batch, tokenizer
    ModelShape shape;
    RunLock lock;                            // of --out, if the folder exists
    std::optional<std::string> resume_from;  // checkpoint folder
    std::vector<DamagedCheckpoint> damaged;  // newer than that
    std::string finished;                    // of --resume: why there is nothing to do; empty if there is
    std::unique_ptr<ModelFile> weights;      // of --resume or --init; null: initialise
    std::unique_ptr<Dataset> train, val;     // null if not given
    TrainingState start;                     // of the checkpoint of --resume
    int64_t steps = 0;                       // at the end of the run, those before a --resume included
    std::string tokenizer, tokenizer_path;   // "byte", "gpt2" or "unknown"; tokenizer.bin
    std::unique_ptr<Parametrization> rules;
    std::vector<ChoiceExample> choices;  // of --hellaswag
    int rank = 0, ranks = 1;             // of this process, and how many share each step
    std::vector<std::string> warnings;
    std::vector<std::string> notes;    // what was assumed or taken from a checkpoint, a sentence each
    std::vector<std::string> changed;  // options that differ from the checkpoint, "lr: 0.01 -> 0.02"

    int64_t micro_steps() const {  // micro-batches of each process in a step
        return config.run.total_batch_size / (int64_t{config.run.batch_size} * config.model.seq_len * ranks);
    }
};

// Steps at the end of a run that starts at `start`. train: null if there is none.
int64_t length_in_steps(const Config& config, const Dataset* train, const TrainingState& start);

// Usage error for a stride that would leave targets out.
void check_stride(const Config& config);
// What --eval-tokens or --eval-batches choose of the validation data.
std::vector<Segment> evaluation_segments(const Dataset& val, const Config& config);

// Usage error if --out holds an earlier run and neither --resume nor --overwrite is given.
void check_unused(const Config& config);
// Throws usage and data errors before anything is written. damaged: checkpoints that --resume passes over.
// world: the processes of the run; rank 0 alone takes the lock of --out.
Setup prepare(const CommandLine& line, const World& world, const std::vector<DamagedCheckpoint>& damaged = {});

nlohmann::ordered_json rules_json(const Setup& setup);
// The tokenizer for samples and prompts; null: there is none, for the reason in `why`.
std::unique_ptr<Tokenizer> open_tokenizer(const std::string& kind, const std::string& path, std::string& why);
// The examples of --hellaswag; none without it. tokenizer, tokenizer_path: the model's.
std::vector<ChoiceExample> open_choices(const EvaluationOptions& options, const std::string& tokenizer,
                                        const std::string& tokenizer_path, int64_t vocab_size);

}  // namespace llmc
