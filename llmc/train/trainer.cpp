#include "llmc/train/trainer.h"

#include <cmath>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <set>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/ops/profile.h"
#include "llmc/train/describe.h"
#include "llmc/train/evaluation.h"
#include "llmc/train/profile_report.h"
#include "llmc/train/provenance.h"
#include "llmc/train/resume.h"
#include "llmc/train/sampler.h"
#include "llmc/train/schedule.h"
#include "llmc/train/signals.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

namespace {

GPT2Options options_of(const Setup& setup) {
    GPT2Options options = checked_memory(setup);
    options.part_bytes = setup.ranks > 1 ? exchanged_bytes() : 0;
    return options;
}

}  // namespace

Trainer::Trainer(Setup setup, const std::string& command, Group* group)
    : setup_(std::move(setup)),
      model_(setup_.shape, *setup_.rules, options_of(setup_)),
      optimizer_(model_, config_.optimizer, config_.rounding, uint64_t(config_.machine.seed),
                 owned_elements(model_, config_.processes.zero_stage, setup_.rank, setup_.ranks)) {
    if (group) ranks_ = std::make_unique<DataParallel>(*group, model_, optimizer_, config_.processes.zero_stage);
    if (!writes()) Progress::silence();
    load();
    first_step_ = state_.step;
    state_.train_data = fingerprint(setup_.train.get());
    state_.val_data = fingerprint(setup_.val.get());
    if (setup_.train)
        loader_ = std::make_unique<TrainLoader>(
            *setup_.train,
            TrainLoader::Options{config_.run.batch_size, config_.data.shuffle, config_.data.overfit_single_batch,
                                 uint64_t(config_.machine.seed), setup_.rank, setup_.ranks},
            state_.samples);
    if (!setup_.choices.empty())
        choices_ = std::make_unique<ChoiceEvaluation>(setup_.choices, config_.model.seq_len, config_.run.batch_size);
    std::string why;
    tokenizer_ = open_tokenizer(setup_.tokenizer, setup_.tokenizer_path, why);
    if (!tokenizer_ && config_.sampling.every > 0)
        fail_usage("--sample-every ", config_.sampling.every, " cannot be done: ", why);
    metadata_ = {to_json(config_),   to_json(setup_.shape),
                 rules_json(setup_), provenance("train_gpt2", setup_.train ? setup_.train->source_sha256() : ""),
                 setup_.tokenizer,   setup_.tokenizer_path};
    if (!config_.output.coord_check.empty())
        check_ = std::make_unique<CoordinateCheck>(config_.output.coord_check, model_, optimizer_, config_.machine.seed,
                                                   config_.optimizer.lr);
    announce(command);
}

// The first weights and state. Damage that one process finds is an error of all, which go on from an older checkpoint.
void Trainer::load() {
    std::string damage;
    try {
        if (setup_.resume_from)
            load_weights(*setup_.weights, model_);
        else if (setup_.weights)
            naming_intact(setup_.weights->path, [&] { load_weights(*setup_.weights, model_); });
        else
            model_.parameters.initialise(uint64_t(config_.machine.seed));
        optimizer_.masters_from_parameters();
        if (setup_.resume_from) {
            state_ = load_training_state(*setup_.resume_from, optimizer_);
            loss_outliers_.restore(state_.loss_window);
            norm_outliers_.restore(state_.grad_norm_window);
            saved_at_ = state_.step;
        }
    } catch (const DamageError& error) {
        if (!several()) throw;
        damage = error.what();
    }
    if (!several()) return;
    for (const std::string& found : ranks_->group().control().all_gather(damage))
        if (!found.empty()) fail_damaged(found);
}

int Trainer::signal() const { return several() ? signal_ : received_signal(); }

void Trainer::agree_on_signal() {
    if (several()) signal_ = ranks_->agree_on_signal(signal_ ? signal_ : received_signal());
}

