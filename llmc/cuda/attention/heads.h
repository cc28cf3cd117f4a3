// Shared by the attention kernels: the addresses of a head's rows, and fragments of its matrices.
#pragma once
#include "llmc/cuda/host.h"
#include "llmc/cuda/tile.h"

namespace llmc::cuda {

constexpr float kLog2e = 1.4426950408889634f;

// Shapes, and the addresses of a head's rows: q, k and v are read from the packed qkv (B, T, 3C), outputs are written
// to (B, T, C). Rows that are read start at multiples of 16 bytes: if D is not a multiple of 8 they are copies with
// `read_size` > D elements for each head, padded with zeros.
struct Heads {
    int length, heads, size;  // T, H, D
    int read_size;            // elements from one head to the next in the inputs
    bool aligned;             // whether rows that are written start at multiples of 16 bytes
    int first_tile = 0;       // of queries; earlier ones are not computed

    // Row t of head `head` (of B * H) in a tensor (B, T, parts * H * head_size), part 0, 1, 2 of q, k, v.
    GPU int64_t row(int head, int t, int part, int parts, int head_size) const {
        const int b = head / heads, h = head % heads;
        return (((int64_t(b) * length + t) * parts + part) * heads + h) * head_size;
    }
    GPU int64_t read_row(int head, int t, int part, int parts) const { return row(head, t, part, parts, read_size); }
    GPU int64_t read_stride(int parts) const { return int64_t(parts) * heads * read_size; }
    GPU int64_t read_channels() const { return int64_t(heads) * read_size; }
    GPU int64_t statistics(int head, int t) const { return int64_t(head) * length + t; }  // in lse, delta: (B, H, T)
};

// A launch computes (heads, tiles of rows): the tiles of a head one after the other, so that its k and v are in the
// second-level cache, and the tile with the most keys first.
struct HeadTile {
    int head, tile;
};
GPU HeadTile head_tile(int tiles) {
    const int head = int(blockIdx.x) / tiles;
    return {head, tiles - 1 - (int(blockIdx.x) - head * tiles)};
}

// The fragment of A (16 x 16) from an accumulator (16 x 16): the second product takes the first one's result from
// registers.
GPU void accumulator_to_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack_bf16x2(left[0], left[1]);
    a[1] = pack_bf16x2(left[2], left[3]);
    a[2] = pack_bf16x2(right[0], right[1]);
    a[3] = pack_bf16x2(right[2], right[3]);
}

// acc (16 kM16 rows x 8 kN8 columns) += A B^T: A (16 kM16, kDepth) in registers, B rows [row, row + 8 kN8) of `b`.
template <int kM16, int kN8, int kDepth, class TileB>
GPU void multiply_along_rows(float (&acc)[kM16][kN8][4], const uint32_t (&a)[kM16][kDepth / 16][4], TileB& b, int row) {
#pragma unroll
    for (int k = 0; k < kDepth / 16; ++k)
#pragma unroll
        for (int j = 0; j < kN8; j += 2) {
            uint32_t fragments[2][2];
            b.b_fragments(fragments, row + 8 * j, 16 * k);
#pragma unroll
            for (int i = 0; i < kM16; ++i) {
                mma_m16n8k16(acc[i][j], a[i][k], fragments[0]);
                mma_m16n8k16(acc[i][j + 1], a[i][k], fragments[1]);
            }
        }
}

// acc (16 kM16 x kColumns) += P B: P (16 kM16 x 8 kN8) is an accumulator, B rows [row, row + 8 kN8) of `b`.
template <int kM16, int kN8, int kColumns, class TileB>
GPU void multiply_with_rows(float (&acc)[kM16][kColumns / 8][4], const float (&p)[kM16][kN8][4], TileB& b, int row) {
#pragma unroll
    for (int k = 0; k < kN8 / 2; ++k) {
        uint32_t a[kM16][4];
#pragma unroll
        for (int i = 0; i < kM16; ++i) accumulator_to_a(a[i], p[i][2 * k], p[i][2 * k + 1]);
#pragma unroll
        for (int j = 0; j < kColumns / 8; j += 2) {
            uint32_t fragments[2][2];
            b.b_fragments_transposed(fragments, 8 * j, row + 16 * k);
#pragma unroll
            for (int i = 0; i < kM16; ++i) {
                mma_m16n8k16(acc[i][j], a[i], fragments[0]);
                mma_m16n8k16(acc[i][j + 1], a[i], fragments[1]);
            }
        }
    }
}

// The same with A from the rows of a tile: fewer registers, more reads of shared memory.
template <int kM16, int kN8, int kDepth, class TileA, class TileB>
GPU void multiply_tiles(float (&acc)[kM16][kN8][4], TileA& a, int a_row, TileB& b, int b_row) {
#pragma unroll 2  // fully unrolled, it would read so far ahead that registers spill
    for (int k = 0; k < kDepth; k += 16) {
        uint32_t fragment[kM16][4];
#pragma unroll
        for (int i = 0; i < kM16; ++i) a.a_fragment(fragment[i], a_row + 16 * i, k);
#pragma unroll
        for (int j = 0; j < kN8; j += 2) {
            uint32_t fragments[2][2];
            b.b_fragments(fragments, b_row + 8 * j, k);
#pragma unroll
            for (int i = 0; i < kM16; ++i) {
                mma_m16n8k16(acc[i][j], fragment[i], fragments[0]);
                mma_m16n8k16(acc[i][j + 1], fragment[i], fragments[1]);
            }
        }
    }
}

// Fragments of rows [row, row + 16 kM16) of a tile, all kDepth columns.
template <int kM16, int kDepth, class TileA>
GPU void read_rows(uint32_t (&a)[kM16][kDepth / 16][4], TileA& tile, int row) {
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int k = 0; k < kDepth / 16; ++k) tile.a_fragment(a[i][k], row + 16 * i, 16 * k);
}

// Writes scale(i, half) * acc to rows first_row + 16 i + 8 half + lane / 4 of a head, those below `length`.
template <int kM16, int kColumns, class Scale>
GPU void store_rows(bf16* matrix, const Heads& s, int head, int part, int parts, int first_row,
                    const float (&acc)[kM16][kColumns / 8][4], Scale&& scale) {
    const int group = lane_id() / 4, t = lane_id() % 4;
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + 16 * i + 8 * half + group;
            const float factor = scale(i, half);
#pragma unroll
            for (int j = 0; j < kColumns / 8; j += 4) {
                float v[kVec];
#pragma unroll
                for (int q = 0; q < 4; ++q)
#pragma unroll
                    for (int e = 0; e < 2; ++e) v[2 * q + e] = factor * acc[i][j + q][2 * half + e];
                transpose_quad(v);
                const int column = 8 * (j + t), count = s.size - column;
                if (row < s.length && count > 0)
                    store_upto(matrix + s.row(head, row, part, parts, s.size) + column, v, count, s.aligned);
            }
        }
}

// Sum and maximum over the four lanes that hold a row of an accumulator.
GPU float quad_sum(float x) {
    x += __shfl_xor_sync(kAllLanes, x, 1);
    return x + __shfl_xor_sync(kAllLanes, x, 2);
}
GPU float quad_max(float x) {
    x = fmaxf(x, __shfl_xor_sync(kAllLanes, x, 1));
    return fmaxf(x, __shfl_xor_sync(kAllLanes, x, 2));
}

}  // namespace llmc::cuda
