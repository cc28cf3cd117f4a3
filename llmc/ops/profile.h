// Where the time of a step goes: ops that are called through call() are timed one by one while profiling is on (each is
// waited for, so nothing overlaps), with the FLOPs and bytes that ops.h counts.
#pragma once
#include <functional>
#include <string>
#include <type_traits>
#include <vector>
#include "llmc/ops/ops.h"

namespace llmc {

struct Cost {
    std::string op;  // with its shape
    double flops, bytes;
};
Cost cost(const EmbeddingForward& args);
Cost cost(const EmbeddingBackward& args);
Cost cost(const LayerNormForward& args);
Cost cost(const LayerNormBackward& args);
Cost cost(const MatmulForward& args);
Cost cost(const MatmulBackward& args);
Cost cost(const AttentionForward& args);
Cost cost(const AttentionBackward& args);
Cost cost(const GeluForward& args);
Cost cost(const Classifier& args);
Cost cost(const Sum& args);

class Profile {
public:
    struct Entry {
        std::string op;
        int64_t calls;
        double seconds, flops, bytes;
    };
    static void turn(bool on) { on_ = on; }
    static bool on() { return on_; }
    static void measure(const Cost& cost, const std::function<void()>& work);
    static std::vector<Entry> entries();  // the longest first
    // For people: of `steps` steps that took `seconds`.
    static std::string table(int64_t steps, double seconds);

private:
    static inline bool on_ = false;
};

template <class Args>
void call(void (*op)(const Args&), const std::type_identity_t<Args>& args) {
    if (Profile::on())
        Profile::measure(cost(args), [&] { op(args); });
    else
        op(args);
}

}  // namespace llmc
