// The functions of llmc/cuda/gpu/hopper.h on the CPU. Bulk copies are done some rounds after their issue. The products
// of a warpgroup are computed, for all 128 threads at once, when one of its threads waits for them, so that memory that
// is reused too early gives a wrong result. Operands that ordinary stores wrote need a fence.proxy.async. Not modelled:
// other swizzles and shapes.
#pragma once
#include "llmc/core/tensor.h"
#include "llmc/emulator/gpu.h"
#include "llmc/emulator/warp.h"

namespace llmc::gpu {

using emulator::Location;

struct alignas(64) TensorMap {
    const bf16* matrix;
    int64_t rows, columns, stride;
    int box_rows;
    int64_t matrices = 0;  // of a batch; 0: a map of two dimensions
};
// They refuse what cuTensorMapEncodeTiled refuses.
TensorMap tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride, int box_rows);
TensorMap batch_map(const bf16* first, int64_t count, int64_t rows, int64_t columns, int box_rows);

}  // namespace llmc::gpu

namespace llmc::emulator {

void mbarrier_initialise(uint64_t* barrier, int count, const Location& where);
void fence_barriers(const Location& where);
// rank: of the block in the cluster, -1: this one
void mbarrier_arrive(uint64_t* barrier, int rank, int bytes, const Location& where);
void mbarrier_wait_for(uint64_t* barrier, int parity, const Location& where);
// matrix: of a batch, -1: the map has two dimensions
void start_bulk_copy(void* destination, const gpu::TensorMap& map, uint64_t* barrier, int column, int row, int matrix,
                     uint16_t ranks, const Location& where);
std::vector<unsigned char>& async_view(Block& block);
// The 128-byte swizzle of byte offsets: TMA writes by it, and wgmma reads.
constexpr uint32_t swizzled(uint32_t offset) { return offset ^ (offset >> 7 & 7) << 4; }
void fence_proxy(const Location& where);
// Read where the sums are: nothing comes to the multiprocessor.
LLMC_UNCOUNTED float4 sum_in_memory(float* p, const float (&v)[4]);
void issue_product(const WarpgroupProduct& product, const Location& where);
// Computes the products of a warpgroup's 128 threads, which are the same but for their registers.
void multiply_warpgroup(Block& block, const WarpgroupProduct* const (&of_thread)[128]);
void fence_products(const Location& where);
void commit_products();
void set_registers(int registers, const Location& where);  // of this thread's warp; waits until so many are free
void wait_for_products(int most_pending, const Location& where);

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
    emulator::start_bulk_copy(destination, *map, barrier, column, row, -1, ranks, where);
}
inline void tma_load(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row,
                     Location where = Location::current()) {
    emulator::start_bulk_copy(destination, *map, barrier, column, row, -1, uint16_t(1u << cluster_rank()), where);
}
inline void tma_load(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row, int matrix,
                     Location where = Location::current()) {
    emulator::start_bulk_copy(destination, *map, barrier, column, row, matrix, uint16_t(1u << cluster_rank()), where);
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

inline void add_global(float* p, const float (&v)[4], Location where = Location::current()) {
    emulator::check_global16(p, "add_global", where);
    set_vector_at(p, emulator::sum_in_memory(p, v));
}
inline void fence_proxy_async(Location where = Location::current()) { emulator::fence_proxy(where); }

template <int kColumns, bool kAByColumns, bool kBByRows>
void wgmma_m64k16(float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool add, Location where = Location::current()) {
    static_assert(kColumns == 8 || kColumns == 256);
    emulator::issue_product({d, a, b, kColumns, kAByColumns, kBByRows, add}, where);
}
template <int kColumns, bool kBByRows>
void wgmma_m64k16(float (&d)[kColumns / 8][4], const uint32_t (&a)[4], uint64_t b, bool add,
                  Location where = Location::current()) {
    static_assert(kColumns == 64 || kColumns == 128);
    emulator::issue_product({d[0], 0, b, kColumns, false, kBByRows, add, a, {a[0], a[1], a[2], a[3]}}, where);
}
template <int kColumns, bool kAByColumns, bool kBByRows>
void wgmma_m64k16(float (&d)[kColumns / 8][4], uint64_t a, uint64_t b, bool add, Location where = Location::current()) {
    static_assert(kColumns == 64);
    emulator::issue_product({d[0], a, b, kColumns, kAByColumns, kBByRows, add}, where);
}
template <int kTiles>
void wgmma_results(float (&)[kTiles][4]) {}

}  // namespace llmc::gpu
