// Sums over one tensor or many: accumulate_sum, global_norm, statistics. Formulas: llmc/ops/ops.h.
//
// Bytes: each input once (4 P for the norm of P fp32 gradients: 116 us for 124M on an H200). Bound: memory. Two stages:
// every block sums its part in fp32, in a fixed order, and one block adds the parts in double. No atomics, so the bits
// do not depend on which block finishes first.
#include <algorithm>

#include "llmc/cuda/host.h"
#include "llmc/cuda/reduce.h"
#include "llmc/cuda/tensor_list.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kThreads = 256;

// Adds up `count` floats, `stride` apart, in double: thread by thread, then over the threads. The sum is in thread 0.
struct SumShared {
    double of_thread[kThreads];
};
GPU double sum_parts(const float* parts, int64_t count, int64_t stride, SumShared& s) {
    double sum = 0;
    for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += double(parts[i * stride]);
    __syncthreads();
    s.of_thread[threadIdx.x] = sum;
    for (int half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < half) s.of_thread[threadIdx.x] += s.of_thread[int(threadIdx.x) + half];
    }
    return threadIdx.x == 0 ? s.of_thread[0] : 0;
}

// --- accumulate_sum: a few hundred KB at most, one block ---

__global__ void __launch_bounds__(kThreads)
    accumulate_sum_kernel(float* out, const float* inp, int64_t count, float scale) {
    launch_bounds<kThreads>();
    const double sum = sum_parts(inp, count, 1, shared<SumShared>());
    if (threadIdx.x == 0) *out += float(double(scale) * sum);
}

// --- global_norm ---

struct NormEntry {
    const float* data;
    int64_t count, first_block;
    int aligned;
};

__global__ void __launch_bounds__(kListThreads) sum_squares_kernel(float* parts, TensorList<NormEntry> list) {
    launch_bounds<kListThreads>();
    int64_t i;
    const NormEntry& entry = entry_of_block(list, i);
    float x[kVec] = {}, sum = 0;
    if (i < entry.count) load_upto(x, entry.data + i, entry.count - i, entry.aligned);
#pragma unroll
    for (float v : x) sum += v * v;
    sum = block_sum(sum, shared<ReduceScratch>());
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kThreads) norm_kernel(float* out, const float* parts, int64_t count) {
    launch_bounds<kThreads>();
    const double sum = sum_parts(parts, count, 1, shared<SumShared>());
    if (threadIdx.x == 0) *out = float(sqrt(sum));
}

// --- statistics ---

template <class T>
struct StatisticsArguments {
    float* parts;  // (blocks, 4): sums of |x|, x, x^2, and the largest |x|
    const T *inp, *minus;
    int64_t N, C, first_column, columns;
};

GPU float max_with_nan(float a, float b) { return is_nan(a) || a > b ? a : b; }  // keeps a NaN

template <class T>
__global__ void __launch_bounds__(kThreads) statistics_kernel(StatisticsArguments<T> a, bool aligned) {
    launch_bounds<kThreads>();
    ReduceScratch& s = shared<ReduceScratch>();
    const int64_t vectors = (a.columns + kVec - 1) / kVec, all = a.N * vectors;
    float absolute = 0, sum = 0, squares = 0, largest = 0;
    for (int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x; i < all; i += int64_t(gridDim.x) * kThreads) {
        const int64_t c = i % vectors * kVec, count = a.columns - c, at = i / vectors * a.C + a.first_column + c;
        float x[kVec], y[kVec];
        load_upto(x, a.inp + at, count, aligned);
        if (a.minus) {
            load_upto(y, a.minus + at, count, aligned);
#pragma unroll
            for (int k = 0; k < kVec; ++k) x[k] -= y[k];
        }
#pragma unroll
        for (float v : x) {
            absolute += fabsf(v);
            sum += v;
            squares += v * v;
            largest = max_with_nan(largest, fabsf(v));
        }
    }
    absolute = block_sum(absolute, s);
    sum = block_sum(sum, s);
    squares = block_sum(squares, s);
    largest = is_nan(absolute) ? absolute : block_max(largest, s);
    if (threadIdx.x != 0) return;
    float* parts = a.parts + int64_t(blockIdx.x) * kStatistics;
    parts[0] = absolute, parts[1] = sum, parts[2] = squares, parts[3] = largest;
}

__global__ void __launch_bounds__(kThreads)
    finish_statistics_kernel(float* out, const float* parts, int blocks, double count) {
    launch_bounds<kThreads>();
    SumShared& s = shared<SumShared>();
    const double absolute = sum_parts(parts, blocks, kStatistics, s);
    const double sum = sum_parts(parts + 1, blocks, kStatistics, s);
    const double squares = sum_parts(parts + 2, blocks, kStatistics, s);
    if (threadIdx.x != 0) return;
    float largest = 0;
    for (int b = 0; b < blocks; ++b) largest = max_with_nan(largest, parts[b * kStatistics + 3]);
    out[0] = float(absolute / count), out[1] = float(sum / count), out[2] = float(sqrt(squares / count));
    out[3] = largest;
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void accumulate_sum(const Sum& args) {
    check(args);
    launch({1, kThreads, sizeof(SumShared)}, accumulate_sum_kernel, args.out.as<float>(), args.inp.as<float>(),
           args.inp.numel(), args.scale);
}

void global_norm(Tensor out, std::span<const Tensor> tensors) {
    check_global_norm(out, tensors);
    std::vector<NormEntry> entries;
    for (const Tensor& t : tensors)
        if (t.numel() > 0) entries.push_back({t.as<float>(), t.numel(), 0, is_aligned(t)});
    const int64_t blocks = number_blocks(entries);
    const Workspace memory({size_t(blocks) * sizeof(float), list_bytes(entries)});
    float* parts = memory.part<float>(0);
    if (blocks > 0)
        launch({unsigned(blocks), kListThreads, sizeof(ReduceScratch)}, sum_squares_kernel, parts,
               upload_list(entries, memory.part<NormEntry>(1)));
    launch({1, kThreads, sizeof(SumShared)}, norm_kernel, out.as<float>(), parts, blocks);
}

void statistics(const Statistics& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last(),
                  columns = args.columns ? args.columns : C - args.first_column;
    const int64_t wanted = ceil_div(N * ceil_div(columns, kVec), 4 * kThreads);
    const unsigned blocks = unsigned(std::clamp<int64_t>(wanted, 1, 4 * multiprocessors()));
    const Workspace memory({size_t(blocks) * kStatistics * sizeof(float)});
    with_type("statistics", "inp", args.inp.dtype, [&]<class T>(T) {
        const StatisticsArguments<T> a{.parts = memory.part<float>(0),
                                       .inp = args.inp.as<T>(),
                                       .minus = args.minus.as<T>(),
                                       .N = N,
                                       .C = C,
                                       .first_column = args.first_column,
                                       .columns = columns};
        launch({blocks, kThreads, sizeof(ReduceScratch)}, statistics_kernel<T>, a,
               rows_are_aligned(args.inp, args.minus) && args.first_column % kVec == 0);
    });
    launch({1, kThreads, sizeof(SumShared)}, finish_statistics_kernel, args.out.as<float>(), memory.part<float>(0),
           int(blocks), double(N) * double(columns));
}

}  // namespace llmc
