// Causal flash attention on Hopper (compute capability 9.0a), backward: wgmma fed by TMA, for heads of 64 channels.
// Shah et al., "FlashAttention-3", 2024; formulas in llmc/ops/ops.h.
//
// A block computes dk and dv of 128 keys of a head, each of two consumer warpgroups 64 of them, for tiles of 64 queries
// from the diagonal on. A consumer computes S^T = K Q^T and dP^T = V dO^T; P^T and dS^T stay in registers, where they are
// the operand A of dV += P^T dO and dK += dS^T Q. dS^T goes through shared memory to the third warpgroup, which computes
// dQ = dS K, adds it in the order of dq_turns.h, and loads the tiles: what waits for memory or for another block is not
// in the way of the consumers' products, as long as they are no more than two tiles ahead.
//
// Clocks of a multiprocessor for 128 keys, 64 queries, 64 channels (backward_bf16.h: 2,150 for shared memory):
//   tensor cores   4096 FLOP                                                                                1,280
//   shared memory  128 bytes: each consumer reads 8 KB of Q and of dO twice, and 8 KB of V; 32 KB of dS and K
//                  are read, 16 KB of dS and 16 KB of Q and dO written; 128 reads of statistics             1,280
//   exponentials   16                                                                                         512
//   second-level cache: 16 KB of Q and dO, 16 KB of dq                                          25 bytes a clock
//
// A consumer issues the scores of a tile together with the gradients of the tile before, and computes exponentials and dS
// while the latter run. Registers: 208, of which 64 are dk and dv, 64 S and dP, 32 P and dS in bf16, 16 the fragments of
// K. Those of V would take 16 more, and 128 clocks of shared memory away; the third warpgroup has 88, and would have to
// do with 64. Heads of 128 channels need 128 registers for dk and dv, and 64 for dq: ptxas spills in both roles, so they
// stay on mma.sync. One block, of 9 tiles on average at T = 1024, fits on a multiprocessor: nothing hides its start and
// its end.
#pragma once
#include "llmc/cuda/attention/backward_bf16.h"
#include "llmc/cuda/matmul/pipeline.h"

namespace llmc::cuda {

// What a block works on.
struct BackwardPlace {
    int head, first, tiles;  // first key; tiles of 64 queries from it on
};

struct WgmmaBackward {
    static constexpr int kTile = 64, kSize = 64;      // queries, keys of a consumer; channels
    static constexpr int kConsumers = 2, kWarps = 4;  // warpgroups, and warps of each
    static constexpr int kThreads = (1 + kConsumers) * kWarps * kWarp;
    static constexpr int kStages = 4, kDsBuffers = 2;
    static constexpr int kConsumerRegisters = 208, kDqRegisters = 88;
    static_assert(kConsumers * kConsumerRegisters + kDqRegisters <= 3 * 168, "of those that a block starts with");
    static_assert(kConsumers * kTile == kBackwardKeys && kTile == kBackwardQueries);
    struct Operand {  // 64 rows of 128 bytes, swizzled
        alignas(1024) bf16 data[kTile * kSize];
    };
    struct Stage {
        Operand q, dout;
        alignas(1024) float statistics[2][kTile];  // lse in units of log 2, delta
    };
    struct Shared {
        Operand keys[kConsumers], values[kConsumers];
        Stage stages[kStages];
        Operand ds[kDsBuffers][kConsumers];  // transposed: (keys, queries)
        // Keys and values, and the stages, are loaded. Nothing says that a stage is empty: the consumers are done with it
        // when they have stored dS of the next tile.
        uint64_t with_keys, full[kStages];
        uint64_t ds_full[kDsBuffers], ds_empty[kDsBuffers];
        DqTurns<kWarps> turns;
        BackwardPlace place;  // read again where it is needed: the accumulators need the registers
    };
};

// The third warpgroup: loads tiles of queries, and adds to their dq.
struct DqWarpgroup {
    using Traits = WgmmaBackward;
    static constexpr int kTile = Traits::kTile, kSize = Traits::kSize, kVectors = kSize / 8;
    Traits::Shared& s;
    const TensorMap *qkv, *dout;
    const float* statistics;  // of this thread: of query threadIdx.x % 64 of the first tile
    const Heads& heads;
    BackwardPlace place;
    int sequence, column;  // column of the head in dout
    Position<Traits::kDsBuffers> at;

