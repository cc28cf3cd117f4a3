// Counts what a kernel asks of a GPU: tensor-core products, barriers, exchanges, special functions, wavefronts of shared
// memory, sectors of global memory. Only in builds with LLMC_EMULATOR_COUNT (`make kernel-report`); in others these
// functions do nothing. It counts and does not time.
//
// A warp's request is the n-th execution of one instruction by its lanes, so accesses are grouped by block, warp,
// instruction (the return address of the call that reports it) and n. Ordinary accesses report themselves: the kernels
// are compiled with -fsanitize=thread, whose calls counters.cpp answers. An access of 16 bytes, which a compiler may
// divide, ldmatrix, copies and operands of wgmma are reported by the functions of gpu.h.
//
// Of a request of global memory: sectors of 32 bytes that it touches; ideal: as many as its distinct bytes fill.
// Of a request of shared memory: wavefronts, of at most one word of 4 bytes in each of 32 banks; 8, 16 or 32 lanes are
// served together for accesses of 16, 8 or 4 bytes; ideal: distinct bytes / 128.
#pragma once
#include <cstddef>
#include <cstdint>
#include "llmc/emulator/language.h"

namespace llmc::emulator {

struct Launch;

// By one lane, except the products: mma by a warp, wgmma in multiply-adds of a warpgroup.
enum class Event { mma, wgmma, block_barrier, mbarrier_wait, exchange, exp2, tanh, rsqrt, reciprocal, kCount };

// How an access reaches memory. A copy is counted twice: as a read of global and as a write of shared memory.
enum class Access { plain, ldmatrix, cp_async, bulk, wgmma, kCount };

#ifdef LLMC_EMULATOR_COUNT
constexpr bool kCounts = true;
#define LLMC_UNCOUNTED __attribute__((no_sanitize("thread")))  // its accesses are not the kernel's
void count(Event event, uint64_t times = 1);
void count_access(const void* p, int bytes, bool write, Access access, const void* site);
// Without lanes: 16 bytes of shared memory at each address, eight served together, as a row of a bulk copy or a matrix of
// an operand; and bytes of global memory that follow each other.
void count_shared_rows(const void* const* rows, int count, bool write, Access access);
void count_global_bytes(const void* p, size_t bytes, bool write, Access access);

// Of a vector; not inlined, so that each caller is an instruction of its own.
template <class Vector>
LLMC_UNCOUNTED __attribute__((noinline)) Vector counted_load(const void* p, Access access = Access::plain) {
    count_access(p, sizeof(Vector), false, access, __builtin_return_address(0));
    return *static_cast<const Vector*>(p);
}
template <class Vector>
LLMC_UNCOUNTED __attribute__((noinline)) void counted_store(void* p, const Vector& v) {
    count_access(p, sizeof(Vector), true, Access::plain, __builtin_return_address(0));
    *static_cast<Vector*>(p) = v;
}
void counted_copy16(void* destination, const void* source);  // cp.async, until it arrives; source may be null

// Around a grid, with LLMC_COUNTS in the environment: a file that gets lines of JSON. Only a sample of blocks is counted,
// and the reader scales the counts: of a grid that a GPU runs at once (persistent blocks) the first and the last, with
// a line for each, of others the first 16, all tiles of a head of attention, with a line for all of them. The others are
// not run, unless LLMC_COUNT_RUN_ALL says that later kernels need their results. Nobody waits for them.
bool is_wanted(const Launch& launch, unsigned block);
void begin_counting_grid(const Launch& launch);
void begin_counting_block(unsigned block);
void end_counting_block();
void end_counting();
#else
constexpr bool kCounts = false;
#define LLMC_UNCOUNTED
inline void count(Event, uint64_t = 1) {}
inline void count_shared_rows(const void* const*, int, bool, Access) {}
inline void count_global_bytes(const void*, size_t, bool, Access) {}
inline bool is_wanted(const Launch&, unsigned) { return true; }
inline void begin_counting_grid(const Launch&) {}
inline void begin_counting_block(unsigned) {}
inline void end_counting_block() {}
inline void end_counting() {}
#endif

}  // namespace llmc::emulator
