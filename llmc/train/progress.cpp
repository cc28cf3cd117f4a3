#include "llmc/train/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <vector>

namespace llmc {
namespace {

using Clock = std::chrono::steady_clock;

// A dumb terminal (Emacs, some CI systems) cannot rewrite a line.
bool can_rewrite() {
    const char* kind = std::getenv("TERM");
    return isatty(STDOUT_FILENO) && kind && *kind && std::string(kind) != "dumb";
}

struct Screen {
    std::mutex mutex;
    const bool rewrites = can_rewrite();
    bool open_line = false, silent = false;
    Clock::time_point last = Clock::now() - std::chrono::hours(1);
};
Screen& screen() {
    static Screen one;
    return one;
}

size_t width_of_terminal() {
    winsize size{};
    const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
    return (known ? size.ws_col : 80) - 1;  // some terminals start a new line after the last column
}

}  // namespace

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

std::string decimals(double value, int digits) {
    if (std::isnan(value)) return "nan";
    char text[400];
    std::snprintf(text, sizeof text, "%.*f", digits, value);
    return text;
}

std::string status_line(const Status& s, size_t width) {
    struct Field {
        std::string text;
        int importance;
    };
    const std::string steps = std::to_string(s.steps), step = std::to_string(s.step);
    const std::string padding(steps.size() > step.size() ? steps.size() - step.size() : 0, ' ');
    char lr[32];
    std::snprintf(lr, sizeof lr, " | lr %.2e", s.lr.value_or(0));
    std::vector<Field> fields;
    if (s.steps >= 0) fields.push_back({"step " + padding + step + "/" + steps, 9});
    const auto add = [&](const std::optional<double>& value, const std::string& text, int importance) {
        if (value) fields.push_back({text, importance});
    };
    add(s.loss, " | loss " + decimals(s.loss.value_or(0), 4), 7);
    if (s.activity.empty()) {
        add(s.val_loss, " | val " + decimals(s.val_loss.value_or(0), 4), 6);
        add(s.bits_per_byte, " (" + decimals(s.bits_per_byte.value_or(0), 3) + " bits/byte)", 3);
        add(s.acc, " | hellaswag " + decimals(s.acc.value_or(0), 4), 6);
        add(s.acc_norm, " (by tokens " + decimals(s.acc_norm.value_or(0), 4) + ")", 3);
        add(s.grad_norm, " | norm " + decimals(s.grad_norm.value_or(0), 3), 2);
        add(s.lr, lr, 1);
        add(s.tokens_per_second, " | " + decimals(s.tokens_per_second.value_or(0), 0) + " tok/s", 4);
        add(s.percent_of_peak, " | " + decimals(s.percent_of_peak.value_or(0), 0) + "% peak", 0);
        add(s.seconds_left, " | ETA " + duration(s.seconds_left.value_or(0)), 5);
    } else {
        fields.push_back({(fields.empty() ? "" : " | ") + s.activity, 8});
    }
    for (int least = 0;; ++least) {
        std::string line;
        for (const Field& field : fields)
            if (field.importance >= least) line += field.text;
        if (line.size() <= width || least == 9) return line.substr(0, width);
    }
}

void Progress::step(const Status& status, Line line) {
    Screen& s = screen();
    const std::lock_guard lock(s.mutex);
    if (s.silent) return;
    const double since = std::chrono::duration<double>(Clock::now() - s.last).count();
    if (line == Line::fleeting && since < (s.rewrites ? 0.1 : 5.0)) return;
    s.last = Clock::now();
    if (s.rewrites)
        std::printf("\r\033[K%s%s", status_line(status, width_of_terminal()).c_str(), line == Line::stays ? "\n" : "");
    else
        std::printf("%s\n", status_line(status, std::string::npos).c_str());
    std::fflush(stdout);
    s.open_line = s.rewrites && line != Line::stays;
}

void Progress::note(const std::string& text) {
    Screen& s = screen();
    const std::lock_guard lock(s.mutex);
    if (s.silent) return;
    std::printf("%s%s\n", s.open_line ? "\n" : "", text.c_str());
    std::fflush(stdout);
    s.open_line = false;
}

void Progress::silence() {
    const std::lock_guard lock(screen().mutex);
    screen().silent = true;
}

void Progress::close() {
    Screen& s = screen();
    const std::lock_guard lock(s.mutex);
    if (s.open_line) std::printf("\n");
    std::fflush(stdout);
    s.open_line = false;
}

}  // namespace llmc
