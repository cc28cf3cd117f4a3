// Conversion between the float types.
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

void cast(Tensor dst, Tensor src) {
    check_cast(dst, src);
    with_type("cast", "src", src.dtype, [&]<class S>(S) {
        with_type("cast", "dst", dst.dtype, [&]<class D>(D) {
            D* to = dst.as<D>();
            const S* from = src.as<S>();
            parallel_for(src.numel(), 4096, [=](int64_t begin, int64_t end) {
#pragma omp simd
                for (int64_t i = begin; i < end; ++i) to[i] = from_float<D>(to_float(from[i]));
            });
        });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
