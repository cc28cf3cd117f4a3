// gpu.h for other compilers than nvcc: each function on the CPU. They are documented in llmc/cuda/gpu/ptx.h.
#pragma once
#include <cmath>
#include <cstdint>

#include "llmc/core/tensor.h"
#include "llmc/emulator/async_copy.h"
#include "llmc/emulator/counters.h"
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
template <class Vector>
GPU Vector vector_at(const void* p) {
#ifdef LLMC_EMULATOR_COUNT
    return emulator::counted_load<Vector>(p);
#else
    const auto* words = static_cast<const uint32_t*>(p);
    if constexpr (sizeof(Vector) == 16)
        return {words[0], words[1], words[2], words[3]};
    else
        return {words[0], words[1]};
#endif
}
template <class Vector>
GPU void set_vector_at(void* p, const Vector& v) {
#ifdef LLMC_EMULATOR_COUNT
    emulator::counted_store(p, v);
#else
    *static_cast<Vector*>(p) = v;
#endif
}
GPU uint4 load16(const void* p, Location where = Location::current()) {
    emulator::check_global16(p, "load16", where);
    return vector_at<uint4>(p);
}
GPU void store16(void* p, const uint4& v, Location where = Location::current()) {
    emulator::check_global16(p, "store16", where);
    set_vector_at(p, v);
}
GPU uint2 load8(const void* p, Location where = Location::current()) {
    emulator::check_global(p, 8, "load8", where);
    return vector_at<uint2>(p);
}
GPU void store8(void* p, const uint2& v, Location where = Location::current()) {
    emulator::check_global(p, 8, "store8", where);
    set_vector_at(p, v);
}
GPU uint32_t load4(const void* p, Location where = Location::current()) {
    emulator::check_global(p, 4, "load4", where);
    return *static_cast<const uint32_t*>(p);
}
GPU void store4(void* p, uint32_t v, Location where = Location::current()) {
    emulator::check_global(p, 4, "store4", where);
    *static_cast<uint32_t*>(p) = v;
}
// As atomic operations, which ThreadSanitizer sees. A counting build runs a sample of blocks: nobody waits for others.
GPU void wait_for_value(const uint32_t* p, uint32_t value, Location where = Location::current()) {
    emulator::check_global(p, 4, "wait_for_value", where);
    while (!emulator::kCounts && __atomic_load_n(p, __ATOMIC_ACQUIRE) != value)
        emulator::wait_for_other_blocks("wait_for_value", where);
    emulator::yield_at_random();
}
GPU uint32_t wait_until_above(const uint32_t* p, uint32_t x, Location where = Location::current()) {
    emulator::check_global(p, 4, "wait_until_above", where);
    uint32_t found;
    while ((found = __atomic_load_n(p, __ATOMIC_ACQUIRE)) <= x && !emulator::kCounts)
        emulator::wait_for_other_blocks("wait_until_above", where);
    emulator::yield_at_random();
    return found;
}
GPU uint32_t load_acquire(const uint32_t* p, Location where = Location::current()) {
    emulator::check_global(p, 4, "load_acquire", where);
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
GPU void store_release(uint32_t* p, uint32_t value, Location where = Location::current()) {
    emulator::check_global(p, 4, "store_release", where);
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
    emulator::stored_for_other_blocks();
}
GPU uint4 load_shared16(const void* p, Location where = Location::current()) {
    emulator::check_shared16(p, "load_shared16", where);
    return vector_at<uint4>(p);
}
GPU void store_shared16(void* p, const uint4& v, Location where = Location::current()) {
    emulator::check_shared16(p, "store_shared16", where);
    set_vector_at(p, v);
}

template <int kThreads, int kBlocks = 1>
GPU void launch_bounds(Location where = Location::current()) {
    emulator::check_launch_bounds(kThreads, where);
}

GPU float exp2_approx(float x) {
    emulator::count(emulator::Event::exp2);
    return emulator::hardware_numerics() ? emulator::hardware_exp2(x) : std::exp2(x);
}
GPU float tanh_approx(float x) {
    emulator::count(emulator::Event::tanh);
    return emulator::hardware_numerics() ? emulator::hardware_tanh(x) : std::tanh(x);
}
GPU float rsqrt_approx(float x) {
    emulator::count(emulator::Event::rsqrt);
    return emulator::hardware_numerics() ? emulator::inexact(1 / std::sqrt(double(x)), x) : 1.0f / std::sqrt(x);
}
GPU float divide_approx(float a, float b) {
    emulator::count(emulator::Event::reciprocal);
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
struct MatrixRow {
    uint64_t low, high;
};
GPU MatrixRow row_at(const void* row) {
#ifdef LLMC_EMULATOR_COUNT
    const uint4 v = emulator::counted_load<uint4>(row, emulator::Access::ldmatrix);
    return {v.x | uint64_t{v.y} << 32, v.z | uint64_t{v.w} << 32};
#else
    const auto* halves = static_cast<const uint64_t*>(row);
    return {halves[0], halves[1]};
#endif
}
GPU void ldmatrix_x4(uint32_t (&r)[4], const void* row, Location where = Location::current()) {
    emulator::check_shared16(row, "ldmatrix", where);
    const auto [low, high] = row_at(row);
    emulator::distribute_rows(r, low, high, false, where);
}
GPU void ldmatrix_x4(uint32_t (&r)[4], uint32_t row, Location where = Location::current()) {
    ldmatrix_x4(r, emulator::self().block->shared + row, where);
}
GPU void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row, Location where = Location::current()) {
    emulator::check_shared16(row, "ldmatrix", where);
    const auto [low, high] = row_at(row);
    emulator::distribute_rows(r, low, high, true, where);
}
GPU void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row, Location where = Location::current()) {
    ldmatrix_x4_trans(r, emulator::self().block->shared + row, where);
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
