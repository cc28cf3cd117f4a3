// Asynchronous work that a thread or cluster has started and not yet finished: copies and matrix products.
#pragma once
#include <cstdint>
#include <deque>
#include <functional>
#include <vector>

namespace llmc::emulator {

// cp.async: a copy of 16 bytes from global to shared memory; zeros without a source.
struct PendingCopy {
    void* destination;
    const void* source;
};
struct PendingCopies {
    std::vector<PendingCopy> open;                // not committed
    std::deque<std::vector<PendingCopy>> groups;  // committed, oldest first
    bool empty() const { return open.empty() && groups.empty(); }
};

// wgmma: products that a warpgroup has issued. They are computed, for the whole warpgroup, when one of its threads
// waits.
struct PendingProducts {
    std::vector<std::function<void()>> open;
    std::deque<std::vector<std::function<void()>>> groups;
    int64_t committed = 0, finished = 0;  // groups
    bool fenced = false;                  // wgmma.fence since the kernel's start
    char order[2];
    bool empty() const { return open.empty() && groups.empty(); }
};

// TMA: copies of whole tiles, which are done some rounds after their issue.
struct BulkCopy {
    int delay;
    std::function<void()> land;
};
struct BulkCopies {
    std::vector<BulkCopy> on_their_way;
    char order;
};

}  // namespace llmc::emulator