    GPU DqWarpgroup(Traits::Shared& s, const TensorMap* qkv, const TensorMap* dout, const float* lse,
                    const float* delta, const Heads& heads, const BackwardPlace& place)
        : s(s),
          qkv(qkv),
          dout(dout),
          statistics((is_lse() ? lse : delta) + heads.statistics(place.head, place.first) + query()),
          heads(heads),
          place(place),
          sequence(place.head / heads.heads),
          column(place.head % heads.heads * kSize) {}

    GPU static bool is_lse() { return threadIdx.x < kTile; }
    GPU static int query() { return int(threadIdx.x % kTile); }
    GPU void load(Traits::Operand& to, const TensorMap* matrix, uint64_t* barrier, int part, int of_row) const {
        tma_load(to.data, matrix, barrier, part * heads.heads * kSize + column, of_row, sequence);
    }
    GPU void load_keys() const {
        mbarrier_arrive_expect(&s.with_keys, 2 * Traits::kConsumers * int(sizeof(Traits::Operand)));
#pragma unroll 1
        for (int i = 0; i < Traits::kConsumers; ++i) {
            load(s.keys[i], qkv, &s.with_keys, 1, place.first + i * kTile);
            load(s.values[i], qkv, &s.with_keys, 2, place.first + i * kTile);
        }
    }
    // By one thread.
    GPU void start_copies(int tile) const {
        Traits::Stage& stage = s.stages[tile % Traits::kStages];
        uint64_t* full = &s.full[tile % Traits::kStages];
        mbarrier_arrive_expect(full, 2 * int(sizeof(Traits::Operand)));
        load(stage.q, qkv, full, 0, place.first + tile * kTile);
        load(stage.dout, dout, full, 0, place.first + tile * kTile);
    }
    // Rows after the end of a sequence are zeros, and with these statistics P is 0.
    GPU float load_statistic(int tile) const {
        if (place.first + tile * kTile + query() >= heads.length) return is_lse() ? INFINITY : 0;
        return statistics[tile * kTile];
    }
    GPU void store_statistic(int tile, float x) const {
        (&s.stages[tile % Traits::kStages].statistics[0][0])[threadIdx.x] = is_lse() ? kLog2e * x : x;
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(&s.full[tile % Traits::kStages]);
        __syncwarp();
    }
    // dq (64 queries, 64 channels) = dS K.
    GPU void multiply(float (&dq)[kSize / 8][4]) const {
        const uint64_t a = wgmma_descriptor(shared_address(s.ds[at.slot]), 0, 1024),
                       b = wgmma_descriptor(shared_address(s.keys), 0, 1024);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kBackwardKeys / 16; ++k)
            wgmma_m64k16<kSize, true, true>(dq, a + k * 16 * 128 / 16, b + k * 16 * 128 / 16, k > 0);
        wgmma_commit();
    }
    GPU void add(bf16* dqkv, float (&dq)[1][kSize / 8][4], int tile, uint32_t of_head, float logit_scale) {
        const int warp = warp_id();
        const bool is_first = tile < Traits::kConsumers;
        s.turns.wait(warp, of_head, is_first);
        float* sums = s.turns.sums + ((of_head * Traits::kWarps + warp) * kVectors * kWarp + lane_id()) * 4;
        if (place.first == 0) {
            if (!is_first)
#pragma unroll
                for (int n = 0; n < kVectors; ++n) {
                    float before[4];
                    cuda::load(before, sums + 4 * kWarp * n);
#pragma unroll
                    for (int e = 0; e < 4; ++e) dq[0][n][e] += before[e];
                }
            store_rows<1, kSize>(dqkv, heads, place.head, 0, 3, tile * kTile + warp * 16, dq,
                                 [&](int, int) { return logit_scale; });
        } else if (is_first) {
#pragma unroll
            for (int n = 0; n < kVectors; ++n) store(sums + 4 * kWarp * n, dq[0][n]);
        } else {
#pragma unroll
            for (int n = 0; n < kVectors; ++n) add_global(sums + 4 * kWarp * n, dq[0][n]);
        }
        __syncwarp();  // the warp's stores are before its next release
    }
    GPU void run(bf16* dqkv, float logit_scale) {
        constexpr int kAhead = Traits::kStages - 1;
        if (threadIdx.x == 0) {
            load_keys();
#pragma unroll 1
            for (int tile = 0; tile < smaller(kAhead, place.tiles); ++tile) start_copies(tile);
        }
        __syncwarp();
        float statistic[kAhead];
#pragma unroll
        for (int tile = 0; tile < kAhead; ++tile) statistic[tile] = load_statistic(tile);
#pragma unroll
        for (int tile = 0; tile < kAhead; ++tile)
            if (tile < place.tiles) store_statistic(tile, statistic[tile]);
#pragma unroll 1
        for (int tile = 0; tile < place.tiles; ++tile) {
            mbarrier_wait(&s.ds_full[at.slot], at.parity);
            __syncwarp();
            float dq[1][kSize / 8][4];
            multiply(dq[0]);
            // Under the product: the release waits until the additions of the tile before have ended, and the consumers
            // are done with its stage.
            const int next = tile + kAhead;
            const uint32_t of_head = uint32_t(place.first / kTile + tile);
            if (tile > 0) s.turns.end(warp_id(), of_head);
            s.turns.look(warp_id(), of_head);
            if (threadIdx.x == 0 && next < place.tiles) start_copies(next);
            const float of_next = load_statistic(next);
            __syncwarp();
            wgmma_wait<0>();
            wgmma_results(dq[0]);
            if (lane_id() == 0) mbarrier_arrive(&s.ds_empty[at.slot]);
            __syncwarp();
            at.advance();
            if (next < place.tiles) store_statistic(next, of_next);
            add(dqkv, dq, tile, of_head, logit_scale);
        }
        s.turns.end(warp_id(), uint32_t(heads.length + kTile - 1) / kTile);
    }
};