// Creates --out and takes its lock. Another run may have come first since prepare() looked.
void Trainer::open_folder() {
    const std::string& out = config_.output.out;
    if (out.empty()) return;
    std::error_code error;
    fs::create_directories(out, error);
    if (error) fail("cannot create --out ", out, ": ", error.message());
    const std::string warning = setup_.lock.take(out);
    if (!warning.empty()) setup_.warnings.push_back(warning);
    check_unused(config_);
    if (config_.output.resume && newest_intact_checkpoint(out, {.known = setup_.damaged}).folder != setup_.resume_from)
        fail("--out ", out, ": another run wrote a checkpoint meanwhile: start again");
}

void Trainer::announce(const std::string& command) {
    if (writes()) open_folder();
    if (several()) ranks_->check_all("");  // an error of rank 0 ended all; now the folder is there
    if (!config_.output.out.empty() && !writes()) logger_ = Logger(config_.output.out, state_.step, false);
    if (!config_.output.out.empty() && writes()) {
        if (config_.output.overwrite) fs::remove_all(fs::path(config_.output.out) / "checkpoints");
        tidy_checkpoints(config_.output.out, setup_.damaged);
        logger_ = Logger(config_.output.out, setup_.resume_from ? state_.step : -1);
    }
    ordered_json line = {{"config", metadata_.config},
                         {"model", metadata_.model},
                         {"parametrization", metadata_.parametrization},
                         {"provenance", metadata_.provenance},
                         {"parameters", model_.parameters.count()},
                         {"command", command}};
    if (setup_.resume_from) line["resumed_from"] = *setup_.resume_from;
    if (several()) line["ranks"] = setup_.ranks;
    logger_.write("config", state_.step, line);
    std::string text = describe(setup_);
    text.pop_back();
    Progress::note(text);
    if (several()) {
        std::set<std::string> hosts(ranks_->group().hosts().begin(), ranks_->group().hosts().end());
        Progress::note(str("ranks   ", setup_.ranks, " processes on ", plural(int64_t(hosts.size()), "host"), " by ",
                           ranks_->group().comm().name(),
                           config_.processes.zero_stage ? ", each with its part of the optimizer's state" : ""));
    }
    char rule[200];
    std::snprintf(rule, sizeof rule,
                  "rules   %s, width_mult %g, attention scale %g, output scale %g (--dry-run shows every tensor)",
                  config_.mup.scheme.c_str(), setup_.rules->width_mult(), double(setup_.rules->scales().attention),
                  double(setup_.rules->head().multiplier));
    Progress::note(rule);
    int used = std::snprintf(rule, sizeof rule,
                             "peak    %.0f GFLOP/s: large %s matrix products of this program, measured just now",
                             peak_flops_ / 1e9, name_of(config_.model.dtype));
    if (const double promised = device::datasheet_flops(config_.model.dtype); promised > 0)
        std::snprintf(rule + used, sizeof rule - size_t(used), ", %.0f%% of the datasheet's %.0f",
                      100 * peak_flops_ / promised, promised / 1e9);
    Progress::note(rule);
    if (config_.output.out.empty())
        Progress::note("no --out: nothing of this run is kept, neither log nor checkpoints");
    for (const std::string& change : setup_.changed) Progress::note("changed since the checkpoint: " + change);
    if (setup_.resume_from)
        Progress::note(str("resumed from ", *setup_.resume_from, " at step ", state_.step));
    else if (config_.output.resume)
        Progress::note(str("nothing to resume in ", config_.output.out, ": starting at step 0"));
    else if (setup_.weights)
        Progress::note(str("weights of ", setup_.weights->path));
}

int Trainer::run() {
    saved_time_ = std::chrono::steady_clock::now();
    continue_evaluations();
    if (state_.step == setup_.steps || setup_.resume_from) do_what_is_due(nullptr);
    while (state_.step < setup_.steps && !signal() && !stopped_early()) {
        const std::optional<StepResult> result = train_step();
        if (!result) break;
        state_.step++;
        log(*result);
        if (!std::isfinite(result->loss) || !std::isfinite(result->grad_norm))
            diverged(str("loss ", result->loss, ", gradient norm ", result->grad_norm,
                         "; lower --lr or raise --warmup-steps"));
        do_what_is_due(&*result);
    }
    const int signal = this->signal();
    checkpoint();
    finish(signal ? "signal" : stopped_early() ? "early_stop" : "done");
    if (signal)
        Progress::note(
            str("stopped by signal ", signal, " after step ", state_.step,
                config_.output.out.empty() ? "; nothing was saved (no --out)" : "; --resume continues from here"));
    return signal ? kExitSignal + signal : kExitOk;
}

