// Instructions of compute capability 9.0a (Hopper): barriers in shared memory that count bytes, bulk copies of tiles
// (TMA), matrix products of a warpgroup (wgmma), clusters. matmul/wgmma.h and
// attention/forward_wgmma.h are made of them.
// tests/cuda/conformance.cu checks that they mean the same here and in the emulator; its product is a minimal Hopper
// matmul. Reference: "Parallel thread execution ISA", sections mbarrier, cp.async.bulk.tensor, wgmma.
#pragma once
#include "llmc/cuda/host.h"

#ifdef __CUDACC__
#include <cuda.h>
#define LLMC_HAS_HOPPER (!defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL))  // of the code being compiled
#else
#include "llmc/emulator/hopper.h"
#define LLMC_HAS_HOPPER 1
#endif

namespace llmc::gpu {

#ifdef __CUDACC__

// --- Clusters ---

GPU int cluster_rank() {
    uint32_t rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return int(rank);
}
GPU void cluster_sync() {
    asm volatile("barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;" ::: "memory");
}
// Barrier `id` (1 to 15) among `threads` of a block's threads, a multiple of 32.
GPU void named_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// --- mbarrier: changes its phase after `count` arrivals and all expected bytes ---

GPU void mbarrier_init(uint64_t* barrier, int count) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(count) : "memory");
}
// Makes initialised barriers visible to the cluster and to bulk copies.
GPU void mbarrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
GPU void mbarrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// Arrives, and adds to the bytes that the phase expects.
GPU void mbarrier_arrive_expect(uint64_t* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Arrives at the barrier at the same offset in another block of the cluster. Without ".release.cluster", as CUTLASS does:
// that compiles to a MEMBAR.ALL.GPU before every arrival, which only ordinary stores would need. Reads by wgmma are over
// when wgmma_wait returns.
GPU void mbarrier_arrive_at(uint64_t* barrier, int rank) {
    asm volatile(
        "{ .reg .b32 remote; mapa.shared::cluster.u32 remote, %0, %1;"
        "  mbarrier.arrive.shared::cluster.b64 _, [remote]; }" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
}
// Waits until the phase of that parity is over.
GPU void mbarrier_wait(uint64_t* barrier, int parity) {
    asm volatile(
        "{ .reg .pred over; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], %1;"
        "  @over bra DONE; bra AGAIN; DONE: }" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// --- TMA: copies a box of a bf16 matrix to shared memory, 128-byte swizzled, with zeros outside of the matrix ---

using TensorMap = CUtensorMap;

GPU void tma_load(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], "
        "[%2];" ::"r"(shared_address(destination)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
        : "memory");
}
// Of one matrix of a batch (batch_map).
GPU void tma_load(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row, int matrix) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], "
        "[%2];" ::"r"(shared_address(destination)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "r"(matrix)
        : "memory");
}
// To the same offset in all blocks of the cluster whose bit is set in `ranks`.
GPU void tma_load_multicast(void* destination, const TensorMap* map, uint64_t* barrier, int column, int row,
                            uint16_t ranks) {
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.multicast::cluster "
        "[%0], [%1, {%3, %4}], [%2], %5;" ::"r"(shared_address(destination)),
        "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row), "h"(ranks)
        : "memory");
}

// --- wgmma: D (64 x columns, fp32, in the registers of 128 threads) = A (64 x 16) B (16 x columns) + D or 0 ---

#define LLMC_D8(i)                                                                                              \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), \
        "+f"(d[i + 7])
#define LLMC_D32(i) LLMC_D8(i), LLMC_D8(i + 8), LLMC_D8(i + 16), LLMC_D8(i + 24)

// d[4 j + 2 half + e] of warp w, lane l: D[16 w + 8 half + l / 4][8 j + 2 (l % 4) + e]. The operands are in shared
// memory, given by descriptors, the same in all 128 threads; kAByColumns: A is stored as (K, M), kBByRows: B is stored
// as (K, N), otherwise both along K. `add`: to D, else D is overwritten.
template <int kColumns, bool kAByColumns, bool kBByRows>
GPU void wgmma_m64k16(float (&d)[kColumns / 2], uint64_t a, uint64_t b, bool add) {
    static_assert(kColumns == 8 || kColumns == 256);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (kColumns == 8)
        asm volatile(
            "{ .reg .pred add; setp.ne.b32 add, %6, 0;"
            "  wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, add, 1, 1, %7, %8; }"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "l"(a), "l"(b), "r"(int(add)), "n"(int(kAByColumns)), "n"(int(kBByRows)));
    else
        asm volatile(
            "{ .reg .pred add; setp.ne.b32 add, %130, 0;"
            "  wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 {"
            "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,"
            "%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,"
            "%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,"
            "%62,%63,%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,"
            "%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,"
            "%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,"
            "%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
            "}, %128, %129, add, 1, 1, %131, %132; }"
            : LLMC_D32(0), LLMC_D32(32), LLMC_D32(64), LLMC_D32(96)
            : "l"(a), "l"(b), "r"(int(add)), "n"(int(kAByColumns)), "n"(int(kBByRows)));
#endif
}
#define LLMC_TILE(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define LLMC_TILES8(i)                                                                                      \
    LLMC_TILE(i), LLMC_TILE(i + 1), LLMC_TILE(i + 2), LLMC_TILE(i + 3), LLMC_TILE(i + 4), LLMC_TILE(i + 5), \
        LLMC_TILE(i + 6), LLMC_TILE(i + 7)
