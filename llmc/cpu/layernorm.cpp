// Layer norm over the rows of (N, C). Ba, Kiros, Hinton, "Layer normalization", 2016. Formulas: llmc/ops.h.
#include <cmath>
#include "llmc/checks.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops.h"

namespace llmc {

using namespace cpu;

namespace {

constexpr float kEpsilon = 1e-5f;

template <class T>
void forward_row(const LayerNormForward& args, const float* gain, const float* shift, int64_t n, int64_t C) {
    T* out = args.out.as<T>() + n * C;
    const T* inp = args.inp.as<T>() + n * C;
    float sum = 0, squares = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < C; ++c) sum += to_float(inp[c]);
    float mean = sum / float(C);
// A second pass, over a row that is in cache by now: E[x^2] - mean^2 would cancel.
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < C; ++c) {
        float d = to_float(inp[c]) - mean;
        squares += d * d;
    }
    float rstd = 1 / std::sqrt(squares / float(C) + kEpsilon);
#pragma omp simd
    for (int64_t c = 0; c < C; ++c) out[c] = from_float<T>((to_float(inp[c]) - mean) * rstd * gain[c] + shift[c]);
    args.mean.as<float>()[n] = mean;
    args.rstd.as<float>()[n] = rstd;
}

// dinp of one row, and the row's part of dweight and dbias added to `dgain` and `dshift`.
template <class T>
void backward_row(const LayerNormBackward& args, const float* gain, float* dgain, float* dshift, int64_t n, int64_t C) {
    const T *dout = args.dout.as<T>() + n * C, *inp = args.inp.as<T>() + n * C;
    float mean = args.mean.as<float>()[n], rstd = args.rstd.as<float>()[n];
    float sum_g = 0, sum_gx = 0;
#pragma omp simd reduction(+ : sum_g, sum_gx)
    for (int64_t c = 0; c < C; ++c) {
        float d = to_float(dout[c]), x = (to_float(inp[c]) - mean) * rstd, g = gain[c] * d;
        sum_g += g;
        sum_gx += g * x;
        dgain[c] += d * x;
        dshift[c] += d;
    }
    float mean_g = sum_g / float(C), mean_gx = sum_gx / float(C), scale = args.dinp_scale * rstd,
          skip = args.skip_scale;
    T* dinp = args.dinp.as<T>() + n * C;
    if (args.dskip) {
        const T* dskip = args.dskip.as<T>() + n * C;
#pragma omp simd  // dinp may be dskip: element c depends on element c alone
        for (int64_t c = 0; c < C; ++c) {
            float x = (to_float(inp[c]) - mean) * rstd, g = gain[c] * to_float(dout[c]);
            dinp[c] = from_float<T>(skip * to_float(dskip[c]) + scale * (g - mean_g - x * mean_gx));
        }
    } else {
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) {
            float x = (to_float(inp[c]) - mean) * rstd, g = gain[c] * to_float(dout[c]);
            dinp[c] = from_float<T>(scale * (g - mean_g - x * mean_gx));
        }
    }
}

// dst[c] = scale * src[c]
template <class T>
void scaled_copy(float* dst, const Tensor& src, float scale, int64_t C) {
    for (int64_t c = 0; c < C; ++c) dst[c] = scale * to_float(src.as<T>()[c]);
}

}  // namespace

void layernorm_forward(const LayerNormForward& args) {
    check(args);
    int64_t N = args.inp.rows(), C = args.inp.last();
    with_type("layernorm_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        float *gain = scratch(Scratch::weight, 2 * C), *shift = gain + C;
        scaled_copy<T>(gain, args.weight, args.weight_scale, C);
        scaled_copy<T>(shift, args.bias, args.bias_scale, C);
        parallel_for(N, row_grain(C), [&](int64_t begin, int64_t end) {
            for (int64_t n = begin; n < end; ++n) forward_row<T>(args, gain, shift, n, C);
        });
    });
}

// The rows are cut into a number of blocks that does not depend on the threads; each block sums its rows' parts of
// dweight and dbias, and the blocks are added in order: the same bits for any number of threads.
void layernorm_backward(const LayerNormBackward& args) {
    check(args);
    int64_t N = args.inp.rows(), C = args.inp.last();
    with_type("layernorm_backward", "inp", args.inp.dtype, [&]<class T>(T) {
        int64_t blocks = std::clamp<int64_t>(N / 32, 1, 64);
        float* gain = scratch(Scratch::weight, C);
        float* partial = scratch(Scratch::partial, blocks * 2 * C);  // (blocks, 2, C)
        scaled_copy<T>(gain, args.weight, args.weight_scale, C);
        parallel_for(blocks, std::max<int64_t>(1, row_grain(C) * blocks / std::max<int64_t>(N, 1)),
                     [&](int64_t begin, int64_t end) {
                         for (int64_t block = begin; block < end; ++block) {
                             float *dgain = partial + block * 2 * C, *dshift = dgain + C;
                             std::fill(dgain, dgain + 2 * C, 0.0f);
                             for (int64_t n = block * N / blocks; n < (block + 1) * N / blocks; ++n)
                                 backward_row<T>(args, gain, dgain, dshift, n, C);
                         }
                     });
        for (int64_t block = 1; block < blocks; ++block) {
#pragma omp simd
            for (int64_t c = 0; c < 2 * C; ++c) partial[c] += partial[block * 2 * C + c];
        }
        float *dweight = args.dweight.as<float>(), *dbias = args.dbias.as<float>();
        for (int64_t c = 0; c < C; ++c) {
            dweight[c] += args.dweight_scale * partial[c];
            dbias[c] += args.dbias_scale * partial[C + c];
        }
    });
}

}  // namespace llmc
