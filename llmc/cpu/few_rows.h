// A linear layer of a few rows, as in sampling token by token. Every weight is read once and used a few times, so
// memory bandwidth is the limit. A library that first repacks the weights takes several times as long.
#pragma once
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/vector.h"

namespace llmc::cpu::LLMC_ISA {

constexpr int64_t kFewRows = 4;

// out[oc] = inp . weight[oc] for kRows rows of the weight.
template <int kRows, class T>
inline void dot_rows(float* out, const T* inp, const T* weight, int64_t C) {
    Vector total[kRows] = {};
    for_vectors(C, [&](int64_t c, auto count) {
        const Vector x = load_as(inp + c, count);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) total[r] += x * load_as(weight + r * C + c, count);
    });
    for (int r = 0; r < kRows; ++r) out[r] = sum(total[r]);
}

// out (N, OC) = scale * inp (N, C) weight (OC, C)^T + bias_scale * bias (OC) in fp32; bias may be null.
template <class T>
void multiply_few_rows(float* out, const T* inp, const T* weight, const T* bias, float scale, float bias_scale,
                       int64_t N, int64_t C, int64_t OC) {
    constexpr int kRows = 8;
    parallel_for((OC + kRows - 1) / kRows, std::max<int64_t>(1, 32768 / (kRows * C)), [=](int64_t begin, int64_t end) {
        const int64_t last = std::min(end * kRows, OC);
        for (int64_t n = 0; n < N; ++n) {
            float* to = out + n * OC;
            int64_t oc = begin * kRows;
            for (; oc + kRows <= last; oc += kRows) dot_rows<kRows>(to + oc, inp + n * C, weight + oc * C, C);
            for (; oc < last; ++oc) dot_rows<1>(to + oc, inp + n * C, weight + oc * C, C);
            for (oc = begin * kRows; oc < last; ++oc)
                to[oc] = scale * to[oc] + (bias ? bias_scale * to_float(bias[oc]) : 0.0f);
        }
    });
}

}  // namespace llmc::cpu::LLMC_ISA
