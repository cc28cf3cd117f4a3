// Loads and stores of several elements of either float type, as floats. The widest access of a thread is 16 bytes.
#pragma once
#include "llmc/cuda/gpu.h"

namespace llmc::cuda {

using namespace gpu;

constexpr int kVec = 8;  // elements that a thread loads at a time: 16 bytes of bf16, 32 of fp32

GPU void unpack(float (&v)[8], const uint4& bits) {
    v[0] = low_of(bits.x), v[1] = high_of(bits.x), v[2] = low_of(bits.y), v[3] = high_of(bits.y);
    v[4] = low_of(bits.z), v[5] = high_of(bits.z), v[6] = low_of(bits.w), v[7] = high_of(bits.w);
}
GPU uint4 pack(const float (&v)[8]) {
    return {pack_bf16x2(v[0], v[1]), pack_bf16x2(v[2], v[3]), pack_bf16x2(v[4], v[5]), pack_bf16x2(v[6], v[7])};
}

// Two neighbouring elements as they are stored.
template <class T>
using Pair = std::conditional_t<sizeof(T) == 2, uint32_t, uint2>;
template <class T>
GPU Pair<T> pack_pair(float low, float high) {
    if constexpr (sizeof(T) == 2)
        return pack_bf16x2(low, high);
    else
        return {bits_of(low), bits_of(high)};
}
using gpu::high_of, gpu::low_of;
GPU float low_of(const uint2& pair) { return float_of(pair.x); }
GPU float high_of(const uint2& pair) { return float_of(pair.y); }
// In global memory; p is as aligned as a pair is large.
GPU uint32_t load_pair(const bf16* p) { return load4(p); }
GPU uint2 load_pair(const float* p) { return load8(p); }
GPU void store_pair(bf16* p, uint32_t pair) { store4(p, pair); }
GPU void store_pair(float* p, const uint2& pair) { store8(p, pair); }

GPU float load1(const float* p) { return *p; }
GPU float load1(const bf16* p) { return low_of(p->bits); }
GPU void store1(float* p, float x) { *p = x; }
GPU void store1(bf16* p, float x) { p->bits = uint16_t(pack_bf16x2(x, 0.0f)); }

// kCount consecutive elements of global memory, a multiple of 16 bytes; p is 16-byte aligned.
template <int kCount>
GPU void load(float (&v)[kCount], const float* p) {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
        const uint4 bits = load16(p + i);
        v[i] = float_of(bits.x), v[i + 1] = float_of(bits.y), v[i + 2] = float_of(bits.z), v[i + 3] = float_of(bits.w);
    }
}
GPU void load(float (&v)[8], const bf16* p) { unpack(v, load16(p)); }

template <int kCount>
GPU void store(float* p, const float (&v)[kCount]) {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += 4)
        store16(p + i, {bits_of(v[i]), bits_of(v[i + 1]), bits_of(v[i + 2]), bits_of(v[i + 3])});
}
GPU void store(bf16* p, const float (&v)[8]) { store16(p, pack(v)); }

// The same in shared memory.
template <int kCount>
GPU void load_shared(float (&v)[kCount], const float* p) {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += 4) {
        const uint4 bits = load_shared16(p + i);
        v[i] = float_of(bits.x), v[i + 1] = float_of(bits.y), v[i + 2] = float_of(bits.z), v[i + 3] = float_of(bits.w);
    }
}
GPU void load_shared(float (&v)[8], const bf16* p) { unpack(v, load_shared16(p)); }
template <int kCount>
GPU void store_shared(float* p, const float (&v)[kCount]) {
    static_assert(kCount % 4 == 0);
#pragma unroll
    for (int i = 0; i < kCount; i += 4)
        store_shared16(p + i, {bits_of(v[i]), bits_of(v[i + 1]), bits_of(v[i + 2]), bits_of(v[i + 3])});
}

// The first `count` elements, one at a time, at the end of a row or if rows are not aligned. The rest of v is 0.
template <int kCount, class T>
GPU void load_some(float (&v)[kCount], const T* p, int64_t count) {
#pragma unroll
    for (int i = 0; i < kCount; ++i) v[i] = i < count ? load1(p + i) : 0.0f;
}
template <int kCount, class T>
GPU void store_some(T* p, const float (&v)[kCount], int64_t count) {
#pragma unroll
    for (int i = 0; i < kCount; ++i)
        if (i < count) store1(p + i, v[i]);
}

// Both of the above: the whole vector if p is aligned (`whole`) and `count` is at least kCount.
template <int kCount, class T>
GPU void load_upto(float (&v)[kCount], const T* p, int64_t count, bool whole) {
    if (whole && count >= kCount)
        load(v, p);
    else
        load_some(v, p, count);
}
template <int kCount, class T>
GPU void store_upto(T* p, const float (&v)[kCount], int64_t count, bool whole) {
    if (whole && count >= kCount)
        store(p, v);
    else
        store_some(p, v, count);
}

// On the host: whether every 8th element of the rows of all these tensors starts at a multiple of 16 bytes.
inline bool is_aligned(const Tensor& t) { return !t || reinterpret_cast<uintptr_t>(t.data) % 16 == 0; }
template <class... Tensors>
bool rows_are_aligned(const Tensors&... tensors) {
    return ((is_aligned(tensors) && (!tensors || tensors.last() % 8 == 0)) && ...);
}

}  // namespace llmc::cuda