// The same with A in registers, and D in tiles of 8 columns; warp w has rows 16 w ... 16 w + 15 of both, as mma_m16n8k16
// has its rows. Neither A nor D may be touched until wgmma_wait.
template <int kColumns, bool kBByRows>
GPU void wgmma_m64k16(float (&d)[kColumns / 8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    static_assert(kColumns == 64 || kColumns == 128);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    if constexpr (kColumns == 64)
        asm volatile(
            "{ .reg .pred add; setp.ne.b32 add, %37, 0;"
            "  wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
            "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
            "%24,%25,%26,%27,%28,%29,%30,%31"
            "}, {%32,%33,%34,%35}, %36, add, 1, 1, %38; }"
            : LLMC_TILES8(0)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kBByRows)));
    else
        asm volatile(
            "{ .reg .pred add; setp.ne.b32 add, %69, 0;"
            "  wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
            "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
            "%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
            "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
            "}, {%64,%65,%66,%67}, %68, add, 1, 1, %70; }"
            : LLMC_TILES8(0), LLMC_TILES8(8)
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(add)), "n"(int(kBByRows)));
#endif
}
// The same with both operands in shared memory.
template <int kColumns, bool kAByColumns, bool kBByRows>
GPU void wgmma_m64k16(float (&d)[kColumns / 8][4], uint64_t a, uint64_t b, bool add) {
    static_assert(kColumns == 64);
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile(
        "{ .reg .pred add; setp.ne.b32 add, %34, 0;"
        "  wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
        "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,"
        "%24,%25,%26,%27,%28,%29,%30,%31"
        "}, %32, %33, add, 1, 1, %35, %36; }"
        : LLMC_TILES8(0)
        : "l"(a), "l"(b), "r"(int(add)), "n"(int(kAByColumns)), "n"(int(kBByRows)));
#endif
}
#undef LLMC_TILES8
#undef LLMC_TILE
#undef LLMC_D32
#undef LLMC_D8
// After wgmma_wait, before ordinary uses of D: the compiler knows nothing of what was waited for.
template <int kTiles>
GPU void wgmma_results(float (&d)[kTiles][4]) {
#pragma unroll
    for (auto& tile : d)
#pragma unroll
        for (float& x : tile) asm volatile("" : "+f"(x)::"memory");
}
// Needed before the first product after ordinary writes to its registers or to shared memory.
GPU void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
// Makes this thread's ordinary stores to shared memory visible to bulk copies and products. A barrier comes after it.
GPU void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
GPU void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most kPending committed groups of products are pending.
template <int kPending>
GPU void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Moves registers between the warpgroups of a block: sets this warpgroup's number from here on.
template <int kRegisters>
GPU void raise_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
GPU void lower_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// Adds 16 bytes, aligned, to global memory: where the sums are, in the second-level cache, and nothing is returned. The
// order of the additions to a word is that of store_release and wait_until_above, as with ordinary stores. Subnormal sums
// become 0.
GPU void add_global(float* p, const float (&v)[4]) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1,%2,%3,%4};" ::"l"(__cvta_generic_to_global(p)), "f"(v[0]),
                 "f"(v[1]), "f"(v[2]), "f"(v[3])
                 : "memory");
#endif
}

// cuTensorMapEncodeTiled comes from the driver by name: nothing has to be linked.
inline auto tensor_map_encoder() {
    void* function = nullptr;
    cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
    const cudaError_t status = cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                                cudaEnableDefault, &found);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &function, cudaEnableDefault, &found);
#endif
    cuda::check(status, "cannot find the driver's cuTensorMapEncodeTiled");
    if (found != cudaDriverEntryPointSuccess || !function)
        fail("the NVIDIA driver has no cuTensorMapEncodeTiled (query result ", int(found),
             "): tensor maps need a driver for CUDA 12.0 or newer; update it");
    return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}
template <int kRank>
TensorMap encode_map(const bf16* matrix, const cuuint64_t (&sizes)[kRank], const cuuint64_t (&strides)[kRank - 1],
                     int box_rows) {
    static const auto encode = tensor_map_encoder();
    const cuuint32_t box[3] = {64, cuuint32_t(box_rows), 1}, steps[3] = {1, 1, 1};
    TensorMap map;
    const CUresult status = encode(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<bf16*>(matrix), sizes,
                                   strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                                   CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (status != CUDA_SUCCESS)
        fail("cannot make a tensor map of ", sizes[1], " x ", sizes[0], " (error ", int(status), ")");
    return map;
}
// A map of a bf16 matrix (rows, columns) with `stride` elements from row to row, for boxes of box_rows x 64 columns.
inline TensorMap tensor_map(const bf16* matrix, int64_t rows, int64_t columns, int64_t stride, int box_rows) {
    return encode_map<2>(matrix, {cuuint64_t(columns), cuuint64_t(rows)}, {cuuint64_t(stride) * 2}, box_rows);
}
// Of `count` matrices (rows, columns) that follow each other: beyond the rows of one there are zeros, not the next one's.
inline TensorMap batch_map(const bf16* first, int64_t count, int64_t rows, int64_t columns, int box_rows) {
    return encode_map<3>(first, {cuuint64_t(columns), cuuint64_t(rows), cuuint64_t(count)},
                         {cuuint64_t(columns) * 2, cuuint64_t(rows * columns) * 2}, box_rows);
}

#endif

// The descriptor of an operand in shared memory, 128-byte swizzled, 1024-byte aligned. Along K: `stride` is 1024 bytes
// (8 rows of 128 bytes), `leading` unused. Along M or N: `stride` is 1024 (the next 8 of K), `leading` the distance to
// the next 64 of M or N.
GPU uint64_t wgmma_descriptor(uint32_t address, uint32_t leading, uint32_t stride) {
    return uint64_t(address >> 4 & 0x3fff) | uint64_t(leading >> 4) << 16 | uint64_t(stride >> 4) << 32 |
           uint64_t{1} << 62;
}

}  // namespace llmc::gpu
