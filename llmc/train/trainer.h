// The training loop: batches, accumulation, schedule, evaluation, samples, checkpoints, log, signals.
#pragma once
#include <chrono>
#include <memory>
#include <optional>
#include "llmc/data/train_loader.h"
#include "llmc/train/choice_evaluation.h"
#include "llmc/train/coord_check.h"
#include "llmc/train/data_parallel.h"
#include "llmc/train/logger.h"
#include "llmc/train/outlier.h"
#include "llmc/train/progress.h"
#include "llmc/train/setup.h"
#include "llmc/train/shared_work.h"

namespace llmc {

class Trainer {
public:
    // group: the processes that train together; null: this one alone.
    Trainer(Setup setup, const std::string& command, Group* group = nullptr);
    int run();  // the exit code

private:
    struct StepResult {
        double loss, grad_norm, lr, seconds;
        bool skipped;
    };

    void load();
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
    bool time_to_save() const;
    void evaluate();
    void evaluate_choices();
    void sample_text();
    void write_sample();
    SharedWork shared_work(const char* what);
    void checkpoint();
    void report_profile();
    void finish(const char* reason);
    bool writes() const { return setup_.rank == 0; }
    bool several() const { return ranks_ != nullptr; }
    // The signal that asks to stop, the same on all ranks; 0: none. With several ranks it changes only where they agree.
    int signal() const;
    void agree_on_signal();
    bool due(int64_t every) const { return every > 0 && state_.step % every == 0; }
    double elapsed() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

    Setup setup_;
    Config& config_ = setup_.config;
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    double peak_flops_ = device::peak_flops(config_.model.dtype);  // measured before the model takes the memory
    GPT2 model_;
    Optimizer optimizer_;
    std::unique_ptr<DataParallel> ranks_;     // null: one process
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
    Comm::Times first_exchange_;  // up to the end of the first step
    int signal_ = 0;              // that the ranks agreed on
    bool save_now_ = false;       // by the clock of rank 0
    int64_t first_step_ = 0, evaluated_at_ = -1, chosen_at_ = -1, sampled_at_ = -1, saved_at_ = -1;
};

}  // namespace llmc
