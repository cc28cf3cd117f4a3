// GELU by itself, forward and backward, and conversion between the float types.
//
//   gelu_forward    out = u(s inp) / s              2 * 2 bytes an element in bf16
//   gelu_backward   dinp = dout * u'(s inp)         3 * 2
//   cast            dst = src                       2 + 4 between bf16 and fp32
//
// Bound: memory; the floor is bytes / copy bandwidth. One thread per 8 elements, 16-byte accesses.
#include "llmc/cuda/gelu.h"
#include "llmc/cuda/host.h"
#include "llmc/cuda/vec.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kThreads = 256;

GPU int64_t first_element() { return (int64_t(blockIdx.x) * kThreads + threadIdx.x) * kVec; }

Launch one_thread_per_vector(int64_t n) { return {unsigned(ceil_div(n, kThreads * kVec)), kThreads}; }

template <class T>
__global__ void __launch_bounds__(kThreads)
    gelu_forward_kernel(T* out, const T* inp, int64_t n, float scale, bool aligned) {
    const int64_t i = first_element(), count = n - i;
    if (count <= 0) return;
    float x[kVec];
    load_upto(x, inp + i, count, aligned);
#pragma unroll
    for (float& v : x) v = gelu<T>(scale * v) / scale;
    store_upto(out + i, x, count, aligned);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    gelu_backward_kernel(T* dinp, const T* dout, const T* inp, int64_t n, float scale, bool aligned) {
    const int64_t i = first_element(), count = n - i;
    if (count <= 0) return;
    float x[kVec], d[kVec];
    load_upto(x, inp + i, count, aligned);
    load_upto(d, dout + i, count, aligned);
#pragma unroll
    for (int k = 0; k < kVec; ++k) d[k] *= gelu_derivative<T>(scale * x[k]);
    store_upto(dinp + i, d, count, aligned);
}

template <class D, class S>
__global__ void __launch_bounds__(kThreads) cast_kernel(D* dst, const S* src, int64_t n, bool aligned) {
    const int64_t i = first_element(), count = n - i;
    if (count <= 0) return;
    float x[kVec];
    load_upto(x, src + i, count, aligned);
    store_upto(dst + i, x, count, aligned);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

void gelu_forward(const GeluForward& args) {
    check(args);
    const int64_t n = args.inp.numel();
    if (n == 0) return;
    with_type("gelu_forward", "inp", args.inp.dtype, [&]<class T>(T) {
        launch(one_thread_per_vector(n), gelu_forward_kernel<T>, args.out.as<T>(), args.inp.as<T>(), n, args.gelu_scale,
               is_aligned(args.out) && is_aligned(args.inp));
    });
}

void gelu_backward(const GeluBackward& args) {
    check(args);
    const int64_t n = args.inp.numel();
    if (n == 0) return;
    with_type("gelu_backward", "inp", args.inp.dtype, [&]<class T>(T) {
        launch(one_thread_per_vector(n), gelu_backward_kernel<T>, args.dinp.as<T>(), args.dout.as<T>(),
               args.inp.as<T>(), n, args.gelu_scale,
               is_aligned(args.dinp) && is_aligned(args.dout) && is_aligned(args.inp));
    });
}

void cast(Tensor dst, Tensor src) {
    check_cast(dst, src);
    const int64_t n = src.numel();
    if (n == 0) return;
    with_type("cast", "src", src.dtype, [&]<class S>(S) {
        with_type("cast", "dst", dst.dtype, [&]<class D>(D) {
            launch(one_thread_per_vector(n), cast_kernel<D, S>, dst.as<D>(), src.as<S>(), n,
                   is_aligned(dst) && is_aligned(src));
        });
    });
}

}  // namespace llmc
