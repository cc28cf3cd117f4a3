// What a GPU of a compute capability has. CUDA C++ Programming Guide, "Compute Capabilities", table "Technical
// Specifications per Compute Capability".
#pragma once
#include <algorithm>
#include <cstddef>

namespace llmc::emulator {

struct Limits {
    size_t block_shared, multiprocessor_shared;  // bytes
    int threads, blocks;                         // of a multiprocessor
    bool clusters, bulk_copies;                  // from 9.0 on
    bool wgmma;                                  // 9.0 only
};

constexpr Limits limits(int capability) {
    const bool hopper = capability >= 90, large = hopper && capability < 120;
    const bool middle = capability == 80 || capability == 87;
    const size_t shared = size_t(capability < 80 ? 64 : large ? 227 : middle ? 163 : 99) << 10;
    return {.block_shared = shared,
            .multiprocessor_shared = shared + 1024,
            .threads = capability < 80                                    ? 1024
                       : capability == 80 || (large && capability != 110) ? 2048
                                                                          : 1536,
            .blocks = capability == 86 || capability == 87 || capability < 80 ? 16
                      : capability == 89                                      ? 24
                      : large                                                 ? 32
                      : hopper                                                ? 24
                                                                              : 32,
            .clusters = hopper,
            .bulk_copies = hopper,
            .wgmma = capability == 90};
}

// Blocks of one kernel that a multiprocessor runs at a time, as far as threads and shared memory say; registers are not
// known here.
constexpr int resident_blocks(const Limits& l, int threads, size_t shared) {
    const int by_threads = l.threads / std::max(threads, 1);
    const int by_shared = int(l.multiprocessor_shared / (shared + 1024));  // 1 KiB of a block is the system's
    return std::max(1, std::min({by_threads, by_shared, l.blocks}));
}

}  // namespace llmc::emulator
