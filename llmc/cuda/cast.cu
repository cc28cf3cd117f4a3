// Conversion between the float types: 2 + 4 bytes an element between bf16 and fp32.
#include "llmc/cuda/elementwise.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

template <class D, class S>
__global__ void __launch_bounds__(kElementThreads) cast_kernel(D* dst, const S* src, int64_t n, bool aligned) {
    launch_bounds<kElementThreads>();
    const int64_t i = first_element(), count = n - i;
    if (count <= 0) return;
    float x[kVec];
    load_upto(x, src + i, count, aligned);
    store_upto(dst + i, x, count, aligned);
}

}  // namespace
}  // namespace cuda

using namespace cuda;

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
