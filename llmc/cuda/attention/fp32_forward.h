// Causal attention in fp32, forward: attention/fp32.h.
#pragma once
#include "llmc/cuda/attention/fp32.h"

namespace llmc::cuda {

struct Fp32ForwardShared {
    HeadRows q, k, v;
    ScoreTile p;
    float correction[kFp32Rows], inverse[kFp32Rows];
};

__global__ void __launch_bounds__(kFp32AttentionThreads)
    attention_forward_fp32_kernel(float* out, float* lse, const float* qkv, Heads heads, int tiles, float logit_scale,
                                  float out_scale) {
    launch_bounds<kFp32AttentionThreads>();
    auto& s = shared<Fp32ForwardShared>();
    const HeadTile at = head_tile(tiles);
    const int first = (heads.first_tile + at.tile) * kFp32Rows, rows = rows_from(first, heads.length);
    const int64_t stride = heads.read_stride(3);
    // Eight neighbouring threads share a row of the softmax, four keys each.
    const int row = int(threadIdx.x) / 8, lane = int(threadIdx.x) % 8;
    float maximum = -INFINITY, sum = 0;
    HeadSums acc;
    const ThreadPlace p;
    s.q.load(qkv + heads.read_row(at.head, first, 0, 3), stride, rows, heads.size);
    for (int key = 0; key < first + rows; key += kFp32Rows) {
        const int keys = rows_from(key, heads.length);
        const float* source = qkv + heads.read_row(at.head, key, 1, 3);
        __syncthreads();  // all threads are done with the tile before
        s.k.load(source, stride, keys, heads.size);
        s.v.load(source + heads.read_channels(), stride, keys, heads.size);
        __syncthreads();
        float score[2][2];
        row_products(score, s.q, s.k, heads.size);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c) {
                const int query = first + 2 * p.y + r, column = p.x + 16 * c;
                s.p[2 * p.y + r][column] = key + column > query ? -INFINITY : logit_scale * score[r][c];
            }
        __syncthreads();
        float largest = maximum, added = 0;
#pragma unroll
        for (int j = 0; j < 4; ++j) largest = fmaxf(largest, s.p[row][lane + 8 * j]);
#pragma unroll
        for (int lanes = 1; lanes < 8; lanes *= 2) largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, lanes));
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float e = expf(s.p[row][lane + 8 * j] - largest);
            s.p[row][lane + 8 * j] = e;
            added += e;
        }
#pragma unroll
        for (int lanes = 1; lanes < 8; lanes *= 2) added += __shfl_xor_sync(kAllLanes, added, lanes);
        const float correction = expf(maximum - largest);
        sum = sum * correction + added;
        maximum = largest;
        if (lane == 0) s.correction[row] = correction;
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (float& x : acc.sum[r]) x *= s.correction[2 * p.y + r];
        acc.add<false>(s.p, s.v, heads.size);
    }
    if (lane == 0) {
        s.inverse[row] = out_scale / sum;
        if (row < rows) lse[heads.statistics(at.head, first + row)] = maximum + logf(sum);
    }
    __syncthreads();
    acc.store(out + heads.read_row(at.head, first, 0, 1), heads.read_stride(1), rows, heads.size,
              [&](int r) { return s.inverse[r]; });
}

}  // namespace llmc::cuda