void Trainer::diverged(const std::string& numbers) {
    finish("diverged");
    throw Error(kExitDiverged, str("training diverged at step ", state_.step, ": ", numbers,
                                   saved_at_ >= 0 ? str(" (the checkpoint of step ", saved_at_, " is intact)") : ""));
}

bool Trainer::checkpoint_due() const {
    if (several()) return due(config_.output.checkpoint_every) || save_now_;
    return due(config_.output.checkpoint_every) || time_to_save();
}

bool Trainer::time_to_save() const {
    const std::chrono::duration<double> since = std::chrono::steady_clock::now() - saved_time_;
    const double minutes = config_.output.checkpoint_minutes.value_or(15);
    return minutes > 0 && since.count() >= 60 * minutes;
}

// After a step, or without one (null). The checkpoint comes first: evaluation and sample may take longer than the time
// between SIGTERM and SIGKILL.
void Trainer::do_what_is_due(const StepResult* result) {
    const bool last = state_.step == setup_.steps;
    if (!signal() && (last || checkpoint_due())) checkpoint();
    if (last || due(config_.evaluation.every)) {
        evaluate();
        evaluate_choices();
    }
    const bool end = last || stopped_early();
    if (stopped_early()) checkpoint();
    if (result) show(*result);
    if (config_.sampling.every > 0 && (end || due(config_.sampling.every))) sample_text();
}

// After --resume: the checkpoint may have been written before the evaluation and the sample of its step, whose results
// are then in the log, or still to do.
void Trainer::continue_evaluations() {
    if (!setup_.resume_from) return;
    if (!logger_.at_resume("sample").empty()) sampled_at_ = state_.step;
    if (ordered_json choices = logger_.at_resume("hellaswag"); !choices.empty()) {
        for (const char* key : {"event", "step", "elapsed"}) choices.erase(key);
        last_["hellaswag"] = choices;
        chosen_at_ = state_.step;
    }
    if (config_.output.keep_best && state_.best.step >= 0 &&
        !fs::exists(fs::path(config_.output.out) / "checkpoints" / checkpoint_name(state_.best.step))) {
        Progress::note(
            str("the checkpoint of step ", state_.best.step, ", the best, is gone: the next counts as best"));
        state_.best = {};
    }
    const ordered_json evaluation = logger_.at_resume("eval");
    if (!evaluation.value("val_loss", ordered_json()).is_number()) return;
    evaluated_at_ = state_.step;
    for (const char* key : {"val_loss", "bits_per_byte"})
        if (evaluation.contains(key)) last_[key] = evaluation[key];
    if (state_.evaluated_at != state_.step) judge_evaluation(evaluation["val_loss"].get<double>());
}

// Remembers the best evaluation, for --early-stop and --keep-best.
void Trainer::judge_evaluation(double val_loss) {
    state_.evaluated_at = state_.step;
    if (!(val_loss < state_.best.val_loss)) {
        ++state_.best.evaluations_since;
        return;
    }
    state_.best = {state_.step, val_loss, 0};
    if (!config_.output.keep_best || logger_.at_resume("best").value("step", int64_t{-1}) == state_.step) return;
    checkpoint();
    if (!writes()) return;
    mark_best_checkpoint(config_.output.out, state_.step);
    prune_checkpoints(config_.output.out, config_.output.keep, state_.step);
    const fs::path folder = fs::path(config_.output.out) / "checkpoints" / checkpoint_name(state_.step);
    logger_.write("best", state_.step, {{"val_loss", val_loss}, {"path", folder.string()}});
}

