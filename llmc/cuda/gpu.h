// The language of the kernels: CUDA's keywords and names, and one function for each instruction that CUDA C++ has no
// name for. nvcc includes gpu/ptx.h, where each function is one line of PTX. Any other compiler includes the emulator's
// definitions of the same names, and the kernels run on the CPU. A new instruction goes into both, and into
// tests/cuda/conformance.cu.
//
// Rules for kernels:
//  * no __shared__ variables: a kernel's shared memory is one struct, shared<Layout>(), and its size goes to launch();
//  * no <<<>>>: launch() in host.h, which every compiler accepts;
//  * no atomics on floats: same inputs, same bits.
#pragma once
#include "llmc/core/tensor.h"

#ifdef __CUDACC__
#include "llmc/cuda/gpu/ptx.h"
#else
#include "llmc/emulator/gpu.h"
#endif

namespace llmc::gpu {

constexpr int kWarp = 32;
constexpr uint32_t kAllLanes = 0xffffffffu;

GPU int lane_id() { return int(threadIdx.x % kWarp); }  // unsigned: no correction for negative numbers
GPU int warp_id() { return int(threadIdx.x / kWarp); }

GPU bool is_nan(float x) { return x != x; }
GPU int smaller(int a, int b) { return a < b ? a : b; }

// Sum and maximum over the lanes of a warp, in every lane. warp_max ignores NaNs, as fmaxf does.
GPU float warp_sum(float x) {
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
    return x;
}
GPU float warp_max(float x) {
    for (int lanes = kWarp / 2; lanes > 0; lanes /= 2) x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, lanes));
    return x;
}

}  // namespace llmc::gpu
