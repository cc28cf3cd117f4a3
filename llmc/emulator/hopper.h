// The functions of llmc/cuda/gpu/hopper.h on the CPU. Bulk copies are done some rounds after their issue. The products
// of a warpgroup are computed, for all 128 threads at once, when one of its threads waits for them, so that memory that
// is reused too early gives a wrong result. Not modelled: fence.proxy.async, other swizzles and shapes.
#pragma once
#include "llmc/core/tensor.h"
#include "llmc/emulator/numerics.h"
#include "llmc/emulator/warp.h"

namespace llmc::gpu {

using emulator::Location;

struct alignas(64) TensorMap {
    const bf16* matrix;
    int64_t rows, columns, stride;
    int box_rows;
};
// Refuses what cuTensorMapEncodeTiled refuses.
TensorMap tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride, int box_rows);

}  // namespace llmc::gpu

namespace llmc::emulator {

void mbarrier_initialise(uint64_t* barrier, int count, const Location& where);
void fence_barriers(const Location& where);
// rank: of the block in the cluster, -1: this one
void mbarrier_arrive(uint64_t* barrier, int rank, int bytes, const Location& where);
void mbarrier_wait_for(uint64_t* barrier, int parity, const Location& where);
void start_bulk_copy(void* destination, const gpu::TensorMap& map, uint64_t* barrier, int column, int row,
                     uint16_t ranks, const Location& where);
// One thread's part of a product: `multiply` reads shared memory and adds to the thread's registers.
void issue_product(const std::function<void()>& multiply, const Location& where);
void fence_products(const Location& where);
void commit_products();
void set_registers(int registers, const Location& where);  // of this thread's warp; waits until so many are free
void wait_for_products(int most_pending, const Location& where);

// Byte offset in shared memory of element (mn, k) of an operand. PTX manual, wgmma, "Canonical layouts".
inline uint32_t operand_offset(uint64_t descriptor, bool along_mn, int mn, int k) {
    const uint32_t start = (descriptor & 0x3fff) << 4, leading = (descriptor >> 16 & 0x3fff) << 4,
                   stride = (descriptor >> 32 & 0x3fff) << 4;
    if (descriptor >> 62 != 1) fail("wgmma: the descriptor does not say 128-byte swizzle");
    const uint32_t offset = along_mn ? start + mn / 64 * leading + k / 8 * stride + k % 8 * 128 + mn % 64 * 2
                                     : start + mn / 8 * stride + mn % 8 * 128 + k * 2;
    return offset ^ (offset >> 7 & 7) << 4;
}

}  // namespace llmc::emulator

namespace llmc::gpu {

inline int cluster_rank() { return emulator::self().block->rank; }
inline void cluster_sync(Location where = Location::current()) { emulator::sync_cluster(where); }
inline void named_barrier(int id, int threads, Location where = Location::current()) {
    emulator::sync_named(id, threads, where);
}

inline void mbarrier_init(uint64_t* barrier, int count, Location where = Location::current()) {
    emulator::mbarrier_initialise(barrier, count, where);
}
inline void mbarrier_init_fence(Location where = Location::current()) { emulator::fence_barriers(where); }
inline void mbarrier_arrive(uint64_t* barrier, Location where = Location::current()) {
    emulator::mbarrier_arrive(barrier, -1, 0, where);
}
inline void mbarrier_arrive_expect(uint64_t* barrier, int bytes, Location where = Location::current()) {
    emulator::mbarrier_arrive(barrier, -1, bytes, where);
}
inline void mbarrier_arrive_at(uint64_t* barrier, int rank, Location where = Location::current()) {
    emulator::mbarrier_arrive(barrier, rank, 0, where);
}
inline void mbarrier_wait(uint64_t* barrier, int parity, Location where = Location::current()) {
    emulator::mbarrier_wait_for(barrier, parity, where);
}

inline void tma_load_multicast(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row,
                               uint16_t ranks, Location where = Location::current()) {
    emulator::start_bulk_copy(destination, *map, barrier, column, row, ranks, where);
}
inline void tma_load(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row,
                     Location where = Location::current()) {
    emulator::start_bulk_copy(destination, *map, barrier, column, row, uint16_t(1u << cluster_rank()), where);
}

inline void wgmma_fence(Location where = Location::current()) { emulator::fence_products(where); }
inline void wgmma_commit() { emulator::commit_products(); }
template <int kPending>
void wgmma_wait(Location where = Location::current()) {
    emulator::wait_for_products(kPending, where);
}
// Values that setmaxnreg takes.
template <int kRegisters>
constexpr bool kIsRegisterCount = kRegisters >= 24 && kRegisters <= 256 && kRegisters % 8 == 0;
template <int kRegisters>
void raise_registers(Location where = Location::current()) {
    static_assert(kIsRegisterCount<kRegisters>, "setmaxnreg takes multiples of 8 from 24 to 256");
    emulator::set_registers(kRegisters, where);
}
template <int kRegisters>
void lower_registers(Location where = Location::current()) {
    static_assert(kIsRegisterCount<kRegisters>, "setmaxnreg takes multiples of 8 from 24 to 256");
    emulator::set_registers(kRegisters, where);
}

template <bool kAByColumns, bool kBByRows>
void wgmma_m64n128k16(float (&d)[64], uint64_t a, uint64_t b, Location where = Location::current()) {
    const emulator::Thread& me = emulator::self();
    const unsigned char* shared = me.block->shared;
    const int row = me.linear / 32 % 4 * 16 + me.lane / 4, column = 2 * (me.lane % 4);
    emulator::issue_product(
        [=, out = static_cast<float*>(d)] {
            const auto element = [&](uint64_t descriptor, bool along_mn, int mn, int k) {
                return to_float(
                    *reinterpret_cast<const bf16*>(shared + emulator::operand_offset(descriptor, along_mn, mn, k)));
            };
            for (int j = 0; j < 16; ++j)
                for (int half = 0; half < 2; ++half)
                    for (int e = 0; e < 2; ++e) {
                        float x[16], y[16], sum = 0, &acc = out[4 * j + 2 * half + e];
                        for (int k = 0; k < 16; ++k) {
                            x[k] = element(a, kAByColumns, row + 8 * half, k);
                            y[k] = element(b, kBByRows, 8 * j + column + e, k);
                            sum += x[k] * y[k];
                        }
                        acc = emulator::hardware_numerics() ? emulator::tensor_core_sum(acc, x, y, 16, 1, 1)
                                                            : acc + sum;
                    }
        },
        where);
}

}  // namespace llmc::gpu
