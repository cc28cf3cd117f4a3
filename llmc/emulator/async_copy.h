// cp.async, as badly as the hardware may behave: from the moment it is issued the destination holds NaN, so whoever
// still reads the stage's last contents is found out, and the bytes land when the thread waits for them and no sooner,
// so a missing wait is too. ThreadSanitizer sees a write at both moments.
#pragma once
#include <cstdint>
#include "llmc/emulator/grid.h"

namespace llmc::emulator {

void remember_copy(const PendingCopy& copy);
void commit_copies();
// The next copy that has to land before at most `most_pending` groups are on their way; false: there is none.
bool next_to_land(int most_pending, PendingCopy& copy);

inline void start_copy(void* destination, const void* source) {
    remember_copy({destination, source});
    *static_cast<uint4*>(destination) = {~0u, ~0u, ~0u, ~0u};
}

inline void wait_for_copies(int most_pending) {
    for (PendingCopy copy; next_to_land(most_pending, copy);) {
        if (copy.source)
            *static_cast<uint4*>(copy.destination) = *static_cast<const uint4*>(copy.source);
        else
            *static_cast<uint4*>(copy.destination) = {0, 0, 0, 0};
    }
}

}  // namespace llmc::emulator
