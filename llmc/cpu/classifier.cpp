// Softmax cross entropy and its gradient, in place: losses[n] = log sum_v exp(z_v) - z_target with z = logit_scale *
// logits[n, :V]. d losses[n] / d logits[n, v] = logit_scale * (softmax(z)_v - [v == target]).
#include <cmath>
#include <limits>
#include "llmc/checks.h"
#include "llmc/cpu/indices.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops.h"

namespace llmc {

using namespace cpu;

namespace {

// Three passes over a row, which fits the second-level cache; the exponentials are computed twice rather than stored,
// as bf16 cannot hold them.
template <class T>
void classify_row(const Classifier& args, int64_t n) {
    int64_t Vp = args.logits.last(), V = args.vocab_size, target = args.targets.as<int32_t>()[n];
    T* logits = args.logits.as<T>() + n * Vp;
    float scale = args.logit_scale;
    float largest = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t v = 0; v < V; ++v) {
        float z = scale * to_float(logits[v]);
        largest = largest > z ? largest : z;
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t v = 0; v < V; ++v) sum += fast_exp(scale * to_float(logits[v]) - largest);
    float target_logit = scale * to_float(logits[target]);
    args.losses.as<float>()[n] = std::log(sum) + largest - target_logit;
    if (args.dloss == 0) return;
    float factor = args.dloss * scale, probability = factor / sum;
    float dtarget = factor * (fast_exp(target_logit - largest) / sum - 1);
#pragma omp simd
    for (int64_t v = 0; v < V; ++v)
        logits[v] = from_float<T>(probability * fast_exp(scale * to_float(logits[v]) - largest));
    logits[target] = from_float<T>(dtarget);
    std::fill(logits + V, logits + Vp, from_float<T>(0));
}

}  // namespace

void classifier(const Classifier& args) {
    check(args);
    int64_t N = args.logits.rows(), Vp = args.logits.last();
    require_indices("classifier", "targets", args.targets, args.vocab_size);
    with_type("classifier", "logits", args.logits.dtype, [&]<class T>(T) {
        parallel_for(N, row_grain(Vp), [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n) classify_row<T>(args, n);
        });
    });
}

}  // namespace llmc
