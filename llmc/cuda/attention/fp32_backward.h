// Causal attention in fp32, backward: attention/fp32.h.
#pragma once
#include "llmc/cuda/attention/fp32.h"

namespace llmc::cuda {

struct Fp32BackwardShared {
    HeadRows q, dout, k, v;
    ScoreTile p, ds;
    float lse[kFp32Rows], delta[kFp32Rows];
};

// Loads 32 queries with their dout, lse and delta.
GPU void load_queries(Fp32BackwardShared& s, const float* qkv, const float* dout, const float* lse, const float* delta,
                      const Heads& heads, int head, int first) {
    const int rows = rows_from(first, heads.length), i = int(threadIdx.x);
    s.q.load(qkv + heads.read_row(head, first, 0, 3), heads.read_stride(3), rows, heads.size);
    s.dout.load(dout + heads.read_row(head, first, 0, 1), heads.read_stride(1), rows, heads.size);
    if (i >= kFp32Rows) return;
    s.lse[i] = i < rows ? lse[heads.statistics(head, first + i)] : INFINITY;  // P is 0 where there is no query
    s.delta[i] = i < rows ? delta[heads.statistics(head, first + i)] : 0;
}
GPU void load_keys(Fp32BackwardShared& s, const float* qkv, const Heads& heads, int head, int first) {
    const int rows = rows_from(first, heads.length);
    const float* source = qkv + heads.read_row(head, first, 1, 3);
    s.k.load(source, heads.read_stride(3), rows, heads.size);
    s.v.load(source + heads.read_channels(), heads.read_stride(3), rows, heads.size);
}

// P and dS of 32 queries from `query` on with 32 keys from `key` on.
GPU void score_gradients(Fp32BackwardShared& s, const Heads& heads, int query, int key, float logit_scale,
                         float out_scale) {
    const ThreadPlace p;
    float score[2][2], dp[2][2];
    row_products(score, s.q, s.k, heads.size);
    row_products(dp, s.dout, s.v, heads.size);
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int c = 0; c < 2; ++c) {
            const int i = 2 * p.y + r, j = p.x + 16 * c;
            const bool future = key + j > query + i;
            const float probability = future ? 0.0f : expf(logit_scale * score[r][c] - s.lse[i]);
            s.p[i][j] = probability;
            s.ds[i][j] = future ? 0.0f : probability * (out_scale * dp[r][c] - s.delta[i]);
        }
}

__global__ void __launch_bounds__(kFp32AttentionThreads)
    attention_dq_fp32_kernel(float* dqkv, const float* dout, const float* qkv, const float* lse, const float* delta,
                             Heads heads, int tiles, float logit_scale, float out_scale) {
    launch_bounds<kFp32AttentionThreads>();
    auto& s = shared<Fp32BackwardShared>();
    const HeadTile at = head_tile(tiles);
    const int first = at.tile * kFp32Rows, rows = rows_from(first, heads.length);
    load_queries(s, qkv, dout, lse, delta, heads, at.head, first);
    HeadSums dq;
    for (int key = 0; key < first + rows; key += kFp32Rows) {
        __syncthreads();  // all threads are done with the tile before
        load_keys(s, qkv, heads, at.head, key);
        __syncthreads();
        score_gradients(s, heads, first, key, logit_scale, out_scale);
        __syncthreads();
        dq.add<false>(s.ds, s.k, heads.size);
    }
    dq.store(dqkv + heads.read_row(at.head, first, 0, 3), heads.read_stride(3), rows, heads.size,
             [&](int) { return logit_scale; });
}

__global__ void __launch_bounds__(kFp32AttentionThreads)
    attention_dkv_fp32_kernel(float* dqkv, const float* dout, const float* qkv, const float* lse, const float* delta,
                              Heads heads, int tiles, float logit_scale, float out_scale) {
    launch_bounds<kFp32AttentionThreads>();
    auto& s = shared<Fp32BackwardShared>();
    const int head = int(blockIdx.x) / tiles, first = (int(blockIdx.x) - head * tiles) * kFp32Rows;
    const int rows = rows_from(first, heads.length);
    load_keys(s, qkv, heads, head, first);
    HeadSums dk, dv;
    for (int query = first; query < heads.length; query += kFp32Rows) {
        __syncthreads();  // all threads are done with the tile before
        load_queries(s, qkv, dout, lse, delta, heads, head, query);
        __syncthreads();
        score_gradients(s, heads, query, first, logit_scale, out_scale);
        __syncthreads();
        dv.add<true>(s.p, s.dout, heads.size);
        dk.add<true>(s.ds, s.q, heads.size);
    }
    float* target = dqkv + heads.read_row(head, first, 1, 3);
    dk.store(target, heads.read_stride(3), rows, heads.size, [&](int) { return logit_scale; });
    dv.store(target + heads.read_channels(), heads.read_stride(3), rows, heads.size, [&](int) { return out_scale; });
}

}  // namespace llmc::cuda
