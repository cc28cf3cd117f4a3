// Layer norm over the rows of (N, C), forward and backward with the residual stream's gradient added. Ba, Kiros,
// Hinton, "Layer normalization", 2016; formulas in llmc/ops/ops.h.
//
//   forward   bytes in bf16: 4 N C + 8 N     backward  6 N C + 8 N + 18 C, with dskip 2 N C more
// Bound: memory; at N = 65,536, C = 768 the floors on an H200 (4.3 TB/s) are 47 and 94 us.
//
// A warp computes a row and keeps it in registers, kVectors 16-byte pieces in each lane, so that mean, variance and
// result need one read of the row (for C up to 4096, in multiples of 8; other rows are read again, from the first-level
// cache). In the backward pass each warp computes many rows. A lane has the same columns in all of them and keeps their
// parts of dweight and dbias in registers (C up to 1792). At the end a block adds its warps' parts in shared memory,
// and a second kernel adds the blocks' parts, in order. For comparison: llm.c's layernorm_backward_kernel10 adds to
// shared memory after every row.
#include <algorithm>

#include "llmc/cuda/column_sums.h"
#include "llmc/cuda/reduce.h"
#include "llmc/cuda/scratch.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr float kEpsilon = 1e-5f;
constexpr int kWarps = kNormWarps, kThreads = kWarps * kWarp;
constexpr int kStride = kWarp * kVec;  // columns from a lane's vector to its next

// --- Forward ---

template <class T>
struct Forward {
    T* out;
    float *mean, *rstd;
    const T *inp, *weight, *bias;
    int64_t N;
    int C;
    float weight_scale, bias_scale;
};

// out = (x - mean) * rstd * weight_scale * weight + bias_scale * bias for one vector.
template <class T>
GPU void normalize(const Forward<T>& a, int64_t row, int c, float (&x)[kVec], float mean, float rstd, bool aligned) {
    float w[kVec], b[kVec];
    load_upto(w, a.weight + c, a.C - c, aligned);
    load_upto(b, a.bias + c, a.C - c, aligned);
#pragma unroll
    for (int k = 0; k < kVec; ++k) x[k] = (x[k] - mean) * rstd * (a.weight_scale * w[k]) + a.bias_scale * b[k];
    store_upto(a.out + row * a.C + c, x, a.C - c, aligned);
}

template <int kVectors, class T>
__global__ void __launch_bounds__(kThreads) forward_kernel(Forward<T> a) {
    launch_bounds<kThreads>();
    const int64_t row = int64_t(blockIdx.x) * kWarps + warp_id();
    if (row >= a.N) return;
    float x[kVectors][kVec], sum = 0, squares = 0;
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const int c = i * kStride + lane_id() * kVec;
        if (c < a.C) {
            load(x[i], a.inp + row * a.C + c);
#pragma unroll
            for (float v : x[i]) sum += v;
        }
    }
    const float mean = warp_sum(sum) / float(a.C);
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
        if (i * kStride + lane_id() * kVec < a.C) {
#pragma unroll
            for (float v : x[i]) squares += (v - mean) * (v - mean);
        }
    const float rstd = rsqrt_approx(warp_sum(squares) / float(a.C) + kEpsilon);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        const int c = i * kStride + lane_id() * kVec;
        if (c < a.C) normalize(a, row, c, x[i], mean, rstd, true);
    }
    if (lane_id() == 0) a.mean[row] = mean, a.rstd[row] = rstd;
}

// Any C: reads the row three times.
template <class T>
__global__ void __launch_bounds__(kThreads) forward_any_kernel(Forward<T> a) {
    launch_bounds<kThreads>();
    const int64_t row = int64_t(blockIdx.x) * kWarps + warp_id();
    if (row >= a.N) return;
    const T* inp = a.inp + row * a.C;
    float sum = 0, squares = 0;
    for (int c = lane_id(); c < a.C; c += kWarp) sum += load1(inp + c);
    const float mean = warp_sum(sum) / float(a.C);
    for (int c = lane_id(); c < a.C; c += kWarp) {
        const float d = load1(inp + c) - mean;
        squares += d * d;
    }
    const float rstd = rsqrt_approx(warp_sum(squares) / float(a.C) + kEpsilon);
    for (int c = lane_id() * kVec; c < a.C; c += kStride) {
        float x[kVec];
        load_some(x, inp + c, a.C - c);
        normalize(a, row, c, x, mean, rstd, false);
    }
    if (lane_id() == 0) a.mean[row] = mean, a.rstd[row] = rstd;
}

