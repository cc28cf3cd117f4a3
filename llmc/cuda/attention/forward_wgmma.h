// Causal flash attention on Hopper (compute capability 9.0a), forward: wgmma fed by TMA, for heads of 64 and 128 channels.
// Shah et al., "FlashAttention-3", 2024; formulas in llmc/ops/ops.h, the softmax in forward_bf16.h.
//
// A block computes 128 queries of one head: two warpgroups of 64. Keys and values come in tiles of 64 through a ring, from
// the diagonal to the first: so only the first tile of a warpgroup is masked, and of that nothing outside of 64 x 64 is
// computed. Queries and probabilities are in registers, as the operand A of both products. One thread of the last
// warpgroup issues the copies: with a warp for them, one of the four schedulers would have five warps of two blocks,
// which leaves 96 registers a thread instead of 128, and 122 are needed.
//
// Clocks of a multiprocessor for 64 queries, 64 keys, 64 channels, from cuobjdump -sass for sm_90a:
//   tensor cores   4096 FLOP                                                                          256
//   exponentials   16                                                                                 256
//   shared memory  128 bytes: 8 KB of K and of V read by each warpgroup, written once for both        192
//   issue          4 instructions; 221 a warp                                                        221
// With Q in shared memory it would be 256 for shared memory, too. Heads of 128 channels: 512, 256, 384; their 170
// registers allow one block.
//
// Two units are busy all the time only if they overlap. A warpgroup issues the scores of the next tile together with the
// product with values of this one, and the softmax of the former runs while the latter is computed; and two blocks on a
// multiprocessor (64 channels) are four warpgroups that wait for nothing of each other but the ring's stages. They also
// hide the start and the end of a block, whose warpgroups have 8.5 tiles on average at T = 1024.
#pragma once
#include "llmc/cuda/attention/forward_bf16.h"
#include "llmc/cuda/matmul/pipeline.h"

namespace llmc::cuda {

template <int kSize>
struct WgmmaForward {
    static constexpr int kTile = 64;                  // queries of a warpgroup, keys; columns of a swizzled box
    static constexpr int kConsumers = 2, kWarps = 4;  // warpgroups, and warps of each
    static constexpr int kQueries = kConsumers * kTile, kThreads = kConsumers * kWarps * kWarp;
    static constexpr int kBlocks = kSize == 64 ? 2 : 1;  // of a multiprocessor, by registers
    static constexpr int kStages = 5, kBoxes = kSize / kTile;
    static constexpr uint32_t kBoxBytes = kTile * kTile * 2;
    struct Operand {  // 64 rows, in boxes of 64 columns
        alignas(1024) bf16 data[kTile * kSize];
    };
    struct Stage {  // what is multiplied in one round: keys of a tile, and values of the tile that came before it
        Operand keys, values;
    };
    struct Shared {
        Operand q[kConsumers];
        Stage stages[kStages];
        Ring<kStages> ring;
        uint64_t queries;
    };
};

// The copies of a block, by one thread of its last warpgroup. Rows after the end of a sequence are zeros, and masked.
template <int kSize>
struct AttentionLoader {
    using Traits = WgmmaForward<kSize>;
    typename Traits::Shared& s;
    const TensorMap* qkv;
    int sequence, column, channels;  // column of the head; C
    int last, tile;                  // of keys; the next one
    Position<Traits::kStages> at;