bool Trainer::stopped_early() const {
    return config_.evaluation.early_stop > 0 && state_.best.evaluations_since >= config_.evaluation.early_stop;
}

// Nothing after SIGTERM between two micro-batches: the weights are still those of the step before. Several ranks, which
// may get it at different moments, finish the step.
std::optional<Trainer::StepResult> Trainer::train_step() {
    Profile::enable(config_.output.profile && state_.step > first_step_);
    const auto begin = std::chrono::steady_clock::now();
    const double schedule = schedule_factor(config_.run.schedule, state_.step, setup_.steps);
    if (check_) check_->begin_step();
    const int64_t micro_steps = setup_.micro_steps();
    for (int64_t micro = 0; micro < micro_steps; ++micro) {
        if (micro > 0 && !several() && received_signal() == SIGTERM) {
            Profile::enable(false);
            return {};
        }
        if (micro > 0) show_activity("micro-batch", micro, micro_steps);
        const Batch batch = loader_->next();
        model_.set_batch(batch.inputs.data(), batch.targets.data(), config_.run.batch_size, config_.model.seq_len);
        const bool exchanges = several() && micro == micro_steps - 1;
        model_.train_micro_batch(
            config_.run.total_batch_size, micro == 0,
            exchanges ? [this](size_t part) { ranks_->exchange(part); } : std::function<void(size_t)>());
    }
    if (several()) ranks_->finish_exchange();
    if (check_) check_->end_step();
    optimizer_.compute_grad_norm();

    StepResult r{.lr = config_.optimizer.lr * schedule, .skipped = false};
    const bool watch = config_.run.skip_loss_zscore > 0 || config_.run.skip_grad_zscore > 0;
    if (several()) {
        const DataParallel::Step step = ranks_->agree(model_.loss(), received_signal(), time_to_save());
        r.loss = step.loss, r.grad_norm = step.grad_norm;
        signal_ = step.signal, save_now_ = step.save;
    } else if (watch) {  // otherwise the host does not need these before the update
        r.loss = model_.loss(), r.grad_norm = optimizer_.grad_norm();
    }
    if (watch && std::isfinite(r.loss) && std::isfinite(r.grad_norm)) {
        const bool loss_outlier = loss_outliers_.observe(r.loss, config_.run.skip_loss_zscore),
                   norm_outlier = norm_outliers_.observe(r.grad_norm, config_.run.skip_grad_zscore);
        r.skipped = loss_outlier || norm_outlier;
    }
    if (!r.skipped) optimizer_.step(schedule, ++state_.updates);
    if (several()) {
        if (!r.skipped) ranks_->share_weights();
    } else {
        r.loss = model_.loss(), r.grad_norm = optimizer_.grad_norm();
    }
    r.loss = without_sign_of_nan(r.loss), r.grad_norm = without_sign_of_nan(r.grad_norm);
    state_.samples = loader_->position();
    state_.tokens += config_.run.total_batch_size;
    r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    training_seconds_ += r.seconds;
    if (Profile::on()) profiled_seconds_ += r.seconds;
    if (several() && state_.step == first_step_) first_exchange_ = ranks_->times();
    Profile::enable(false);
    return r;
}

void Trainer::log(const StepResult& r) {
    const double rate = double(config_.run.total_batch_size) / r.seconds;
    ordered_json line = {{"loss", r.loss},
                         {"grad_norm", r.grad_norm},
                         {"lr", r.lr},
                         {"tokens", state_.tokens},
                         {"tokens_per_second", std::round(rate)},
                         {"elapsed", elapsed()}};
    if (r.skipped) line["skipped"] = true;
    logger_.write("train", state_.step, line);
    for (const char* key : {"loss", "lr", "grad_norm", "tokens_per_second"}) last_[key] = line[key];
}

