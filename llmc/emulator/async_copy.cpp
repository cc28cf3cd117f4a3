#include "llmc/emulator/async_copy.h"

namespace llmc::emulator {

void remember_copy(const PendingCopy& copy) { self().copies.open.push_back(copy); }

void commit_copies() {
    PendingCopies& copies = self().copies;
    copies.groups.push_back(std::move(copies.open));
    copies.open.clear();
    yield_at_random();
}

bool next_to_land(int most_pending, PendingCopy& copy) {
    auto& groups = self().copies.groups;
    while (int(groups.size()) > most_pending && groups.front().empty()) groups.pop_front();
    if (int(groups.size()) <= most_pending) return false;
    copy = groups.front().back();
    groups.front().pop_back();
    return true;
}

}  // namespace llmc::emulator
