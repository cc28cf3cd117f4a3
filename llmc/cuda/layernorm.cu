// Layer norm over the rows of (N, C), forward and backward with the residual stream's gradient added. Ba, Kiros,
// Hinton, "Layer normalization", 2016; formulas in llmc/ops/ops.h.
//
//   forward   bytes in bf16: 4 N C + 8 N     backward  6 N C + 8 N + 18 C, with dskip 2 N C more
// Bound: memory; at N = 65,536, C = 768 the floors on an H200 (4.3 TB/s) are 47 and 94 us.
//
// A block computes kRows rows at a time. A thread has the same kVectors vectors of 8 columns in each of them and loads
// all of them before it uses the first: 64 bytes in the forward pass, 192 in the backward pass with dskip. They stay in
// registers as they are in memory, so that mean, variance and result need one read. The sums of all rows cross the block
// together, with one barrier. In the backward pass a block computes many rows, and its threads keep their columns' parts
// of dweight and dbias in registers; a second kernel adds the blocks' parts, in order. For comparison: llm.c's
// layernorm_backward_kernel10 adds to shared memory after every row.
//
// fp32: a vector is two pieces of 4 columns. Rows that are not aligned: 8 single columns, a warp's side by side. Longer
// rows (above 16,384 columns; backward in fp32 8,192; not aligned 4,096) are read again from the caches, and their parts
// of dweight and dbias are in global memory.
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
constexpr int kMaxThreads = kNormThreads;

// The first column of a thread's i-th piece. There are kVectors * kVec / kWidth pieces in a row.
template <int kWidth>
GPU int column(int i) {
    return (i * int(blockDim.x) + int(threadIdx.x)) * kWidth;
}
// For loads: pieces and rows that do not exist load the last one. A condition for every load would make the compiler
// wait for one before the next.
template <int kWidth>
GPU int column_or_last(int i, int C) {
    return smaller(column<kWidth>(i), C - kWidth);
}
GPU int64_t row_or_last(int64_t row, int64_t N) { return row < N ? row : N - 1; }

// --- Forward ---

template <class T>
struct Forward {
    T* out;
    float *mean, *rstd;
    const T *inp, *weight, *bias;
    int64_t N;
    int C;
    float weight_scale, bias_scale, inverse_C;
};

// weight_scale * weight and bias_scale * bias of a piece, for all rows.
template <int kWidth>
struct Affine {
    float gain[kWidth], shift[kWidth];

    template <class T>
    GPU Affine(const Forward<T>& a, const Packed<T, kWidth>& weight, const Packed<T, kWidth>& bias) {
        weight.unpack(gain);
        bias.unpack(shift);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) gain[k] *= a.weight_scale, shift[k] *= a.bias_scale;
    }
};

// out[row, c...] = (x - mean) * rstd * gain + shift
template <int kWidth, class T>
GPU void normalize(const Forward<T>& a, int64_t row, int c, const Packed<T, kWidth>& inp, const Affine<kWidth>& affine,
                   float mean, float rstd) {
    float x[kWidth];
    inp.unpack(x);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) x[k] = (x[k] - mean) * rstd * affine.gain[k] + affine.shift[k];
    store(a.out + row * a.C + c, x);
}

template <int kVectors, int kRows, int kWidth, class T>
__global__ void __launch_bounds__(kMaxThreads) forward_kernel(Forward<T> a) {
    launch_bounds<kMaxThreads>();
    constexpr int kPieces = kVectors * kVec / kWidth;
    SumsScratch<kRows>& s = shared<SumsScratch<kRows>>();
    const int64_t first = int64_t(blockIdx.x) * kRows;
    Packed<T, kWidth> x[kRows][kPieces], weight[kPieces], bias[kPieces];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        const T* row = a.inp + row_or_last(first + r, a.N) * a.C;
#pragma unroll
        for (int i = 0; i < kPieces; ++i) x[r][i].load(row + column_or_last<kWidth>(i, a.C));
    }
    const auto load_parameters = [&] {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            const int c = column_or_last<kWidth>(i, a.C);
            weight[i].load(a.weight + c);
            bias[i].load(a.bias + c);
        }
    };
    if constexpr (kVectors == 1) load_parameters();  // else they would need too many registers so early

    float v[kWidth], mean[kRows] = {}, rstd[kRows] = {};
