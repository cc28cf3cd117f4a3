// Causal flash attention on tensor cores, backward: one kernel for blocks of queries that sums dq, and one for blocks
// of keys that sums dk and dv. Formulas: llmc/ops/ops.h. Dao, "FlashAttention-2", 2023, has only the second kernel,
// which sums dq with atomics: five products instead of seven, but another order of summation in every run. Here each
// gradient is summed by one warp in registers, in order: the same bits every time, and no scratch memory except delta.
//
// FLOPs 7 T C N (the necessary 5 T C N, and the scores and dout v^T a second time); bytes in bf16: 16 C N + 4 H N.
// Bound: tensor cores and exponentials. Floor at N = 65,536, T = 1024, C = 768 (5 T C N): 326 us on an H200.
#pragma once
#include "llmc/cuda/attention/heads.h"

namespace llmc::cuda {

// delta (B, H, T) = dout . out per head. Bytes: 4 C N + 4 H N. kSize / 8 lanes share a row.
template <int kSize, class T>
__global__ void __launch_bounds__(256)
    attention_delta_kernel(float* delta, const T* dout, const T* out, Heads s, int64_t rows) {
    launch_bounds<256>();
    constexpr int kLanes = kSize / kVec;
    const int64_t i = (int64_t(blockIdx.x) * 256 + threadIdx.x) / kLanes;  // of (B, T, H)
    const int column = int(threadIdx.x) % kLanes * kVec, count = s.size - column;
    float sum = 0;
    if (i < rows && count > 0) {
        float x[kVec], y[kVec];
        load_upto(x, dout + i * s.size + column, count, s.aligned);
        load_upto(y, out + i * s.size + column, count, s.aligned);
#pragma unroll
        for (int k = 0; k < kVec; ++k) sum += x[k] * y[k];
    }
#pragma unroll
    for (int lanes = 1; lanes < kLanes; lanes *= 2) sum += __shfl_xor_sync(kAllLanes, sum, lanes);
    if (i >= rows || column > 0) return;
    const int64_t n = i / s.heads, b = n / s.length;
    delta[(b * s.heads + i % s.heads) * s.length + n % s.length] = sum;
}

struct BackwardScales {
    float logit_scale, out_scale;
};

// For one element: replaces `score` by P = exp(score - lse), and `dp` by dS = P (out_scale dout v^T - delta). lse is in
// units of log 2; `future`: the key is after the query.
GPU void score_gradient(float& score, float& dp, float scale, float lse, float out_scale, float delta, bool future) {
    score = future ? 0.0f : exp2_approx(scale * score - lse);
    dp = score * (out_scale * dp - delta);
    if (future) dp = 0;  // dp may be NaN there
}

// --- dq ---

template <int kSize>
struct QueryTraits {
    static constexpr int kM16 = kSize <= 64 ? 2 : 1, kWarps = 4, kThreads = kWarps * kWarp;
    static constexpr int kQueries = kWarps * 16 * kM16, kKeys = 64, kPart = 32;  // keys in a tile; at a time
    struct Shared {
        Tile<kQueries, kSize> q, dout;
        Tile<kKeys, kSize> k[2], v[2];
    };
};

template <int kSize>
__global__ void __launch_bounds__(QueryTraits<kSize>::kThreads)
    attention_dq_bf16_kernel(bf16* dqkv, const bf16* dout, const bf16* qkv, const float* lse, const float* delta,
                             Heads heads, int tiles, BackwardScales scales) {
    launch_bounds<QueryTraits<kSize>::kThreads>();
    using Traits = QueryTraits<kSize>;
    constexpr int kM16 = Traits::kM16, kKeys = Traits::kKeys, kPart = Traits::kPart, kThreads = Traits::kThreads;
    auto& s = shared<typename Traits::Shared>();
    const HeadTile at = head_tile(tiles);
    const int first = at.tile * Traits::kQueries, end = smaller(first + Traits::kQueries, heads.length);
    const int row = warp_id() * 16 * kM16, left = heads.length - first;
    const int64_t stride = heads.read_stride(3);

    const auto load_keys = [&](int key) {
        const int slot = key / kKeys % 2;
        const bf16* source = qkv + heads.read_row(at.head, key, 1, 3);
        s.k[slot].template load<kThreads>(source, stride, heads.length - key, heads.read_size);
        s.v[slot].template load<kThreads>(source + heads.read_channels(), stride, heads.length - key, heads.read_size);
        cp_async_commit();
    };
    s.q.template load<kThreads>(qkv + heads.read_row(at.head, first, 0, 3), stride, left, heads.read_size);
    s.dout.template load<kThreads>(dout + heads.read_row(at.head, first, 0, 1), heads.read_stride(1), left,
                                   heads.read_size);
    load_keys(0);

    float row_lse[kM16][2], row_delta[kM16][2];
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = first + row + 16 * i + 8 * half + lane_id() / 4;
            const bool exists = query < heads.length;
            row_lse[i][half] = exists ? kLog2e * lse[heads.statistics(at.head, query)] : 0;
            row_delta[i][half] = exists ? delta[heads.statistics(at.head, query)] : 0;
        }

