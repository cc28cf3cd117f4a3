// Chooses the tile of a product and the number of parts of K, by a cost model in clocks of one multiprocessor (from the
// counts in bf16.h) that only has to rank a few candidates.
#pragma once
#include <algorithm>

#include "llmc/cuda/matmul/problem.h"

namespace llmc::cuda {

struct Plan {
    Schedule schedule;
    bool wide;  // tiles of 128 x 256, else of 128 x 128
    double clocks;
};

// Tiles of 128 x block_n, `resident` of which a multiprocessor computes at a time: the kernels' launch bounds make the
// compiler keep to the registers that this leaves. clocks_per_step: of one
// multiprocessor for a step of kTileK of all of them; clocks_per_tile: at the beginning and end of a tile, without
// overlap.
struct TileCost {
    int block_n, resident;
    double clocks_per_step, clocks_per_tile;
};
constexpr TileCost kWide{256, 1, 790, 3000}, kNarrow{128, 2, 850, 2500}, kFp32Tile{128, 2, 8200, 3000};

// Split parts larger than this cost more memory than the balance of multiprocessors is worth: K is not split then.
constexpr int64_t kMostPartBytes = int64_t{128} << 20;

constexpr double kBytesPerClock = 2200;  // of the GPU's memory, for writing and reading split parts

inline Plan plan_with(const TileCost& cost, int64_t M, int64_t N, int64_t K, int multiprocessors) {
    Plan best{};
    const int tiles_m = int(ceil_div(M, 128)), tiles_n = int(ceil_div(N, cost.block_n));
    const int64_t steps = std::max<int64_t>(1, ceil_div(K, kTileK)), places = int64_t{multiprocessors} * cost.resident;
    for (int splits = 1; splits <= 32 && (splits == 1 || steps / splits >= 8); ++splits) {
        const int64_t per_split = ceil_div(steps, splits), used = ceil_div(steps, per_split);
        if (used > 1 && used * M * N * int64_t{sizeof(float)} > kMostPartBytes) break;
        const int64_t waves = ceil_div(int64_t{tiles_m} * tiles_n * used, places);
        double clocks = double(waves) * (double(per_split) * cost.clocks_per_step + cost.clocks_per_tile);
        if (used > 1)
            clocks += double(2 * used) * double(M) * double(N) * 4 / kBytesPerClock + 5000;  // one more launch
        if (best.clocks == 0 || clocks < best.clocks)
            best = {{tiles_m, tiles_n, int(used), int(per_split)}, cost.block_n == 256, clocks};
    }
    return best;
}

template <class T>
Plan plan_matmul(int64_t M, int64_t N, int64_t K, int multiprocessors) {
    if constexpr (sizeof(T) == 4) return plan_with(kFp32Tile, M, N, K, multiprocessors);
    const Plan narrow = plan_with(kNarrow, M, N, K, multiprocessors);
    const Plan wide = plan_with(kWide, M, N, K, multiprocessors);
    return wide.clocks <= narrow.clocks ? wide : narrow;
}

}  // namespace llmc::cuda
