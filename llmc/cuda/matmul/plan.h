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

// Tiles of block_m x block_n, `resident` of which a multiprocessor computes at a time: the kernels' launch bounds make
// the compiler keep to the registers that this leaves. With less shared memory there may be fewer (fitting).
struct TileCost {
    int block_m, block_n, resident;
    double clocks_per_step;  // of one multiprocessor, for a step of all of them
    double clocks_alone;     // for a step of one without the others
    int depth = kTileK;      // of a step
    // with_epilogue: what nothing overlaps, after each tile and after the last one.
    double clocks_per_tile = 0, clocks_at_end = 0;

    constexpr double step(int blocks) const {  // of so many blocks on a multiprocessor
        return std::max(clocks_alone, clocks_per_step * blocks / resident);
    }
};
constexpr TileCost kWide{128, 256, 1, 790, 790}, kNarrow{128, 128, 2, 850, 450}, kSmall{64, 64, 4, 660, 250};
constexpr TileCost kFp32Tile{128, 128, 2, 8200, 4200};
// wgmma.h: of a cluster of two blocks, each on a multiprocessor of its own.
constexpr TileCost kWarpgroups{256, 256, 1, 1100, 1100, 64};

inline TileCost fitting(TileCost cost, int resident) {
    if (resident < cost.resident) cost.clocks_per_step = cost.step(resident), cost.resident = resident;
    return cost;
}

// An epilogue of so many instructions an element (kInstructions in epilogue.h): a multiprocessor issues four for a warp
// in a clock. Those that read wait twice for memory, too, once for each half of a tile. Other resident blocks multiply
// meanwhile; the last tile's epilogues have no products to hide under.
constexpr TileCost with_epilogue(TileCost cost, double instructions, bool reads) {
    const double clocks = instructions * cost.block_m * cost.block_n * cost.resident / 128 + (reads ? 2 * 800 : 0);
    (cost.resident == 1 ? cost.clocks_per_tile : cost.clocks_at_end) = clocks;
    return cost;
}

// The same for the warpgroups of wgmma.h, which take turns: one's epilogue is hidden under a burst of the other's
// products, 2,048 clocks, and that of the last one at the end by nothing. A warp has 128 elements a lane.
constexpr TileCost with_turns(TileCost cost, double instructions, bool reads) {
    const double clocks = instructions * 128 + (reads ? 800 : 0);
    cost.clocks_per_tile = std::max(0.0, clocks - 2048), cost.clocks_at_end = std::min(clocks, 2048.0) + 1000;
    return cost;
}

// A turn: the epilogue adds a tile to D; then three times to the second-level cache and back, until the stores are
// visible, the counter is stored, and the next block has seen it.
constexpr double clocks_per_turn(const TileCost& cost) { return cost.clocks_per_tile + cost.clocks_at_end + 2500; }
constexpr int kLeastSteps = 8;  // of a slice

// The last tiles, fewer than blocks, as `slices` slices of which each is longer than the one before by the time of a
// turn; `rest_blocks` blocks compute what remains. A rest block takes a turn in each of its pieces, and has fewer steps
// for it. `slice` is 0 if that cannot be done. Returns the clocks until the last turn is over.
inline double divide(Work& w, const TileCost& cost, int slices, int rest_blocks) {
    const int64_t tiles = w.divided(), longer = std::max(1, int(clocks_per_turn(cost) / cost.clocks_per_step + 0.5));
    const int64_t pieces = rest_blocks ? ceil_div(tiles, rest_blocks) + 1 : 0,
                  extra = longer * slices * (slices - 1) / 2;
    const int64_t of_blocks = tiles * (w.steps - extra) + rest_blocks * pieces * longer;
    // Rounded up: all slices are longer then, and a rest block has the rests of several tiles.
    const int64_t slice = rest_blocks ? ceil_div(of_blocks, tiles * slices + rest_blocks)
                                      : of_blocks / (tiles * slices);
    const int64_t rest = w.steps - extra - slice * slices;
    w.slices = slices, w.slice = int(slice), w.longer = int(longer), w.rest_blocks = rest_blocks;
    w.rest = rest_blocks ? int(rest) : 0, w.share = rest_blocks ? int(ceil_div(tiles * rest, rest_blocks)) : 0;
    if (slice < kLeastSteps || (rest_blocks && rest < 1)) w.slice = 0;
    const int64_t last = slice + (slices - 1) * longer + (rest_blocks ? 0 : rest);
    return double(last) * cost.clocks_per_step + clocks_per_turn(cost);
}

// `adds_up`: D may be added up from parts (kAddsUp); otherwise all tiles are whole.
inline Plan plan_with(const TileCost& cost, int64_t M, int64_t N, int64_t K, int multiprocessors, bool adds_up) {
    const int tiles_m = int(ceil_div(M, cost.block_m)), tiles_n = int(ceil_div(N, cost.block_n));
    const int tiles = tiles_m * tiles_n, places = multiprocessors * cost.resident;
    const int steps = int(std::max<int64_t>(1, ceil_div(K, cost.depth)));
    const double whole_tile = steps * cost.step(cost.resident) + cost.clocks_per_tile;
    const double last_tile = steps * cost.step(int(ceil_div(tiles % places, multiprocessors))) + cost.clocks_per_tile;
    Plan best{
        {.tiles_m = tiles_m, .tiles_n = tiles_n, .steps = steps, .blocks = std::min(tiles, places), .whole = tiles},
        double(tiles / places) * whole_tile + (tiles % places ? last_tile : 0) + cost.clocks_at_end};
    Work w = best.work;
    w.whole = tiles / places * places;
    if (!adds_up || w.divided() == 0 || int64_t{steps} * places > INT32_MAX) return best;
    const int most = places / w.divided(), left = places % w.divided();
    for (int slices = 1; slices <= most; ++slices)
        for (int rest_blocks : {0, left}) {
            if (rest_blocks ? slices < most : slices == 1) continue;
            const double clocks = divide(w, cost, slices, rest_blocks) + double(w.whole / places) * whole_tile;
            if (w.slice == 0 || clocks >= best.clocks) continue;
            w.blocks = w.whole ? places : w.divided() * slices + rest_blocks;
            best.work = w, best.clocks = clocks;
        }
    return best;
}

}  // namespace llmc::cuda