#pragma unroll
    for (int r = 0; r < kRows; ++r)
#pragma unroll
        for (int i = 0; i < kPieces; ++i)
            if (column<kWidth>(i) < a.C) {
                x[r][i].unpack(v);
#pragma unroll
                for (int k = 0; k < kWidth; ++k) mean[r] += v[k];
            }
    block_sums(mean, s, 0);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        mean[r] *= a.inverse_C;
#pragma unroll
        for (int i = 0; i < kPieces; ++i)
            if (column<kWidth>(i) < a.C) {
                x[r][i].unpack(v);
#pragma unroll
                for (int k = 0; k < kWidth; ++k) rstd[r] += (v[k] - mean[r]) * (v[k] - mean[r]);
            }
    }
    block_sums(rstd, s, 1);
    if constexpr (kVectors > 1) load_parameters();
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        rstd[r] = rsqrt_approx(rstd[r] * a.inverse_C + kEpsilon);
        if (threadIdx.x == 0 && first + r < a.N) a.mean[first + r] = mean[r], a.rstd[first + r] = rstd[r];
    }
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
        const int c = column<kWidth>(i);
        if (c >= a.C) continue;
        const Affine<kWidth> affine(a, weight[i], bias[i]);
#pragma unroll
        for (int r = 0; r < kRows; ++r)
            if (first + r < a.N) normalize(a, first + r, c, x[r][i], affine, mean[r], rstd[r]);
    }
}

// Any C: a block reads its row three times.
template <int kWidth, class T>
__global__ void __launch_bounds__(kMaxThreads) forward_any_kernel(Forward<T> a) {
    launch_bounds<kMaxThreads>();
    SumsScratch<1>& s = shared<SumsScratch<1>>();
    const int64_t row = blockIdx.x;
    const int step = int(blockDim.x) * kWidth;
    Packed<T, kWidth> x, weight, bias;
    float v[kWidth], mean[1] = {}, rstd[1] = {};
    for (int c = column<kWidth>(0); c < a.C; c += step) {
        x.load(a.inp + row * a.C + c);
        x.unpack(v);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) mean[0] += v[k];
    }
    block_sums(mean, s, 0);
    mean[0] *= a.inverse_C;
    for (int c = column<kWidth>(0); c < a.C; c += step) {
        x.load(a.inp + row * a.C + c);
        x.unpack(v);
#pragma unroll
        for (int k = 0; k < kWidth; ++k) rstd[0] += (v[k] - mean[0]) * (v[k] - mean[0]);
    }
    block_sums(rstd, s, 1);
    rstd[0] = rsqrt_approx(rstd[0] * a.inverse_C + kEpsilon);
    for (int c = column<kWidth>(0); c < a.C; c += step) {
        x.load(a.inp + row * a.C + c);
        weight.load(a.weight + c);
        bias.load(a.bias + c);
        normalize(a, row, c, x, Affine<kWidth>(a, weight, bias), mean[0], rstd[0]);
    }
    if (threadIdx.x == 0) a.mean[row] = mean[0], a.rstd[row] = rstd[0];
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
    float weight_scale, skip_scale, dinp_scale, inverse_C;
};

// What a thread has of a row: its pieces of dout and inp, and the row's mean and rstd.
template <int kPieces, int kWidth, class T>
struct RowParts {
    Packed<T, kWidth> inp[kPieces], dout[kPieces], dskip[kPieces];
    float mean = 0, rstd = 0;