    GPU void load(typename Traits::Operand& to, uint64_t* barrier, int part, int of_tile) const {
#pragma unroll
        for (int box = 0; box < Traits::kBoxes; ++box)
            tma_load(to.data + box * Traits::kTile * Traits::kTile, qkv, barrier,
                     part * channels + column + box * Traits::kTile, of_tile * Traits::kTile, sequence);
    }
    GPU void load_queries(int first) const {
        mbarrier_arrive_expect(&s.queries, (last + 1 - first) * int(sizeof(typename Traits::Operand)));
#pragma unroll 1
        for (int i = first; i <= last; ++i) load(s.q[i - first], &s.queries, 0, i);
    }
    // The first stage has no values, and the last one no keys.
    GPU void load_stage() {
        if (tile < -1) return;
        const bool with_keys = tile >= 0, with_values = tile < last;
        s.ring.acquire(at, (with_keys && with_values ? 2 : 1) * int(sizeof(typename Traits::Operand)));
        auto& stage = s.stages[at.slot];
        if (with_keys) load(stage.keys, &s.ring.full[at.slot], 1, tile);
        if (with_values) load(stage.values, &s.ring.full[at.slot], 2, tile + 1);
        --tile;
        at.advance();
    }
};

// A consumer warpgroup: 64 queries.
template <int kSize>
struct AttentionConsumer {
    using Traits = WgmmaForward<kSize>;
    static constexpr int kTile = Traits::kTile;
    typename Traits::Shared& s;
    uint64_t keys, values;  // descriptors of the first stage as either
    float scale;
    Position<Traits::kStages> at;
    uint32_t q[1][kSize / 16][4], p[kTile / 16][4];
    float score[1][kTile / 8][4], acc[1][kSize / 8][4] = {};
    Softmax<1> softmax;

    GPU AttentionConsumer(typename Traits::Shared& s, float logit_scale)
        : s(s),
          keys(wgmma_descriptor(shared_address(s.stages), 0, 1024)),
          values(wgmma_descriptor(shared_address(&s.stages[0].values), Traits::kBoxBytes, 1024)),
          scale(fmaxf(fabsf(logit_scale) * kLog2e, kSmallestScale)) {}

