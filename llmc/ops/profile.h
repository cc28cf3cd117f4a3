// The time of each op in a step. While profiling is on, every op that is called through call() is timed by itself
// (call() waits for it, so that nothing overlaps), and its time and cost (cost.h) are added up.
#pragma once
#include <functional>
#include <string>
#include <type_traits>
#include <vector>
#include "llmc/ops/cost.h"

namespace llmc {

// The profile of the process. It is off at first; what was measured is kept while it is off.
class Profile {
public:
    struct Entry {
        std::string op;  // label() of cost.h
        int64_t calls;
        double seconds, flops, bytes;
    };
    static void enable(bool on) { on_ = on; }
    static bool on() { return on_; }
    static void measure(const std::string& label, const Cost& cost, const std::function<void()>& work);
    static std::vector<Entry> entries();  // the longest first
    // A table to print, for `steps` steps that took `seconds`.
    static std::string table(int64_t steps, double seconds);

private:
    static inline bool on_ = false;
};

// op(args...), timed if profiling is on: call(gelu_forward, {.out = y, .inp = x}).
template <class... Parameters>
void call(void (*op)(Parameters...), std::type_identity_t<Parameters>... args) {
    if (!Profile::on()) return op(args...);
    Profile::measure(label(args...), cost(args...), [&] { op(args...); });
}

}  // namespace llmc
