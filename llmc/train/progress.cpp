#include "llmc/train/progress.h"

#include <unistd.h>

#include <cmath>
#include <cstdio>

namespace llmc {

using Clock = std::chrono::steady_clock;

Progress::Progress() : terminal_(isatty(STDOUT_FILENO)), last_(Clock::now() - std::chrono::hours(1)) {}

std::string duration(double seconds) {
    if (!std::isfinite(seconds) || seconds < 0) return "?";
    const long s = std::lround(seconds);
    char text[32];
    if (s >= 3600)
        std::snprintf(text, sizeof text, "%ldh%02ldm", s / 3600, s / 60 % 60);
    else if (s >= 60)
        std::snprintf(text, sizeof text, "%ldm%02lds", s / 60, s % 60);
    else
        std::snprintf(text, sizeof text, "%lds", s);
    return text;
}

void Progress::step(const Status& s, bool important) {
    const double since = std::chrono::duration<double>(Clock::now() - last_).count();
    if (!important && since < (terminal_ ? 0.1 : 5.0)) return;
    last_ = Clock::now();
    const int width = int(std::to_string(s.steps).size());
    char line[512];
    int n = std::snprintf(line, sizeof line, "step %*lld/%lld | loss %.4f", width, static_cast<long long>(s.step),
                          static_cast<long long>(s.steps), s.loss);
    if (s.val_loss) n += std::snprintf(line + n, sizeof line - n, " | val %.4f", *s.val_loss);
    if (s.bits_per_byte) n += std::snprintf(line + n, sizeof line - n, " (%.3f bits/byte)", *s.bits_per_byte);
    std::snprintf(line + n, sizeof line - n, " | norm %.3f | lr %.2e | %.0f tok/s | %.0f%% peak | ETA %s", s.grad_norm,
                  s.lr, s.tokens_per_second, s.percent_of_peak, duration(s.seconds_left).c_str());
    std::printf(terminal_ ? "\r\033[K%s" : "%s\n", line);
    std::fflush(stdout);
    open_line_ = terminal_;
}

void Progress::note(const std::string& text) {
    std::printf("%s%s\n", open_line_ ? "\n" : "", text.c_str());
    std::fflush(stdout);
    open_line_ = false;
}

}  // namespace llmc
