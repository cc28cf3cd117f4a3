// The progress of a run: on a terminal one line that is rewritten, otherwise a new line every five seconds.
#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

namespace llmc {

struct Status {
    int64_t step, steps;
    double loss, grad_norm, lr, tokens_per_second, percent_of_peak, seconds_left;
    std::optional<double> val_loss, bits_per_byte;
};

class Progress {
public:
    Progress();
    void step(const Status& status, bool important);  // important: always printed
    void note(const std::string& text);               // a separate line

private:
    bool terminal_;
    bool open_line_ = false;
    std::chrono::steady_clock::time_point last_;
};

std::string duration(double seconds);  // "1h02m", "2m05s", "7s"

}  // namespace llmc