// --- Backward ---

template <class T>
struct Backward {
    T* dinp;
    float* parts;  // (blocks, 2, C): sums over a block's rows for dweight and dbias
    const T *dout, *inp, *weight, *dskip;
    const float *mean, *rstd;
    int64_t N;
    int C;
    float weight_scale, skip_scale, dinp_scale;
};

// One vector of a row: xhat, and g = weight_scale * weight * dout.
template <class T>
GPU void load_row_part(const Backward<T>& a, int64_t row, int c, float mean, float rstd, float (&xhat)[kVec],
                       float (&dout)[kVec], float (&g)[kVec]) {
    float w[kVec];
    load(xhat, a.inp + row * a.C + c);
    load(dout, a.dout + row * a.C + c);
    load(w, a.weight + c);
#pragma unroll
    for (int k = 0; k < kVec; ++k) {
        xhat[k] = (xhat[k] - mean) * rstd;
        g[k] = a.weight_scale * w[k] * dout[k];
    }
}

struct BackwardShared {
    float parts[kWarps][kStride];
};

// Adds up the warps' parts of one vector per lane, and stores the block's sum in parts[which][c].
template <class T>
GPU void store_parts(const Backward<T>& a, BackwardShared& s, int which, int i, const float (&part)[kVec]) {
    __syncthreads();  // the last sums have been read
    store_shared(&s.parts[warp_id()][lane_id() * kVec], part);
    __syncthreads();
    float* block_parts = a.parts + (int64_t(blockIdx.x) * 2 + which) * a.C;
    const int column = int(threadIdx.x), c = i * kStride + column;
    static_assert(kThreads == kStride);
    if (c >= a.C) return;
    float sum = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) sum += s.parts[w][column];
    block_parts[c] = sum;
}

template <int kVectors, class T>
__global__ void __launch_bounds__(kThreads) backward_kernel(Backward<T> a) {
    launch_bounds<kThreads>();
    float dweight[kVectors][kVec] = {}, dbias[kVectors][kVec] = {};
    for (int64_t row = int64_t(blockIdx.x) * kWarps + warp_id(); row < a.N; row += int64_t(gridDim.x) * kWarps) {
        const float mean = a.mean[row], rstd = a.rstd[row];
        float x[kVec], dout[kVec], g[kVec], sum_g = 0, sum_gx = 0;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const int c = i * kStride + lane_id() * kVec;
            if (c >= a.C) continue;
            load_row_part(a, row, c, mean, rstd, x, dout, g);
#pragma unroll
            for (int k = 0; k < kVec; ++k) {
                dweight[i][k] += dout[k] * x[k];
                dbias[i][k] += dout[k];
                sum_g += g[k];
                sum_gx += g[k] * x[k];
            }
        }
        const float mean_g = warp_sum(sum_g) / float(a.C), mean_gx = warp_sum(sum_gx) / float(a.C);
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {  // reads the row again, from the cache: registers hold the sums
            const int c = i * kStride + lane_id() * kVec;
            if (c >= a.C) continue;
            load_row_part(a, row, c, mean, rstd, x, dout, g);
            if (a.dskip) load(dout, a.dskip + row * a.C + c);
#pragma unroll
            for (int k = 0; k < kVec; ++k) {
                x[k] = a.dinp_scale * rstd * (g[k] - mean_g - x[k] * mean_gx);
                if (a.dskip) x[k] += a.skip_scale * dout[k];
            }
            store(a.dinp + row * a.C + c, x);
        }
    }
    BackwardShared& s = shared<BackwardShared>();
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
        store_parts(a, s, 0, i, dweight[i]);
        store_parts(a, s, 1, i, dbias[i]);
    }
}

// Any C: a block computes a row at a time, a thread the same columns in each. The sums are in shared memory: 2 C floats
// after the reduction's scratch.
struct BackwardAnyShared {
    ReduceScratch reduce;
    float sums[1];  // (2, C)
};

