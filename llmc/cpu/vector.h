// Loops over arrays of either element type, a vector at a time, and the model's elementwise functions.
#pragma once
#include "llmc/cpu/simd.h"
#include "llmc/ops/gelu.h"

namespace llmc::cpu::LLMC_ISA {

// Calls body(i, count) for the vectors [i, i + count) of [0, n). count is the compile-time constant kLanes for all but
// the last one.
template <class Body>
inline void for_vectors(int64_t n, Body&& body) {
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) body(i, Whole{});
    if (i < n) body(i, n - i);
}

// x with zeros in the lanes after the first `count`.
template <class Count>
inline Vector first_of(Vector x, Count count) {
    return lane_numbers() < int32_t(count) ? x : Vector{};
}

template <class T>
void to_floats(float* dst, const T* src, int64_t n) {
    for_vectors(n, [=](int64_t i, auto count) { store_as(dst + i, load_as(src + i, count), count); });
}

template <class T>
void from_floats(T* dst, const float* src, int64_t n) {
    for_vectors(n, [=](int64_t i, auto count) { store_as(dst + i, load_as(src + i, count), count); });
}

constexpr float kLog2e = 1.44269504089f, kLn2 = 0.69314718056f;

// GELU's u(x) = x * sigmoid(2z) (llmc/ops/gelu.h): this form is accurate in the left tail too.
constexpr float kTwoZ1 = 2 * kGelu1, kTwoZ3 = 2 * kGelu3;  // 2z = kTwoZ1 x + kTwoZ3 x^3

inline Vector gelu(Vector x) {
    const Vector minus_2z = x * (-kLog2e * kTwoZ1 - kLog2e * kTwoZ3 * x * x);  // in units of log 2
    return x / (1.0f + exp2(minus_2z));
}

inline Vector gelu_derivative(Vector x) {
    const Vector square = x * x, minus_2z = x * (-kLog2e * kTwoZ1 - kLog2e * kTwoZ3 * square);
    const Vector s = 1.0f / (1.0f + exp2(minus_2z));
    return s + x * s * (1.0f - s) * (kTwoZ1 + 3.0f * kTwoZ3 * square);
}

}  // namespace llmc::cpu::LLMC_ISA
