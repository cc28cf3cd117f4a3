// One piece of memory for many buffers: those whose lifetimes do not meet may lie in the same place.
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
    size_t bytes = 0;             // of the whole
    size_t most_alive = 0;        // bytes of the moment with the most: no plan is smaller
};

// Largest buffers first, each at the lowest place where it overlaps none that lives at the same time.
ArenaPlan plan_arena(const std::vector<ArenaBuffer>& buffers);

}  // namespace llmc
