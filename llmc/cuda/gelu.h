// gelu(x) = u(s x) / s and its derivative u'(s x), with u of llmc/ops/gelu.h. With c1 = s kGelu1 and c3 = s^3 kGelu3
//
//   z = x (c1 + c3 x^2),  gelu(x) = 0.5 x (1 + tanh z)
//
// which takes neither a product with s nor a division by it. In bf16 by one tanh.approx, whose error of 2^-11 is below
// the rounding of bf16; in fp32 by the sigmoid form x / (1 + e^-2z), which is accurate in the left tail.
#pragma once
#include "llmc/cuda/gpu.h"
#include "llmc/ops/gelu.h"

namespace llmc::cuda {

using namespace gpu;

struct GeluFactors {
    float c1, c3;
    explicit GeluFactors(float scale) : c1(scale * kGelu1), c3(scale * scale * scale * kGelu3) {}
};

template <class T>
GPU float gelu(float x, const GeluFactors& f) {
    const float z = x * (f.c1 + f.c3 * x * x);
    if constexpr (sizeof(T) == 2)
        return 0.5f * x * (1.0f + tanh_approx(z));
    else
        return x / (1.0f + expf(-2.0f * z));
}

template <class T>
GPU float gelu_derivative(float x, const GeluFactors& f) {
    const float square = x * x, z = x * (f.c1 + f.c3 * square);
    const float half = x * (0.5f * f.c1 + 1.5f * f.c3 * square);  // of x dz/dx
    if constexpr (sizeof(T) == 2) {
        const float t = tanh_approx(z);
        return (0.5f + 0.5f * t) + (1.0f - t * t) * half;
    } else {
        const float s = 1.0f / (1.0f + expf(-2.0f * z));
        return s + 4.0f * s * (1.0f - s) * half;
    }
}

}  // namespace llmc::cuda
