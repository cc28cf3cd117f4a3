// gelu(x) = u(s x) / s with u(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), s = gelu_scale.
// Hendrycks, Gimpel, "Gaussian error linear units", 2016.
#include "llmc/checks.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops.h"

namespace llmc {

using namespace cpu;

void gelu_forward(const GeluForward& args) {
    check(args);
    with_type("gelu_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        T* out = args.out.as<T>();
        const T* inp = args.inp.as<T>();
        float scale = args.gelu_scale, inverse = 1 / scale;
        parallel_for(args.inp.numel(), 8192, [=](int64_t begin, int64_t end) {
#pragma omp simd
            for (int64_t i = begin; i < end; ++i) out[i] = from_float<T>(inverse * gelu(scale * to_float(inp[i])));
        });
    });
}

void gelu_backward(const GeluBackward& args) {
    check(args);
    with_type("gelu_backward", "inp", args.inp.dtype, [&]<class T>(T) {
        T* dinp = args.dinp.as<T>();
        const T *dout = args.dout.as<T>(), *inp = args.inp.as<T>();
        float scale = args.gelu_scale;
        parallel_for(args.inp.numel(), 8192, [=](int64_t begin, int64_t end) {
#pragma omp simd  // dinp may be dout: element i depends on element i alone
            for (int64_t i = begin; i < end; ++i)
                dinp[i] = from_float<T>(to_float(dout[i]) * gelu_derivative(scale * to_float(inp[i])));
        });
    });
}

}  // namespace llmc
