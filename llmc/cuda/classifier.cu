// Softmax cross entropy of (N, Vp) logits, and its gradient in place. Formulas: llmc/ops/ops.h.
//
// Bytes in bf16: 4 N Vp with the gradient, 2 N Vp without. Bound: memory; floor 3.07 ms at N = 65,536, Vp = 50,304 on
// an H200. Two exponentials an element take 6,300 clocks of a multiprocessor's special function units for a row that
// takes 10,900 clocks to move, so the arithmetic of one row has to overlap with the memory traffic of another: two
// blocks of 512 threads share a multiprocessor.
//
// One block per row, in two passes. In the first a thread loads kAtOnce pieces of 16 bytes, then adds up exponentials
// relative to the largest logit that it has seen (Milakov, Gimelshein, "Online normalizer calculation for softmax",
// 2018). It keeps its pieces in shared memory as far as half of a multiprocessor's holds a row: all of 50,304 logits in
// bf16 on Hopper, 82% on an A100, half with 100 KB. The second pass reads the rest again, from the second-level cache.
// For comparison: llmq's fused classifier divides a row among a cluster of eight blocks.
#include <algorithm>

#include "llmc/cuda/host.h"
#include "llmc/cuda/reduce.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr float kLog2e = 1.4426950408889634f, kLowest = -3.4028234e38f;

struct ClassifierShared {
    ReduceScratch reduce;
    alignas(16) unsigned char row[1];  // the launch gives its size
};

template <class T>
struct Arguments {
    float* losses;
    T* logits;
    const int32_t* targets;
    int V, Vp;
    int staged;  // so many elements of a row stay in shared memory
    float logit_scale, dloss;
};

// A thread's part of sum 2^(t - largest), t = logits times logit_scale times log2(e).
struct OnlineSum {
    float largest = kLowest, sum = 0;

    GPU void raise(float value) {
        const float higher = fmaxf(largest, value);
        sum *= exp2_approx(largest - higher);
        largest = higher;
    }
};

// One row. A thread has every blockDim.x-th piece of kWidth elements.
template <int kWidth, class T>
struct Row {
    static constexpr int kAtOnce = kWidth == 1 ? 16 : 4;
    T *logits, *staged;
    int V, Vp, staged_count;
    float k2;

    GPU int first() const { return int(threadIdx.x) * kWidth; }
    GPU int step() const { return int(blockDim.x) * kWidth; }

    // Adds up the exponentials of the row, and stages it.
    GPU OnlineSum sum_exponentials() const {
        OnlineSum all;
        for (int c = first(); c < V; c += kAtOnce * step()) {
            Packed<T, kWidth> x[kAtOnce];
            float t[kAtOnce][kWidth], largest = kLowest;
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)  // pieces that do not exist: again one that does
                x[j].load(logits + (c + j * step() < V ? c + j * step() : c));
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) {
                x[j].unpack(t[j]);
#pragma unroll
                for (float& value : t[j]) value *= k2;
                if constexpr (kWidth > 1)
                    if (c + j * step() < staged_count) store_shared16(staged + c + j * step(), x[j].bits());
            }
            if (c + (kAtOnce - 1) * step() + kWidth > V)  // the last time: without what is not of the vocabulary
#pragma unroll
                for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
                    for (int k = 0; k < kWidth; ++k)
                        if (c + j * step() + k >= V) t[j][k] = -INFINITY;
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
#pragma unroll
                for (float value : t[j]) largest = fmaxf(largest, value);
            all.raise(largest);
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (c + j * step() < V)
#pragma unroll
                    for (float value : t[j]) all.sum += exp2_approx(value - all.largest);
        }
        return all;
    }

    // logits = probability * 2^(t - largest), and 0 from V on.
    GPU void store_gradient(int c, const Packed<T, kWidth>& x, float probability, float largest) const {
        float v[kWidth];
        x.unpack(v);
#pragma unroll
        for (float& value : v) value = probability * exp2_approx(k2 * value - largest);
        if (c + kWidth > V)
#pragma unroll
            for (int k = 0; k < kWidth; ++k)
                if (c + k >= V) v[k] = 0;
        store(logits + c, v);
    }
    GPU void store_gradients(float probability, float largest) const {
        int c = first();
        if constexpr (kWidth > 1)
#pragma unroll 2
            for (; c < staged_count; c += step()) {
                Packed<T, kWidth> x;
                x.set(load_shared16(staged + c));
                store_gradient(c, x, probability, largest);
            }
        for (; c < V; c += kAtOnce * step()) {
            Packed<T, kWidth> x[kAtOnce];
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j) x[j].load(logits + (c + j * step() < V ? c + j * step() : c));
#pragma unroll
            for (int j = 0; j < kAtOnce; ++j)
                if (c + j * step() < V) store_gradient(c + j * step(), x[j], probability, largest);
        }
        const int behind = (V + kWidth - 1) / kWidth;  // the first piece of padding
        clear_from((behind + int(threadIdx.x)) * kWidth);
    }
    GPU void clear_from(int begin) const {
        const float zeros[kWidth] = {};
        for (int c = begin; c < Vp; c += step()) store(logits + c, zeros);
    }
};