    GPU void read_queries(int index, int warp, bool negative) {
        using Box = Tile<kTile, kTile>;  // has the swizzle of the bulk copies
        mbarrier_wait(&s.queries, 0);
        __syncwarp();
        const uint32_t rows = shared_address(&s.q[index]) + warp * 16 * Box::kRowBytes + Box::lane_by_columns();
#pragma unroll
        for (int k = 0; k < kSize / 16; ++k) ldmatrix_x4(q[0][k], (rows ^ 32 * (k % 4)) + k / 4 * Traits::kBoxBytes);
        if (negative) change_signs(q);
    }
    GPU uint32_t offset() const { return uint32_t(at.slot) * uint32_t(sizeof(typename Traits::Stage) / 16); }
    GPU void start_scores() {
        const uint64_t b = keys + offset();
#pragma unroll
        for (int k = 0; k < kSize / 16; ++k)
            wgmma_m64k16<kTile, false>(score[0], q[0][k], b + (k / 4 * Traits::kBoxBytes + k % 4 * 32) / 16, k > 0);
        wgmma_commit();
    }
    GPU void start_values() {
        const uint64_t b = values + offset();
#pragma unroll
        for (int k = 0; k < kTile / 16; ++k) wgmma_m64k16<kSize, true>(acc[0], p[k], b + k * 16 * 128 / 16, true);
        wgmma_commit();
    }
    GPU void wait() {
        s.ring.wait(at);
        __syncwarp();
    }
    GPU void release() {
        if (lane_id() == 0) s.ring.release(at);
        __syncwarp();
        at.advance();
    }
    GPU void skip() {
        wait();
        release();
    }
    GPU void pack() {
#pragma unroll
        for (int k = 0; k < kTile / 16; ++k) accumulator_to_a(p[k], score[0][2 * k], score[0][2 * k + 1]);
    }
    // The tile at the diagonal. `ahead`: this lane's first key minus its first query.
    GPU void attend_diagonal(int ahead) {
        wait();
        wgmma_fence();
        start_scores();
        wgmma_wait<0>();
        wgmma_results(score[0]);
        release();
#pragma unroll
        for (int j = 0; j < kTile / 8; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e)
                if (ahead > 8 * (e / 2) - 8 * j - e % 2) score[0][j][e] = -INFINITY;
        float correction[1][2];
        softmax.find_references(score, correction, scale);
        softmax.exponentials(score, scale);
        pack();
    }
    // The next tile's scores, and the last one's values. `load` is called between the exponentials and the wait for the
    // product with values: its branch keeps ptxas from moving exponentials after that wait.
    template <class Load>
    GPU void attend(Load&& load) {
        wait();
        wgmma_fence();
        start_scores();
        start_values();
        wgmma_wait<1>();
        wgmma_results(score[0]);
        float correction[1][2];
        const bool grows = softmax.find_references(score, correction, scale);
        softmax.rescale_sums(correction);
        softmax.exponentials(score, scale);
        load();
        wgmma_wait<0>();
        wgmma_results(acc[0]);
        release();
        if (grows) softmax.rescale(acc, correction);
        pack();
    }
    GPU void finish() {
        wait();
        wgmma_fence();
        start_values();
        wgmma_wait<0>();
        wgmma_results(acc[0]);
    }
};

template <int kSize>
__global__ void __launch_bounds__(WgmmaForward<kSize>::kThreads, WgmmaForward<kSize>::kBlocks)
    attention_forward_wgmma_kernel(bf16* out, float* lse, const __grid_constant__ TensorMap qkv, Heads heads, int tiles,
                                   float logit_scale, float out_scale) {
    launch_bounds<WgmmaForward<kSize>::kThreads, WgmmaForward<kSize>::kBlocks>();
#if LLMC_HAS_HOPPER
    using Traits = WgmmaForward<kSize>;
    auto& s = shared<typename Traits::Shared>();
    const HeadTile at = head_tile(tiles);
    // In tiles of 64. If no query is left for the second warpgroup, it does not take part.
    const int first = (heads.first_tile + at.tile) * Traits::kConsumers;
    const int last = smaller(first + Traits::kConsumers,
                             int(uint32_t(heads.length + Traits::kTile - 1) / Traits::kTile)) -
                     1;
    if (threadIdx.x == 0) {
        s.ring.initialise((last - first + 1) * Traits::kWarps);
        mbarrier_init(&s.queries, 1);
    }
    __syncwarp();
    mbarrier_init_fence();
    __syncthreads();
    const int warp = int(__shfl_sync(kAllLanes, warp_id(), 0)), index = warp / Traits::kWarps;
    const int diagonal = first + index;
    if (diagonal > last) return;

    const int b = at.head / heads.heads, h = at.head % heads.heads;
    AttentionLoader<kSize> loader{s, &qkv, b, h * kSize, heads.heads * kSize, last, last};
    const bool loads = diagonal == last && threadIdx.x % (Traits::kWarps * kWarp) == 0;
    if (loads) {
        loader.load_queries(first);
#pragma unroll 1
        for (int i = 0; i < Traits::kStages; ++i) loader.load_stage();
    }
    __syncwarp();
    AttentionConsumer<kSize> consumer(s, logit_scale);
    const int row = warp % Traits::kWarps * 16;  // of this warp in the tile
    consumer.read_queries(index, warp % Traits::kWarps, logit_scale < 0);
    if (diagonal < last) consumer.skip();  // keys after all of these queries
    consumer.attend_diagonal(2 * (lane_id() % 4) - row - lane_id() / 4);
#pragma unroll 1
    for (int tile = diagonal; tile > 0; --tile)
        consumer.attend([&] {
            // Into the stage that was released two rounds ago: the other warpgroup may be a round later.
            if (loads && tile < diagonal) loader.load_stage();
            __syncwarp();
        });
    consumer.finish();

    const int first_row = diagonal * Traits::kTile + row;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float sum = quad_sum(consumer.softmax.sum[0][half]);
        const int query = first_row + 8 * half + lane_id() / 4;
        inverse[half] = out_scale / sum;
        if (lane_id() % 4 == 0 && query < heads.length)
            lse[heads.statistics(at.head, query)] = consumer.softmax.reference[0][half] / kLog2e + logf(sum);
    }
    store_rows<1, kSize>(out, heads, at.head, 0, 1, first_row, consumer.acc,
                         [&](int, int half) { return inverse[half]; });
#else
    __trap();  // as in matmul/wgmma.h
#endif
}

}  // namespace llmc::cuda
