// How the steps along K of a product's tiles are divided among the blocks of a launch, for kernels and host alike.
//
// While there are as many tiles left as blocks, a block computes whole tiles. The others, fewer than blocks, may be
// divided, so that no multiprocessor is idle: each has the same number of `slices`, one block for each, and
// `rest_blocks` more divide what remains at the end of K, tile by tile. With 54 tiles and 132 blocks:
//
//            0                                              steps
//   tile  0  | slice 0: block 24 | slice 1: block 78 | rest |
//   tile  1  |          block 25 |          block 79 | rest |   the 54 rests are divided among blocks 23, 22, ..., 0
//     ...
// A sequence of all steps of all tiles, cut into equal parts (stream-K), would be as even, but then the blocks would be
// at many places of K. Here those of a slice read the same rows of the operands at the same time: for this product, and
// a cache of 30 MB that keeps what was read last, 790 bytes a clock come from memory instead of 2,740 (counted).
//
// A block adds its part to the result when its turn comes, always in the same order: first the rests, then the slices.
// No memory for parts is needed, and the same inputs give the same bits. A turn only waits for blocks of lower index, so
// it comes even if one block runs after the other. Each slice is longer than the one before by the time that a turn
// takes: blocks that ended at the same moment would wait for each other.
#pragma once

#ifdef __CUDACC__
#define LLMC_HOST_GPU __host__ __device__ __forceinline__
#else
#define LLMC_HOST_GPU inline
#endif

namespace llmc::cuda {

constexpr int kTileK = 32;  // of K, in one step

struct Work {
    int tiles_m, tiles_n;
    int steps;            // of a tile
    int blocks;           // of the launch
    int whole;            // the first tiles, which are not divided; a multiple of `blocks` if the others are
    int slices = 0;       // of the other tiles
    int slice = 0;        // steps of the first one
    int longer = 0;       // by so many each slice is longer than the one before
    int rest_blocks = 0;  // 0: the last slice ends with the tile
    int rest = 0;         // steps at the end of a divided tile, which the rest blocks compute
    int share = 0;        // of a rest block: steps

    LLMC_HOST_GPU int tiles() const { return tiles_m * tiles_n; }
    LLMC_HOST_GPU int divided() const { return tiles() - whole; }
};

// Steps [begin, end) of a tile: part number `turn` of `turns` that are added up to the result.
struct Piece {
    int tile = 0, begin = 0, end = 0;
    int turn = 0, turns = 1;
    LLMC_HOST_GPU int steps() const { return end - begin; }
};

// The i-th piece of a block; without steps after the last one. kDivided: tiles may be divided.
template <bool kDivided = true>
LLMC_HOST_GPU Piece piece_of(const Work& w, int block, int i) {
    const int tile = block + i * w.blocks, divided = w.divided();
    if (tile < w.whole) return {tile, 0, w.steps, 0, 1};
    if (!kDivided || w.slices == 0) return {};
    i -= w.whole / w.blocks;
    if (block >= w.rest_blocks) {
        const int slice = (block - w.rest_blocks) / divided, t = (block - w.rest_blocks) % divided;
        if (i > 0 || slice >= w.slices) return {};
        const int begin = slice * w.slice + w.longer * (slice * (slice - 1) / 2);
        const int end = slice + 1 == w.slices ? w.steps - w.rest : begin + w.slice + slice * w.longer;
        // A rest is computed by the block of its first step, that of its last one, and all between.
        const int of_rest = w.rest ? ((t + 1) * w.rest - 1) / w.share - t * w.rest / w.share + 1 : 0;
        return {w.whole + t, begin, end, of_rest + slice, of_rest + w.slices};
    }
    // The rests of all divided tiles are a sequence of divided * rest steps, of which the block at `place` has `share`. A
    // rest's last steps are the first piece of a block, and come first; its first steps are the last piece of another.
    const int place = w.rest_blocks - 1 - block, from = place * w.share, to = from + w.share, t = from / w.rest + i;
    const int first = t * w.rest, last = first + w.rest;
    if (t >= divided || first >= to) return {};
    const int begin = from > first ? from : first, end = to < last ? to : last;
    const int before = w.steps - w.rest - first, last_place = (last - 1) / w.share;
    return {w.whole + t, begin + before, end + before, last_place - place, last_place - first / w.share + 1 + w.slices};
}

// The order of tiles, in which consecutive ones share operands in the second-level cache: kGroup down, then one across.
struct TilePosition {
    int m, n;
};
LLMC_HOST_GPU TilePosition tile_position(int tile, int tiles_m, int tiles_n) {
    constexpr int kGroup = 8;
    const int group = tile / (kGroup * tiles_n), first = group * kGroup, rest = tile - group * kGroup * tiles_n;
    const int height = tiles_m - first < kGroup ? tiles_m - first : kGroup;
    return {first + rest % height, rest / height};
}

}  // namespace llmc::cuda
