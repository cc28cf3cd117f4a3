// Softmax cross entropy and its gradient, in place: losses[n] = log sum_v exp(z_v) - z_target with z = logit_scale *
// logits[n, :V]. d losses[n] / d logits[n, v] = logit_scale * (softmax(z)_v - [v == target]).
#include <cmath>
#include <limits>
#include "llmc/cpu/indices.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

// Three passes over a row, which fits into the second-level cache. The exponentials are computed twice instead of
// stored: bf16 is not precise enough for them.
template <class T>
void classify_row(const Classifier& args, int64_t n) {
    int64_t Vp = args.logits.last(), V = args.vocab_size, target = args.targets.as<int32_t>()[n];
    T* logits = args.logits.as<T>() + n * Vp;
    if (target == kNoTarget) {
        args.losses.as<float>()[n] = 0;
        if (args.dloss != 0) std::fill(logits, logits + Vp, from_float<T>(0));
        return;
    }
    const float scale = args.logit_scale * kLog2e;  // everything in units of log 2
    Vector top = all(-std::numeric_limits<float>::infinity()), added{};
    for_vectors(V, [&](int64_t v, auto count) {
        const Vector z = scale * load_as(logits + v, count), x = lane_numbers() < int32_t(count) ? z : top;
        top = top > x ? top : x;
    });
    const float maximum = largest(top);
    for_vectors(V, [&](int64_t v, auto count) {
        added += first_of(exp2(scale * load_as(logits + v, count) - maximum), count);
    });
    const float denominator = sum(added), target_logit = scale * to_float(logits[target]) - maximum;
    args.losses.as<float>()[n] = std::log(denominator) - target_logit * kLn2;
    if (args.dloss == 0) return;
    const float factor = args.dloss * args.logit_scale, probability = factor / denominator;
    const float dtarget = factor * (exp2(all(target_logit))[0] / denominator - 1);
    for_vectors(V, [&](int64_t v, auto count) {
        store_as(logits + v, probability * exp2(scale * load_as(logits + v, count) - maximum), count);
    });
    logits[target] = from_float<T>(dtarget);
    std::fill(logits + V, logits + Vp, from_float<T>(0));
}

}  // namespace

void classifier(const Classifier& args) {
    check(args);
    int64_t N = args.logits.rows(), Vp = args.logits.last();
    require_indices("classifier", "targets", args.targets, args.vocab_size, kNoTarget);
    with_type("classifier", "logits", args.logits.dtype, [&]<class T>(T) {
        parallel_for(N, row_grain(Vp), [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n) classify_row<T>(args, n);
        });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