    GPU void load(const Backward<T>& a, int64_t row) {
        row = row_or_last(row, a.N);
        mean = a.mean[row], rstd = a.rstd[row];
#pragma unroll
        for (int i = 0; i < kPieces; ++i) {
            const int64_t at = row * a.C + column_or_last<kWidth>(i, a.C);
            inp[i].load(a.inp + at);
            dout[i].load(a.dout + at);
        }
    }
    GPU void load_skip(const Backward<T>& a, int64_t row, int i) {
        if (a.dskip) dskip[i].load(a.dskip + row_or_last(row, a.N) * a.C + column_or_last<kWidth>(i, a.C));
    }
    // Forgets what has been unpacked: in the second pass over the row it is unpacked again, which takes half the registers.
    GPU void forget() {
#pragma unroll
        for (int i = 0; i < kPieces; ++i) inp[i].forget(), dout[i].forget();
    }
};

// Adds a piece to the sums of g and g * xhat over the row, with g = weight * dout, and to those of dout * xhat and dout
// over the rows.
template <int kWidth, class T>
GPU void add_piece(const Packed<T, kWidth>& inp, const Packed<T, kWidth>& dout, const Packed<T, kWidth>& weight,
                   float mean, float rstd, float& sum_g, float& sum_gx, float (&dweight)[kWidth],
                   float (&dbias)[kWidth]) {
    float x[kWidth], d[kWidth], w[kWidth];
    inp.unpack(x);
    dout.unpack(d);
    weight.unpack(w);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
        const float xhat = (x[k] - mean) * rstd, g = w[k] * d[k];
        dweight[k] += d[k] * xhat;
        dbias[k] += d[k];
        sum_g += g;
        sum_gx += g * xhat;
    }
}

// dinp = dinp_scale * weight_scale * rstd * (g - mean of g - xhat * mean of g * xhat) + skip_scale * dskip.
template <int kWidth, class T>
GPU void store_dinp(const Backward<T>& a, int64_t at, const Packed<T, kWidth>& inp, const Packed<T, kWidth>& dout,
                    const Packed<T, kWidth>& weight, const Packed<T, kWidth>& dskip, float mean, float rstd,
                    float mean_g, float mean_gx) {
    float x[kWidth], d[kWidth], w[kWidth], skip[kWidth];
    inp.unpack(x);
    dout.unpack(d);
    weight.unpack(w);
    dskip.unpack(skip);  // 0 if there is none
    const float scale = a.dinp_scale * a.weight_scale * rstd;
#pragma unroll
    for (int k = 0; k < kWidth; ++k) {
        const float xhat = (x[k] - mean) * rstd;
        x[k] = scale * (w[k] * d[k] - mean_g - xhat * mean_gx) + a.skip_scale * skip[k];
    }
    store(a.dinp + at, x);
}

// Stores a piece of a row of floats. With 8 columns a lane, neighbours exchange halves, so that both of them store parts of
// the same 32 bytes.
template <int kWidth>
GPU void store_columns(float* row, int i, int C, const float (&v)[kWidth]) {
    const int c = column<kWidth>(i);
    if constexpr (kWidth == 8) {
        const bool odd = lane_id() % 2;
        float low[4], high[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const float other = __shfl_xor_sync(kAllLanes, odd ? v[k] : v[k + 4], 1);
            low[k] = odd ? other : v[k];
            high[k] = odd ? v[k + 4] : other;
        }
        const int to = c - (odd ? 4 : 0);  // of the first 8 columns of both; 8 further are the others
        if (to < C) store(row + to, low);
        if (to + 8 < C) store(row + to + 8, high);
    } else {
        if (c < C) store(row + c, v);
    }
}

// Rows up to 16,384 columns need blocks of kNormThreads threads with 4 vectors each, and a thread has 128 registers. Then
// weights and dskip are loaded where they are used.
constexpr bool needs_all_registers(int vectors, int width) { return vectors == 4 && width == 8; }
constexpr int backward_threads(int vectors, int width) {
    return needs_all_registers(vectors, width) ? kNormThreads : kNormThreads / 2;
}
constexpr int backward_blocks(int vectors, int width) { return vectors < 4 && width > 1 ? 2 : 1; }

