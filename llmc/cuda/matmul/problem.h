// A matrix product for the kernels in this folder: D (M, N) = A (M, K) B (K, N), then an epilogue. One template
// computes the three products of a linear layer, which differ in how their operands are stored:
//
//   pass      product                  A stored      B stored      kAByColumns, kBByRows
//   forward   out = inp weight^T       (M, K)        (N, K)        false, false
//   dgrad     dinp = dout weight       (M, K)        (K, N)        false, true
//   wgrad     dweight = dout^T inp     (K, M)        (K, N)        true,  true
//
// Tensor cores need both operands along K. If one is stored along M or N, ldmatrix transposes it on the way to the
// registers, so no transpose kernel is needed.
#pragma once
#include "llmc/cuda/host.h"
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

constexpr int kTileK = 32;  // of K, in one step

template <class T>
struct Problem {
    const T *a, *b;
    int M, N, K;
    int64_t a_stride = 0, b_stride = 0;  // bf16: elements from one stored row to the next, set by multiply()
};

// How the work is divided: into tiles of D, and each of them into `splits` parts of K. Work item i is tile i % tiles(),
// part i / tiles(). With more than one split the parts are stored in memory, and finish_splits_kernel adds them up in
// order before the epilogue: no atomics, the same bits every time.
struct Schedule {
    int tiles_m, tiles_n;
    int splits;
    int steps_per_split;  // of kTileK
    int tiles() const { return tiles_m * tiles_n; }
    int items() const { return tiles() * splits; }
};

// Where a work item stores its part of D.
struct Parts {
    float* products;     // (splits, M, N); null if there is one split and the epilogue is applied at once
    float* column_sums;  // (splits, M) of A's sums over K, or null
};

// The order of tiles, in which consecutive ones share operands in the second-level cache: kGroup down, then one across.
struct TilePosition {
    int m, n;
};
GPU TilePosition tile_position(int tile, int tiles_m, int tiles_n) {
    constexpr int kGroup = 8;
    const int group = tile / (kGroup * tiles_n), first = group * kGroup, rest = tile - group * kGroup * tiles_n;
    const int height = tiles_m - first < kGroup ? tiles_m - first : kGroup;
    return {first + rest % height, rest / height};
}

}  // namespace llmc::cuda
