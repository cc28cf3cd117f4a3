// GELU's u(x) = 0.5 x (1 + tanh z) with z of llmc/ops/gelu.h, and its derivative. In bf16 by one tanh.approx, whose
// error of 2^-11 is below the rounding of bf16; in fp32 by the sigmoid form x / (1 + e^-2z), which is accurate in the
// left tail.
#pragma once
#include "llmc/cuda/gpu.h"
#include "llmc/ops/gelu.h"

namespace llmc::cuda {

using namespace gpu;

template <class T>
GPU float gelu(float x) {
    const float z = x * (kGelu1 + kGelu3 * x * x);
    if constexpr (sizeof(T) == 2)
        return 0.5f * x * (1.0f + tanh_approx(z));
    else
        return x / (1.0f + expf(-2.0f * z));
}

template <class T>
GPU float gelu_derivative(float x) {
    const float z = x * (kGelu1 + kGelu3 * x * x), dz = kGelu1 + 3.0f * kGelu3 * x * x;
    if constexpr (sizeof(T) == 2) {
        const float t = tanh_approx(z);
        return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * dz;
    } else {
        const float s = 1.0f / (1.0f + expf(-2.0f * z));
        return s + 2.0f * x * s * (1.0f - s) * dz;
    }
}

}  // namespace llmc::cuda
