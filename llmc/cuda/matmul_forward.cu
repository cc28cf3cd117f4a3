// out = epilogue(scale inp weight^T + bias_scale bias): plain, GELU keeping the pre-activation, or residual added.
// Formulas: llmc/ops/ops.h; the product: matmul/bf16.h and matmul/fp32.h.
//
// The residual add in the epilogue moves 2 N OC more bytes in a kernel that is not bound by memory, so that the layer
// norm after it needs no second input; the GELU saves a pass of its own, 6 N OC bytes.
#include "llmc/cuda/matmul/multiply.h"
#include "llmc/ops/checks.h"

namespace llmc {

using namespace cuda;

void matmul_forward(const MatmulForward& args) {
    check(args);
    const int64_t N = args.inp.rows(), C = args.inp.last(), OC = args.weight.rows();
    const bool aligned = rows_are_aligned(args.out, args.inp, args.weight, args.bias, args.pre_gelu, args.residual);
    with_type("matmul_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        const Problem<T> problem{args.inp.as<T>(), args.weight.as<T>(), int(N), int(OC), int(C)};
        const Tensors<T> tensors{.out = args.out.as<T>(),
                                 .kept = args.pre_gelu.as<T>(),
                                 .input = args.residual.as<T>(),
                                 .bias = args.bias.as<T>(),
                                 .bias_scale = args.bias_scale,
                                 .N = int(OC),
                                 .aligned = rows_are_aligned(args.out, args.bias, args.pre_gelu, args.residual)};
        if (args.pre_gelu)
            multiply<false, false>(problem, aligned, LinearGelu<T>{tensors, args.scale, GeluFactors(args.gelu_scale)});
        else if (args.residual)
            multiply<false, false>(problem, aligned, LinearResidual<T>{tensors, args.scale, args.skip_scale});
        else
            multiply<false, false>(problem, aligned, Linear<T>{tensors, args.scale});
    });
}

}  // namespace llmc
