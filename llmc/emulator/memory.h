// Which memory an address belongs to, and the checks of the accesses that CUDA makes of one kind of memory only.
#pragma once
#include <cstddef>
#include "llmc/emulator/grid.h"

namespace llmc::emulator {

// Allocations that kernels may access: cudaMalloc's, and cudaMallocHost's (page-locked memory has one address on both
// sides). Changed by the runtime while no grid runs.
void remember_allocation(const void* pointer, size_t bytes);
void forget_allocation(const void* pointer);
bool is_accessible(const void* p, size_t bytes);  // by a kernel, as global memory

// Fail, with the place, unless the running thread may access so many aligned bytes there, in global memory (load16,
// store16, the source of cp.async, ...) or in its block's shared memory.
void check_global(const void* p, size_t bytes, const char* what, const Location& where);
inline void check_global16(const void* p, const char* what, const Location& where) { check_global(p, 16, what, where); }
void check_shared16(const void* p, const char* what, const Location& where);

}  // namespace llmc::emulator
