// Causal flash attention on tensor cores, backward. Formulas: llmc/ops/ops.h; after Dao, "FlashAttention-2", 2023.
//
// FLOPs 5 T C N; bytes in bf16: 16 C N + 4 H N. Floor at N = 65,536, T = 1024, C = 768: 326 us on an H200.
//
// A block computes dk and dv of 128 keys of a head, a warp 32 of them (16 with heads above 64 channels). For each tile
// of queries it computes S^T = K Q^T and dP^T = V dO^T, 16 queries at a time; P^T and dS^T stay in registers, where
// they are the operands of dV += P^T dO and dK += dS^T Q. dS goes through shared memory once, for dQ = dS K. An
// ldmatrix feeds four mma of the first four products, two of the last.
//
// dQ is the sum over the blocks of a head, in the order of dq_turns.h.
//
// Clocks of a Hopper multiprocessor for 128 keys, 64 queries, 64 channels, from cuobjdump -sass for sm_90a; before,
// there were two kernels, without sums in memory, which computed S and dP twice:
//
//                                          two kernels    now
//   tensor cores   HMMA, at 63% of 4096 FLOPs   2,844  2,032   1,792 and 1,280 HMMA
//   shared memory  128 bytes                    3,650  2,150   768 and 448 LDSM of 512 bytes, cp.async, dS, statistics
//   issue          4 instructions               2,414  1,337   9,656 and 5,348
//   exponentials   16                           1,024    512
//   second-level cache, bytes                  32,768 49,152   q, dout; 32,768 of dq: 22 a clock
//
// Registers: 255, of which 128 are dk and dv and 64 the fragments of K and V, which are read again for each tile of
// queries (16 LDSM of 112): two blocks on a multiprocessor (one of twice the warps above 64 channels). 256 keys a block
// would halve the traffic of dq, but need 128 KB of shared memory, and blocks of short sequences would be few.
#pragma once
#include "llmc/cuda/attention/dq_turns.h"

namespace llmc::cuda {

struct BackwardScales {
    float logit_scale, out_scale;
};

// Replaces the scores S^T (16 kM16 keys x 16 queries) by P = exp(S - lse), and dp by dS = P (out_scale dout v^T -
// delta). `statistics`: lse, in units of log 2, of this lane's columns, and kQueries further delta. `ahead`: this
// lane's first key minus its first query; keys after the query get P = dS = 0.
template <bool kMasked, int kQueries, int kM16>
GPU void score_gradients(float (&score)[kM16][2][4], float (&dp)[kM16][2][4], const float* statistics,
                         const BackwardScales& scales, int ahead) {
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const float lse = statistics[8 * j + c], delta = statistics[8 * j + c + kQueries];
#pragma unroll
            for (int i = 0; i < kM16; ++i)
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    float &p = score[i][j][2 * half + c], &ds = dp[i][j][2 * half + c];
                    p = exp2_approx(kLog2e * scales.logit_scale * p - lse);
                    ds = p * (scales.out_scale * ds - delta);
                    if (kMasked && ahead > 8 * j + c - 16 * i - 8 * half) p = ds = 0;  // they may be NaN
                }
        }
}

template <int kSize, bool kLarge>  // of a head, rounded up; whether a block can have more than 99 KB of shared memory
struct BackwardTraits {
    static constexpr int kM16 = kSize <= 64 ? 2 : 1, kWarps = kBackwardKeys / (16 * kM16), kThreads = kWarps * kWarp;
    static constexpr int kBlocks = 8 / kWarps;  // on a multiprocessor
    static constexpr int kQueries = kSize <= 64 || kLarge ? kBackwardQueries : 32;
    static constexpr int kStages = kSize <= 64 || kLarge ? 2 : 1;
    // Of the dq of a tile of queries, which a warp computes: 32 columns.
    static constexpr int kDqGroups = kSize / 32, kDqM16 = kQueries * kDqGroups / kWarps / 16;
    using KeyTile = Tile<kBackwardKeys, kSize>;
    using QueryTile = Tile<kQueries, kSize>;
    using DsTile = Tile<kBackwardKeys, kQueries>;  // transposed
    static_assert(kBackwardKeys % kQueries == 0 && 2 * kQueries <= kThreads && kDqM16 > 0);

    struct Shared {
        KeyTile k, v;
        QueryTile q[kStages], dout[kStages];
        DsTile ds;
        float statistics[2][kQueries];  // lse in units of log 2, delta
        // Read again for each tile of queries: the accumulators need the registers.
        const bf16 *q_rows, *dout_rows;  // of this head
        const float *lse, *delta;
        DqTurns<kWarps> turns;
        int head, first;  // key
    };
    static_assert(kWarps > 4 || 2 * (sizeof(Shared) + 1024) <= 164 << 10, "two blocks on compute capability 8.0");
};