    uint32_t q[kM16][kSize / 16][4];  // with dout too, registers would spill
    float dq[kM16][kSize / 8][4] = {};
    const float scale = scales.logit_scale * kLog2e;
    for (int key = 0; key < end; key += kKeys) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all threads are done with the one before
        if (key == 0) read_rows<kM16, kSize>(q, s.q, row);
        if (key + kKeys < end) load_keys(key + kKeys);
        const int slot = key / kKeys % 2, last_row = first + row + 16 * kM16 - 1;
        for (int part = 0; part < kKeys && key + part <= last_row; part += kPart) {
            float score[kM16][kPart / 8][4] = {}, dp[kM16][kPart / 8][4] = {};
            multiply_along_rows<kM16, kPart / 8, kSize>(score, q, s.k[slot], part);
            multiply_tiles<kM16, kPart / 8, kSize>(dp, s.dout, row, s.v[slot], part);
            const bool diagonal = key + part + kPart - 1 > first + row;
#pragma unroll
            for (int i = 0; i < kM16; ++i)
#pragma unroll
                for (int j = 0; j < kPart / 8; ++j)
#pragma unroll
                    for (int e = 0; e < 4; ++e) {
                        const int query = first + row + 16 * i + 8 * (e / 2) + lane_id() / 4;
                        const int column = key + part + 8 * j + 2 * (lane_id() % 4) + e % 2;
                        score_gradient(score[i][j][e], dp[i][j][e], scale, row_lse[i][e / 2], scales.out_scale,
                                       row_delta[i][e / 2], diagonal && column > query);
                    }
            multiply_with_rows<kM16, kPart / 8, kSize>(dq, dp, s.k[slot], part);
        }
    }
    store_rows<kM16, kSize>(dqkv, heads, at.head, 0, 3, first + row, dq, [&](int, int) { return scales.logit_scale; });
}

// --- dk and dv: everything is transposed, so that P^T and dS^T are the operands in registers ---

template <int kSize>
struct KeyTraits {
    static constexpr int kWarps = kSize <= 64 ? 8 : 4, kThreads = kWarps * kWarp;
    static constexpr int kKeys = kWarps * 16, kQueries = 64, kPart = 32;  // queries in a tile; at a time
    static constexpr bool kInRegisters = kSize <= 64;                     // k and v; else read for every tile
    struct Shared {
        Tile<kKeys, kSize> k, v;
        Tile<kQueries, kSize> q[2], dout[2];
        float lse[2][kQueries], delta[2][kQueries];
    };
};