template <int kVectors, int kRows, int kWidth, class T>
__global__ void __launch_bounds__(backward_threads(kVectors, kWidth), backward_blocks(kVectors, kWidth))
    backward_kernel(Backward<T> a) {
    launch_bounds<backward_threads(kVectors, kWidth), backward_blocks(kVectors, kWidth)>();
    constexpr int kPieces = kVectors * kVec / kWidth;
    constexpr bool kEarly = !needs_all_registers(kVectors, kWidth);
    SumsScratch<2 * kRows>& s = shared<SumsScratch<2 * kRows>>();
    float dweight[kPieces][kWidth] = {}, dbias[kPieces][kWidth] = {};
    Packed<T, kWidth> weight[kPieces];
    const auto load_weight = [&](int i) { weight[i].load(a.weight + column_or_last<kWidth>(i, a.C)); };
    if constexpr (kEarly)
#pragma unroll
        for (int i = 0; i < kPieces; ++i) load_weight(i);
    int turn = 0;
    for (int64_t first = int64_t(blockIdx.x) * kRows; first < a.N; first += int64_t(gridDim.x) * kRows) {
        RowParts<kPieces, kWidth, T> rows[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) rows[r].load(a, first + r);
        if (kEarly && a.dskip)
#pragma unroll
            for (int r = 0; r < kRows; ++r)
#pragma unroll
                for (int i = 0; i < kPieces; ++i) rows[r].load_skip(a, first + r, i);
        float sums[2 * kRows] = {};  // of g, g * xhat
#pragma unroll
        for (int r = 0; r < kRows; ++r)
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
                if constexpr (!kEarly) load_weight(i);
                if (first + r < a.N && column<kWidth>(i) < a.C)
                    add_piece(rows[r].inp[i], rows[r].dout[i], weight[i], rows[r].mean, rows[r].rstd, sums[2 * r],
                              sums[2 * r + 1], dweight[i], dbias[i]);
            }
        block_sums(sums, s, turn);
        turn ^= 1;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            rows[r].forget();
#pragma unroll
            for (int i = 0; i < kPieces; ++i) {
                if constexpr (!kEarly) load_weight(i), rows[r].load_skip(a, first + r, i);
                if (const int c = column<kWidth>(i); first + r < a.N && c < a.C)
                    store_dinp(a, (first + r) * a.C + c, rows[r].inp[i], rows[r].dout[i], weight[i], rows[r].dskip[i],
                               rows[r].mean, rows[r].rstd, sums[2 * r] * a.inverse_C, sums[2 * r + 1] * a.inverse_C);
            }
        }
    }
    float* parts = a.parts + int64_t(blockIdx.x) * 2 * a.C;
#pragma unroll
    for (int i = 0; i < kPieces; ++i)
        store_columns<kWidth>(parts, i, a.C, dweight[i]), store_columns<kWidth>(parts + a.C, i, a.C, dbias[i]);
}

// Any C: reads the row twice; the sums over rows are in `parts`, a thread always has the same columns.
template <int kWidth, class T>
__global__ void __launch_bounds__(kMaxThreads) backward_any_kernel(Backward<T> a) {
    launch_bounds<kMaxThreads>();
    SumsScratch<2>& s = shared<SumsScratch<2>>();
    const int begin = column<kWidth>(0), step = int(blockDim.x) * kWidth;
    float *parts_w = a.parts + int64_t(blockIdx.x) * 2 * a.C, *parts_b = parts_w + a.C;
    float dweight[kWidth] = {}, dbias[kWidth] = {};
    for (int c = begin; c < a.C; c += step) store(parts_w + c, dweight), store(parts_b + c, dbias);
    Packed<T, kWidth> weight;
    RowParts<1, kWidth, T> part;
    int turn = 0;
    for (int64_t row = blockIdx.x; row < a.N; row += gridDim.x) {
        const T *inp = a.inp + row * a.C, *dout = a.dout + row * a.C;
        const float mean = a.mean[row], rstd = a.rstd[row];
        float sums[2] = {};
        for (int c = begin; c < a.C; c += step) {
            part.inp[0].load(inp + c);
            part.dout[0].load(dout + c);
            weight.load(a.weight + c);
            load(dweight, parts_w + c);
            load(dbias, parts_b + c);
            add_piece(part.inp[0], part.dout[0], weight, mean, rstd, sums[0], sums[1], dweight, dbias);
            store(parts_w + c, dweight);
            store(parts_b + c, dbias);
        }
        block_sums(sums, s, turn);
        turn ^= 1;
        for (int c = begin; c < a.C; c += step) {
            part.inp[0].load(inp + c);
            part.dout[0].load(dout + c);
            weight.load(a.weight + c);
            if (a.dskip) part.dskip[0].load(a.dskip + row * a.C + c);
            store_dinp(a, row * a.C + c, part.inp[0], part.dout[0], weight, part.dskip[0], mean, rstd,
                       sums[0] * a.inverse_C, sums[1] * a.inverse_C);
        }
    }
}