// S^T, dP^T, dV, dK of a tile of queries, and dS.
template <class Traits, int kSize>
GPU void add_queries(float (&dk)[Traits::kM16][kSize / 8][4], float (&dv)[Traits::kM16][kSize / 8][4],
                     typename Traits::Shared& s, int slot, int ahead, const BackwardScales& scales) {
    constexpr int kM16 = Traits::kM16;
    constexpr uint32_t kRowBytes = Traits::QueryTile::kRowBytes;
    const int row = warp_id() * 16 * kM16;
    const uint32_t by_columns = Traits::KeyTile::lane_by_columns();
    uint32_t k[kM16][kSize / 16][4], v[kM16][kSize / 16][4];
    const uint32_t k_address = shared_address(&s.k) + row * kRowBytes + by_columns;
    read_rows<typename Traits::KeyTile>(k, k_address);
    read_rows<typename Traits::KeyTile>(v, k_address + uint32_t(sizeof(s.k)));
    uint32_t q_by_rows = shared_address(&s.q[slot]) + Traits::KeyTile::lane_by_rows();
    uint32_t q_by_columns = shared_address(&s.q[slot]) + by_columns;
    constexpr uint32_t kDout = sizeof(s.q);  // from q to dout
    using DsTile = typename Traits::DsTile;
    char* const ds_bytes = reinterpret_cast<char*>(&s.ds);
    const uint32_t ds_offset = DsTile::offset(row + lane_id() / 4, 0) + 4 * (lane_id() % 4);
    const float* statistics = &s.statistics[0][2 * (lane_id() % 4)];
#pragma unroll 1
    for (uint32_t part = 0; part < uint32_t(Traits::kQueries); part += 16) {
        uint32_t p[kM16][4] = {}, ds[kM16][4] = {};
        if (ahead - int(part) < 16) {                           // else all of these queries are before this warp's keys
            float score[kM16][2][4] = {}, dp[kM16][2][4] = {};  // transposed: (keys, queries)
            multiply_along_rows<typename Traits::QueryTile>(score, k, q_by_rows);
            multiply_along_rows<typename Traits::QueryTile>(dp, v, q_by_rows + kDout);
            const int of_lane = ahead - int(part) + lane_id() / 4 - 2 * (lane_id() % 4);
            if (ahead - int(part) > -16 * kM16 + 1)
                score_gradients<true, Traits::kQueries>(score, dp, statistics, scales, of_lane);
            else
                score_gradients<false, Traits::kQueries>(score, dp, statistics, scales, of_lane);
#pragma unroll
            for (int i = 0; i < kM16; ++i) {
                accumulator_to_a(p[i], score[i][0], score[i][1]);
                accumulator_to_a(ds[i], dp[i][0], dp[i][1]);
            }
            multiply_with_rows(dv, p, q_by_columns + kDout);
            multiply_with_rows(dk, ds, q_by_columns);
        }
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int r = 0; r < 4; ++r) {
                const uint32_t place = ds_offset ^ 2 * part ^ 16 * (r / 2) ^ (r % 2 ? DsTile::kSwizzleOf8 : 0);
                *reinterpret_cast<uint32_t*>(ds_bytes + place + DsTile::kRowBytes * (16 * i + 8 * (r % 2))) = ds[i][r];
            }
        q_by_rows += 16 * kRowBytes, q_by_columns += 16 * kRowBytes, statistics += 16;
    }
}

// Adds this block's part of dq for a tile of queries, dS K, when it has its turn.
template <class Traits>
GPU void add_dq(bf16* dqkv, typename Traits::Shared& s, const Heads& heads, int query, float logit_scale) {
    constexpr int kM16 = Traits::kDqM16, kVectors = 4 * kM16;
    const int first = s.first;
    const int row = warp_id() / Traits::kDqGroups * 16 * kM16, column = warp_id() % Traits::kDqGroups * 32;
    const uint32_t tile = uint32_t(query) / Traits::kQueries;
    const bool is_first = query < first + kBackwardKeys;  // to add to these queries' sums
    s.turns.wait(warp_id(), tile, is_first);
    float* sums = s.turns.sums + ((tile * Traits::kWarps + warp_id()) * kVectors * kWarp + lane_id()) * 4;
    float before[kM16][4][4] = {}, dq[kM16][4][4] = {};
    if (!is_first)
#pragma unroll
        for (int n = 0; n < kVectors; ++n) load(before[n / 4][n % 4], sums + 4 * kWarp * n);
    if (query > first) s.turns.end(warp_id(), tile);  // now that those of the tile before have ended
    uint32_t ds_address = (shared_address(&s.ds) + Traits::DsTile::lane_by_rows()) ^ 2 * row;
    uint32_t k_address = (shared_address(&s.k) + Traits::KeyTile::lane_by_columns()) ^ 2 * column;
    const int keys = smaller(query + row + 16 * kM16 - first, kBackwardKeys);  // dS is 0 for those after the queries
    for (int key = 0; key < keys; key += 32) {
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            uint32_t a[kM16][4];
#pragma unroll
            for (int i = 0; i < kM16; ++i)
                ldmatrix_x4_trans(a[i], (ds_address ^ 32 * i) + 16 * k * Traits::DsTile::kRowBytes);
            multiply_with_rows(dq, a, k_address + 16 * k * Traits::KeyTile::kRowBytes);
        }
        ds_address += 32 * Traits::DsTile::kRowBytes, k_address += 32 * Traits::KeyTile::kRowBytes;
    }