template <int kSize>
__global__ void __launch_bounds__(KeyTraits<kSize>::kThreads, 1)
    attention_dkv_bf16_kernel(bf16* dqkv, const bf16* dout, const bf16* qkv, const float* lse, const float* delta,
                              Heads heads, int tiles, BackwardScales scales) {
    launch_bounds<KeyTraits<kSize>::kThreads, 1>();
    using Traits = KeyTraits<kSize>;
    constexpr int kQueries = Traits::kQueries, kPart = Traits::kPart, kThreads = Traits::kThreads;
    auto& s = shared<typename Traits::Shared>();
    const int head = int(blockIdx.x) / tiles, tile = int(blockIdx.x) - head * tiles;  // first keys: most queries
    const int first = tile * Traits::kKeys, row = warp_id() * 16, left = heads.length - first;
    const int64_t stride = heads.read_stride(3);
    static_assert(kQueries <= kThreads);

    float next_lse = 0, next_delta = 0;  // of query threadIdx.x of the tile that is being loaded
    const auto load_queries = [&](int query) {
        const int slot = query / kQueries % 2, rows = heads.length - query;
        s.q[slot].template load<kThreads>(qkv + heads.read_row(head, query, 0, 3), stride, rows, heads.read_size);
        s.dout[slot].template load<kThreads>(dout + heads.read_row(head, query, 0, 1), heads.read_stride(1), rows,
                                             heads.read_size);
        cp_async_commit();
        if (int(threadIdx.x) >= kQueries) return;
        const int mine = query + int(threadIdx.x);
        const bool exists = mine < heads.length;
        next_lse = exists ? kLog2e * lse[heads.statistics(head, mine)] : INFINITY;  // P is 0 where there is no query
        next_delta = exists ? delta[heads.statistics(head, mine)] : 0;
    };
    const bf16* keys = qkv + heads.read_row(head, first, 1, 3);
    s.k.template load<kThreads>(keys, stride, left, heads.read_size);
    s.v.template load<kThreads>(keys + heads.read_channels(), stride, left, heads.read_size);
    const int begin = first / kQueries * kQueries;
    load_queries(begin);

    constexpr int kHeld = Traits::kInRegisters ? kSize : 16;
    uint32_t k[1][kHeld / 16][4], v[1][kHeld / 16][4];
    float dk[1][kSize / 8][4] = {}, dv[1][kSize / 8][4] = {};
    const float scale = scales.logit_scale * kLog2e;
    for (int query = begin; query < heads.length; query += kQueries) {
        const int slot = query / kQueries % 2;
        cp_async_wait<0>();
        if (int(threadIdx.x) < kQueries) {
            s.lse[slot][threadIdx.x] = next_lse;
            s.delta[slot][threadIdx.x] = next_delta;
        }
        __syncthreads();  // this tile has arrived, and all threads are done with the one before
        if constexpr (Traits::kInRegisters) {
            if (query == begin) {
                read_rows<1, kSize>(k, s.k, row);
                read_rows<1, kSize>(v, s.v, row);
            }
        }
        if (query + kQueries < heads.length) load_queries(query + kQueries);
        for (int part = 0; part < kQueries; part += kPart) {
            if (query + part + kPart - 1 < first + row) continue;         // all of them are before this warp's keys
            float score[1][kPart / 8][4] = {}, dp[1][kPart / 8][4] = {};  // transposed: (keys, queries)
            if constexpr (Traits::kInRegisters) {
                multiply_along_rows<1, kPart / 8, kSize>(score, k, s.q[slot], part);
                multiply_along_rows<1, kPart / 8, kSize>(dp, v, s.dout[slot], part);
            } else {
                multiply_tiles<1, kPart / 8, kSize>(score, s.k, row, s.q[slot], part);
                multiply_tiles<1, kPart / 8, kSize>(dp, s.v, row, s.dout[slot], part);
            }
            const bool diagonal = query + part < first + row + 15;
#pragma unroll
            for (int j = 0; j < kPart / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int column = part + 8 * j + 2 * (lane_id() % 4) + e % 2;
                    const int key = first + row + 8 * (e / 2) + lane_id() / 4;
                    score_gradient(score[0][j][e], dp[0][j][e], scale, s.lse[slot][column], scales.out_scale,
                                   s.delta[slot][column], diagonal && key > query + column);
                }
            multiply_with_rows<1, kPart / 8, kSize>(dv, score, s.dout[slot], part);
            multiply_with_rows<1, kPart / 8, kSize>(dk, dp, s.q[slot], part);
        }
    }
    store_rows<1, kSize>(dqkv, heads, head, 1, 3, first + row, dk, [&](int, int) { return scales.logit_scale; });
    store_rows<1, kSize>(dqkv, heads, head, 2, 3, first + row, dv, [&](int, int) { return scales.out_scale; });
}

}  // namespace llmc::cuda