void Trainer::show(const StepResult& r) {
    const int64_t done = state_.step - first_step_, later = done - 1;
    const bool evaluated = evaluated_at_ == state_.step, last = state_.step == setup_.steps;
    if (done == 1) first_step_end_ = elapsed(), first_step_seconds_ = training_seconds_;
    // the first step includes first accesses to memory and oneDNN's planning
    const double mean_rate = double((later ? later : 1) * config_.run.total_batch_size) /
                             (training_seconds_ - (later ? first_step_seconds_ : 0));
    const double flops = mean_rate * model_.executed_flops_per_token(config_.model.seq_len) / setup_.ranks;
    if (flops > peak_flops_)
        peak_flops_ = device::peak_flops(config_.model.dtype, flops);  // the measured peak was too low
    Status status{.step = state_.step,
                  .steps = setup_.steps,
                  .loss = r.loss,
                  .grad_norm = r.grad_norm,
                  .lr = r.lr,
                  .tokens_per_second = mean_rate,
                  .percent_of_peak = 100 * flops / peak_flops_};
    if (later && !last)
        status.seconds_left = (elapsed() - first_step_end_) / double(later) * double(setup_.steps - state_.step);
    if (evaluated) status.val_loss = last_["val_loss"].get<double>();
    if (evaluated && last_.contains("bits_per_byte")) status.bits_per_byte = last_["bits_per_byte"].get<double>();
    const bool chosen = chosen_at_ == state_.step;
    if (chosen) status.acc = last_["hellaswag"]["acc"].get<double>();
    if (chosen) status.acc_norm = last_["hellaswag"]["acc_norm_tokens"].get<double>();
    Progress::step(status, evaluated || chosen || last || signal() ? Progress::Line::stays
                           : done == 1                             ? Progress::Line::now
                                                                   : Progress::Line::fleeting);
    if (r.skipped)
        Progress::note(str("step ", state_.step, ": update skipped, loss ", r.loss, " or gradient norm ", r.grad_norm,
                           " is an outlier"));
}

// Shows what takes long within a step: "evaluating 12/60".
void Trainer::show_activity(const char* what, int64_t done, int64_t all) {
    Status status{.step = state_.step, .steps = setup_.steps, .activity = str(what, " ", done, "/", all)};
    if (last_.contains("loss")) status.loss = last_["loss"].get<double>();
    Progress::step(status, Progress::Line::fleeting);
}

// How evaluations divide their batches among the ranks, and when they stop.
SharedWork Trainer::shared_work(const char* what) {
    return {.rank = setup_.rank,
            .ranks = setup_.ranks,
            .go_on =
                [this, what](int64_t done, int64_t all) {
                    agree_on_signal();
                    if (signal()) return false;
                    show_activity(what, done, all);
                    return true;
                },
            .sum = [this](const std::vector<double>& own) { return several() ? ranks_->sum(own) : own; }};
}

void Trainer::evaluate() {
    if (!setup_.val || evaluated_at_ == state_.step) return;
    const std::vector<Segment> segments = evaluation_segments(*setup_.val, config_);
    const auto evaluation = llmc::evaluate(model_, *setup_.val, segments, shared_work("evaluating"));
    if (!evaluation) return;
    evaluated_at_ = state_.step;
    const double loss = evaluation->loss;
    ordered_json line = {{"val_loss", loss}};
    if (evaluation->bits_per_byte) line["bits_per_byte"] = *evaluation->bits_per_byte;
    for (auto& [key, value] : line.items()) last_[key] = value;
    line["elapsed"] = elapsed();
    logger_.write("eval", state_.step, line);
    if (!std::isfinite(loss)) {
        saved_at_ = -1;  // the weights of this step make such a loss
        diverged(str("validation loss ", loss));
    }
    judge_evaluation(loss);
}

void Trainer::evaluate_choices() {
    if (!choices_ || chosen_at_ == state_.step) return;
    const std::optional<ChoiceScores> scores = choices_->run(model_, shared_work("hellaswag"));
    if (!scores) return;
    if (!std::isfinite(scores->loss)) {
        saved_at_ = -1;  // the weights of this step make such scores
        diverged("the scores of --hellaswag are not finite");
    }
    chosen_at_ = state_.step;
    ordered_json line = last_["hellaswag"] = to_json(*scores);
    line["elapsed"] = elapsed();
    logger_.write("hellaswag", state_.step, line);
}

