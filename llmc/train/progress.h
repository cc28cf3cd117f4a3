// The progress of a run: on a terminal one line that is rewritten and fits its width, otherwise a new line every five
// seconds. python/llmc/step_line.py writes the same lines.
#pragma once
#include <cstdint>
#include <optional>
#include <string>

namespace llmc {

struct Status {
    int64_t step = 0, steps = 0;  // steps -1: not of a run, only the activity
    std::optional<double> loss, val_loss, bits_per_byte, acc, acc_norm, grad_norm, lr, tokens_per_second,
        percent_of_peak, seconds_left;  // acc, acc_norm: of --hellaswag, the latter by tokens
    std::string activity;               // instead of the numbers after the loss: "evaluating 12/60"
};

// The line of a status, without the least important fields if it would be longer than `width`.
std::string status_line(const Status& status, size_t width);

// There is one standard output, so all members are static; they can be called from any thread.
class Progress {
public:
    enum class Line {
        fleeting,  // shown if the last line is old enough, and rewritten by the next
        now,       // shown in any case
        stays,     // the next one is below it
    };
    static void step(const Status& status, Line line);
    static void note(const std::string& text);  // a separate line
    static void silence();                      // nothing is shown from now on: the output is another process's
    static void close();                        // ends an open line, so that an error message has a line of its own
};

std::string duration(double seconds);            // "1h02m", "2m05s", "7s"
std::string decimals(double value, int digits);  // "1.2346"; "nan" without a sign, which printf may write

}  // namespace llmc