// A consumer warpgroup: dk and dv of 64 keys.
struct DkvWarpgroup {
    using Traits = WgmmaBackward;
    static constexpr int kTile = Traits::kTile, kSize = Traits::kSize, kTiles = kTile / 8, kSteps = kTile / 16;
    using Box = Tile<kTile, kTile>;  // has the swizzle of the bulk copies
    Traits::Shared& s;
    int index, warp;
    BackwardScales scales;
    uint64_t q, values;  // descriptors: of the first stage, and of this warpgroup
    Position<Traits::kStages> at;
    int last_slot = 0;  // of the tile before
    Position<Traits::kDsBuffers> at_ds;
    uint32_t keys[1][kSteps][4], p[kSteps][4], ds[kSteps][4];
    float score[kTiles][4], dp[kTiles][4], dk[1][kTiles][4] = {}, dv[1][kTiles][4] = {};

    GPU DkvWarpgroup(Traits::Shared& s, int index, int warp, const BackwardScales& scales)
        : s(s),
          index(index),
          warp(warp),
          scales(scales),
          q(wgmma_descriptor(shared_address(s.stages), 0, 1024)),
          values(wgmma_descriptor(shared_address(&s.values[index]), 0, 1024)) {
        mbarrier_wait(&s.with_keys, 0);
        __syncwarp();
        read_rows<Box>(keys, shared_address(&s.keys[index]) + warp * 16 * Box::kRowBytes + Box::lane_by_columns());
    }
    GPU uint64_t stage(int slot, uint32_t operand) const {
        return q + (uint32_t(slot) * uint32_t(sizeof(Traits::Stage)) + operand) / 16;
    }
    static constexpr uint32_t kDout = sizeof(Traits::Operand);  // from q