template <class T>
__global__ void __launch_bounds__(kThreads) backward_any_kernel(Backward<T> a) {
    launch_bounds<kThreads>();
    BackwardAnyShared& s = shared<BackwardAnyShared>();
    float *dweight = s.sums, *dbias = s.sums + a.C;
    for (int c = int(threadIdx.x); c < a.C; c += kThreads) dweight[c] = dbias[c] = 0;
    for (int64_t row = blockIdx.x; row < a.N; row += gridDim.x) {
        const float mean = a.mean[row], rstd = a.rstd[row];
        const auto xhat = [&](int c) { return (load1(a.inp + row * a.C + c) - mean) * rstd; };
        const auto gradient = [&](int c, float dout) { return a.weight_scale * load1(a.weight + c) * dout; };
        float sum_g = 0, sum_gx = 0;
        for (int c = int(threadIdx.x); c < a.C; c += kThreads) {
            const float x = xhat(c), dout = load1(a.dout + row * a.C + c), g = gradient(c, dout);
            dweight[c] += dout * x;
            dbias[c] += dout;
            sum_g += g;
            sum_gx += g * x;
        }
        const float mean_g = block_sum(sum_g, s.reduce) / float(a.C),
                    mean_gx = block_sum(sum_gx, s.reduce) / float(a.C);
        for (int c = int(threadIdx.x); c < a.C; c += kThreads) {
            const int64_t at = row * a.C + c;
            const float g = gradient(c, load1(a.dout + at));
            float d = a.dinp_scale * rstd * (g - mean_g - xhat(c) * mean_gx);
            if (a.dskip) d += a.skip_scale * load1(a.dskip + at);
            store1(a.dinp + at, d);
        }
    }
    for (int c = int(threadIdx.x); c < 2 * a.C; c += kThreads) a.parts[int64_t(blockIdx.x) * 2 * a.C + c] = s.sums[c];
}

// Calls f with the smallest compiled number of vectors that holds a row; false if there is none.
template <int kFirst, int... kMore, class F>
bool with_vectors(int64_t C, F&& f) {
    if (C <= kFirst * kStride) {
        f.template operator()<kFirst>();
        return true;
    }
    if constexpr (sizeof...(kMore) > 0)
        return with_vectors<kMore...>(C, f);
    else
        return false;
}

template <class T>
void launch_backward(const Backward<T>& a, bool aligned, unsigned blocks) {
    const auto launch_vectors = [&]<int kVectors>() {
        launch({blocks, kThreads, sizeof(BackwardShared)}, backward_kernel<kVectors, T>, a);
    };
    if (aligned && with_vectors<1, 3, 5, 7>(a.C, launch_vectors)) return;
    launch({blocks, kThreads, sizeof(BackwardAnyShared) + size_t(2 * a.C) * sizeof(float)}, backward_any_kernel<T>, a);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void layernorm_forward(const LayerNormForward& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.out, args.inp, args.weight, args.bias);
    const Launch shape{unsigned(ceil_div(N, kWarps)), kThreads};
    with_type("layernorm_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        const Forward<T> a{.out = args.out.as<T>(),
                           .mean = args.mean.as<float>(),
                           .rstd = args.rstd.as<float>(),
                           .inp = args.inp.as<T>(),
                           .weight = args.weight.as<T>(),
                           .bias = args.bias.as<T>(),
                           .N = N,
                           .C = int(C),
                           .weight_scale = args.weight_scale,
                           .bias_scale = args.bias_scale};
        const auto launch_vectors = [&]<int kVectors>() { launch(shape, forward_kernel<kVectors, T>, a); };
        if (!aligned || !with_vectors<1, 3, 5, 8, 16>(C, launch_vectors)) launch(shape, forward_any_kernel<T>, a);
    });
}

void layernorm_backward(const LayerNormBackward& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.dinp, args.dout, args.inp, args.weight, args.dskip);
    const unsigned blocks = layernorm_blocks(N);
    const Workspace memory(layernorm_scratch(N, C));
    with_type("layernorm_backward", "inp", args.inp.dtype, [&]<class T>(T) {
        launch_backward<T>({.dinp = args.dinp.as<T>(),
                            .parts = memory.part<float>(0),
                            .dout = args.dout.as<T>(),
                            .inp = args.inp.as<T>(),
                            .weight = args.weight.as<T>(),
                            .dskip = args.dskip.as<T>(),
                            .mean = args.mean.as<float>(),
                            .rstd = args.rstd.as<float>(),
                            .N = N,
                            .C = int(C),
                            .weight_scale = args.weight_scale,
                            .skip_scale = args.skip_scale,
                            .dinp_scale = args.dinp_scale},
                           aligned, blocks);
    });
    add_parts(memory.part<float>(0), int(blocks), {args.dweight.as<float>(), C, args.dweight_scale},
              {args.dbias.as<float>(), C, args.dbias_scale});
}

}  // namespace llmc
