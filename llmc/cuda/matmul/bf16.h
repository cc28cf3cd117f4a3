// The bf16 product on tensor cores of compute capability 8.0 and up: mma.sync.m16n8k16 fed by ldmatrix from a ring of
// four stages that cp.async fills.
//
// FLOPs 2 M N K; bytes at least 2 (M K + K N + M N). Bound: tensor cores. mma.sync issues at 62-65% of a Hopper's dense
// rate (arXiv 2402.13499 measured 491 of 757 TFLOP/s on an H800): about 620 TFLOP/s on an H200, 312 on an A100.
//
// A block computes 128 x 256 of D with eight warps or 128 x 128 with four, each 64 x 64: 32 products need 8 ldmatrix, and
// an operand byte read from shared memory is used 32 times, so shared memory (128 bytes a clock) is 89% busy at the rate
// above (97% for the smaller tile, of which a multiprocessor computes two at a time: one's epilogue is hidden under the
// other's products). Where these tiles would leave multiprocessors idle, as with few rows of a narrow model: 64 x 64 with
// four warps of 32 x 32, which take 1.5 times as long for the same work, issue being the bound (163 instructions of a warp
// for 16 products). plan.h chooses.
//
// Blocks are persistent: they process one piece of work (work.h) after the other, and the ring continues across them, so
// that the next one's first stages are loaded during the epilogue of the one before. Fragments are read half a stage ahead
// of their use. The loops over pieces and over steps are two, for with one the compiler moved the accumulators.
#pragma once
#include "llmc/cuda/column_sums.h"
#include "llmc/cuda/matmul/fragments.h"
#include "llmc/cuda/matmul/plan.h"
#include "llmc/cuda/tile.h"

namespace llmc::cuda {

constexpr int kStages = 4;

// A block's tile, and how it is divided among warps.
template <int kBlockM, int kBlockN>
struct BlockTile {
    static constexpr int kWarpsM = 2, kWarpsN = kBlockN == 256 ? 4 : 2;
    static constexpr int kWarpM = kBlockM / kWarpsM, kWarpN = kBlockN / kWarpsN;
    static constexpr int kThreads = kWarpsM * kWarpsN * kWarp;
    static constexpr TileCost kCost = kBlockN == 256 ? kWide : kBlockN == 128 ? kNarrow : kSmall;
    static_assert(kCost.block_m == kBlockM && kCost.block_n == kBlockN);
};

template <bool kAByColumns, bool kBByRows, int kBlockM, int kBlockN>
struct MatmulShared {
    using TileA = std::conditional_t<kAByColumns, Tile<kTileK, kBlockM>, Tile<kBlockM, kTileK>>;
    using TileB = std::conditional_t<kBByRows, Tile<kTileK, kBlockN>, Tile<kBlockN, kTileK>>;
    struct Stage {
        TileA a;
        TileB b;
    } stages[kStages];
};

// Iterates over the steps of a block. `left` is what remains of the current piece, 0 after the last one.
template <bool kDivided>
struct Steps {
    int index = -1, left = 0;  // of the piece

    GPU Piece piece(const Work& w) const { return piece_of<kDivided>(w, int(blockIdx.x), index); }
    GPU Piece next(const Work& w) {
        ++index;
        const Piece p = piece(w);
        left = p.steps();
        return p;
    }
};

// A tile of an operand from (mn, k) on, which is stored (K, MN) if kAlongMn, else (MN, K).
template <bool kAlongMn, int kThreads, class Tile>
GPU void load_operand(Tile& tile, const bf16* matrix, int64_t stride, int mn, int k, int mn_count, int k_count) {
    if constexpr (kAlongMn)
        tile.template load<kThreads>(matrix + k * stride + mn, stride, k_count - k, mn_count - mn);
    else
        tile.template load<kThreads>(matrix + mn * stride + k, stride, mn_count - mn, k_count - k);
}

template <bool kAByColumns, bool kBByRows, int kBlockM, int kBlockN>
struct WarpTile {
    using Shared = MatmulShared<kAByColumns, kBByRows, kBlockM, kBlockN>;
    using Block = BlockTile<kBlockM, kBlockN>;
    static constexpr int kWarpsN = Block::kWarpsN, kM16 = Block::kWarpM / 16, kN8 = Block::kWarpN / 8;
    // Sums over K of A's rows, as a product with ones: each warp computes its share of the 16-row fragments.
    static constexpr int kSums = kAByColumns ? kM16 / kWarpsN : 0;
    static_assert(kSums * kWarpsN == (kAByColumns ? kM16 : 0));

