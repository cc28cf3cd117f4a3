// gpu.h for other compilers than nvcc: each function on the CPU. They are documented in llmc/cuda/gpu/ptx.h.
#pragma once
#include <cmath>
#include <cstdint>

#include "llmc/core/tensor.h"
#include "llmc/emulator/async_copy.h"
#include "llmc/emulator/language.h"
#include "llmc/emulator/memory.h"
#include "llmc/emulator/numerics.h"
#include "llmc/emulator/tensor_core.h"
#include "llmc/emulator/warp.h"

#define GPU inline

namespace llmc::gpu {

constexpr bool kEmulated = true;
using emulator::Location;

template <class T>
GPU T& shared() {
    const emulator::Block& block = *emulator::self().block;
    if (sizeof(T) > block.shared_bytes) emulator::fail("the kernel's shared memory is larger than its launch gave it");
    return *reinterpret_cast<T*>(block.shared);
}
GPU uint32_t shared_address(const void* p) {
    return uint32_t(static_cast<const unsigned char*>(p) - emulator::self().block->shared);
}

// Word by word, which ThreadSanitizer sees: gcc does not show it the read of a structure that is passed on.
GPU uint4 words_at(const void* p) {
    const auto* words = static_cast<const uint32_t*>(p);
    return {words[0], words[1], words[2], words[3]};
}
GPU uint4 load16(const void* p, Location where = Location::current()) {
    emulator::check_global16(p, "load16", where);
    return words_at(p);
}
GPU void store16(void* p, const uint4& v, Location where = Location::current()) {
    emulator::check_global16(p, "store16", where);
    *static_cast<uint4*>(p) = v;
}
GPU uint2 load8(const void* p, Location where = Location::current()) {
    emulator::check_global(p, 8, "load8", where);
    const auto* words = static_cast<const uint32_t*>(p);
    return {words[0], words[1]};
}
GPU void store8(void* p, const uint2& v, Location where = Location::current()) {
    emulator::check_global(p, 8, "store8", where);
    *static_cast<uint2*>(p) = v;
}
GPU uint32_t load4(const void* p, Location where = Location::current()) {
    emulator::check_global(p, 4, "load4", where);
    return *static_cast<const uint32_t*>(p);
}
GPU void store4(void* p, uint32_t v, Location where = Location::current()) {
    emulator::check_global(p, 4, "store4", where);
    *static_cast<uint32_t*>(p) = v;
}
// As atomic operations, which ThreadSanitizer sees.
GPU void wait_for_value(const uint32_t* p, uint32_t value, Location where = Location::current()) {
    emulator::check_global(p, 4, "wait_for_value", where);
    while (__atomic_load_n(p, __ATOMIC_ACQUIRE) != value) emulator::wait_for_other_blocks("wait_for_value", where);
    emulator::yield_at_random();
}
GPU void store_release(uint32_t* p, uint32_t value, Location where = Location::current()) {
    emulator::check_global(p, 4, "store_release", where);
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
    emulator::stored_for_other_blocks();
}
GPU uint4 load_shared16(const void* p, Location where = Location::current()) {
    emulator::check_shared16(p, "load_shared16", where);
    return words_at(p);
}
GPU void store_shared16(void* p, const uint4& v, Location where = Location::current()) {
    emulator::check_shared16(p, "store_shared16", where);
    *static_cast<uint4*>(p) = v;
}

template <int kThreads, int kBlocks = 1>
GPU void launch_bounds(Location where = Location::current()) {
    emulator::check_launch_bounds(kThreads, where);
}

GPU float exp2_approx(float x) { return emulator::hardware_numerics() ? emulator::hardware_exp2(x) : std::exp2(x); }
GPU float tanh_approx(float x) { return emulator::hardware_numerics() ? emulator::hardware_tanh(x) : std::tanh(x); }
GPU float rsqrt_approx(float x) {
    return emulator::hardware_numerics() ? emulator::inexact(1 / std::sqrt(double(x)), x) : 1.0f / std::sqrt(x);
}
GPU float divide_approx(float a, float b) {
    return emulator::hardware_numerics() ? emulator::inexact(double(a) / double(b), b) : a / b;
}

GPU uint32_t pack_bf16x2(float low, float high) { return to_bf16(low).bits | uint32_t{to_bf16(high).bits} << 16; }
GPU uint32_t hidden(uint32_t x) { return x; }
template <class T>
GPU T* hidden(T* p) {
    return p;
}
GPU float float_of(uint32_t bits) { return std::bit_cast<float>(bits); }
GPU uint32_t bits_of(float x) { return std::bit_cast<uint32_t>(x); }
GPU float low_of(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
GPU float high_of(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

GPU void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                      Location where = Location::current()) {
    emulator::mma_m16n8k16_bf16(d, a, b, where);
}
GPU void ldmatrix_x4(uint32_t (&r)[4], const void* row, Location where = Location::current()) {
    emulator::check_shared16(row, "ldmatrix", where);
    const auto* halves = static_cast<const uint64_t*>(row);
    emulator::distribute_rows(r, halves[0], halves[1], false, where);
}
GPU void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Location where = Location::current()) {
    emulator::check_shared16(row, "ldmatrix", where);
    const auto* halves = static_cast<const uint64_t*>(row);
    emulator::distribute_rows(r, halves[0], halves[1], true, where);
}

GPU void cp_async16(void* destination, const void* source, bool exists = true, Location where = Location::current()) {
    emulator::check_shared16(destination, "the destination of cp.async", where);
    if (exists) emulator::check_global16(source, "the source of cp.async", where);
    emulator::self().where = where;
    emulator::start_copy(destination, exists ? source : nullptr);
}
GPU void cp_async_commit() { emulator::commit_copies(); }
template <int kPending>
GPU void cp_async_wait() {
    emulator::wait_for_copies(kPending);
}

}  // namespace llmc::gpu
