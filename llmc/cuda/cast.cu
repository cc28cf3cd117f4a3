// Conversion between the float types: 2 + 4 bytes an element between bf16 and fp32. A thread converts two pieces, each of
// 16 bytes of the wider type: the next lane has the next piece, so that no access has sectors in part.
#include "llmc/cuda/elementwise.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace cuda {
namespace {

constexpr int kPieces = 2;
template <class D, class S>
constexpr int kWidth = sizeof(D) > sizeof(S) ? kWidest<D> : kWidest<S>;

template <class D, class S>
__global__ void __launch_bounds__(kElementThreads) cast_kernel(D* dst, const S* src, int64_t n, bool aligned) {
    launch_bounds<kElementThreads>();
    float x[kPieces][kWidth<D, S>];
    const auto element = [](int j) {
        return ((int64_t(blockIdx.x) * kPieces + j) * kElementThreads + threadIdx.x) * kWidth<D, S>;
    };
    if (aligned && element(kPieces - 1) + kWidth<D, S> <= n) {
#pragma unroll
        for (int j = 0; j < kPieces; ++j) load(x[j], src + element(j));
#pragma unroll
        for (int j = 0; j < kPieces; ++j) store(dst + element(j), x[j]);
        return;
    }
#pragma unroll
    for (int j = 0; j < kPieces; ++j) {
        load_upto(x[j], src + element(j), n - element(j), aligned);
        store_upto(dst + element(j), x[j], n - element(j), aligned);
    }
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
            const int64_t of_block = kPieces * kElementThreads * kWidth<D, S>;
            launch({unsigned(ceil_div(n, of_block)), kElementThreads}, cast_kernel<D, S>, dst.as<D>(), src.as<S>(), n,
                   is_aligned(dst) && is_aligned(src));
        });
    });
}

}  // namespace llmc