    // S^T = K Q^T and dP^T = V dO^T of the current tile.
    GPU void start_scores() {
        mbarrier_wait(&s.full[at.slot], at.parity);
        __syncwarp();
        wgmma_fence();
        const uint64_t of_q = stage(at.slot, 0), of_dout = stage(at.slot, kDout);
#pragma unroll
        for (int k = 0; k < kSteps; ++k) wgmma_m64k16<kTile, false>(score, keys[0][k], of_q + k * 2, k > 0);
        wgmma_commit();
#pragma unroll
        for (int k = 0; k < kSteps; ++k) wgmma_m64k16<kTile, false, false>(dp, values + k * 2, of_dout + k * 2, k > 0);
        wgmma_commit();
    }
    // dV += P^T dO and dK += dS^T Q of the tile before.
    GPU void start_gradients() {
        const uint64_t of_q = stage(last_slot, 0), of_dout = stage(last_slot, kDout);
#pragma unroll
        for (int k = 0; k < kSteps; ++k) wgmma_m64k16<kSize, true>(dv[0], p[k], of_dout + k * 16 * 128 / 16, true);
#pragma unroll
        for (int k = 0; k < kSteps; ++k) wgmma_m64k16<kSize, true>(dk[0], ds[k], of_q + k * 16 * 128 / 16, true);
        wgmma_commit();
    }
    // Keys after the query get 0. `ahead`: this lane's first key minus its first query.
    GPU static void mask(float (&x)[kTiles][4], int ahead) {
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (ahead > 8 * i + e % 2 - 8 * (e / 2)) x[i][e] = 0;
    }
    GPU static void pack(uint32_t (&a)[kSteps][4], const float (&x)[kTiles][4]) {
#pragma unroll
        for (int k = 0; k < kSteps; ++k) accumulator_to_a(a[k], x[2 * k], x[2 * k + 1]);
    }
    GPU void wait_for_ds() {
        mbarrier_wait(&s.ds_empty[at_ds.slot], at_ds.parity ^ 1);  // a new barrier's last phase is over
        __syncwarp();
    }
    GPU void store_ds() {
        char* const bytes = reinterpret_cast<char*>(s.ds[at_ds.slot][index].data);
        const uint32_t offset = Box::offset(warp * 16 + lane_id() / 4, 0) + 4 * (lane_id() % 4);
#pragma unroll
        for (int k = 0; k < kSteps; ++k)
#pragma unroll
            for (int r = 0; r < 4; ++r)
                *reinterpret_cast<uint32_t*>(bytes + (offset ^ 16 * (2 * k + r / 2)) +
                                             r % 2 * 8 * Box::kRowBytes) = ds[k][r];
        fence_proxy_async();
        __syncwarp();
        if (lane_id() == 0) mbarrier_arrive(&s.ds_full[at_ds.slot]);
        __syncwarp();
        at_ds.advance();
    }
    // A tile of queries before all of these keys.
    GPU void skip() {
        at.advance();
#pragma unroll
        for (auto& fragment : ds)
#pragma unroll
            for (uint32_t& pair : fragment) pair = 0;
        wait_for_ds();
        store_ds();
    }
    // P and dS of a tile, while the gradients of the tile before are computed. The first tile is at the diagonal.
    template <bool kFirst>
    GPU void add_tile() {
        const int ahead = warp * 16 + lane_id() / 4 - 2 * (lane_id() % 4);
        const float* statistics = &s.stages[at.slot].statistics[0][2 * (lane_id() % 4)];  // of this lane's columns
        start_scores();
        if (!kFirst) start_gradients();
        wgmma_wait<kFirst ? 1 : 2>();
        wgmma_results(score);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            const float2 lse = *reinterpret_cast<const float2*>(statistics + 8 * i);
#pragma unroll
            for (int e = 0; e < 4; ++e)
                score[i][e] = exp2_approx(kLog2e * scales.logit_scale * score[i][e] - (e % 2 ? lse.y : lse.x));
        }
        if (kFirst) mask(score, ahead);
        wgmma_wait<kFirst ? 0 : 1>();
        wgmma_results(dp);
#pragma unroll
        for (int i = 0; i < kTiles; ++i) {
            const float2 delta = *reinterpret_cast<const float2*>(statistics + kTile + 8 * i);
#pragma unroll
            for (int e = 0; e < 4; ++e)
                dp[i][e] = score[i][e] * (scales.out_scale * dp[i][e] - (e % 2 ? delta.y : delta.x));
        }
        if (kFirst) mask(dp, ahead);  // it may be NaN
        wgmma_results(dp);
        wait_for_ds();  // here, as its branch keeps ptxas from moving all of this after the next wait
        wgmma_wait<0>();
        pack(p, score);
        pack(ds, dp);
        store_ds();
        last_slot = at.slot;
        at.advance();
    }
    GPU void run(int tiles) {
        if (tiles <= 0) return;
        add_tile<true>();
#pragma unroll 1
        for (int tile = 1; tile < tiles; ++tile) add_tile<false>();
        wgmma_fence();
        start_gradients();
        wgmma_wait<0>();
        wgmma_results(dk[0]);
        wgmma_results(dv[0]);
    }
};

