// Sums over one tensor or many: accumulate_sum, global_norm, statistics. Formulas: llmc/ops/ops.h.
//
// Bytes: each input once (4 P for the norm of P fp32 gradients: 116 us for 124M on an H200). Bound: memory. Two stages:
// every block sums its part in fp32, in a fixed order, and one block adds the parts in double. No atomics, so the bits
// do not depend on which block finishes first. A thread loads 64 to 128 bytes before it adds the first: so the one block
// has 64 KB in flight, and the others 16 to 32 KB each.
#include <algorithm>

#include "llmc/cuda/host.h"
#include "llmc/cuda/reduce.h"
#include "llmc/cuda/tensor_list.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

// Adds up floats in double: 4 neighbours in fp32, thread by thread, then over the threads. One block.
constexpr int kSumThreads = 1024;
struct SumShared {
    double of_thread[kSumThreads];
    ReduceScratch reduce;
};
GPU double add_threads(double sum, SumShared& s) {  // the sum is in thread 0
    __syncthreads();
    s.of_thread[threadIdx.x] = sum;
    for (int half = kSumThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (int(threadIdx.x) < half) s.of_thread[threadIdx.x] += s.of_thread[int(threadIdx.x) + half];
    }
    return threadIdx.x == 0 ? s.of_thread[0] : 0;
}
GPU double sum_floats(const float* p, int64_t count, bool aligned, SumShared& s) {
    constexpr int kAtOnce = 4;
    const int64_t vectors = aligned ? count / 4 : 0;
    double sum = 0;
    for (int64_t first = threadIdx.x; first < vectors; first += kAtOnce * kSumThreads) {
        Packed<float, 4> x[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {  // those that do not exist: again what does
            const int64_t i = first + j * kSumThreads;
            x[j].load(p + (i < vectors ? i : first) * 4);
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            float v[4];
            x[j].unpack(v);
            if (first + j * kSumThreads < vectors) sum += double((v[0] + v[1]) + (v[2] + v[3]));
        }
    }
#pragma unroll 8
    for (int64_t i = 4 * vectors + threadIdx.x; i < count; i += kSumThreads) sum += double(p[i]);
    return add_threads(sum, s);
}

// --- accumulate_sum: a few hundred KB at most, one block ---

__global__ void __launch_bounds__(kSumThreads)
    accumulate_sum_kernel(float* out, const float* inp, int64_t count, float scale, bool aligned) {
    launch_bounds<kSumThreads>();
    const double sum = sum_floats(inp, count, aligned, shared<SumShared>());
    if (threadIdx.x == 0) *out += float(double(scale) * sum);
}

// --- global_norm ---

struct NormEntry {
    const float* data;
    int64_t count, first_block;
    int aligned;
};

constexpr int kNormVectors = 8, kNormBlock = kNormVectors * 4 * kListThreads;  // of a thread; elements of a block

__global__ void __launch_bounds__(kListThreads) sum_squares_kernel(float* parts, TensorList<NormEntry> list) {
    launch_bounds<kListThreads>();
    int64_t first;
    const NormEntry& entry = entry_of_block<kNormBlock>(list, first);
    const float* data = entry.data + first;
    const int64_t count = entry.count - first;
    float sum = 0;
    if (entry.aligned && count >= kNormBlock) {
        Packed<float, 4> x[kNormVectors];
#pragma unroll
        for (int i = 0; i < kNormVectors; ++i) x[i].load(data + (i * kListThreads + int(threadIdx.x)) * 4);
#pragma unroll
        for (int i = 0; i < kNormVectors; ++i) {
            float v[4];
            x[i].unpack(v);
#pragma unroll
            for (float y : v) sum += y * y;
        }
    } else {
        const int end = count < kNormBlock ? int(count) : kNormBlock;
#pragma unroll 8
        for (int i = int(threadIdx.x); i < end; i += kListThreads) sum += data[i] * data[i];
    }
    sum = block_sum(sum, shared<ReduceScratch>());
    if (threadIdx.x == 0) parts[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kSumThreads) norm_kernel(float* out, const float* parts, int64_t count) {
    launch_bounds<kSumThreads>();
    const double sum = sum_floats(parts, count, true, shared<SumShared>());
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

constexpr int kThreads = 256;

// The pieces of all rows are numbered; a thread takes every (gridDim.x * kThreads)th, kAtOnce at a time.
template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) statistics_kernel(StatisticsArguments<T> a) {
    launch_bounds<kThreads>();
    constexpr int kAtOnce = kWidth == 1 ? 8 : 4;
    ReduceScratch& s = shared<ReduceScratch>();
    const int64_t pieces = a.columns / kWidth, step = int64_t(gridDim.x) * kThreads, step_rows = step / pieces;
    int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, row = i / pieces;
    int piece = int(i % pieces);
    const int step_pieces = int(step % pieces);
    const auto next = [&] {  // without a division
        i += step, row += step_rows, piece += step_pieces;
        if (piece >= pieces) piece -= int(pieces), ++row;
    };
    float absolute = 0, sum = 0, squares = 0, largest = 0;
    for (const int64_t all = a.N * pieces; i < all;) {
        Packed<T, kWidth> x[kAtOnce], y[kAtOnce];
        bool exists[kAtOnce];
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j, next()) {
            exists[j] = i < all;
            const int64_t at = exists[j] ? row * a.C + a.first_column + piece * kWidth : a.first_column;
            x[j].load(a.inp + at);
            if (a.minus) y[j].load(a.minus + at);
        }
#pragma unroll
        for (int j = 0; j < kAtOnce; ++j) {
            if (!exists[j]) continue;
            float v[kWidth], w[kWidth];
            x[j].unpack(v);
            y[j].unpack(w);  // 0 if there is none
#pragma unroll
            for (int k = 0; k < kWidth; ++k) {
                const float d = v[k] - w[k];
                absolute += fabsf(d);
                sum += d;
                squares += d * d;
                largest = max_with_nan(largest, fabsf(d));
            }
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

__global__ void __launch_bounds__(kSumThreads)
    finish_statistics_kernel(float* out, const float* parts, int blocks, double count) {
    launch_bounds<kSumThreads>();
    static_assert(kStatistics == 4);
    SumShared& s = shared<SumShared>();
    double absolute = 0, sum = 0, squares = 0;
    float largest = 0;
    for (int b = int(threadIdx.x); b < blocks; b += kSumThreads) {
        float part[4];
        load(part, parts + b * kStatistics);
        absolute += double(part[0]), sum += double(part[1]), squares += double(part[2]);
        largest = max_with_nan(largest, part[3]);
    }
    absolute = add_threads(absolute, s);
    sum = add_threads(sum, s);
    squares = add_threads(squares, s);
    largest = block_max(largest, s.reduce);
    if (threadIdx.x != 0) return;
    out[0] = float(absolute / count), out[1] = float(sum / count), out[2] = float(sqrt(squares / count));
    out[3] = absolute != absolute ? float(absolute) : largest;
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void accumulate_sum(const Sum& args) {
    check(args);
    launch({1, kSumThreads, sizeof(SumShared)}, accumulate_sum_kernel, args.out.as<float>(), args.inp.as<float>(),
           args.inp.numel(), args.scale, is_aligned(args.inp));
}

void global_norm(Tensor out, std::span<const Tensor> tensors) {
    check_global_norm(out, tensors);
    std::vector<NormEntry> entries;
    for (const Tensor& t : tensors)
        if (t.numel() > 0) entries.push_back({t.as<float>(), t.numel(), 0, is_aligned(t)});
    const int64_t blocks = number_blocks<kNormBlock>(entries);
    const Workspace memory({size_t(blocks) * sizeof(float), list_bytes(entries)});
    float* parts = memory.part<float>(0);
    if (blocks > 0)
        launch({unsigned(blocks), kListThreads, sizeof(ReduceScratch)}, sum_squares_kernel, parts,
               upload_list(entries, memory.part<NormEntry>(1)));
    launch({1, kSumThreads, sizeof(SumShared)}, norm_kernel, out.as<float>(), parts, blocks);
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
        const bool aligned = rows_are_aligned(args.inp, args.minus) && args.first_column % kVec == 0 &&
                             columns % kVec == 0;
        launch({blocks, kThreads, sizeof(ReduceScratch)},
               aligned ? statistics_kernel<kWidest<T>, T> : statistics_kernel<1, T>, a);
    });
    launch({1, kSumThreads, sizeof(SumShared)}, finish_statistics_kernel, args.out.as<float>(), memory.part<float>(0),
           int(blocks), double(N) * double(columns));
}

}  // namespace llmc
