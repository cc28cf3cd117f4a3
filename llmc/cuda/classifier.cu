// Softmax cross entropy of (N, Vp) logits, and its gradient in place. Formulas: llmc/ops/ops.h.
//
// Bytes in bf16: 4 N Vp with the gradient, 2 N Vp without. Bound: memory; floor 3.07 ms at N = 65,536, Vp = 50,304 on
// an H200. Two exponentials an element take 6,300 clocks of a multiprocessor's special function units for a row that
// takes 10,900 clocks to move, so the arithmetic of one row has to overlap with the memory traffic of another: two
// blocks with 100 KB of shared memory fit on a Hopper multiprocessor.
//
// One block per row. A thread copies its vectors of the row to shared memory (cp.async) and reads only these, three
// times: for the maximum, the sum of exponentials and the gradient. Rows larger than shared memory are read three times
// from global memory, the last two times from the second-level cache. For comparison: llmq's fused classifier divides a
// row among a cluster of eight blocks.
#include <algorithm>

#include "llmc/cuda/host.h"
#include "llmc/cuda/reduce.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kMaxThreads = 512;
constexpr float kLog2e = 1.4426950408889634f;

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
    float logit_scale, dloss;
};

// Reads elements [c, c + 8) of a row, from shared memory if it is staged there.
template <class T, bool kStaged>
struct Row {
    const T* global;
    T* staged;
    int Vp;
    bool aligned;

    GPU void stage() {
        if constexpr (kStaged) {
            constexpr int kPer16 = 16 / int(sizeof(T));
            for (int c = int(threadIdx.x) * kVec; c < Vp; c += int(blockDim.x) * kVec)
#pragma unroll
                for (int i = 0; i < kVec; i += kPer16) cp_async16(staged + c + i, global + c + i);
            cp_async_commit();
            cp_async_wait<0>();
        }
    }
    GPU void read(float (&x)[kVec], int c) const {
        if constexpr (kStaged)
            load_shared(x, staged + c);
        else
            load_upto(x, global + c, Vp - c, aligned);
    }
};

template <class T, bool kStaged>
__global__ void __launch_bounds__(kMaxThreads) classifier_kernel(Arguments<T> a, bool aligned) {
    launch_bounds<kMaxThreads>();
    ClassifierShared& s = shared<ClassifierShared>();
    const int64_t n = blockIdx.x;
    T* const logits = a.logits + n * a.Vp;
    const int target = a.targets[n];
    const bool counts = target != kNoTarget;
    const float k2 = a.logit_scale * kLog2e;
    const float target_logit = counts ? load1(logits + target) : 0;  // before anything is overwritten
    Row<T, kStaged> row{logits, reinterpret_cast<T*>(s.row), a.Vp, aligned};
    row.stage();

    const int first = int(threadIdx.x) * kVec, stride = int(blockDim.x) * kVec;
    float x[kVec], largest = -INFINITY, sum = 0;  // of logits times logit_scale times log2(e)
    for (int c = first; c < a.V; c += stride) {
        row.read(x, c);
#pragma unroll
        for (int k = 0; k < kVec; ++k)
            if (c + k < a.V) largest = fmaxf(largest, k2 * x[k]);
    }
    largest = block_max(largest, s.reduce);
    for (int c = first; c < a.V; c += stride) {
        row.read(x, c);
#pragma unroll
        for (int k = 0; k < kVec; ++k)
            if (c + k < a.V) sum += exp2_approx(k2 * x[k] - largest);
    }
    sum = block_sum(sum, s.reduce);
    if (threadIdx.x == 0) a.losses[n] = counts ? logf(sum) + (largest - k2 * target_logit) / kLog2e : 0;
    if (a.dloss == 0) return;

    const float factor = a.dloss * a.logit_scale, probability = factor / sum;
    for (int c = first; c < a.Vp; c += stride) {
        row.read(x, c);
#pragma unroll
        for (int k = 0; k < kVec; ++k) {
            x[k] = counts && c + k < a.V ? probability * exp2_approx(k2 * x[k] - largest) : 0.0f;
            if (c + k == target) x[k] -= factor;
        }
        store_upto(logits + c, x, a.Vp - c, aligned);
    }
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void classifier(const Classifier& args) {
    check(args);
    const int64_t N = args.logits.rows(), Vp = args.logits.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.logits);
    const size_t row_bytes = size_t(Vp) * size_of(args.logits.dtype);
    const bool staged = aligned && sizeof(ClassifierShared) + row_bytes <= shared_limit();
    // about four vectors a thread: enough loads in flight, and small blocks for small vocabularies
    const unsigned threads = unsigned(std::clamp<int64_t>(ceil_div(Vp, 4 * kVec * kWarp) * kWarp, kWarp, kMaxThreads));
    const Launch shape{unsigned(N), threads, sizeof(ClassifierShared) + (staged ? row_bytes : 0)};
    with_type("classifier", "logits", args.logits.dtype, [&]<class T>(T) {
        const Arguments<T> a{
            args.losses.as<float>(), args.logits.as<T>(), args.targets.as<int32_t>(), args.vocab_size, int(Vp),
            args.logit_scale,        args.dloss};
        launch(shape, staged ? classifier_kernel<T, true> : classifier_kernel<T, false>, a, aligned);
    });
}

}  // namespace llmc
