// The bf16 product on Hopper (compute capability 9.0a): wgmma fed by TMA through a ring of four stages.
//
// FLOPs and bytes: bf16.h. Bound: tensor cores, 4,096 FLOP a clock of a multiprocessor. A block computes 128 x 256 of D
// with two consumer warpgroups, each 64 x 256 in 128 registers a thread; one thread of a third warpgroup issues the
// copies. Two blocks of a cluster compute tiles that are neighbours along M and share B: each loads half of it for both.
// For each stage, 64 of K, of a block:
//
//   tensor cores    4,194,304 FLOP                                                            1,024 clocks
//   shared memory   48 KB written by TMA, 2 x (8 KB of A + 32 KB of B) read by wgmma,
//                   128 bytes a clock                                                         1,024 clocks
//   second cache    32 KB: A, and half of B                                                   32 bytes a clock
//
// The consumers take turns: each multiplies alone for a burst of as many stages as the ring has, at the full rate of the
// tensor cores, and then waits for the other one. So when one has finished a tile, the other one has a whole burst of
// products left, 2,048 clocks, and under these lies the epilogue of the first. Side by side they would finish at the same
// time, and the tensor cores would be idle for both epilogues. The price: of the 4,096 clocks of a stage's way around the
// ring, 1,536 remain to release it in both blocks and to load it again, instead of 3,072. With kBurst = 2 it is 2,560, and
// half as much of an epilogue is hidden.
//
// A consumer issues the first of the four products of a stage before it waits for those of the stage before and releases
// that, so that there are always products in flight.
#pragma once
#include "llmc/cuda/column_sums.h"
#include "llmc/cuda/matmul/pipeline.h"
#include "llmc/cuda/matmul/plan.h"
#include "llmc/cuda/matmul/wgmma_epilogue.h"

namespace llmc::cuda {

constexpr int kWarpgroup = 128;                 // threads
constexpr int kConsumers = 2, kConsumerM = 64;  // warpgroups, and rows of each
constexpr int kClusterM = kWarpgroups.block_m, kDepth = kWarpgroups.depth, kHopperN = 256;
constexpr int kCluster = 2, kHopperM = kClusterM / kCluster;  // blocks; rows of a block
constexpr int kRingStages = 4, kBurst = 4, kHopperThreads = (1 + kConsumers) * kWarpgroup;
constexpr int kBox = 64;  // bf16 in a swizzled row of 128 bytes
static_assert(kHopperM == kConsumers * kConsumerM && kHopperN == kWarpgroups.block_n && kDepth == kBox);
static_assert(kBurst <= kRingStages);            // the second consumer begins when the first has seen all of a burst
static_assert(kHopperN / kCluster == kHopperM);  // both operands have boxes of as many rows

struct HopperShared {
    struct Stage {
        alignas(1024) bf16 a[kHopperM * kDepth];
        bf16 b[kHopperN * kDepth];
    } stages[kRingStages];
    alignas(1024) uint32_t ones[8 * kDepth / 2];  // an operand of 8 columns, for sums over K
    Ring<kRingStages> ring;
    uint64_t turn[kConsumers];
};

// Bulk copies of a stage. An operand that is stored along K comes in boxes of 64 of K and 128 rows, any other one in boxes
// of 64 columns and 64 of K.
template <bool kAByColumns, bool kBByRows>
struct Loader {
    const TensorMap *a, *b;
    int rank;

    GPU void load(HopperShared& s, int slot, int m, int n, int k) const {
        uint64_t* full = &s.ring.full[slot];
        bf16 *to_a = s.stages[slot].a, *to_b = s.stages[slot].b;
        if constexpr (kAByColumns) {
#pragma unroll
            for (int i = 0; i < kHopperM; i += kBox) tma_load(to_a + i * kDepth, a, full, m + i, k);
        } else {
            tma_load(to_a, a, full, k, m);
        }
        constexpr int kHalf = kHopperN / kCluster, kAllBlocks = (1 << kCluster) - 1;
        n += rank * kHalf, to_b += rank * kHalf * kDepth;
        if constexpr (kBByRows) {
#pragma unroll
            for (int i = 0; i < kHalf; i += kBox) tma_load_multicast(to_b + i * kDepth, b, full, n + i, k, kAllBlocks);
        } else {
            tma_load_multicast(to_b, b, full, k, n, kAllBlocks);
        }
    }
};
template <bool kAlongMn>
TensorMap operand_map(const bf16* matrix, int mn, int k, int64_t stride) {
    return kAlongMn ? tensor_map(matrix, k, mn, stride, kDepth) : tensor_map(matrix, mn, k, stride, kHopperM);
}

// A consumer warpgroup: its 64 x 256 of D, and the sums of its rows of A over K in the first column of `sums`.
template <bool kAByColumns, bool kBByRows>
struct Consumer {
    static constexpr int kSteps = kDepth / 16;  // products of a stage
    static constexpr uint32_t kStageBytes = sizeof(HopperShared::Stage), kBoxBytes = kBox * kDepth * 2;
    float acc[kHopperN / 2], sums[4];
    uint64_t a, b, ones;             // descriptors of the first stage
    Position<kRingStages> at, last;  // last: the stage before, which is to be released

