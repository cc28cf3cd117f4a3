// Causal flash attention on tensor cores, forward. Dao, "FlashAttention-2", 2023; formulas in llmc/ops/ops.h.
//
// FLOPs 2 T C N (causal half of two products); bytes in bf16: 8 C N + 4 H N. Bound: tensor cores and exponentials: at
// head size 64 a (query, key) pair costs 256 FLOPs and one ex2, of which a Hopper multiprocessor does 16 a clock.
// Without overlap that is at most 430 TFLOP/s on an H200. Floor at N = 65,536, T = 1024, C = 768: 131 us.
//
// A block computes kQueries queries of one head, a warp 16 kM16 of them. Keys and values are loaded in tiles of kKeys
// with two buffers (cp.async). The scores stay in registers: an accumulator of the first product has the layout of the
// second product's operand. With q in registers too they would spill; reading q again is a fifth of the shared memory
// traffic.
#pragma once
#include "llmc/cuda/attention/heads.h"

namespace llmc::cuda {

template <int kSize>  // of a head, rounded up
struct ForwardTraits {
    static constexpr int kM16 = kSize <= 64 ? 2 : 1, kWarps = 4, kThreads = kWarps * kWarp;
    static constexpr int kQueries = kWarps * 16 * kM16, kKeys = 64;
    struct Shared {
        Tile<kQueries, kSize> q;
        Tile<kKeys, kSize> k[2], v[2];
    };
};

// The running softmax of a warp's rows: maximum and this lane's part of the sum, for row 16 i + 8 half + lane / 4.
template <int kM16>
struct Softmax {
    float maximum[kM16][2], sum[kM16][2] = {};

    GPU Softmax() {
#pragma unroll
        for (auto& row : maximum) row[0] = row[1] = -INFINITY;
    }
    // Replaces the scores by exp(score - maximum), and rescales `out` to the new maximum. Scores are in units of log 2.
    template <int kN8, int kOut>
    GPU void update(float (&score)[kM16][kN8][4], float (&out)[kM16][kOut][4]) {
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float largest = maximum[i][half];
#pragma unroll
                for (int j = 0; j < kN8; ++j)
                    largest = fmaxf(largest, fmaxf(score[i][j][2 * half], score[i][j][2 * half + 1]));
                largest = quad_max(largest);
                const float correction = exp2_approx(maximum[i][half] - largest);
                maximum[i][half] = largest;
                float added = 0;
#pragma unroll
                for (int j = 0; j < kN8; ++j)
#pragma unroll
                    for (int e = 0; e < 2; ++e) {
                        float& p = score[i][j][2 * half + e];
                        p = exp2_approx(p - largest);
                        added += p;
                    }
                sum[i][half] = sum[i][half] * correction + added;
#pragma unroll
                for (int j = 0; j < kOut; ++j) out[i][j][2 * half] *= correction, out[i][j][2 * half + 1] *= correction;
            }
    }
};

template <int kSize>
__global__ void __launch_bounds__(ForwardTraits<kSize>::kThreads)
    attention_forward_bf16_kernel(bf16* out, float* lse, const bf16* qkv, Heads heads, int tiles, float logit_scale,
                                  float out_scale) {
    launch_bounds<ForwardTraits<kSize>::kThreads>();
    using Traits = ForwardTraits<kSize>;
    constexpr int kM16 = Traits::kM16, kKeys = Traits::kKeys, kThreads = Traits::kThreads;
    auto& s = shared<typename Traits::Shared>();
    const HeadTile at = head_tile(tiles);
    const int first = (heads.first_tile + at.tile) * Traits::kQueries,
              end = smaller(first + Traits::kQueries, heads.length);
    const int row = warp_id() * 16 * kM16;  // this warp's first row in the tile
    const int64_t stride = heads.read_stride(3);

    const auto load_keys = [&](int key) {
        const int slot = key / kKeys % 2;
        const bf16* source = qkv + heads.read_row(at.head, key, 1, 3);
        s.k[slot].template load<kThreads>(source, stride, heads.length - key, heads.read_size);
        s.v[slot].template load<kThreads>(source + heads.read_channels(), stride, heads.length - key, heads.read_size);
        cp_async_commit();
    };
    s.q.template load<kThreads>(qkv + heads.read_row(at.head, first, 0, 3), stride, heads.length - first,
                                heads.read_size);
    load_keys(0);

    float acc[kM16][kSize / 8][4] = {};
    Softmax<kM16> softmax;
    const float scale = logit_scale * kLog2e;
    for (int key = 0; key < end; key += kKeys) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all threads are done with the one before
        if (key + kKeys < end) load_keys(key + kKeys);
        const int slot = key / kKeys % 2, last_row = first + row + 16 * kM16 - 1;
        if (key > last_row) continue;  // all of its keys are after this warp's queries

        float score[kM16][kKeys / 8][4] = {};
        multiply_tiles<kM16, kKeys / 8, kSize>(score, s.q, row, s.k[slot], 0);
        const bool diagonal = key + kKeys - 1 > first + row;
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) {
                    const int query = first + row + 16 * i + 8 * (e / 2) + lane_id() / 4;
                    const bool future = diagonal && key + 8 * j + 2 * (lane_id() % 4) + e % 2 > query;
                    score[i][j][e] = future ? -INFINITY : scale * score[i][j][e];
                }
        softmax.update(score, acc);
        multiply_with_rows<kM16, kKeys / 8, kSize>(acc, score, s.v[slot], 0);
    }

    float inverse[kM16][2];
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = quad_sum(softmax.sum[i][half]);
            const int query = first + row + 16 * i + 8 * half + lane_id() / 4;
            inverse[i][half] = out_scale / sum;
            if (lane_id() % 4 == 0 && query < heads.length)
                lse[heads.statistics(at.head, query)] = softmax.maximum[i][half] / kLog2e + logf(sum);
        }
    store_rows<kM16, kSize>(out, heads, at.head, 0, 1, first + row, acc,
                            [&](int i, int half) { return inverse[i][half]; });
}

}  // namespace llmc::cuda