__global__ void __launch_bounds__(WgmmaBackward::kThreads, 1)
    attention_backward_wgmma_kernel(bf16* dqkv, float* sums, uint32_t* progress, const __grid_constant__ TensorMap qkv,
                                    const __grid_constant__ TensorMap dout, const float* lse, const float* delta,
                                    Heads heads, int tiles, int slots, BackwardScales scales) {
    launch_bounds<WgmmaBackward::kThreads, 1>();
#if LLMC_HAS_HOPPER
    using Traits = WgmmaBackward;
    constexpr int kTile = Traits::kTile, kSize = Traits::kSize, kConsumerWarps = Traits::kConsumers * Traits::kWarps;
    auto& s = shared<Traits::Shared>();
    const HeadTile at = head_tile(tiles);
    const int query_tiles = int(uint32_t(heads.length + kTile - 1) / kTile);
    if (threadIdx.x == 0) {
        mbarrier_init(&s.with_keys, 1);
        for (uint64_t& full : s.full) mbarrier_init(&full, 1 + Traits::kWarps);
        for (uint64_t& full : s.ds_full) mbarrier_init(&full, kConsumerWarps);
        for (uint64_t& empty : s.ds_empty) mbarrier_init(&empty, Traits::kWarps);
        s.place = {at.head, at.tile * kBackwardKeys, query_tiles - at.tile * Traits::kConsumers};
        s.turns.place(at, tiles, slots, sums, int64_t(query_tiles) * kTile * kSize, progress);
    }
    __syncwarp();
    mbarrier_init_fence();
    __syncthreads();
    const int all_warps = int(__shfl_sync(kAllLanes, warp_id(), 0)), warpgroup = all_warps / Traits::kWarps;
    if (warpgroup == 0) {
        lower_registers<Traits::kDqRegisters>();
        DqWarpgroup(s, &qkv, &dout, lse, delta, heads, s.place).run(dqkv, scales.logit_scale);
    } else {
        raise_registers<Traits::kConsumerRegisters>();
        const int index = warpgroup - 1, warp = all_warps % Traits::kWarps;
        DkvWarpgroup consumer(s, index, warp, scales);
        if (index > 0) consumer.skip();
        consumer.run(s.place.tiles - index);
        const int head = s.place.head, row = s.place.first + (int(hidden(threadIdx.x)) / kWarp - Traits::kWarps) * 16;
        store_rows<1, kSize>(dqkv, heads, head, 1, 3, row, consumer.dk, [&](int, int) { return scales.logit_scale; });
        store_rows<1, kSize>(dqkv, heads, head, 2, 3, row, consumer.dv, [&](int, int) { return scales.out_scale; });
    }
#else
    __trap();  // as in matmul/wgmma.h
#endif
}

}  // namespace llmc::cuda
