// gelu(x) = u(s x) / s with u(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), s = gelu_scale.
// Hendrycks, Gimpel, "Gaussian error linear units", 2016.
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

void gelu_forward(const GeluForward& args) {
    check(args);
    with_type("gelu_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        T* out = args.out.as<T>();
        const T* inp = args.inp.as<T>();
        float scale = args.gelu_scale, inverse = 1 / scale;
        parallel_for(args.inp.numel(), 8192, [=](int64_t begin, int64_t end) {
            for_vectors(end - begin, [=](int64_t i, auto count) {
                store_as(out + begin + i, inverse * gelu(scale * load_as(inp + begin + i, count)), count);
            });
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
            for_vectors(end - begin, [=](int64_t i, auto count) {  // dinp may be dout
                const Vector derivative = gelu_derivative(scale * load_as(inp + begin + i, count));
                store_as(dinp + begin + i, load_as(dout + begin + i, count) * derivative, count);
            });
        });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
