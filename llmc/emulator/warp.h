// Barriers, and collective operations of the 32 threads of a warp. Barriers order memory; exchanges of registers do
// not, because CUDA does not guarantee it, so ThreadSanitizer also finds a missing __syncwarp.
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include "llmc/emulator/grid.h"

namespace llmc::emulator {

constexpr uint32_t kFullWarp = 0xffffffffu;

void sync_block(const Location& where);
void sync_warp(uint32_t mask, const Location& where);
void sync_named(int id, int threads, const Location& where);
void sync_cluster(const Location& where);

// Every lane of `mask` gives `value` and receives the value of lane `source`.
uint64_t exchange(uint32_t mask, uint64_t value, int source, const char* what, const Location& where);

// Every lane deposits a pointer. The lane that arrives last calls compute(deposits), which may read and write all of
// them.
using Compute = void (*)(void* const (&deposits)[32]);
void collective(void* deposit, Compute compute, const char* what, const Location& where);

// Which lanes say yes: bit i is lane i's.
uint32_t ballot(uint32_t mask, bool yes, const Location& where);

template <class T>
T exchange_value(uint32_t mask, T value, int source, const char* what, const Location& where) {
    static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &value, sizeof value);
    bits = exchange(mask, bits, source, what, where);
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

}  // namespace llmc::emulator

inline void __syncthreads(llmc::emulator::Location where = llmc::emulator::Location::current()) {
    llmc::emulator::sync_block(where);
}
inline void __syncwarp(uint32_t mask = llmc::emulator::kFullWarp,
                       llmc::emulator::Location where = llmc::emulator::Location::current()) {
    llmc::emulator::sync_warp(mask, where);
}
template <class T>
T __shfl_sync(uint32_t mask, T value, int lane, llmc::emulator::Location where = llmc::emulator::Location::current()) {
    return llmc::emulator::exchange_value(mask, value, lane & 31, "__shfl_sync", where);
}
template <class T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes,
                  llmc::emulator::Location where = llmc::emulator::Location::current()) {
    return llmc::emulator::exchange_value(mask, value, (llmc::emulator::self().lane ^ lanes) & 31, "__shfl_xor_sync",
                                          where);
}
// The last lanes of the warp, for which lane + `lanes` does not exist, keep their own value.
template <class T>
T __shfl_down_sync(uint32_t mask, T value, int lanes,
                   llmc::emulator::Location where = llmc::emulator::Location::current()) {
    const int lane = llmc::emulator::self().lane, source = lane + lanes;
    return llmc::emulator::exchange_value(mask, value, source < 32 ? source : lane, "__shfl_down_sync", where);
}
template <class T>
T __shfl_up_sync(uint32_t mask, T value, int lanes,
                 llmc::emulator::Location where = llmc::emulator::Location::current()) {
    const int lane = llmc::emulator::self().lane, source = lane - lanes;
    return llmc::emulator::exchange_value(mask, value, source >= 0 ? source : lane, "__shfl_up_sync", where);
}
inline uint32_t __ballot_sync(uint32_t mask, int yes,
                              llmc::emulator::Location where = llmc::emulator::Location::current()) {
    return llmc::emulator::ballot(mask, yes != 0, where);
}
inline int __popc(uint32_t bits) { return std::popcount(bits); }
