// delta = dout . out per head, the first step of attention's backward pass.
#pragma once
#include "llmc/cuda/attention/heads.h"

namespace llmc::cuda {

// delta (B, H, T) = dout . out per head. Bytes: 4 C N + 4 H N. kSize / 8 lanes share a row. Sets the counters of the
// next kernel to 0, at most one for each thread.
template <int kSize, class T>
__global__ void __launch_bounds__(256) attention_delta_kernel(float* delta, uint32_t* counters, int64_t counter_count,
                                                              const T* dout, const T* out, Heads s, int64_t rows) {
    launch_bounds<256>();
    constexpr int kLanes = kSize / kVec;
    const int64_t thread = int64_t(blockIdx.x) * 256 + threadIdx.x, i = thread / kLanes;  // of (B, T, H)
    if (thread < counter_count) counters[thread] = 0;
    const int column = int(threadIdx.x) % kLanes * kVec, count = s.size - column;
    float sum = 0;
    if (i < rows && count > 0) {
        float x[kVec], y[kVec];
        load_upto(x, dout + i * s.size + column, count, s.aligned);
        load_upto(y, out + i * s.size + column, count, s.aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) sum += x[k] * y[k];
    }
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    if (i >= rows || column > 0) return;
    const int64_t n = i / s.heads, b = n / s.length;
    delta[(b * s.heads + i % s.heads) * s.length + n % s.length] = sum;
}

}  // namespace llmc::cuda
