// A vector register of kLanes numbers and its operations, in the vector extensions of gcc and clang. Intrinsics only
// for instructions that these extensions cannot express.
#pragma once
#include <algorithm>
#include <bit>
#include <cstdint>
#include <type_traits>
#include <utility>
#include "llmc/core/tensor.h"
#include "llmc/cpu/kernels.h"

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define LLMC_AVX512
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // gcc 12 warns about its own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif
#if defined(LLMC_AVX512) && defined(__AVX512BF16__)
#define LLMC_AVX512_BF16
#endif

namespace llmc::cpu::LLMC_ISA {

#if defined(LLMC_AVX512_BF16)
constexpr bool kMultipliesBf16 = true;  // has vdpbf16ps: sum += a0 b0 + a1 b1, bf16 factors, fp32 sum
#else
constexpr bool kMultipliesBf16 = false;
#endif

#if defined(LLMC_AVX512)
constexpr int kLanes = 16;
#elif defined(__AVX__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

using Vector = float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using Words = uint32_t __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using Integers = int32_t __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));
using Halves = uint16_t __attribute__((vector_size(2 * kLanes), aligned(2), may_alias));
using Whole = std::integral_constant<int64_t, kLanes>;  // the count of a vector that is loaded or stored whole

template <class V>
inline V load(const void* from) {
    return *static_cast<const V*>(from);
}
template <class V>
inline void store(void* to, V x) {
    *static_cast<V*>(to) = x;
}
inline Vector all(float x) { return Vector{} + x; }

// 0, 1, 2, ...
inline Integers lane_numbers() {
    Integers n;
    for (int i = 0; i < kLanes; ++i) n[i] = i;
    return n;
}

// Rounds to nearest, ties to even. The processor's conversion flushes subnormal numbers to 0.
inline Halves round_to_bf16(Vector x) {
#if defined(LLMC_AVX512_BF16)
    return Halves(_mm512_cvtneps_pbh(__m512(x)));
#else
    const Words bits = Words(x), rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return __builtin_convertvector(((bits & 0x7fffffffu) > 0x7f800000u ? bits | 0x400000u : rounded) >> 16, Halves);
#endif
}

inline Vector load_as(const float* from, Whole) { return load<Vector>(from); }
inline Vector load_as(const bf16* from, Whole) {
    return Vector(__builtin_convertvector(load<Halves>(from), Words) << 16);
}
inline void store_as(float* to, Vector x, Whole) { store(to, x); }
inline void store_as(bf16* to, Vector x, Whole) { store(to, round_to_bf16(x)); }

// Loads the first `count` of kLanes numbers as floats, then zeros; stores the first `count` lanes, rounded to T.
#if defined(LLMC_AVX512)
inline __mmask16 first_lanes(int64_t count) { return __mmask16((1u << std::clamp<int64_t>(count, 0, kLanes)) - 1); }
inline Vector load_as(const float* from, int64_t count) {
    return Vector(_mm512_maskz_loadu_ps(first_lanes(count), from));
}
inline Vector load_as(const bf16* from, int64_t count) {
    return Vector(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(first_lanes(count), from)), 16));
}
inline void store_as(float* to, Vector x, int64_t count) { _mm512_mask_storeu_ps(to, first_lanes(count), __m512(x)); }
inline void store_as(bf16* to, Vector x, int64_t count) {
    _mm256_mask_storeu_epi16(to, first_lanes(count), __m256i(round_to_bf16(x)));
}
#else
template <class T>
inline Vector load_as(const T* from, int64_t count) {
    T whole[kLanes] = {};
    std::copy(from, from + std::clamp<int64_t>(count, 0, kLanes), whole);
    return load_as(whole, Whole{});
}
template <class T>
inline void store_as(T* to, Vector x, int64_t count) {
    T whole[kLanes];
    store_as(whole, x, Whole{});
    std::copy(whole, whole + std::clamp<int64_t>(count, 0, kLanes), to);
}
#endif

// 2^x: relative error below 2e-7 for x in [-126, 127]. Below, 0 or 2^-126; from 128 on, infinity. NaN gives NaN.
// x = n + r, |r| <= 1/2; 2^r by the best polynomial of degree 5 that is 1 at 0 (largest error 9.1e-8).
inline Vector exp2(Vector x) {
#if defined(LLMC_AVX512)
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    const Vector n = Vector(_mm512_roundscale_ps(__m512(x), kNearest));
    const Vector r = Vector(_mm512_reduce_ps(__m512(x), kNearest));  // x - n, and 0 for infinities
#else
    x = x < -126.0f ? all(-126.0f) : x;
    x = x > 128.0f ? all(128.0f) : x;                                   // n = 128 makes the bits of infinity
    const Vector shifted = x + 12582912.0f, n = shifted - 12582912.0f;  // 1.5 * 2^23 leaves an integer in the low bits
    const Vector r = x - n;
#endif
    Vector p = 1.326472731e-3f * r + 9.671512991e-3f;
    p = p * r + 5.550733581e-2f;
    p = p * r + 2.402224224e-1f;
    p = p * r + 6.931470036e-1f;
    p = p * r + 1.0f;
#if defined(LLMC_AVX512)
    return Vector(_mm512_scalef_ps(__m512(p), __m512(n)));
#else
    return p * Vector((Words(shifted) << 23) + 0x3f800000u);
#endif
}

#if defined(LLMC_AVX512)
inline float sum(Vector x) { return _mm512_reduce_add_ps(__m512(x)); }
inline float largest(Vector x) { return _mm512_reduce_max_ps(__m512(x)); }
#else
template <class Combine>
inline float reduce(Vector x, Combine combine) {
    for (int width = kLanes / 2; width > 0; width /= 2)
        for (int i = 0; i < width; ++i) x[i] = combine(x[i], x[i + width]);
    return x[0];
}
inline float sum(Vector x) {
    return reduce(x, [](float a, float b) { return a + b; });
}
inline float largest(Vector x) {
    return reduce(x, [](float a, float b) { return a > b ? a : b; });
}
#endif

// Swaps the two off-diagonal S x S blocks in all pairs of rows i, i + S.
template <int S, int... L>
inline void exchange_blocks(Words* row, std::integer_sequence<int, L...>) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
        if (i & S) continue;
        const Words a = row[i], b = row[i + S];
        row[i] = __builtin_shufflevector(a, b, ((L & S) ? kLanes + L - S : L)...);
        row[i + S] = __builtin_shufflevector(a, b, ((L & S) ? kLanes + L : L + S)...);
    }
}

// Transposes kLanes x kLanes words in registers.
inline void transpose(Words* row) {
    constexpr auto lanes = std::make_integer_sequence<int, kLanes>{};
    if constexpr (kLanes > 8) exchange_blocks<8>(row, lanes);
    if constexpr (kLanes > 4) exchange_blocks<4>(row, lanes);
    exchange_blocks<2>(row, lanes);
    exchange_blocks<1>(row, lanes);
}

}  // namespace llmc::cpu::LLMC_ISA