template <int kWidth, class T>
__global__ void __launch_bounds__(kMaxThreads, 2) classifier_kernel(Arguments<T> a) {
    launch_bounds<kMaxThreads, 2>();
    ClassifierShared& s = shared<ClassifierShared>();
    const int64_t n = blockIdx.x;
    const int target = a.targets[n];
    const Row<kWidth, T> row{.logits = a.logits + n * a.Vp,
                             .staged = reinterpret_cast<T*>(s.row),
                             .V = a.V,
                             .Vp = a.Vp,
                             .staged_count = a.staged,
                             .k2 = a.logit_scale * kLog2e};
    if (target == kNoTarget) {
        if (threadIdx.x == 0) a.losses[n] = 0;
        if (a.dloss != 0) row.clear_from(row.first());
        return;
    }
    const float t = row.k2 * load1(row.logits + target);  // before anything is overwritten
    const OnlineSum all = row.sum_exponentials();
    const float largest = block_max(all.largest, s.reduce);
    const float sum = block_sum(all.sum * exp2_approx(all.largest - largest), s.reduce);
    if (threadIdx.x == 0) a.losses[n] = logf(sum) + (largest - t) / kLog2e;
    if (a.dloss == 0) return;

    const float factor = a.dloss * a.logit_scale, probability = factor / sum;
    row.store_gradients(probability, largest);
    if (target / kWidth % int(blockDim.x) == int(threadIdx.x))  // has stored the target's piece
        store1(row.logits + target, probability * exp2_approx(t - largest) - factor);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void classifier(const Classifier& args) {
    check(args);
    const int64_t N = args.logits.rows(), Vp = args.logits.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.logits);
    // about four vectors a thread: enough loads in flight, and small blocks for small vocabularies
    const unsigned threads = unsigned(std::clamp<int64_t>(ceil_div(Vp, 4 * kVec * kWarp) * kWarp, kWarp, kMaxThreads));
    // Half of a multiprocessor's shared memory, of which the system has 1 KB for each block.
    const size_t room = (shared_limit() - 1024) / 2 - sizeof(ClassifierShared);
    with_type("classifier", "logits", args.logits.dtype, [&]<class T>(T) {
        const int64_t most = std::min<int64_t>(ceil_div(args.vocab_size, kWidest<T>), room / 16) * kWidest<T>;
        const int staged = aligned && args.dloss != 0 ? int(most) : 0;
        const Arguments<T> a{.losses = args.losses.as<float>(),
                             .logits = args.logits.as<T>(),
                             .targets = args.targets.as<int32_t>(),
                             .V = args.vocab_size,
                             .Vp = int(Vp),
                             .staged = staged,
                             .logit_scale = args.logit_scale,
                             .dloss = args.dloss};
        launch({unsigned(N), threads, sizeof(ClassifierShared) + size_t(staged) * sizeof(T)},
               aligned ? classifier_kernel<kWidest<T>, T> : classifier_kernel<1, T>, a);
    });
}

}  // namespace llmc
