// The training loop: batches, accumulation, schedule, evaluation, samples, checkpoints, log, signals.
#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include "llmc/data/train_loader.h"
#include "llmc/train/choice_evaluation.h"
#include "llmc/train/coord_check.h"
#include "llmc/train/logger.h"
#include "llmc/train/outlier.h"
#include "llmc/train/progress.h"
#include "llmc/train/setup.h"

namespace llmc {

class Trainer {
public:
    Trainer(Setup setup, const std::string& command);
    int run();  // the exit code

private:
    struct StepResult {
        double loss, grad_norm, lr, seconds;
        bool skipped;
    };

    void open_folder();
    void announce(const std::string& command);
    void continue_evaluations();
    void judge_evaluation(double val_loss);
    bool stopped_early() const;
    std::optional<StepResult> train_step();
    void log(const StepResult& result);
    [[noreturn]] void diverged(const std::string& numbers);
    void do_what_is_due(const StepResult* result);
    void show(const StepResult& result);
    void show_activity(const char* what, int64_t done, int64_t all);
    bool checkpoint_due() const;
    void evaluate();
    void evaluate_choices();
    void sample_text();
    void checkpoint();
    void report_profile();
    void finish(const char* reason);
    bool due(int64_t every) const { return every > 0 && state_.step % every == 0; }
    double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

    Setup setup_;
    Config& config_ = setup_.config;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    double peak_flops_ = device::peak_flops(config_.model.dtype);  // measured before the model takes the memory
    GPT2 model_;
    Optimizer optimizer_;
    std::unique_ptr<CoordinateCheck> check_;  // null without --coord-check
    TrainingState state_;
    std::unique_ptr<TrainLoader> loader_;
    std::unique_ptr<Tokenizer> tokenizer_;
    std::unique_ptr<ChoiceEvaluation> choices_;  // null without --hellaswag
    OutlierDetector loss_outliers_, norm_outliers_;
    CheckpointMetadata metadata_;
    Logger logger_;
    nlohmann::ordered_json last_;  // the last value of each field, for the final line
    double first_step_end_ = 0, first_step_seconds_ = 0, training_seconds_ = 0, profiled_seconds_ = 0;
    std::chrono::steady_clock::time_point saved_time_ = start_;
    int64_t first_step_ = 0, evaluated_at_ = -1, chosen_at_ = -1, sampled_at_ = -1, saved_at_ = -1;
};

}  // namespace llmc