#pragma unroll
    for (int n = 0; n < kVectors; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) dq[n / 4][n % 4][e] += before[n / 4][n % 4][e];
    if (first == 0)
        store_rows<kM16, 32>(dqkv, heads, s.head, 0, 3, query + row, dq, [&](int, int) { return logit_scale; }, column);
    else
#pragma unroll
        for (int n = 0; n < kVectors; ++n) store(sums + 4 * kWarp * n, dq[n / 4][n % 4]);
    __syncwarp();  // the warp's loads and stores are before its next release
}

template <int kSize, bool kLarge>
__global__ void __launch_bounds__(BackwardTraits<kSize, kLarge>::kThreads, BackwardTraits<kSize, kLarge>::kBlocks)
    attention_backward_bf16_kernel(bf16* dqkv, float* sums, uint32_t* progress, const bf16* dout, const bf16* qkv,
                                   const float* lse, const float* delta, Heads heads, int tiles, int slots,
                                   BackwardScales scales) {
    launch_bounds<BackwardTraits<kSize, kLarge>::kThreads, BackwardTraits<kSize, kLarge>::kBlocks>();
    using Traits = BackwardTraits<kSize, kLarge>;
    constexpr int kM16 = Traits::kM16, kThreads = Traits::kThreads, kQueries = Traits::kQueries;
    auto& s = shared<typename Traits::Shared>();
    if (threadIdx.x == 0) {
        const HeadTile at = head_tile(tiles);
        s.head = at.head, s.first = at.tile * kBackwardKeys;
        const int64_t rows = int64_t(heads.length + kQueries - 1) / kQueries * kQueries;
        s.turns.place(at, tiles, slots, sums, rows * kSize, progress);
        s.q_rows = qkv + heads.read_row(s.head, 0, 0, 3), s.dout_rows = dout + heads.read_row(s.head, 0, 0, 1);
        s.lse = lse + heads.statistics(s.head, 0), s.delta = delta + heads.statistics(s.head, 0);
    }
    __syncthreads();
    const int first = s.first;

    const auto slot_of = [](int query) { return int(uint32_t(query) / kQueries % Traits::kStages); };
    const auto load_queries = [&](int query) {
        const int slot = slot_of(query);
        const int64_t stride = hidden(uint32_t(heads.read_stride(1)));  // so that no register keeps a multiple of it
        const int rows = heads.length - query;
        s.q[slot].template load<kThreads>(s.q_rows + query * 3 * stride, 3 * stride, rows, heads.read_size);
        s.dout[slot].template load<kThreads>(s.dout_rows + query * stride, stride, rows, heads.read_size);
        cp_async_commit();
    };
    // One of the statistics of a tile's queries, by each of the first 2 kQueries threads.
    const auto load_statistic = [&](int query) {
        const bool is_lse = int(threadIdx.x) < kQueries;
        query += int(threadIdx.x % kQueries);
        if (query >= heads.length) return is_lse ? INFINITY : 0;  // P is 0 where there is no query
        return is_lse ? kLog2e * s.lse[query] : s.delta[query];
    };
    const auto store_statistic = [&](float x) {
        const uint32_t i = hidden(threadIdx.x);  // else its address were kept in a register
        if (i < 2 * kQueries) (&s.statistics[0][0])[i] = x;
    };
    const bf16* keys = s.q_rows + first * heads.read_stride(3) + heads.read_channels();
    const int left = heads.length - first;
    s.k.template load<kThreads>(keys, heads.read_stride(3), left, heads.read_size);
    s.v.template load<kThreads>(keys + heads.read_channels(), heads.read_stride(3), left, heads.read_size);
    load_queries(first);
    store_statistic(load_statistic(first));

    float dk[kM16][kSize / 8][4] = {}, dv[kM16][kSize / 8][4] = {};
    for (int query = first; query < heads.length; query += kQueries) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all threads are done with the one before
        const int next = query + kQueries;
        if (Traits::kStages == 2 && next < heads.length) load_queries(next);
        add_queries<Traits, kSize>(dk, dv, s, slot_of(query), s.first + warp_id() * 16 * kM16 - query, scales);
        __syncthreads();  // dS is complete, and all threads are done with these queries
        if (Traits::kStages == 1 && next < heads.length) load_queries(next);
        const float statistic = load_statistic(next);
        add_dq<Traits>(dqkv, s, heads, query, scales.logit_scale);
        store_statistic(statistic);
    }
    s.turns.end(warp_id(), uint32_t(heads.length + kQueries - 1) / kQueries);
    const int head = s.head, row = s.first + warp_id() * 16 * kM16;
    store_rows<kM16, kSize>(dqkv, heads, head, 1, 3, row, dk, [&](int, int) { return scales.logit_scale; });
    store_rows<kM16, kSize>(dqkv, heads, head, 2, 3, row, dv, [&](int, int) { return scales.out_scale; });
}

}  // namespace llmc::cuda
