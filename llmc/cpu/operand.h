// The operands of products of activations of type T: floats, or pairs of bf16 if the instruction set has an instruction
// that multiplies two pairs and adds both products to an fp32 sum.
#pragma once
#include "llmc/cpu/simd.h"

namespace llmc::cpu::LLMC_ISA {

// Two neighbours along the dimension of the sum.
struct Pair {
    bf16 first, second;
};

template <class T>
using Operand = std::conditional_t<kMultipliesBf16 && std::is_same_v<T, bf16>, Pair, float>;
template <class E>
constexpr int kPack = std::is_same_v<E, Pair> ? 2 : 1;  // numbers in an operand

// A vector of operands from the first `count` numbers of a row, padded with zeros.
template <class T, class Count>
inline void store_operands_of_row(float* to, const T* from, Count count) {
    store(to, load_as(from, count));
}
// A vector of operands from the numbers of two rows: lane i holds the i-th number of each.
template <class T, class Count>
inline void store_operands_of_rows(float* to, const T* from, const T*, Count count) {
    store(to, load_as(from, count));
}
// Writes kLanes numbers, from the i-th on, of a row of operands.
inline void store_in_row(float* row, int64_t i, Vector x) { store(row + i, x); }
inline Vector multiply_add(Vector sum, float a, const float* b) { return sum + a * load<Vector>(b); }

#if defined(LLMC_AVX512_BF16)
template <class Count>
inline void store_operands_of_row(Pair* to, const bf16* from, Count count) {
    const __mmask32 lanes = __mmask32((uint64_t{1} << std::clamp<int64_t>(count, 0, 2 * kLanes)) - 1);
    store(to, Words(_mm512_maskz_loadu_epi16(lanes, from)));
}
template <class Count>
inline void store_operands_of_rows(Pair* to, const bf16* first, const bf16* second, Count count) {
    const Words low = Words(load_as(first, count)), high = second ? Words(load_as(second, count)) : Words{};
    store(to, low >> 16 | high);
}
inline void store_in_row(Pair* row, int64_t i, Vector x) { store_as(reinterpret_cast<bf16*>(row) + i, x, Whole{}); }
inline Vector multiply_add(Vector sum, Pair a, const Pair* b) {
    return Vector(
        _mm512_dpbf16_ps(__m512(sum), __m512bh(_mm512_set1_epi32(std::bit_cast<int>(a))), __m512bh(load<Words>(b))));
}
#endif

// Lane i: the i-th numbers of both, rounded to bf16.
inline Words pairs_of([[maybe_unused]] Vector first, [[maybe_unused]] Vector second) {
#if defined(LLMC_AVX512_BF16)
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8,  //
                                           23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    return Words(_mm512_permutexvar_epi16(order, __m512i(_mm512_cvtne2ps_pbh(__m512(second), __m512(first)))));
#else
    return Words{};
#endif
}

}  // namespace llmc::cpu::LLMC_ISA
