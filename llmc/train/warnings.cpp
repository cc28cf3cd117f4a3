#include "llmc/train/warnings.h"

#include <cstdio>

#include "llmc/core/error.h"
#include "llmc/core/format.h"
#include "llmc/core/threads.h"

namespace llmc {
namespace {

std::string short_rate(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3g", value);
    return text;
}

std::string of_warmup(const Setup& s) {
    const int64_t warmup = s.config.run.schedule.warmup_steps;
    if (warmup == 0 || s.steps == 0 || warmup < s.steps) return "";
    return str("--warmup-steps ", warmup, " is not shorter than the run of ", plural(s.steps, "step"),
               ": the learning rate still rises when it ends, at ",
               short_rate(schedule_factor(s.config.run.schedule, s.steps - 1, s.steps)), " of --lr");
}

// The schedule of a longer run starts again at a higher rate than that at which the checkpoint's run ended.
std::string of_resumed_rate(const Setup& s) {
    const int64_t step = s.start.step;
    if (!s.resume_from || step == 0 || step >= s.steps || !s.weights->config.is_object()) return "";
    Config before = from_json(s.weights->config, s.weights->path);
    if (before.run.total_batch_size == 0) return "";
    const int64_t steps = length_in_steps(before, s.train.get(), {});
    const double then = before.optimizer.lr * schedule_factor(before.run.schedule, step - 1, steps);
    const double now = s.config.optimizer.lr * schedule_factor(s.config.run.schedule, step, s.steps);
    if (now <= 1.5 * then || step < s.config.run.schedule.warmup_steps) return "";
    return str("--resume: the learning rate jumps from ", short_rate(then), " to ", short_rate(now), " at step ",
               step + 1, ", because the schedule is now one of ", plural(s.steps, "step"), ", not ", with_commas(steps),
               ": --schedule constant and wsd can be extended without a jump");
}

std::string of_shared_shards(const Setup& s) {
    if (!s.train || !s.val) return "";
    const std::vector<SharedShard> shared = shared_shards(*s.train, *s.val);
    if (shared.empty()) return "";
    const auto& [val, train] = shared[0];
    return str("--val-data: ", val, " is in --train-data too", val == train ? "" : ", as " + train,
               shared.size() > 1 ? str(" (and ", shared.size() - 1, " more of ",
                                       plural(int64_t(s.val->shards().size()), "shard"), ")")
                                 : "",
               ": the validation loss says nothing about text that the model has not seen");
}

}  // namespace

std::vector<std::string> warnings_of(const Setup& setup) {
    std::vector<std::string> warnings;
    for (const std::string& warning :
         {threads_warning(), of_shared_shards(setup), of_warmup(setup), of_resumed_rate(setup)})
        if (!warning.empty()) warnings.push_back(warning);
    return warnings;
}

}  // namespace llmc
