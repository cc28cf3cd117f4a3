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

}  // namespace llmc::cuda
