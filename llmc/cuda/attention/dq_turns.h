// Attention, backward: the order in which the blocks of a head add to dq.
//
// dQ is the sum over the blocks of a head, in fp32 in memory, always in the same order: the keys from last to first.
// The first block of a tile stores, the last one (the head's first keys) adds and writes dq. Blocks start in the order
// of their index, the last keys of a head first, and each begins with the queries of its own keys; so a block that
// starts at the same time as the one before it in the order is two tiles behind it, and a wait is rare. It waits for
// earlier blocks only, so it ends even where one block runs after the other. Heads share the memory of few (scratch.h),
// which so stays in the second-level cache: (B, H, T, D) in fp32 would be 100 MB at N = 32,768, C = 768, written once
// to memory.
#pragma once
#include "llmc/cuda/attention/heads.h"
#include "llmc/cuda/scratch.h"

namespace llmc::cuda {

// In shared memory. Each warp has its own part of a tile's sums, in the order of its accumulators, and its own turn.
template <int kWarps>
struct DqTurns {
    float* sums;                         // of this head
    uint32_t *own, *before, *last_user;  // progress: of this block and of those that it waits for, or null
    uint32_t seen[kWarps];               // of *before, by each warp

    // By one thread. `progress`: for each block and warp, the tiles of queries to whose dq it has added, counted from the
    // first of the head. `sums`: dq of `slots` heads, `head_sums` each, used by one head after the other.
    GPU void place(const HeadTile& at, int tiles, int slots, float* all_sums, int64_t head_sums, uint32_t* progress) {
        const auto counters = [&](int head, int tile) { return progress + (int64_t(head) * tiles + tile) * kWarps; };
        sums = all_sums + at.head % slots * head_sums;
        own = counters(at.head, at.tile);
        before = at.tile + 1 < tiles ? counters(at.head, at.tile + 1) : nullptr;
        last_user = at.tile > 0 && at.head >= slots ? counters(at.head - slots, 0) : nullptr;
        for (uint32_t& tile : seen) tile = 0;
    }
    // Waits until a warp may add to the dq of a tile. `is_first`: nobody has yet, but another head had this memory.
    GPU void wait(int warp, uint32_t tile, bool is_first) {
        const uint32_t* progress = is_first ? last_user : before;
        if (lane_id() == 0 && progress && seen[warp] <= tile) {
            const uint32_t found = wait_until_above(progress + warp, tile);
            if (!is_first) seen[warp] = found;
        }
        __syncwarp();  // what lane 0 waited for is visible to the others
    }
    // A look ahead of `wait`, which then seldom has to load. Not for the first to add.
    GPU void look(int warp, uint32_t tile) {
        if (lane_id() == 0 && before && seen[warp] <= tile) seen[warp] = load_acquire(before + warp);
    }
    // The warp has added to the dq of the tiles before this one. A release waits for its stores: not right after them.
    GPU void end(int warp, uint32_t tile) {
        if (lane_id() == 0) store_release(own + warp, tile);
    }
};

}  // namespace llmc::cuda
