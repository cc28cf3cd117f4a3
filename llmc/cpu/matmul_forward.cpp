// The linear layer: product, bias, GELU, residual. Formulas: llmc/ops/ops.h.
#include "llmc/cpu/few_rows.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/matmul.h"
#include "llmc/cpu/scratch.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

// fp32 bias_scale * bias, or nullptr.
const float* scaled_bias(const Tensor& bias, float scale) {
    if (!bias) return nullptr;
    int64_t n = bias.numel();
    if (bias.dtype == DType::f32 && scale == 1) return bias.as<float>();
    float* out = scratch(Scratch::bias, n);
    with_type("matmul_forward", "bias", bias.dtype, [&]<class T>(T) {
        for (int64_t i = 0; i < n; ++i) out[i] = scale * to_float(bias.as<T>()[i]);
    });
    return out;
}

// The pass over elements [begin, end) of `linear`: from the product's result, of type L, to tensors of type T.
template <class T, class L>
void finish_forward(const MatmulForward& args, const L* linear, int64_t offset, int64_t begin, int64_t end) {
    T* out = args.out.as<T>() + offset + begin;
    linear += begin;
    if (args.pre_gelu) {
        T* pre_gelu = args.pre_gelu.as<T>() + offset + begin;
        const float scale = args.gelu_scale, inverse = 1 / scale;
        const bool in_place = static_cast<const void*>(linear) == pre_gelu;
        for_vectors(end - begin, [=](int64_t i, auto count) {
            if (!in_place) store_as(pre_gelu + i, load_as(linear + i, count), count);
            store_as(out + i, inverse * gelu(scale * load_as(pre_gelu + i, count)), count);  // of the rounded value
        });
    } else if (args.residual) {
        const T* residual = args.residual.as<T>() + offset + begin;
        const float skip = args.skip_scale;
        for_vectors(end - begin, [=](int64_t i, auto count) {
            store_as(out + i, skip * load_as(residual + i, count) + load_as(linear + i, count), count);
        });
    } else {
        from_floats(out, reinterpret_cast<const float*>(linear), end - begin);
    }
}

// Rows [row, row + rows): the product, then the pass over it. `weight` and `bias` are in the type that products take.
template <class T>
void forward_block(const MatmulForward& args, const void* weight, const float* bias, float scale, int64_t row,
                   int64_t rows, int64_t C, int64_t OC) {
    bool native = is_native(args.inp.dtype);
    // A product of native type is written to its destination, unless a residual is added; a gelu reads it from there.
    bool in_place = native && !args.residual;
    void* linear = !in_place ? scratch(Scratch::product, rows * OC)
                             : at_row(args.pre_gelu ? args.pre_gelu : args.out, row);
    multiply({.m = rows,
              .n = OC,
              .k = C,
              .a = source(args.inp, row, rows, Scratch::inp),
              .b = weight,
              .c = linear,
              .b_transposed = true,
              .in = native ? args.inp.dtype : DType::f32,
              .out = in_place ? args.out.dtype : DType::f32,
              .alpha = scale,
              .bias = bias});
    if (in_place && !args.pre_gelu) return;
    parallel_for(rows * OC, 8192, [&](int64_t begin, int64_t end) {
        if (in_place)
            finish_forward<T>(args, static_cast<const T*>(linear), row * OC, begin, end);
        else
            finish_forward<T>(args, static_cast<const float*>(linear), row * OC, begin, end);
    });
}

}  // namespace

void matmul_forward(const MatmulForward& args) {
    check(args);
    int64_t N = args.inp.rows(), C = args.inp.last(), OC = args.weight.rows();
    if (N <= kFewRows) {
        float* linear = scratch(Scratch::product, N * OC);
        return with_type("matmul_forward", "inp", args.inp.dtype, [&]<class T>(T) {
            multiply_few_rows(linear, args.inp.as<T>(), args.weight.as<T>(), args.bias.as<T>(), args.scale,
                              args.bias_scale, N, C, OC);
            finish_forward<T>(args, linear, 0, 0, N * OC);
        });
    }
    // The product multiplies its bias by its scale, so divide by it here. A scale of 0 becomes one so small that
    // nothing is left of the product.
    float scale = args.scale == 0 ? 1e-30f : args.scale;
    const float* bias = scaled_bias(args.bias, args.bias_scale / scale);
    const void* weight = source(args.weight, 0, OC, Scratch::weight);
    with_type("matmul_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        in_blocks(N, args.weight,
                  [&](int64_t row, int64_t rows) { forward_block<T>(args, weight, bias, scale, row, rows, C, OC); });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
