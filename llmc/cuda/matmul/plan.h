// Chooses the tile of a product and how its work is divided among blocks, by a cost model in clocks of one
// multiprocessor (from the counts in bf16.h) that only has to rank a few candidates.
#pragma once
#include <algorithm>

#include "llmc/cuda/matmul/problem.h"

namespace llmc::cuda {

struct Plan {
    Work work;
    double clocks;
};

// Tiles of 128 x block_n, `resident` of which a multiprocessor computes at a time: the kernels' launch bounds make the
// compiler keep to the registers that this leaves. With less shared memory there may be fewer (fitting). clocks_per_step: of one
// multiprocessor for a step of kTileK of all of them; clocks_per_tile: at the beginning and end of a tile, without
// overlap.
struct TileCost {
    int block_n, resident;
    double clocks_per_step, clocks_per_tile;
    int block_m = 128, depth = kTileK;
};
constexpr TileCost kWide{256, 1, 790, 3000}, kNarrow{128, 2, 850, 2500}, kFp32Tile{128, 2, 8200, 3000};
// wgmma.h: of a cluster of two blocks, on two multiprocessors.
constexpr TileCost kWarpgroupTile{256, 1, 1100, 1500, 256, 64};

inline TileCost fitting(TileCost cost, int resident) {
    if (resident < cost.resident) cost.clocks_per_step *= double(resident) / cost.resident, cost.resident = resident;
    return cost;
}

// A turn: to read a tile of D, add to it and write it, to make that visible, and for the next block to see it.
constexpr double kClocksPerTurn = 6000;
constexpr int kLeastSteps = 8;  // of a slice

// The last tiles, fewer than blocks, as `slices` slices of which each is longer than the one before by the time of a
// turn; `rest_blocks` blocks compute what remains. A rest block takes a turn in each of its pieces, and has fewer steps
// for it. `slice` is 0 if that cannot be done. Returns the clocks until the last turn is over.
inline double divide(Work& w, const TileCost& cost, int slices, int rest_blocks) {
    const int64_t tiles = w.divided(), longer = std::max(1, int(kClocksPerTurn / cost.clocks_per_step + 0.5));
    const int64_t pieces = rest_blocks ? ceil_div(tiles, rest_blocks) + 1 : 0,
                  extra = longer * slices * (slices - 1) / 2;
    const int64_t of_blocks = tiles * (w.steps - extra) + rest_blocks * pieces * longer;
    const int64_t slice = of_blocks / (tiles * slices + rest_blocks), rest = w.steps - extra - slice * slices;
    w.slices = slices, w.slice = int(slice), w.longer = int(longer), w.rest_blocks = rest_blocks;
    w.rest = rest_blocks ? int(rest) : 0, w.share = rest_blocks ? int(ceil_div(tiles * rest, rest_blocks)) : 0;
    if (slice < kLeastSteps || (rest_blocks && rest < 1)) w.slice = 0;
    const int64_t last = slice + (slices - 1) * longer + (rest_blocks ? 0 : rest);
    return double(last) * cost.clocks_per_step + kClocksPerTurn;
}

// `adds_up`: D may be added up from parts (kAddsUp); otherwise all tiles are whole.
inline Plan plan_with(const TileCost& cost, int64_t M, int64_t N, int64_t K, int multiprocessors, bool adds_up) {
    const int tiles_m = int(ceil_div(M, cost.block_m)), tiles_n = int(ceil_div(N, cost.block_n)),
              tiles = tiles_m * tiles_n;
    const int steps = int(std::max<int64_t>(1, ceil_div(K, cost.depth))), places = multiprocessors * cost.resident;
    const double whole_tile = steps * cost.clocks_per_step + cost.clocks_per_tile;
    Plan best{
        {.tiles_m = tiles_m, .tiles_n = tiles_n, .steps = steps, .blocks = std::min(tiles, places), .whole = tiles},
        double(ceil_div(tiles, places)) * whole_tile};
    Work w = best.work;
    w.whole = tiles / places * places;
    if (!adds_up || w.divided() == 0 || int64_t{steps} * places > INT32_MAX) return best;
    const int most = places / w.divided(), left = places % w.divided();
    for (int slices = 1; slices <= most; ++slices)
        for (int rest_blocks : {0, left}) {
            if (rest_blocks ? slices < most : slices == 1) continue;
            const double clocks = divide(w, cost, slices, rest_blocks) + double(w.whole / places) * whole_tile;
            if (w.slice == 0 || clocks + cost.clocks_per_tile >= best.clocks) continue;
            w.blocks = w.whole ? places : w.divided() * slices + rest_blocks;
            best.work = w, best.clocks = clocks + cost.clocks_per_tile;
        }
    return best;
}

}  // namespace llmc::cuda
