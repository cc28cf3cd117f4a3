// From the accumulators of mma.sync through an epilogue to memory. A lane has the columns 2t, 2t + 1 of every tile of 8
// columns, t = lane % 4, in the rows lane / 4 + 8 r. The epilogue is applied there; its results are packed to bf16 and
// then exchanged between the lanes t and t ^ 1 over two tiles, so that a lane stores 8 bytes and a quad a whole sector of
// 32 (one shuffle and three selections for four elements). In fp32 a quad's pairs are a whole sector as they are.
//
// Inputs are read as pairs, two rows before they are used, which hides a part of their latency.
#pragma once
#include "llmc/cuda/matmul/epilogue.h"

namespace llmc::cuda {

// Pairs of columns 2t, 2t + 1 of two neighbouring tiles become columns 4 (t / 2) ... + 3 of tile t % 2.
GPU void exchange_pairs(uint32_t (&pairs)[2]) {
    const bool odd = lane_id() % 2;
    const uint32_t received = __shfl_xor_sync(kAllLanes, odd ? pairs[0] : pairs[1], 1);
    pairs[0] = odd ? received : pairs[0];
    pairs[1] = odd ? pairs[1] : received;
}

// Stores pairs of two neighbouring tiles, the first of which begins at p; `left` columns exist from there on.
GPU void store_tiles(float* p, uint2 (&pairs)[2], int left) {
    p += 2 * (lane_id() % 4);
    if (left > 0) store_pair(p, pairs[0]);
    if (left > 8) store_pair(p + 8, pairs[1]);
}
GPU void store_tiles(bf16* p, uint32_t (&pairs)[2], int left) {
    const int t = lane_id() % 4, column = 8 * (t % 2) + 4 * (t / 2);
    exchange_pairs(pairs);
    if (column < left) store8(p + column, {pairs[0], pairs[1]});
}

// Columns 8 kFirst ... of the accumulators, kTiles tiles of 8, in whole vectors: a tile is there or not.
template <int kFirst, int kTiles, int kM16, int kN8, class Epilogue>
GPU void store_aligned(float (&acc)[kM16][kN8][4], const Epilogue& epilogue, int row, int column, int M) {
    using T = typename Epilogue::Element;
    constexpr int kRows = 2 * kM16, kAhead = Epilogue::kReads ? 2 : 0;
    const Tensors<T>& tensors = epilogue.tensors;
    const int lane = int(hidden(threadIdx.x)) % kWarp, pair = 2 * (lane % 4);
    row += lane / 4, column += 8 * kFirst;
    const int columns = tensors.N - column;
    int64_t at = int64_t(row) * tensors.N + column, read_at = at + pair;
    const int64_t stride = int64_t{8} * tensors.N;

    float bias[kTiles][2] = {};
    if (tensors.bias)
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
            if (8 * j < columns) {
                const Pair<T> b = load_pair(tensors.bias + column + 8 * j + pair);
                bias[j][0] = tensors.bias_scale * low_of(b), bias[j][1] = tensors.bias_scale * high_of(b);
            }

    Pair<T> inputs[kAhead + 1][kTiles] = {};  // a ring
    const bool reads = Epilogue::kReads && tensors.input;
    const auto read = [&](int r) {
        const int left = row + 8 * r < M ? columns : 0;
#pragma unroll
        for (int j = 0; j < kTiles; ++j)
            if (8 * j < left) inputs[r % (kAhead + 1)][j] = load_pair(tensors.input + read_at + 8 * j);
        read_at += stride;
    };
    if (reads)
#pragma unroll
        for (int r = 0; r < kAhead; ++r) read(r);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        if (reads && r + kAhead < kRows) read(r + kAhead);
        const int left = row + 8 * r < M ? columns : 0;
#pragma unroll
        for (int j = 0; j < kTiles; j += 2) {
            Pair<T> out[2], kept[2];
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                const float (&d)[4] = acc[r / 2][kFirst + j + q];
                out[q] = epilogue({d[r % 2 * 2], d[r % 2 * 2 + 1]}, bias[j + q], inputs[r % (kAhead + 1)][j + q],
                                  kept[q]);
            }
            if constexpr (Epilogue::kKeeps) store_tiles(tensors.kept + at + 8 * j, kept, left - 8 * j);
            store_tiles(tensors.out + at + 8 * j, out, left - 8 * j);
        }
        at += stride;
    }
}

// The same, element by element.
template <int kM16, int kN8, class Epilogue>
GPU void store_unaligned(float (&acc)[kM16][kN8][4], const Epilogue& epilogue, int row, int column, int M) {
    const int lane = int(hidden(threadIdx.x)) % kWarp;
    row += lane / 4, column += 2 * (lane % 4);
#pragma unroll
    for (int r = 0; r < 2 * kM16; ++r)
#pragma unroll
        for (int j = 0; j < kN8; ++j) {
            const float (&d)[4] = acc[r / 2][j];
            const int count = epilogue.tensors.N - column - 8 * j;
            if (row + 8 * r < M && count > 0) {
                const float v[2] = {d[r % 2 * 2], d[r % 2 * 2 + 1]};
                finish_row<false>(epilogue, row + 8 * r, column + 8 * j, v, count);
            }
        }
}

template <int kM16, int kN8, class Epilogue>
GPU void store_fragments(float (&acc)[kM16][kN8][4], const Epilogue& epilogue, int row, int column, int M) {
    if (epilogue.tensors.aligned) {
        store_aligned<0, kN8 / 2>(acc, epilogue, row, column, M);
        store_aligned<kN8 / 2, kN8 / 2>(acc, epilogue, row, column, M);
    } else {
        store_unaligned(acc, epilogue, row, column, M);
    }
}

}  // namespace llmc::cuda
