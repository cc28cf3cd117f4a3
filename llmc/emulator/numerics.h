// The results of a GPU's approximate instructions, with errors of the size that NVIDIA documents, for
// LLMC_EMULATOR=numerics=hardware: the emulator's own results are more accurate. An error depends only on the argument.
#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>

namespace llmc::emulator {

bool hardware_numerics();  // of options()

inline uint32_t hash_of(float x) {
    uint32_t h = std::bit_cast<uint32_t>(x);
    h ^= h >> 16, h *= 0x7feb352du, h ^= h >> 15, h *= 0x846ca68bu;
    return h ^ h >> 16;
}

// -1 to 1
inline double noise_of(float x) { return double(hash_of(x) & 0xffff) / 32767.5 - 1; }

// A result with a relative error of up to 2^-22.5: two units in the last place where these are largest.
inline float inexact(double exact, float argument) {
    return std::isfinite(exact) ? float(exact * (1 + 0x1.6p-23 * noise_of(argument))) : float(exact);
}

// ex2.approx.ftz.f32: 2 ulp, denormals become 0.
inline float hardware_exp2(float x) {
    const float y = inexact(std::exp2(double(x)), x);
    return y < 0x1p-126f ? 0.0f : y;
}

// tanh.approx.f32: relative error 2^-11; where the result saturates, the instruction is exact to a few 1e-7.
inline float hardware_tanh(float x) {
    const double y = std::tanh(double(x)), error = 0x1p-11 * std::min(1.0, 4 * (1 - y * y)) + 2e-7;
    return float(std::clamp(y * (1 + error * noise_of(x)), -1.0, 1.0));
}

// acc + sum of a[k] b[k], as tensor cores add: terms aligned to the largest exponent, cut off after 25 bits, the sum cut
// off to fp32.
float tensor_core_sum(float acc, const float* a, const float* b, int count, int a_step, int b_step);

}  // namespace llmc::emulator
