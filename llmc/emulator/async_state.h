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

// wgmma: a thread's part of one product, and the products that it has issued. They are computed, for the whole
// warpgroup, when one of its threads waits.
struct WarpgroupProduct {
    float* d;       // this thread's part of D, columns / 2 floats
    uint64_t a, b;  // descriptors
    int columns;    // of D and B
    bool a_by_columns, b_by_rows;
    bool add;                               // to D, else D is overwritten
    const uint32_t* a_registers = nullptr;  // or null: A is in shared memory
    uint32_t a_issued[4] = {};              // what they held when the product was issued
};
struct PendingProducts {
    std::vector<WarpgroupProduct> open;
    std::deque<std::vector<WarpgroupProduct>> groups;
    int64_t committed = 0, finished = 0;  // groups
    bool fenced = false;                  // wgmma.fence since the kernel's start
    bool registers_fenced = false;        // wgmma.fence since the last wait, after which registers may be written
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
