// The inputs of attention's softmax, for coordinate checks. Formula: llmc/ops/ops.h.
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/parallel.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

void attention_logits(const AttentionLogits& args) {
    const AttentionShape s = check(args);
    with_type("attention_logits", "qkv", args.qkv.dtype, [&]<class E>(E) {
        parallel_for(s.B * s.H * s.T, 1, [&](int64_t begin, int64_t end) {
            for (int64_t row = begin; row < end; ++row) {
                const int64_t i = row % s.T, head = row / s.T, b = head / s.H, h = head % s.H;
                const E* q = args.qkv.as<E>() + (b * s.T + i) * 3 * s.C() + h * s.D;
                float* out = args.out.as<float>() + head * (s.T * (s.T + 1) / 2) + i * (i + 1) / 2;
                for (int64_t j = 0; j <= i; ++j) {
                    const E* k = args.qkv.as<E>() + (b * s.T + j) * 3 * s.C() + s.C() + h * s.D;
                    float sum = 0;
#pragma omp simd reduction(+ : sum)
                    for (int64_t d = 0; d < s.D; ++d) sum += to_float(q[d]) * to_float(k[d]);
                    out[j] = args.logit_scale * sum;
                }
            }
        });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