    float acc[kM16][kN8][4] = {};
    float sums[kSums ? kSums : 1][4] = {};
    uint32_t a[2][kM16][4], b[2][kN8][2];  // two sets: one is loaded while the other is used
    int m, n;                              // in the block's tile

    GPU WarpTile() : m(warp_id() / kWarpsN * Block::kWarpM), n(warp_id() % kWarpsN * Block::kWarpN) {}

    template <int kSet>
    GPU void read_fragments(typename Shared::Stage& stage, int k) {
#pragma unroll
        for (int i = 0; i < kM16; ++i) {
            if constexpr (kAByColumns)
                stage.a.a_fragment_transposed(a[kSet][i], m + 16 * i, k);
            else
                stage.a.a_fragment(a[kSet][i], m + 16 * i, k);
        }
#pragma unroll
        for (int j = 0; j < kN8; j += 2) {
            uint32_t (&pair)[2][2] = reinterpret_cast<uint32_t (&)[2][2]>(b[kSet][j]);
            if constexpr (kBByRows)
                stage.b.b_fragments_transposed(pair, n + 8 * j, k);
            else
                stage.b.b_fragments_paired(pair, n + 8 * j, k);
        }
    }

    template <int kSet>
    GPU void multiply(bool with_sums) {
#pragma unroll
        for (int i = 0; i < kM16; ++i)
#pragma unroll
            for (int j = 0; j < kN8; ++j) mma_m16n8k16(acc[i][j], a[kSet][i], b[kSet][j]);
        if constexpr (kSums > 0) {
            if (!with_sums) return;
            const uint32_t ones[2] = {0x3f803f80u, 0x3f803f80u};
            // Bit i: fragment i is this warp's. Hidden from the compiler: for sm_100 and newer it would otherwise make
            // one product of the kM16 conditional ones, with `a` indexed at run time, and so in local memory.
            const uint32_t every_nth = kWarpsN == 4 ? 0x1u : 0x5u;
            const uint32_t mine = hidden(every_nth << (warp_id() % kWarpsN));
#pragma unroll
            for (int i = 0; i < kM16; ++i)
                if (mine >> i & 1) mma_m16n8k16(sums[i / kWarpsN], a[kSet][i], ones);
        }
    }

    GPU void clear() {
#pragma unroll
        for (auto& row : acc)
#pragma unroll
            for (auto& fragment : row)
#pragma unroll
                for (float& x : fragment) x = 0;
#pragma unroll
        for (auto& fragment : sums)
#pragma unroll
            for (float& x : fragment) x = 0;
    }

