// gpu.h for nvcc. Reference: NVIDIA, "Parallel thread execution ISA", section by instruction.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#define GPU __device__ __forceinline__

namespace llmc::gpu {

constexpr bool kEmulated = false;

// --- Shared memory ---

// The block's shared memory, 1024-byte aligned, as the kernel's own struct.
template <class T>
GPU T& shared() {
    extern __shared__ __align__(1024) unsigned char memory[];
    return *reinterpret_cast<T*>(memory);
}
GPU uint32_t shared_address(const void* p) { return uint32_t(__cvta_generic_to_shared(p)); }

// The kernel's __launch_bounds__, as its first statement: the emulator checks them (a macro before the kernel's name
// tells another compiler nothing).
template <int kThreads, int kBlocks = 1>
GPU void launch_bounds() {}

// 16 bytes, aligned.
GPU uint4 load_shared16(const void* p) { return *static_cast<const uint4*>(p); }
GPU void store_shared16(void* p, const uint4& v) { *static_cast<uint4*>(p) = v; }

// --- Global memory, 16, 8 or 4 bytes at a time, aligned ---

// As PTX rather than by dereferencing a uint4: next to an element-wise path, nvcc merged the two and split the vector.
GPU uint4 load16(const void* p) {
    uint4 v;
    asm volatile("ld.global.v4.b32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(__cvta_generic_to_global(p))
                 : "memory");
    return v;
}
GPU void store16(void* p, const uint4& v) {
    asm volatile("st.global.v4.b32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y),
                 "r"(v.z), "r"(v.w)
                 : "memory");
}
GPU uint2 load8(const void* p) {
    uint2 v;
    asm volatile("ld.global.v2.b32 {%0,%1}, [%2];"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(__cvta_generic_to_global(p))
                 : "memory");
    return v;
}
GPU void store8(void* p, const uint2& v) {
    asm volatile("st.global.v2.b32 [%0], {%1,%2};" ::"l"(__cvta_generic_to_global(p)), "r"(v.x), "r"(v.y) : "memory");
}
GPU uint32_t load4(const void* p) {
    uint32_t v;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(v) : "l"(__cvta_generic_to_global(p)) : "memory");
    return v;
}
GPU void store4(void* p, uint32_t v) {
    asm volatile("st.global.b32 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(v) : "memory");
}

// --- Between blocks: words of global memory that order the accesses before and after them ---

// *p; what the thread that stored it had written or seen before is visible then, after a barrier to the whole block.
GPU uint32_t load_acquire(const uint32_t* p) {
    uint32_t found;
    asm volatile("ld.acquire.gpu.global.b32 %0, [%1];" : "=r"(found) : "l"(__cvta_generic_to_global(p)) : "memory");
    return found;
}
// Waits until *p is `value`. Only for values that blocks of lower index store: others may not have begun.
GPU void wait_for_value(const uint32_t* p, uint32_t value) {
    while (load_acquire(p) != value) {}
}
// The same until *p is above x; returns what it is.
GPU uint32_t wait_until_above(const uint32_t* p, uint32_t x) {
    uint32_t found;
    do {
        found = load_acquire(p);
    } while (found <= x);
    return found;
}
GPU void store_release(uint32_t* p, uint32_t value) {
    asm volatile("st.release.gpu.global.b32 [%0], %1;" ::"l"(__cvta_generic_to_global(p)), "r"(value) : "memory");
}

// --- Numbers ---

// 2^x: ex2.approx, 2 ulp, denormals are flushed to 0.
GPU float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// tanh.approx: relative error 2^-11, less than the rounding of bf16.
GPU float tanh_approx(float x) {
    float y;
    asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}
// 1 / sqrt(x): rsqrt.approx, 2 ulp.
GPU float rsqrt_approx(float x) { return rsqrtf(x); }
// a / b with an approximate reciprocal, 2 ulp.
GPU float divide_approx(float a, float b) { return __fdividef(a, b); }

// Two floats as bf16, rounded to nearest even: `low` in the lower half.
GPU uint32_t pack_bf16x2(float low, float high) {
    uint32_t pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}
GPU float float_of(uint32_t bits) { return __uint_as_float(bits); }
GPU uint32_t bits_of(float x) { return __float_as_uint(x); }
GPU float low_of(uint32_t pair) { return __uint_as_float(pair << 16); }
GPU float high_of(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

// x, as a number or pointer of which the compiler knows nothing.
GPU uint32_t hidden(uint32_t x) {
    asm volatile("" : "+r"(x));
    return x;
}
template <class T>
GPU T* hidden(T* p) {
    asm volatile("" : "+l"(p));
    return p;
}

// --- Tensor cores ---

// D (16 x 8, fp32) += A (16 x 16, bf16) B (16 x 8, bf16), one warp. With g = lane / 4, t = lane % 4:
//   a[r]: A[g + 8 (r % 2)][2t + 8 (r / 2), +1];  b[r]: B[2t + 8r, +1][g];  d[r]: D[g + 8 (r / 2)][2t + r % 2].
GPU void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Loads four 8 x 8 matrices of 16-bit elements from shared memory: lane i gives the address (of shared memory, or a
// pointer) of the 16-byte row i % 8 of matrix i / 8; r[m] receives elements [lane / 4][2 (lane % 4), +1] of matrix m,
// or of its transpose.
GPU void ldmatrix_x4(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}
GPU void ldmatrix_x4_trans(uint32_t (&r)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(row)
                 : "memory");
}

GPU void ldmatrix_x4(uint32_t (&r)[4], const void* row) { ldmatrix_x4(r, shared_address(row)); }
GPU void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) { ldmatrix_x4_trans(r, shared_address(row)); }

// --- Asynchronous copies from global to shared memory ---

// Copies 16 bytes, or writes zeros without reading if the source does not exist. Both addresses are 16-byte aligned.
GPU void cp_async16(void* destination, const void* source, bool exists = true) {
    asm volatile(
        "{ .reg .pred ignore; setp.eq.s32 ignore, %2, 0; cp.async.cg.shared.global [%0], [%1], 16, ignore; }" ::"r"(
            shared_address(destination)),
        "l"(source), "r"(int(exists))
        : "memory");
}
GPU void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most kPending of this thread's groups are pending. For other threads' copies a barrier is needed too.
template <int kPending>
GPU void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace llmc::gpu
