// Whether a signal ends the program at once, as a function of the times of the signals. The same rules are in
// python/llmc/signals.py; tests/test_stopping.py tests both.
#pragma once
#include <chrono>
#include <csignal>

namespace llmc {

class Stopping {
public:
    using Time = std::chrono::steady_clock::time_point;

    bool ends_at_once(int signal, Time now) {
        using namespace std::chrono_literals;
        if (signal == SIGINT) {
            if (interrupts_ > 0 && now - last_interrupt_ < 50ms) return false;  // one Ctrl-C, sent on by a launcher too
            last_interrupt_ = now;
            ++interrupts_;
        }
        if (!stopping_) {
            stopping_ = true;
            first_ = now;
            return false;
        }
        return signal == SIGINT ? interrupts_ >= 3 : now - first_ >= 20s;
    }

private:
    bool stopping_ = false;
    int interrupts_ = 0;
    Time first_, last_interrupt_;
};

}  // namespace llmc