    GPU Consumer(HopperShared& s, int index)
        : a(wgmma_descriptor(shared_address(s.stages[0].a) + uint32_t(index) * kBoxBytes, kBoxBytes, 1024)),
          b(wgmma_descriptor(shared_address(s.stages[0].b), kBoxBytes, 1024)),
          ones(wgmma_descriptor(shared_address(s.ones), 0, 1024)) {
#pragma unroll
        for (float& x : acc) x = 0;
#pragma unroll
        for (float& x : sums) x = 0;
    }
    // Product number i of the current stage. A row of a swizzled box is 128 bytes.
    template <bool kSums>
    GPU void multiply(int i, bool add) {
        const uint32_t stage = uint32_t(at.slot) * kStageBytes;
        const uint64_t rows = a + (stage + uint32_t(i) * (kAByColumns ? 16 * 128 : 32)) / 16;
        wgmma_m64k16<kHopperN, kAByColumns, kBByRows>(acc, rows,
                                                      b + (stage + uint32_t(i) * (kBByRows ? 16 * 128 : 32)) / 16, add);
        if constexpr (kSums) wgmma_m64k16<8, kAByColumns, false>(sums, rows, ones, add);
    }
    // Issues the products of the steps [step, end) of a piece. All but the last one's are over then, and released.
    template <bool kSums>
    GPU void multiply_burst(HopperShared& s, int step, int end) {
#pragma unroll 1
        for (const int first = step; step < end; ++step) {
            s.ring.wait(at);
            __syncwarp();
            wgmma_fence();
            multiply<kSums>(0, step > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (step > first) release(s);
            wgmma_fence();
#pragma unroll
            for (int i = 1; i < kSteps; ++i) multiply<kSums>(i, true);
            wgmma_commit();
            last = at;
            at.advance();
        }
    }
    GPU void finish_burst(HopperShared& s) {
        wgmma_wait<0>();
        release(s);
    }
    GPU void release(HopperShared& s) {
        if (lane_id() < kCluster) s.ring.release(last, lane_id());
        __syncwarp();
    }
};

// Around what a consumer adds to the result for a divided tile; as wait_for_turn, with a counter for each consumer.
struct ConsumerTurn {
    uint32_t* counter;
    int barrier;  // of the warpgroup

