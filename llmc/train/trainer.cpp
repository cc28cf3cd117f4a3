#include "llmc/train/trainer.h"

#include <cmath>
#include <cstdio>
#include <filesystem>

#include "llmc/core/error.h"
#include "llmc/ops/profile.h"
#include "llmc/train/describe.h"
#include "llmc/train/provenance.h"
#include "llmc/train/sampler.h"
#include "llmc/train/schedule.h"
#include "llmc/train/signals.h"

namespace llmc {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

// "nan" in every text: printf shows the sign, which the operations of the processor choose.
static double without_sign_of_nan(double value) { return std::isnan(value) ? std::fabs(value) : value; }

Trainer::Trainer(Setup setup, const std::string& command)
    : setup_(std::move(setup)),
      model_(setup_.shape, *setup_.rules, checked_memory(setup_)),
      optimizer_(model_, config_.optimizer, config_.rounding, uint64_t(config_.machine.seed)) {
    if (setup_.weights)
        load_weights(*setup_.weights, model_);
    else
        model_.parameters.initialise(uint64_t(config_.machine.seed));
    optimizer_.masters_from_parameters();
    if (setup_.resume_from) {
        state_ = load_training_state(*setup_.resume_from, optimizer_);
        loss_outliers_.restore(state_.loss_window);
        norm_outliers_.restore(state_.grad_norm_window);
        saved_at_ = state_.step;
    }
    first_step_ = state_.step;
    if (setup_.train)
        loader_ = std::make_unique<TrainLoader>(
            *setup_.train,
            TrainLoader::Options{config_.run.batch_size, config_.data.shuffle, config_.data.overfit_single_batch,
                                 uint64_t(config_.machine.seed)},
            state_.samples);
    std::string why;
    tokenizer_ = open_tokenizer(setup_.tokenizer, setup_.tokenizer_path, why);
    if (!tokenizer_ && config_.sampling.every > 0)
        fail_usage("--sample-every ", config_.sampling.every, " cannot be done: ", why);
    metadata_ = {to_json(config_),   to_json(setup_.shape),
                 rules_json(setup_), provenance(setup_.train ? setup_.train->source_sha256() : ""),
                 setup_.tokenizer,   setup_.tokenizer_path};
    if (!config_.output.coord_check.empty())
        check_ = std::make_unique<CoordinateCheck>(config_.output.coord_check, model_, optimizer_, config_.machine.seed,
                                                   config_.optimizer.lr);
    announce(command);
}

void Trainer::announce(const std::string& command) {
    if (!config_.output.out.empty()) {
        std::error_code error;
        fs::create_directories(config_.output.out, error);
        if (error) fail("cannot create --out ", config_.output.out, ": ", error.message());
        if (config_.output.overwrite) fs::remove_all(fs::path(config_.output.out) / "checkpoints");
        logger_ = Logger(config_.output.out, setup_.resume_from ? state_.step : -1);
    }
    ordered_json line = {{"config", metadata_.config},
                         {"model", metadata_.model},
                         {"parametrization", metadata_.parametrization},
                         {"provenance", metadata_.provenance},
                         {"parameters", model_.parameters.count()},
                         {"command", command}};
    if (setup_.resume_from) line["resumed_from"] = *setup_.resume_from;
    logger_.write("config", state_.step, line);
    std::string text = describe(setup_);
    text.pop_back();
    progress_.note(text);
    char rule[200];
    std::snprintf(rule, sizeof rule,
                  "rules   %s, width_mult %g, attention scale %g, output scale %g (--dry-run shows every tensor)",
                  config_.mup.scheme.c_str(), setup_.rules->width_mult(), double(setup_.rules->scales().attention),
                  double(setup_.rules->head().multiplier));
    progress_.note(rule);
    std::snprintf(rule, sizeof rule,
                  "peak    %.0f GFLOP/s: large %s matrix products of this program, measured just now",
                  peak_flops_ / 1e9, name_of(config_.model.dtype));
    progress_.note(rule);
    for (const std::string& change : setup_.changed) progress_.note("changed since the checkpoint: " + change);
    if (setup_.resume_from)
        progress_.note(str("resumed from ", *setup_.resume_from, " at step ", state_.step));
    else if (config_.output.resume)
        progress_.note(str("nothing to resume in ", config_.output.out, ": starting at step 0"));
    else if (setup_.weights)
        progress_.note(str("weights of ", setup_.weights->path));
}

int Trainer::run() {
    while (state_.step < setup_.steps && !received_signal()) {
        const StepResult result = train_step();
        state_.step++;
        if (!std::isfinite(result.loss) || !std::isfinite(result.grad_norm)) {
            log(result);
            finish("diverged");
            throw Error(kExitDiverged,
                        str("training diverged at step ", state_.step, ": loss ", result.loss, ", gradient norm ",
                            result.grad_norm, "; lower --lr or raise --warmup-steps",
                            saved_at_ >= 0 ? str(" (the checkpoint of step ", saved_at_, " is intact)") : ""));
        }
        log(result);
        if (due(config_.evaluation.every)) evaluate();
        show(result);
        if (received_signal()) break;
        if (due(config_.sampling.every)) sample_text();
        if (due(config_.output.checkpoint_every)) checkpoint();
    }
    const int signal = received_signal();
    if (!signal) {
        evaluate();
        if (config_.sampling.every > 0) sample_text();
    }
    checkpoint();
    finish(signal ? "signal" : "done");
    if (signal)
        progress_.note(
            str("stopped by signal ", signal, " after step ", state_.step,
                config_.output.out.empty() ? "; nothing was saved (no --out)" : "; --resume continues from here"));
    return signal ? kExitSignal + signal : kExitOk;
}

Trainer::StepResult Trainer::train_step() {
    Profile::enable(config_.output.profile && state_.step > first_step_);
    const auto begin = std::chrono::steady_clock::now();
    const double schedule = schedule_factor(config_.run.schedule, state_.step, setup_.steps);
    if (check_) check_->begin_step();
    for (int64_t micro = 0; micro < config_.micro_steps(); ++micro) {
        const Batch batch = loader_->next();
        model_.set_batch(batch.inputs.data(), batch.targets.data(), config_.run.batch_size, config_.model.seq_len);
        model_.train_micro_batch(config_.run.total_batch_size, micro == 0);
    }
    if (check_) check_->end_step();
    optimizer_.compute_grad_norm();

    StepResult r{.lr = config_.optimizer.lr * schedule, .skipped = false};
    const bool watch = config_.run.skip_loss_zscore > 0 || config_.run.skip_grad_zscore > 0;
    if (watch) {  // otherwise the host does not need these before the update
        const double loss = model_.loss(), norm = optimizer_.grad_norm();
        if (std::isfinite(loss) && std::isfinite(norm)) {
            const bool loss_outlier = loss_outliers_.observe(loss, config_.run.skip_loss_zscore),
                       norm_outlier = norm_outliers_.observe(norm, config_.run.skip_grad_zscore);
            r.skipped = loss_outlier || norm_outlier;
        }
    }
    if (!r.skipped) optimizer_.step(schedule, ++state_.updates);
    r.loss = without_sign_of_nan(model_.loss());
    r.grad_norm = without_sign_of_nan(optimizer_.grad_norm());
    state_.samples = loader_->position();
    state_.tokens += config_.run.total_batch_size;
    r.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    training_seconds_ += r.seconds;
    if (Profile::on()) profiled_seconds_ += r.seconds;
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
    const int64_t done = state_.step - first_step_;
    const double mean_rate = double(done * config_.run.total_batch_size) / training_seconds_;
    const double flops = mean_rate * GPT2::flops_per_token(setup_.shape, config_.model.seq_len);
    if (flops > peak_flops_)
        peak_flops_ = device::peak_flops(config_.model.dtype, flops);  // the measured peak was too low
    Status status{.step = state_.step,
                  .steps = setup_.steps,
                  .loss = r.loss,
                  .grad_norm = r.grad_norm,
                  .lr = r.lr,
                  .tokens_per_second = mean_rate,
                  .percent_of_peak = 100 * flops / peak_flops_,
                  .seconds_left = elapsed() / double(done) * double(setup_.steps - state_.step),
                  .val_loss = {},
                  .bits_per_byte = {}};
    if (last_.contains("val_loss")) status.val_loss = last_["val_loss"].get<double>();
    if (last_.contains("bits_per_byte")) status.bits_per_byte = last_["bits_per_byte"].get<double>();
    progress_.step(status, done == 1 || evaluated_at_ == state_.step || state_.step == setup_.steps);
    if (r.skipped)
        progress_.note(str("step ", state_.step, ": update skipped, loss ", r.loss, " or gradient norm ", r.grad_norm,
                           " is an outlier"));
}

void Trainer::evaluate() {
    if (!setup_.val || evaluated_at_ == state_.step) return;
    evaluated_at_ = state_.step;
    double sum = 0;  // in double, batch by batch, to keep precision
    int64_t targets = 0;
    for (const Segment& segment : evaluation_segments(*setup_.val, config_)) {
        const Batch batch = setup_.val->read(segment);
        model_.set_batch(batch.inputs.data(), batch.targets.data(), segment.rows, segment.length);
        sum += double(model_.mean_loss()) * double(segment.targets());
        targets += segment.targets();
    }
    const double loss = without_sign_of_nan(sum / double(targets)), tokens_per_byte = setup_.val->tokens_per_byte();
    ordered_json line = {{"val_loss", loss}};
    if (tokens_per_byte > 0) line["bits_per_byte"] = loss / std::log(2.0) * tokens_per_byte;
    for (auto& [key, value] : line.items()) last_[key] = value;
    line["elapsed"] = elapsed();
    logger_.write("eval", state_.step, line);
}

void Trainer::sample_text() {
    if (!tokenizer_ || sampled_at_ == state_.step) return;
    sampled_at_ = state_.step;
    const std::string text = sample(model_, *tokenizer_, config_.model.seq_len,
                                    {.prompt = config_.sampling.prompt,
                                     .temperature = config_.sampling.temperature,
                                     .top_k = config_.sampling.top_k,
                                     .count = config_.sampling.tokens,
                                     .seed = uint64_t(config_.machine.seed),
                                     .stream = uint32_t(state_.step)});
    logger_.write("sample", state_.step, {{"prompt", config_.sampling.prompt}, {"text", text}});
    progress_.note(str("---- sample at step ", state_.step, " ----\n", config_.sampling.prompt, text, "\n----"));
}

void Trainer::checkpoint() {
    if (config_.output.out.empty() || saved_at_ == state_.step) return;
    state_.loss_window = loss_outliers_.window();
    state_.grad_norm_window = norm_outliers_.window();
    const std::string folder = save_checkpoint(config_.output.out, config_.output.keep, model_, optimizer_, state_,
                                               metadata_);
    saved_at_ = state_.step;
    logger_.write("checkpoint", state_.step, {{"path", folder}});
}

// Without the first step, which includes first accesses to memory and oneDNN's planning.
void Trainer::report_profile() {
    const int64_t steps = state_.step - first_step_ - 1;
    if (!config_.output.profile || steps < 1) return;
    ordered_json ops = ordered_json::array();
    for (const Profile::Entry& e : Profile::entries())
        ops.push_back({{"op", e.op},
                       {"calls", double(e.calls) / double(steps)},
                       {"ms", 1e3 * e.seconds / double(steps)},
                       {"share", e.seconds / profiled_seconds_},
                       {"gflops", e.flops / e.seconds / 1e9},
                       {"gb_per_second", e.bytes / e.seconds / 1e9}});
    logger_.write("profile", state_.step,
                  {{"steps", steps}, {"ms", 1e3 * profiled_seconds_ / double(steps)}, {"ops", ops}});
    std::string table = Profile::table(steps, profiled_seconds_);
    table.pop_back();
    progress_.note(table);
}

void Trainer::finish(const char* reason) {
    report_profile();
    last_["elapsed"] = elapsed();
    last_["reason"] = reason;
    logger_.write("final", state_.step, last_);
    if (last_.contains("val_loss") && reason == std::string("done")) {
        char text[200];
        int n = std::snprintf(text, sizeof text, "done in %s: validation loss %.4f nats/token",
                              duration(elapsed()).c_str(), last_["val_loss"].get<double>());
        if (last_.contains("bits_per_byte"))
            std::snprintf(text + n, sizeof text - n, ", %.4f bits/byte", last_["bits_per_byte"].get<double>());
        progress_.note(text);
    }
    if (saved_at_ >= 0)
        progress_.note(
            str("log ", logger_.path(), ", checkpoint ", newest_checkpoint(config_.output.out).value_or("none")));
}

}  // namespace llmc
