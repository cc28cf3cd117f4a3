// A tile of bf16 in shared memory with a swizzled layout: rows of 16-byte chunks, with the chunks of a row permuted by
// the row's index, so that the same chunk of eight rows (which ldmatrix reads) is in different banks, and so are the
// chunks of one row (which cp.async writes). As the swizzled layouts of CUTLASS and ThunderKittens.
#pragma once
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

template <int kRows, int kColumns>
struct Tile {
    static constexpr int kChunks = kColumns / 8;  // of 16 bytes in a row
    static_assert(kChunks == 4 || kChunks % 8 == 0);
    alignas(128) bf16 data[kRows * kColumns];

    GPU bf16* chunk(int row, int chunk) {
        // Two rows of 64 bytes cover the banks: different for rows 2i of 8 rows, and for 4i of 16 (b_fragments_paired).
        const int swizzle = kChunks == 4 ? row / 2 % 4 ^ row / 8 % 2 : row % 8;
        return data + (row * kChunks + (chunk ^ swizzle)) * 8;
    }

    // Starts this thread's copies, one of kThreads threads, from a matrix to the tile. `source` is the element that
    // becomes [0, 0]; rows_left rows and columns_left columns exist from it on, and the rest becomes zeros. Every row
    // of the matrix starts at a multiple of 16 bytes and is padded with zeros up to the next.
    template <int kThreads>
    GPU void load(const bf16* source, int64_t stride, int64_t rows_left, int64_t columns_left) {
        // A thread copies the same chunk of every kPass-th row, with the same swizzle in all of them.
        constexpr int kPass = kThreads / kChunks;
        static_assert(kThreads % kChunks == 0 && kRows % kPass == 0 && kPass % (kChunks == 4 ? 16 : 8) == 0);
        const int r = int(threadIdx.x) / kChunks, c = int(threadIdx.x) % kChunks;
        const bool exists = 8 * c < columns_left;  // the padding of the row belongs to its last chunk
        source += r * stride + 8 * c;
#pragma unroll
        for (int i = 0; i < kRows / kPass; ++i, source += kPass * stride)
            cp_async16(chunk(r + i * kPass, c), source, exists && r + i * kPass < rows_left);
    }

    // The fragment of mma's A (16 x 16) at (m, k), of an operand stored along K: rows are m, columns are k.
    GPU void a_fragment(uint32_t (&a)[4], int m, int k) {
        const int lane = lane_id();
        ldmatrix_x4(a, chunk(m + lane % 16, k / 8 ^ lane / 16));
    }
    // The same of an operand whose rows are k and columns m.
    GPU void a_fragment_transposed(uint32_t (&a)[4], int m, int k) {
        const int lane = lane_id();
        ldmatrix_x4_trans(a, chunk(k + lane % 8 + lane / 16 * 8, m / 8 ^ lane / 8 % 2));
    }
    // The fragments of two of mma's B (16 x 8), at (k, n) and (k, n + 8), of an operand stored along K: rows are n.
    GPU void b_fragments(uint32_t (&b)[2][2], int n, int k) {
        const int lane = lane_id();
        uint32_t r[4];
        ldmatrix_x4(r, chunk(n + lane % 8 + lane / 16 * 8, k / 8 ^ lane / 8 % 2));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }
    // The same with the 16 rows in another order, so that a lane has four neighbouring columns of the product: columns
    // 4t, 4t + 1, and in the second fragment's product 4t + 2, 4t + 3.
    GPU void b_fragments_paired(uint32_t (&b)[2][2], int n, int k) {
        static_assert(kChunks == 4);
        const int lane = lane_id();
        uint32_t r[4];
        ldmatrix_x4(r, chunk(n + lane % 8 / 2 * 4 + lane / 16 * 2 + lane % 2, k / 8 ^ lane / 8 % 2));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }
    // The same as b_fragments of an operand whose rows are k and columns n.
    GPU void b_fragments_transposed(uint32_t (&b)[2][2], int n, int k) {
        const int lane = lane_id();
        uint32_t r[4];
        ldmatrix_x4_trans(r, chunk(k + lane % 16, n / 8 ^ lane / 16));
        b[0][0] = r[0], b[0][1] = r[1], b[1][0] = r[2], b[1][1] = r[3];
    }
};

// Transposes 4 x 4 pairs over the four lanes that hold a row of an accumulator. Before, lane t has columns 2t, 2t + 1
// of four tiles of 8 columns; after, it has all 8 columns of tile t, in order.
GPU void transpose_quad(float (&v)[8]) {
    const int t = lane_id() % 4;
#pragma unroll
    for (int bit = 1; bit < 4; bit *= 2)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            if (j & bit) continue;
            const int other = j | bit;
            const bool high = t & bit;
#pragma unroll
            for (int e = 0; e < 2; ++e) {
                const float received = __shfl_xor_sync(kAllLanes, high ? v[2 * j + e] : v[2 * other + e], bit);
                v[2 * j + e] = high ? received : v[2 * j + e];
                v[2 * other + e] = high ? v[2 * other + e] : received;
            }
        }
}

// The same of two tiles whose pairs are packed as bf16, for stores of 8 bytes: pairs of columns 2t, 2t + 1 of two tiles become columns 4 (t / 2) ... + 3 of tile t % 2.
GPU void exchange_pairs(uint32_t (&pairs)[2]) {
    const bool odd = lane_id() % 2;
    const uint32_t received = __shfl_xor_sync(kAllLanes, odd ? pairs[0] : pairs[1], 1);
    pairs[0] = odd ? received : pairs[0];
    pairs[1] = odd ? pairs[1] : received;
}

}  // namespace llmc::cuda