void Trainer::sample_text() {
    if (several()) {
        if (writes()) write_sample();
        ranks_->check_all("");
        agree_on_signal();
    } else {
        write_sample();
    }
}

void Trainer::write_sample() {
    if (!tokenizer_ || sampled_at_ == state_.step) return;
    bool stopped = false;
    const SampleOptions options{.prompt = config_.sampling.prompt,
                                .choice = config_.sampling.choice,
                                .count = config_.sampling.tokens,
                                .stop = config_.sampling.stop,
                                .seed = uint64_t(config_.machine.seed),
                                .stream = uint32_t(state_.step),
                                .go_on = [&](int64_t done) {
                                    show_activity("sampling", done, config_.sampling.tokens);
                                    stopped = received_signal();
                                    return !stopped;
                                }};
    std::string text;
    try {
        text = sample(model_, *tokenizer_, config_.model.seq_len, options);
    } catch (const NotFinite&) {
        saved_at_ = -1;  // the weights of this step make such logits
        diverged("the logits of the sample are not finite");
    }
    if (stopped) return;
    sampled_at_ = state_.step;
    logger_.write("sample", state_.step, {{"prompt", config_.sampling.prompt}, {"text", text}});
    Progress::note(str("---- sample at step ", state_.step, " ----\n", config_.sampling.prompt, text, "\n----"));
}

void Trainer::checkpoint() {
    if (config_.output.out.empty() || saved_at_ == state_.step) return;
    state_.loss_window = loss_outliers_.window();
    state_.grad_norm_window = norm_outliers_.window();
    const std::string folder = save_checkpoint(config_.output.out, model_, optimizer_, state_, metadata_, ranks_.get());
    if (writes())
        prune_checkpoints(config_.output.out, config_.output.keep, config_.output.keep_best ? state_.best.step : -1);
    saved_at_ = state_.step;
    saved_time_ = std::chrono::steady_clock::now();
    logger_.write("checkpoint", state_.step, {{"path", folder}});
}

// Without the first step, which includes first accesses to memory and oneDNN's planning.
void Trainer::report_profile() {
    const int64_t steps = state_.step - first_step_ - 1;
    if (!config_.output.profile || steps < 1) return;
    std::optional<Comm::Times> exchanged;
    if (several()) exchanged = ranks_->times() - first_exchange_;
    logger_.write("profile", state_.step, profile_json(steps, profiled_seconds_, exchanged));
    Progress::note(profile_text(steps, profiled_seconds_, exchanged));
}

void Trainer::finish(const char* reason) {
    report_profile();
    last_["elapsed"] = elapsed();
    last_["reason"] = reason;
    if (state_.best.step >= 0) last_["best"] = {{"step", state_.best.step}, {"val_loss", state_.best.val_loss}};
    if (reason == std::string("early_stop")) last_["early_stop"] = config_.evaluation.early_stop;
    logger_.write("final", state_.step, last_);
    if (last_.contains("val_loss") && reason == std::string("done")) {
        char text[200];
        int n = std::snprintf(text, sizeof text, "done in %s: validation loss %.4f nats/token",
                              duration(elapsed()).c_str(), last_["val_loss"].get<double>());
        if (last_.contains("bits_per_byte"))
            std::snprintf(text + n, sizeof text - n, ", %.4f bits/byte", last_["bits_per_byte"].get<double>());
        Progress::note(text);
    }
    if (reason == std::string("early_stop"))
        Progress::note(str("stopped early at step ", state_.step, ": ",
                           plural(state_.best.evaluations_since, "evaluation"),
                           " without a validation loss below that of step ", state_.best.step));
    if (config_.output.keep_best && state_.best.step >= 0)
        Progress::note(str("best    validation loss ", decimals(state_.best.val_loss, 4), " at step ", state_.best.step,
                           ": ", config_.output.out, "/checkpoints/best"));
    if (saved_at_ >= 0)
        Progress::note(
            str("log ", logger_.path(), ", checkpoint ", newest_checkpoint(config_.output.out).value_or("none")));
}

}  // namespace llmc
