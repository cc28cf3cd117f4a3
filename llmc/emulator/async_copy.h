// cp.async with the least that the hardware guarantees: from its issue on the destination holds NaN, which shows a
// thread that still reads the old contents, and the bytes arrive only when the thread waits for them, which shows a
// missing wait. ThreadSanitizer sees a write at both moments.
#pragma once
#include <cstdint>
#include "llmc/emulator/counters.h"
#include "llmc/emulator/grid.h"

namespace llmc::emulator {

void remember_copy(const PendingCopy& copy);
void commit_copies();
// The next copy that has to be done so that at most `most_pending` groups are pending; false if there is none.
bool next_to_land(int most_pending, PendingCopy& copy);

inline void start_copy(void* destination, const void* source) {
    remember_copy({destination, source});
#ifdef LLMC_EMULATOR_COUNT
    counted_copy16(destination, source);
#else
    *static_cast<uint4*>(destination) = {~0u, ~0u, ~0u, ~0u};
#endif
}

LLMC_UNCOUNTED inline void wait_for_copies(int most_pending) {
    for (PendingCopy copy; next_to_land(most_pending, copy);) {
        if (copy.source)
            *static_cast<uint4*>(copy.destination) = *static_cast<const uint4*>(copy.source);
        else
            *static_cast<uint4*>(copy.destination) = {0, 0, 0, 0};
    }
}

}  // namespace llmc::emulator
