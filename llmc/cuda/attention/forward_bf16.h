// Causal flash attention on tensor cores, forward. Dao, "FlashAttention-2", 2023; formulas in llmc/ops/ops.h.
//
// FLOPs 2 T C N (causal half of two products); bytes in bf16: 8 C N + 4 H N. Bound: tensor cores and exponentials: at
// head size 64 a (query, key) pair costs 256 FLOPs and one ex2, of which a Hopper multiprocessor does 16 a clock.
// Without overlap that is at most 430 TFLOP/s on an H200. Floor at N = 65,536, T = 1024, C = 768: 131 us.
//
// A block computes kQueries queries of one head, a warp 16 kM16 of them, whose fragments it holds in registers. Keys
// and values are loaded in tiles of kKeys with two buffers (cp.async). The scores stay in registers: an accumulator of
// the first product has the layout of the second product's operand. Tiles before the diagonal are not masked; at the
// diagonal a warp computes a half of the tile if its queries end there.
//
// Clocks of a Hopper multiprocessor for 128 queries, 64 keys, 64 channels, from cuobjdump -sass for sm_90a, before (q
// read from shared memory again, every score scaled and masked, results rescaled in each tile) and now:
//   tensor cores   HMMA, at 63% of 4096 FLOPs     813    813   512 HMMA
//   shared memory  128 bytes                      768    640   160 and 128 LDSM (four mma for each), cp.async
//   issue          4 instructions                 973    640   873 and 526 a warp, and about 100 for the loads
//   exponentials   16                             544    512
#pragma once
#include "llmc/cuda/attention/heads.h"

namespace llmc::cuda {

constexpr float kSmallestScale = 1e-37f;  // instead of 0, by which a masked score cannot be multiplied

template <int kM16, int kK16>
GPU void change_signs(uint32_t (&a)[kM16][kK16][4]) {
#pragma unroll
    for (auto& rows : a)
#pragma unroll
        for (auto& fragment : rows)
#pragma unroll
            for (uint32_t& pair : fragment) pair ^= 0x80008000u;
}

template <int kSize>  // of a head, rounded up
struct ForwardTraits {
    static constexpr int kM16 = kSize <= 64 ? 2 : 1, kWarps = 4, kThreads = kWarps * kWarp;
    static constexpr int kQueries = kWarps * 16 * kM16, kKeys = 64;
    using QueryTile = Tile<kQueries, kSize>;
    using KeyTile = Tile<kKeys, kSize>;
    struct Shared {
        QueryTile q;
        KeyTile k[2], v[2];
    };
};

// The running softmax of a warp's rows, for row 16 i + 8 half + lane / 4: what is subtracted from the scores, in units
// of log 2, and this lane's part of the sum. That is not always the maximum so far, but at most kSlack less: results
// are rescaled only when it grows by more, so exponentials are up to 2^kSlack, and no digit is lost.
template <int kM16>
struct Softmax {
    static constexpr float kSlack = 8;
    float reference[kM16][2], sum[kM16][2] = {};

    GPU Softmax() {
#pragma unroll
        for (auto& row : reference) row[0] = row[1] = -INFINITY;
    }
    // Replaces the scores by exp2(scale * score - reference), and rescales `out` if references change. scale > 0.
    template <int kN8, int kOut>
    GPU void update(float (&score)[kM16][kN8][4], float (&out)[kM16][kOut][4], float scale) {
        float correction[kM16][2];
        if (find_references(score, correction, scale)) {
            rescale_sums(correction);
            rescale(out, correction);
        }
        exponentials(score, scale);
    }
    // By which factor sums and results of each row have to be rescaled; whether one of this lane's rows has to be.
    template <int kN8>
    GPU bool find_references(const float (&score)[kM16][kN8][4], float (&correction)[kM16][2], float scale) {
        bool grows = false;
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                float largest = -INFINITY;
#pragma unroll
                for (int j = 0; j < kN8; ++j)
                    largest = fmaxf(largest, fmaxf(score[i][j][2 * half], score[i][j][2 * half + 1]));
                largest = scale * quad_max(largest);
                const bool row_grows = largest > reference[i][half] + kSlack;
                correction[i][half] = row_grows ? exp2_approx(reference[i][half] - largest) : 1.0f;
                if (row_grows) reference[i][half] = largest;
                grows |= row_grows;
            }
        return grows;
    }
    GPU void rescale_sums(const float (&correction)[kM16][2]) {
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half) sum[i][half] *= correction[i][half];
    }
    template <int kOut>
    GPU static void rescale(float (&out)[kM16][kOut][4], const float (&correction)[kM16][2]) {
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int j = 0; j < kOut; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e) out[i][j][e] *= correction[i][e / 2];
    }
    template <int kN8>
    GPU void exponentials(float (&score)[kM16][kN8][4], float scale) {
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
                float added = 0;
#pragma unroll
                for (int j = 0; j < kN8; ++j) {
                    float& p = score[i][j][e];
                    p = exp2_approx(scale * p - reference[i][e / 2]);
                    added += p;
                }
                sum[i][e / 2] += added;
            }
    }
};

