// GELU by itself, forward and backward.
//
//   gelu_forward    out = u(s inp) / s              2 * 2 bytes an element in bf16
//   gelu_backward   dinp = dout * u'(s inp)         3 * 2
#include "llmc/cuda/elementwise.h"
#include "llmc/cuda/gelu.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    gelu_forward_kernel(T* out, const T* inp, int64_t n, GeluFactors factors, bool aligned) {
    launch_bounds<kElementThreads>();
    const int64_t i = first_element(), count = n - i;
    if (count <= 0) return;
    float x[kVec];
    load_upto(x, inp + i, count, aligned);
#pragma unroll
    for (float& v : x) v = gelu<T>(v, factors);
    store_upto(out + i, x, count, aligned);
}

template <class T>
__global__ void __launch_bounds__(kElementThreads)
    gelu_backward_kernel(T* dinp, const T* dout, const T* inp, int64_t n, GeluFactors factors, bool aligned) {
    launch_bounds<kElementThreads>();
    const int64_t i = first_element(), count = n - i;
    if (count <= 0) return;
    float x[kVec], d[kVec];
    load_upto(x, inp + i, count, aligned);
    load_upto(d, dout + i, count, aligned);
#pragma unroll
    for (int k = 0; k < kVec; ++k) d[k] *= gelu_derivative<T>(x[k], factors);
    store_upto(dinp + i, d, count, aligned);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void gelu_forward(const GeluForward& args) {
    check(args);
    const int64_t n = args.inp.numel();
    if (n == 0) return;
    with_type("gelu_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        launch(one_thread_per_vector(n), gelu_forward_kernel<T>, args.out.as<T>(), args.inp.as<T>(), n,
               GeluFactors(args.gelu_scale), is_aligned(args.out) && is_aligned(args.inp));
    });
}

void gelu_backward(const GeluBackward& args) {
    check(args);
    const int64_t n = args.inp.numel();
    if (n == 0) return;
    with_type("gelu_backward", "inp", args.inp.dtype, [&]<class T>(T) {
        launch(one_thread_per_vector(n), gelu_backward_kernel<T>, args.dinp.as<T>(), args.dout.as<T>(),
               args.inp.as<T>(), n, GeluFactors(args.gelu_scale),
               is_aligned(args.dinp) && is_aligned(args.dout) && is_aligned(args.inp));
    });
}

}  // namespace llmc
