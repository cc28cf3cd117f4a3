// Kernels that treat every element alike: one thread per 8 elements, 16-byte accesses. Bound: memory; the floor is
// bytes / copy bandwidth.
#pragma once
#include "llmc/cuda/host.h"
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

constexpr int kElementThreads = 256;  // of a block

GPU int64_t first_element() { return (int64_t(blockIdx.x) * kElementThreads + threadIdx.x) * kVec; }

inline Launch one_thread_per_vector(int64_t n) {
    return {unsigned(ceil_div(n, kElementThreads * kVec)), kElementThreads};
}

}  // namespace llmc::cuda