// Adds kKeys keys and their values to `acc`, the sums of a warp's rows. `ahead`: this lane's first key minus its first
// query; keys after the query are masked.
template <int kKeys, bool kMasked, class KeyTile, int kM16, int kN8, int kK16>
GPU void attend(float (&acc)[kM16][kN8][4], Softmax<kM16>& softmax, const uint32_t (&q)[kM16][kK16][4],
                uint32_t k_address, uint32_t v_address, float scale, int ahead) {
    float score[kM16][kKeys / 8][4] = {};
    multiply_along_rows<KeyTile>(score, q, k_address);
    if (kMasked)
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int j = 0; j < kKeys / 8; ++j)
#pragma unroll
                for (int e = 0; e < 4; ++e)
                    if (ahead > 16 * i + 8 * (e / 2) - 8 * j - e % 2) score[i][j][e] = -INFINITY;
    softmax.update(score, acc, scale);
#pragma unroll
    for (int k = 0; k < kKeys / 16; ++k) {
        uint32_t p[kM16][4];
#pragma unroll
        for (int i = 0; i < kM16; ++i) accumulator_to_a(p[i], score[i][2 * k], score[i][2 * k + 1]);
        multiply_with_rows(acc, p, v_address + 16 * k * KeyTile::kRowBytes);
    }
}

template <int kSize>
__global__ void __launch_bounds__(ForwardTraits<kSize>::kThreads)
    attention_forward_bf16_kernel(bf16* out, float* lse, const bf16* qkv, Heads heads, int tiles, float logit_scale,
                                  float out_scale) {
    launch_bounds<ForwardTraits<kSize>::kThreads>();
    using Traits = ForwardTraits<kSize>;
    using KeyTile = typename Traits::KeyTile;
    constexpr int kM16 = Traits::kM16, kKeys = Traits::kKeys, kThreads = Traits::kThreads;
    auto& s = shared<typename Traits::Shared>();
    const HeadTile at = head_tile(tiles);
    const int first = (heads.first_tile + at.tile) * Traits::kQueries,
              end = smaller(first + Traits::kQueries, heads.length);
    const int row = first + warp_id() * 16 * kM16, last_row = row + 16 * kM16 - 1;  // of this warp
    const int64_t stride = heads.read_stride(3);

    const bf16* next_keys = qkv + heads.read_row(at.head, 0, 1, 3);
    const auto load_keys = [&](int key) {
        const int slot = int(uint32_t(key) / kKeys % 2), left = heads.length - key;
        s.k[slot].template load<kThreads>(next_keys, stride, left, heads.read_size);
        s.v[slot].template load<kThreads>(next_keys + heads.read_channels(), stride, left, heads.read_size);
        next_keys += kKeys * stride;
        cp_async_commit();
    };
    s.q.template load<kThreads>(qkv + heads.read_row(at.head, first, 0, 3), stride, heads.length - first,
                                heads.read_size);
    load_keys(0);

    uint32_t q[kM16][kSize / 16][4];
    float acc[kM16][kSize / 8][4] = {};
    Softmax<kM16> softmax;
    const float scale = fmaxf(fabsf(logit_scale) * kLog2e, kSmallestScale);
    const uint32_t by_rows = KeyTile::lane_by_rows(), by_columns = KeyTile::lane_by_columns();
    for (int key = 0; key < end; key += kKeys) {
        cp_async_wait<0>();
        __syncthreads();  // this tile has arrived, and all threads are done with the one before
        if (key == 0) {
            read_rows<typename Traits::QueryTile>(
                q, shared_address(&s.q) + (row - first) * KeyTile::kRowBytes + by_columns);
            if (logit_scale < 0) change_signs(q);
        }
        if (key + kKeys < end) load_keys(key + kKeys);
        if (key > last_row) continue;  // all of its keys are after this warp's queries

        const uint32_t tile = shared_address(&s.k[key / kKeys % 2]);
        const uint32_t k_address = tile + by_rows, v_address = tile + uint32_t(sizeof(s.k)) + by_columns;
        const int ahead = key + 2 * (lane_id() % 4) - row - lane_id() / 4;
        if (key + kKeys - 1 <= row)
            attend<kKeys, false, KeyTile>(acc, softmax, q, k_address, v_address, scale, ahead);
        else if (key + kKeys / 2 <= last_row)
            attend<kKeys, true, KeyTile>(acc, softmax, q, k_address, v_address, scale, ahead);
        else
            attend<kKeys / 2, true, KeyTile>(acc, softmax, q, k_address, v_address, scale, ahead);
    }

    float inverse[kM16][2];
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float sum = quad_sum(softmax.sum[i][half]);
            const int query = row + 16 * i + 8 * half + lane_id() / 4;
            inverse[i][half] = out_scale / sum;
            if (lane_id() % 4 == 0 && query < heads.length)
                lse[heads.statistics(at.head, query)] = softmax.reference[i][half] / kLog2e + logf(sum);
        }
    store_rows<kM16, kSize>(out, heads, at.head, 0, 1, row, acc, [&](int i, int half) { return inverse[i][half]; });
}

}  // namespace llmc::cuda
