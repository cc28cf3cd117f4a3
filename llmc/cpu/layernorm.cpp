// Layer norm over the rows of (N, C). Ba, Kiros, Hinton, "Layer normalization", 2016. Formulas: llmc/ops/ops.h.
#include <cmath>
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/scratch.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

constexpr float kEpsilon = 1e-5f;

template <class T>
void forward_row(const LayerNormForward& args, const float* gain, const float* shift, int64_t n, int64_t C) {
    T* out = args.out.as<T>() + n * C;
    const T* inp = args.inp.as<T>() + n * C;
    Vector total{}, squares{};
    for_vectors(C, [&](int64_t c, auto count) { total += load_as(inp + c, count); });
    const float mean = sum(total) / float(C);
    // A second pass, because E[x^2] - mean^2 would lose digits to cancellation. The row is in cache now.
    for_vectors(C, [&](int64_t c, auto count) {
        const Vector d = first_of(load_as(inp + c, count) - mean, count);
        squares += d * d;
    });
    const float rstd = 1 / std::sqrt(sum(squares) / float(C) + kEpsilon);
    for_vectors(C, [&](int64_t c, auto count) {
        const Vector x = (load_as(inp + c, count) - mean) * rstd;
        store_as(out + c, x * load_as(gain + c, count) + load_as(shift + c, count), count);
    });
    args.mean.as<float>()[n] = mean;
    args.rstd.as<float>()[n] = rstd;
}

// dinp of one row, and the row's part of dweight and dbias added to `dgain` and `dshift`.
template <class T>
void backward_row(const LayerNormBackward& args, const float* gain, float* dgain, float* dshift, int64_t n, int64_t C) {
    const T *dout = args.dout.as<T>() + n * C, *inp = args.inp.as<T>() + n * C;
    const T* dskip = args.dskip ? args.dskip.as<T>() + n * C : nullptr;
    T* dinp = args.dinp.as<T>() + n * C;
    const float mean = args.mean.as<float>()[n], rstd = args.rstd.as<float>()[n];
    Vector total_g{}, total_gx{};
    for_vectors(C, [&](int64_t c, auto count) {
        const Vector d = load_as(dout + c, count), x = (load_as(inp + c, count) - mean) * rstd;
        const Vector g = load_as(gain + c, count) * d;
        total_g += g;  // d and g are 0 after the last channel
        total_gx += g * x;
        store_as(dgain + c, load_as(dgain + c, count) + d * x, count);
        store_as(dshift + c, load_as(dshift + c, count) + d, count);
    });
    const float mean_g = sum(total_g) / float(C), mean_gx = sum(total_gx) / float(C);
    const float scale = args.dinp_scale * rstd, skip = args.skip_scale;
    for_vectors(C, [&](int64_t c, auto count) {
        const Vector x = (load_as(inp + c, count) - mean) * rstd,
                     g = load_as(gain + c, count) * load_as(dout + c, count);
        Vector d = scale * (g - mean_g - x * mean_gx);
        if (dskip) d += skip * load_as(dskip + c, count);  // dinp may be dskip
        store_as(dinp + c, d, count);
    });
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

// The rows are divided into a number of blocks that does not depend on the threads. Each block sums its rows' parts of
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

}  // namespace llmc::cpu::LLMC_ISA
