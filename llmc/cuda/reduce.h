// Sums and maxima over the threads of a block, in a fixed order: the same bits every time.
#pragma once
#include "llmc/cuda/gpu.h"

namespace llmc::cuda {

using namespace gpu;

// One float per warp. A block that reduces several times needs one of these for all of them.
struct ReduceScratch {
    float of_warp[32];
};

namespace detail {
template <class Combine>
GPU float reduce_block(float x, ReduceScratch& scratch, Combine&& combine) {
    const int warps = int(blockDim.x) / kWarp;
    __syncthreads();  // the scratch may still be read, by whoever used it last
    if (lane_id() == 0) scratch.of_warp[warp_id()] = x;
    __syncthreads();
    float result = scratch.of_warp[0];
    for (int w = 1; w < warps; ++w) result = combine(result, scratch.of_warp[w]);
    return result;
}
}  // namespace detail

// In every thread of the block; all must call. The block is whole warps.
GPU float block_sum(float x, ReduceScratch& scratch) {
    return detail::reduce_block(warp_sum(x), scratch, [](float a, float b) { return a + b; });
}
GPU float block_max(float x, ReduceScratch& scratch) {
    return detail::reduce_block(warp_max(x), scratch, [](float a, float b) { return fmaxf(a, b); });
}

}  // namespace llmc::cuda