// --- Launches ---

template <int kWidth, class T>
void launch_forward(const Forward<T>& a) {
    constexpr int kRows = kWidth == 8 ? 4 : 2;
    const auto launch_rows = [&](auto kernel, int rows, unsigned threads, size_t shared) {
        launch({unsigned(ceil_div(a.N, rows)), threads, shared}, kernel, a);
    };
    if (a.C <= kMaxThreads * kVec)
        return launch_rows(forward_kernel<1, kRows, kWidth, T>, kRows, threads_of_row(a.C, 1),
                           sizeof(SumsScratch<kRows>));
    if constexpr (kWidth > 1)
        if (a.C <= kMaxThreads * 4 * kVec)
            return launch_rows(forward_kernel<4, 1, kWidth, T>, 1, threads_of_row(a.C, 4), sizeof(SumsScratch<1>));
    launch_rows(forward_any_kernel<kWidth, T>, 1, kMaxThreads, sizeof(SumsScratch<1>));
}

// Returns the number of blocks, which is that of the parts.
template <int kWidth, class T>
int launch_backward(const Backward<T>& a) {
    constexpr int kRows = kWidth == 8 ? 4 : 2;
    unsigned blocks = layernorm_blocks(a.N, a.C);
    const auto launch_rows = [&]<int kVectors>() {
        constexpr int kAtOnce = kRows > kVectors ? kRows / kVectors : 1;
        blocks = unsigned(std::min<int64_t>(blocks, ceil_div(a.N, kAtOnce)));
        launch({blocks, threads_of_row(a.C, kVectors), sizeof(SumsScratch<2 * kAtOnce>)},
               backward_kernel<kVectors, kAtOnce, kWidth, T>, a);
    };
    if (a.C <= 2048) {
        launch_rows.template operator()<1>();
        return int(blocks);
    }
    if (a.C <= 4096) {
        launch_rows.template operator()<2>();
        return int(blocks);
    }
    if constexpr (kWidth > 1)
        if (a.C <= backward_threads(4, kWidth) * 4 * kVec) {
            launch_rows.template operator()<4>();
            return int(blocks);
        }
    launch({blocks, kMaxThreads, sizeof(SumsScratch<2>)}, backward_any_kernel<kWidth, T>, a);
    return int(blocks);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void layernorm_forward(const LayerNormForward& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.out, args.inp, args.weight, args.bias);
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
                           .bias_scale = args.bias_scale,
                           .inverse_C = 1 / float(C)};
        aligned ? launch_forward<kWidest<T>>(a) : launch_forward<1>(a);
    });
}

void layernorm_backward(const LayerNormBackward& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last();
    if (N == 0) return;
    const bool aligned = rows_are_aligned(args.dinp, args.dout, args.inp, args.weight, args.dskip);
    const Workspace memory(layernorm_scratch(N, C));
    with_type("layernorm_backward", "inp", args.inp.dtype, [&]<class T>(T) {
        const Backward<T> a{.dinp = args.dinp.as<T>(),
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
                            .dinp_scale = args.dinp_scale,
                            .inverse_C = 1 / float(C)};
        const int blocks = aligned ? launch_backward<kWidest<T>>(a) : launch_backward<1>(a);
        add_parts(a.parts, blocks, {args.dweight.as<float>(), C, args.dweight_scale},
                  {args.dbias.as<float>(), C, args.dbias_scale});
    });
}

}  // namespace llmc
