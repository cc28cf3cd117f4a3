// CUDA's keywords and built-in types and variables, for a host compiler.
#pragma once
#include <cstdint>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __grid_constant__

struct dim3 {
    unsigned x = 1, y = 1, z = 1;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
struct alignas(8) float2 {
    float x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};
struct alignas(8) uint2 {
    uint32_t x, y;
};
struct alignas(16) uint4 {
    uint32_t x, y, z, w;
};

namespace llmc::emulator {
// Of the running CUDA thread.
const dim3& thread_index();
const dim3& block_index();
const dim3& block_shape();
const dim3& grid_shape();
}  // namespace llmc::emulator

#define threadIdx (::llmc::emulator::thread_index())
#define blockIdx (::llmc::emulator::block_index())
#define blockDim (::llmc::emulator::block_shape())
#define gridDim (::llmc::emulator::grid_shape())
