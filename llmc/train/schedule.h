// Learning-rate schedules, as a factor of the peak rate.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

namespace llmc {

// Factor at step t (0-based) of `steps`: linear warm-up (t+1)/warmup, then with x = (t - warmup)/(steps - warmup) and f
// = final_frac:
//   cosine f + (1-f)(1 + cos(pi x))/2;  linear 1 - (1-f) x;  constant 1;  wsd 1 until x = 0.8, then f + (1-f)(1 -
//   sqrt((x-0.8)/0.2)).
// WSD: Hu et al., "MiniCPM", 2024, with the 1-sqrt cooldown of Haegele et al., "Scaling laws beyond fixed training
// durations", 2024.
inline double schedule_factor(const std::string& schedule, int64_t t, int64_t steps, int64_t warmup, double f) {
    if (t < warmup) return double(t + 1) / double(warmup);
    const double x = double(t - warmup) / double(std::max<int64_t>(1, steps - warmup));
    if (schedule == "cosine") return f + (1 - f) * 0.5 * (1 + std::cos(M_PI * std::min(x, 1.0)));
    if (schedule == "linear") return 1 - (1 - f) * std::min(x, 1.0);
    if (schedule == "wsd" && x >= 0.8) return f + (1 - f) * (1 - std::sqrt(std::min((x - 0.8) / 0.2, 1.0)));
    return 1;
}

}  // namespace llmc