    GPU void wait(const Piece& piece) const {
        if (piece.turn == 0) return;
        if (threadIdx.x % kWarpgroup == 0) wait_for_value(counter, uint32_t(piece.turn));
        __syncwarp();
        named_barrier(barrier, kWarpgroup);
    }
    GPU void end(const Piece& piece) const {
        if (piece.turns == 1) return;
        named_barrier(barrier, kWarpgroup);
        if (threadIdx.x % kWarpgroup == 0)
            store_release(counter, uint32_t(piece.turn + 1 < piece.turns ? piece.turn + 1 : 0));
        __syncwarp();
    }
};

// The problem's sizes, and what is the same in all blocks. `work`: of clusters.
struct HopperProblem {
    int M, N;
    Work work;
    uint32_t* turns;
    ColumnSum column_sum;
};

template <bool kAByColumns, bool kBByRows, class Epilogue>
__global__ void __launch_bounds__(kHopperThreads, 1)
    matmul_wgmma_kernel(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map,
                        HopperProblem p, Epilogue epilogue) {
    launch_bounds<kHopperThreads, 1>();
#if LLMC_HAS_HOPPER
    HopperShared& s = shared<HopperShared>();
    const int warpgroup = int(__shfl_sync(kAllLanes, threadIdx.x / kWarpgroup, 0)), lane = lane_id();
    const int rank = cluster_rank(), cluster = int(blockIdx.x) / kCluster;
    constexpr bool kDivided = kAddsUp<Epilogue>;
    if (threadIdx.x == 0) {
        s.ring.initialise(kCluster * kConsumers * kWarpgroup / kWarp);
        for (uint64_t& turn : s.turn) mbarrier_init(&turn, kWarpgroup / kWarp);
    }
    if (kAByColumns && warp_id() == 1) {
        for (int i = lane; i < 8 * kDepth / 2; i += kWarp) s.ones[i] = 0x3f803f80u;
        fence_proxy_async();
    }
    __syncwarp();
    mbarrier_init_fence();
    cluster_sync();
    if (warpgroup == 0) {
        lower_registers<40>();
        if (threadIdx.x == 0) {
            const Loader<kAByColumns, kBByRows> loader{&a_map, &b_map, rank};
            Position<kRingStages> at;
            for (int i = 0;; ++i) {
                const Piece piece = piece_of<kDivided>(p.work, cluster, i);
                if (piece.steps() == 0) break;
                const TilePosition tile = tile_position(piece.tile, p.work.tiles_m, p.work.tiles_n);
                const int m = tile.m * kClusterM + rank * kHopperM, n = tile.n * kHopperN;
#pragma unroll 1
                for (int step = piece.begin; step < piece.end; ++step, at.advance()) {
                    s.ring.acquire(at, sizeof(HopperShared::Stage));
                    loader.load(s, at.slot, m, n, step * kDepth);
                }
            }
        }
        __syncwarp();
    } else {
        raise_registers<232>();
        const int index = warpgroup - 1;
        Consumer<kAByColumns, kBByRows> consumer(s, index);
        int turn = 1 - index;  // parity: the first consumer begins
        for (int i = 0;; ++i) {
            const Piece piece = piece_of<kDivided>(p.work, cluster, i);
            const int steps = piece.steps();
            if (steps == 0) break;
            const bool with_sums = kAByColumns && p.column_sum.out &&
                                   tile_position(piece.tile, p.work.tiles_m, p.work.tiles_n).n == 0;
            const int bursts = (steps + kBurst - 1) / kBurst;
            for (int burst = 0, step = 0; burst < bursts; ++burst) {
                mbarrier_wait(&s.turn[index], turn);
                turn ^= 1;
                const int end = step + (steps - step) / (bursts - burst);  // the last burst hides the most
                if (with_sums)
                    consumer.template multiply_burst<kAByColumns>(s, step, end);
                else
                    consumer.template multiply_burst<false>(s, step, end);
                step = end;
                // By each warp: with one arrival, a short burst of the other consumer could end the phase after the one that
                // a slow warp of this one still waits for.
                if (lane == 0) mbarrier_arrive(&s.turn[1 - index]);
                consumer.finish_burst(s);
            }
            Epilogue apply = epilogue;
            const ConsumerTurn order{p.turns + ((piece.tile - p.work.whole) * kCluster + rank) * kConsumers + index,
                                     1 + index};
            if constexpr (kDivided) {
                if (piece.turn > 0) apply.add_to_out();
                order.wait(piece);
            }
            // Hidden: computed here, not kept in registers from the start.
            const TilePosition tile = tile_position(int(hidden(uint32_t(piece.tile))), p.work.tiles_m, p.work.tiles_n);
            const int row = tile.m * kClusterM + cluster_rank() * kHopperM +
                            (int(hidden(threadIdx.x)) - kWarpgroup) / kWarp * 16;
            WarpRows<Epilogue>(apply, row, tile.n * kHopperN, p.M).store(consumer.acc);
            if (with_sums && lane % 4 == 0)
                for (int half = 0; half < 2; ++half)
                    if (const int r = row + 8 * half + lane / 4; r < p.M)
                        p.column_sum.out[r] += p.column_sum.scale * consumer.sums[2 * half];
            __syncwarp();
            if constexpr (kDivided) order.end(piece);
        }
    }
    cluster_sync();  // a block whose stages others fill and release must not end before them
#else
    __trap();  // on a 9.0 too, if the driver compiles PTX although there is code (CUDA_FORCE_PTX_JIT=1)
#endif
}

}  // namespace llmc::cuda
