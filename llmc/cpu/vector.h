// Elementwise functions written so that the compiler vectorises loops over them: no branches, no calls, no tables.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include "llmc/tensor.h"

namespace llmc::cpu {

// Where fast_exp ends, as the bits of -87 and 88. Not const on purpose: gcc 12 follows a constant bound through the
// rest of an expression, computes two versions of it, and picks one per element, ten times slower. Integers, so that no
// store of floats can change them.
inline uint32_t exp_lowest = std::bit_cast<uint32_t>(-87.0f), exp_highest = std::bit_cast<uint32_t>(88.0f);

// e^x, relative error below 2e-7 for x in [-87, 88]; outside, the value at the nearer end. NaN gives NaN.
// x = n ln2 + r, |r| <= ln2/2: a polynomial for e^r (coefficients: Moshier, Cephes, expf), and n added to the exponent.
inline float fast_exp(float x) {
    constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits of the mantissa
    float lowest = std::bit_cast<float>(exp_lowest), highest = std::bit_cast<float>(exp_highest);
    x = x < lowest ? lowest : x;
    x = x > highest ? highest : x;
    float shifted = x * 1.44269504089f + kRound;
    float n = shifted - kRound;
    float r = x - n * 0.693359375f;  // ln2 in two parts, the first exact in a few bits
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    float y = p * (r * r) + r + 1.0f;
    return y * std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + 0x3f800000u);
}

// u(x) = 0.5 x (1 + tanh z) with z = sqrt(2/pi) (x + 0.044715 x^3), computed as x * sigmoid(2z): exact also in the left
// tail.
constexpr float kGelu1 = 1.5957691216f;  // 2 sqrt(2/pi)
constexpr float kGelu3 = 1.5957691216f * 0.044715f;

inline float gelu(float x) {
    float z = x * (kGelu1 + kGelu3 * x * x);
    return x / (1.0f + fast_exp(-z));
}

inline float gelu_derivative(float x) {
    float z = x * (kGelu1 + kGelu3 * x * x);
    float s = 1.0f / (1.0f + fast_exp(-z));
    return s + x * s * (1.0f - s) * (kGelu1 + 3.0f * kGelu3 * x * x);
}

template <class T>
void to_floats(float* dst, const T* src, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) dst[i] = to_float(src[i]);
}

template <class T>
void from_floats(T* dst, const float* src, int64_t n) {
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) dst[i] = from_float<T>(src[i]);
}

}  // namespace llmc::cpu
