// One block of memory for many buffers: buffers whose lifetimes do not overlap may share memory.
#pragma once
#include <cstddef>
#include <vector>

namespace llmc {

// Moments of a schedule at which a buffer holds something, first and last included.
struct Lifetime {
    int first, last;
};

struct ArenaBuffer {
    size_t bytes;
    std::vector<Lifetime> lives;
};

struct ArenaPlan {
    std::vector<size_t> offsets;  // of each buffer, multiples of kAlignment
    size_t bytes = 0;             // of the arena
    size_t most_alive = 0;        // largest number of bytes alive at one moment: no plan is smaller
};

// Places the largest buffers first, each at the lowest offset where it overlaps no buffer alive at the same time.
ArenaPlan plan_arena(const std::vector<ArenaBuffer>& buffers);

}  // namespace llmc