    // Calls store(row, sum) for the rows whose sums this lane holds.
    template <class Store>
    GPU void for_each_sum(Store&& store) {
        if (lane_id() % 4) return;  // all columns of the product with ones are the same
#pragma unroll
        for (int i = 0; i < kSums; ++i)
#pragma unroll
            for (int half = 0; half < 2; ++half)
                store(m + 16 * (i * kWarpsN + warp_id() % kWarpsN) + 8 * half + lane_id() / 4, sums[i][2 * half]);
    }
};

template <bool kAByColumns, bool kBByRows, int kBlockM, int kBlockN, class Epilogue>
__global__ void __launch_bounds__(BlockTile<kBlockM, kBlockN>::kThreads, BlockTile<kBlockM, kBlockN>::kCost.resident)
    matmul_bf16_kernel(Problem<bf16> p, Work work, uint32_t* turns, ColumnSum column_sum, Epilogue epilogue) {
    launch_bounds<BlockTile<kBlockM, kBlockN>::kThreads, BlockTile<kBlockM, kBlockN>::kCost.resident>();
    constexpr int kThreads = BlockTile<kBlockM, kBlockN>::kThreads;
    using Shared = MatmulShared<kAByColumns, kBByRows, kBlockM, kBlockN>;
    Shared& s = shared<Shared>();
    WarpTile<kAByColumns, kBByRows, kBlockM, kBlockN> warp;

    Steps<kAddsUp<Epilogue>> loading, computing;
    int load_m = 0, load_n = 0, load_k = 0, load_slot = 0;
    const auto start_loading = [&] {
        const Piece piece = loading.next(work);
        const TilePosition tile = tile_position(piece.tile, work.tiles_m, work.tiles_n);
        load_m = tile.m * kBlockM, load_n = tile.n * kBlockN, load_k = piece.begin * kTileK;
    };
    const auto load_stage = [&] {  // commits a group in every call, empty at the end, so that groups can be counted
        if (loading.left > 0) {
            auto& stage = s.stages[load_slot];
            load_operand<kAByColumns, kThreads>(stage.a, p.a, p.a_stride, load_m, load_k, p.M, p.K);
            load_operand<kBByRows, kThreads>(stage.b, p.b, p.b_stride, load_n, load_k, p.N, p.K);
            load_k += kTileK;
            if (--loading.left == 0) start_loading();
        }
        cp_async_commit();
        load_slot = (load_slot + 1) % kStages;
    };
    const auto finish_piece = [&](const Piece& piece, bool with_sums) {
        const TilePosition tile = tile_position(piece.tile, work.tiles_m, work.tiles_n);
        const int m = tile.m * kBlockM, n = tile.n * kBlockN;
        Epilogue apply = epilogue;
        if constexpr (kAddsUp<Epilogue>) {
            if (piece.turn > 0) apply.add_to_out();
            wait_for_turn(turns, work, piece);
        }
        store_fragments<!kBByRows>(warp.acc, apply, m + warp.m, n + warp.n, p.M);
        if (with_sums)
            warp.for_each_sum([&](int row, float sum) {
                if (m + row < p.M) column_sum.out[m + row] += column_sum.scale * sum;
            });
        if constexpr (kAddsUp<Epilogue>) end_turn(turns, work, piece);
        warp.clear();
    };
    // Whether this piece also sums A over K: one of the pieces that read the same part of A.
    const auto sums_of = [&](const Piece& piece) {
        return kAByColumns && column_sum.out && tile_position(piece.tile, work.tiles_m, work.tiles_n).n == 0;
    };

    start_loading();
    for (int i = 0; i < kStages - 1; ++i) load_stage();
    cp_async_wait<kStages - 2>();
    __syncthreads();
    int slot = 0;
    warp.template read_fragments<0>(s.stages[slot], 0);
    bool with_sums = sums_of(computing.next(work));
    while (computing.left > 0) {
        do {
            load_stage();  // into the slot that all threads finished reading before the last barrier
            warp.template read_fragments<1>(s.stages[slot], 16);
            warp.template multiply<0>(with_sums);
            cp_async_wait<kStages - 2>();
            __syncthreads();
            slot = (slot + 1) % kStages;
            warp.template read_fragments<0>(s.stages[slot], 0);
            warp.template multiply<1>(with_sums);
        } while (--computing.left > 0);
        finish_piece(computing.piece(work), with_sums);
        with_sums = sums_of(computing.next(work));
    }
    cp_async_wait<0>();
}

}  // namespace llmc::cuda
