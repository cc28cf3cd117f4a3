// Learning-rate schedules, as a factor of the peak rate.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include "llmc/core/names.h"

namespace llmc {

enum class Schedule { cosine, linear, constant, wsd };
template <>
struct Names<Schedule> {
    static constexpr std::pair<const char*, Schedule> list[] = {{"cosine", Schedule::cosine},
                                                                {"linear", Schedule::linear},
                                                                {"constant", Schedule::constant},
                                                                {"wsd", Schedule::wsd}};
};

struct ScheduleOptions {
    Schedule kind = Schedule::cosine;
    int64_t warmup_steps = 0;
    double final_lr_frac = 0;
};

// Factor at step t (0-based) of `steps`: linear warm-up (t+1)/warmup, then with x = (t - warmup)/(steps - warmup) and
// f = final_lr_frac:
//   cosine    f + (1-f)(1 + cos(pi x))/2
//   linear    1 - (1-f) x
//   constant  1
//   wsd       1 until x = 0.8, then f + (1-f)(1 - sqrt((x-0.8)/0.2))
// WSD: Hu et al., "MiniCPM", 2024, with the 1-sqrt cooldown of Haegele et al., "Scaling laws beyond fixed training
// durations", 2024.
inline double schedule_factor(const ScheduleOptions& options, int64_t t, int64_t steps) {
    const int64_t warmup = options.warmup_steps;
    const double f = options.final_lr_frac;
    if (t < warmup) return double(t + 1) / double(warmup);
    const double x = double(t - warmup) / double(std::max<int64_t>(1, steps - warmup));
    switch (options.kind) {
        case Schedule::cosine:
            return f + (1 - f) * 0.5 * (1 + std::cos(M_PI * std::min(x, 1.0)));
        case Schedule::linear:
            return 1 - (1 - f) * std::min(x, 1.0);
        case Schedule::wsd:
            if (x >= 0.8) return f + (1 - f) * (1 - std::sqrt(std::min((x - 0.8) / 0.2, 1.0)));
            return 1;
        default:
            return 1;
    }
}

}  // namespace llmc
