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

// acc (16 kM16 x 8 kN8) += A B^T: A (16 kM16, kDepth) in registers, B (8 kN8, kDepth) the rows of a tile from `address`
// on, where this lane's row for ldmatrix is (Tile::lane_by_rows).
template <class TileB, int kM16, int kN8, int kK16>
GPU void multiply_along_rows(float (&acc)[kM16][kN8][4], const uint32_t (&a)[kM16][kK16][4], uint32_t address) {
#pragma unroll
    for (int k = 0; k < kK16; ++k)
#pragma unroll
        for (int j = 0; j < kN8; j += 2) {
            uint32_t b[4];
            ldmatrix_x4(b, (address ^ 32 * k) + 8 * j * TileB::kRowBytes);
#pragma unroll
            for (int n = 0; n < 2; ++n)
#pragma unroll
                for (int i = 0; i < kM16; ++i) mma_m16n8k16(acc[i][j + n], a[i][k], {b[2 * n], b[2 * n + 1]});
        }
}

// acc (16 kM16 x 8 kN8) += A B: A (16 kM16, 16) in registers, B (16, 8 kN8) 16 rows of a tile (Tile::lane_by_columns).
template <int kM16, int kN8>
GPU void multiply_with_rows(float (&acc)[kM16][kN8][4], const uint32_t (&a)[kM16][4], uint32_t address) {
#pragma unroll
    for (int j = 0; j < kN8; j += 2) {
        uint32_t b[4];
        ldmatrix_x4_trans(b, address ^ 16 * j);
#pragma unroll
        for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int i = 0; i < kM16; ++i) mma_m16n8k16(acc[i][j + n], a[i], {b[2 * n], b[2 * n + 1]});
    }
}

// A, for multiply_along_rows: 16 kM16 rows of a tile from `address` on (Tile::lane_by_columns).
template <class TileA, int kM16, int kK16>
GPU void read_rows(uint32_t (&a)[kM16][kK16][4], uint32_t address) {
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int k = 0; k < kK16; ++k) ldmatrix_x4(a[i][k], (address ^ 32 * k) + 16 * i * TileA::kRowBytes);
}

// Writes scale(i, half) * acc to rows first_row + 16 i + 8 half + lane / 4 of a head, those below `length`, and to
// columns from first_column on.
template <int kM16, int kColumns, class Scale>
GPU void store_rows(bf16* matrix, const Heads& s, int head, int part, int parts, int first_row,
                    const float (&acc)[kM16][kColumns / 8][4], Scale&& scale, int first_column = 0) {
    const int group = lane_id() / 4, t = lane_id() % 4;
    bf16* const rows = matrix + s.row(head, 0, part, parts, s.size);
    const int64_t stride = int64_t(parts) * s.heads * s.size;
#pragma unroll
    for (int i = 0; i < kM16; ++i)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int row = first_row + 16 * i + 8 * half + group;
            const float factor = scale(i, half);
#pragma unroll
            for (int j = 0; j < kColumns / 8; j += 4) {
                uint32_t pairs[4];
#pragma unroll
                for (int q = 0; q < 4; ++q)
                    pairs[q] = pack_bf16x2(factor * acc[i][j + q][2 * half], factor * acc[i][j + q][2 * half + 1]);
                transpose_quad(pairs);
                const uint4 bits{pairs[0], pairs[1], pairs[2], pairs[3]};
                const int column = first_column + 8 * (j + t), count = s.size - column;
                if (row >= s.length || count <= 0) continue;
                bf16* to = rows + row * stride + column;
                if (s.aligned) {
                    store16(to, bits);
                } else {
                    float v[kVec];
                    unpack(v, bits);
                    store_some(to, v, count);
                }
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
