// Sums and maxima over the threads of a block, in a fixed order: the same bits every time.
#pragma once
#include "llmc/cuda/gpu.h"

namespace llmc::cuda {

using namespace gpu;

// One float per warp. One of these is enough for several reductions of a block.
struct ReduceScratch {
    float of_warp[32];
};

namespace detail {
template <class Combine>
GPU float reduce_block(float x, ReduceScratch& scratch, Combine&& combine) {
    const int warps = int(blockDim.x) / kWarp;
    __syncthreads();  // the scratch may still be read by the reduction before
    if (lane_id() == 0) scratch.of_warp[warp_id()] = x;
    __syncthreads();
    float result = scratch.of_warp[0];
    for (int w = 1; w < warps; ++w) result = combine(result, scratch.of_warp[w]);
    return result;
}
}  // namespace detail

// The result is in every thread of the block. All threads must call; the block must consist of whole warps.
GPU float block_sum(float x, ReduceScratch& scratch) {
    return detail::reduce_block(warp_sum(x), scratch, [](float a, float b) { return a + b; });
}
GPU float block_max(float x, ReduceScratch& scratch) {
    return detail::reduce_block(warp_max(x), scratch, [](float a, float b) { return fmaxf(a, b); });
}

// Sums of kCount values (1, 2, 4 or 8) over the threads of a block, in every thread. In each step of the exchange between
// lanes a lane keeps half of its values: 9 shuffles for 8 values instead of 40. With turn 0 and 1 in turn, a sum needs
// one barrier.
template <int kCount>
struct SumsScratch {
    alignas(16) float of_warp[2][32][kCount];
};
template <int kCount>
GPU void block_sums(float (&v)[kCount], SumsScratch<kCount>& scratch, int turn) {
    int lanes = kWarp / 2;
#pragma unroll
    for (int half = kCount / 2; half > 0; half /= 2, lanes /= 2) {
        const bool upper = lane_id() & lanes;
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float kept = upper ? v[i + half] : v[i], given = upper ? v[i] : v[i + half];
            v[i] = kept + __shfl_xor_sync(kAllLanes, given, lanes);
        }
    }
#pragma unroll
    for (; lanes > 0; lanes /= 2) v[0] += __shfl_xor_sync(kAllLanes, v[0], lanes);
    constexpr int kLanes = kWarp / kCount;  // that have the sum of the same value
    if (lane_id() % kLanes == 0) scratch.of_warp[turn][warp_id()][lane_id() / kLanes] = v[0];
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kCount; ++k) v[k] = 0;
#pragma unroll 4
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w)
#pragma unroll
        for (int k = 0; k < kCount; ++k) v[k] += scratch.of_warp[turn][w][k];
}

}  // namespace llmc::cuda
