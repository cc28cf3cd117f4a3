// The three gradients of a linear layer. Formulas: llmc/ops/ops.h; the product: matmul/bf16.h and matmul/fp32.h.
//
//   dinp     dout weight, times gelu'(pre_gelu) in the epilogue where the input was a GELU's output
//   dweight  dout^T inp: few tiles and a long K (the rows of the batch), so K is divided, and blocks add in turn
//   dbias    column sums of dout: in bf16 a by-product of dweight's kernel, whose blocks in the first column of tiles
//            also multiply their operand by ones; in fp32, or without dweight, a kernel of its own
#include "llmc/cuda/matmul/multiply.h"
#include "llmc/ops/checks.h"
#include "llmc/ops/device.h"

namespace llmc {

using namespace cuda;

namespace {

template <class T>
void input_gradient(const MatmulBackward& args, int64_t N, int64_t C, int64_t OC) {
    const bool aligned = rows_are_aligned(args.dinp, args.dout, args.weight, args.pre_gelu);
    const Problem<T> problem{args.dout.as<T>(), args.weight.as<T>(), int(N), int(C), int(OC)};
    const Tensors<T> tensors{.out = args.dinp.as<T>(),
                             .input = args.pre_gelu.as<T>(),
                             .N = int(C),
                             .aligned = rows_are_aligned(args.dinp, args.pre_gelu)};
    if (args.pre_gelu)
        multiply<false, true>(problem, aligned,
                              GeluGradient<T>{tensors, args.dinp_scale, GeluFactors(args.gelu_scale)});
    else
        multiply<false, true>(problem, aligned, Linear<T>{tensors, args.dinp_scale});
}

template <class T>
void weight_gradient(const MatmulBackward& args, int64_t N, int64_t C, int64_t OC, const ColumnSum& dbias) {
    const bool aligned = rows_are_aligned(args.dout, args.inp, args.dweight);
    const Problem<T> problem{args.dout.as<T>(), args.inp.as<T>(), int(OC), int(C), int(N)};
    float* dweight = args.dweight.as<float>();
    const Tensors<float> tensors{.out = dweight,
                                 .input = args.overwrite_dweight ? nullptr : dweight,
                                 .N = int(C),
                                 .aligned = rows_are_aligned(args.dweight)};
    multiply<true, true>(problem, aligned, Accumulate{tensors, args.dweight_scale}, dbias);
}

}  // namespace

void matmul_backward(const MatmulBackward& args) {
    check(args);
    const int64_t N = args.dout.rows(), OC = args.dout.last(), C = channels_of(args);
    if (N == 0) {
        if (args.dweight && args.overwrite_dweight) device::fill_zero(args.dweight.data, args.dweight.bytes());
        return;
    }
    const ColumnSum dbias{args.dbias.as<float>(), OC, args.dbias_scale};
    const bool fused = args.dweight && args.dbias && args.dout.dtype == DType::bf16;
    with_type("matmul_backward", "dout", args.dout.dtype, [&]<class T>(T) {
        if (args.dinp) input_gradient<T>(args, N, C, OC);
        if (args.dweight) weight_gradient<T>(args, N, C, OC, fused ? dbias : ColumnSum{});
    });
    if (args.dbias && !fused) add_column_sums(args.dout, dbias);
}

}  // namespace llmc
