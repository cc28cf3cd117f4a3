// From the accumulators of mma.sync through an epilogue to memory. With t = lane % 4, a lane has two columns of every
// tile of 8 columns, in the rows lane / 4 + 8 r. Which ones, of two tiles that are neighbours:
//
//   kNeighbours   4t, 4t + 1 in the first, 4t + 2, 4t + 3 in the second, if B's rows were read in such an order
//   else          2t, 2t + 1 of each tile, as mma.sync has it. Results in bf16 are packed and then exchanged between the
//                 lanes t and t ^ 1, one shuffle and three selections for four elements, so that a lane stores 4
//                 neighbours as well.
//
// So the quad that has a row stores whole sectors of 32 bytes: 4 x 8 bytes of bf16, of fp32 if not kNeighbours. Inputs are
// read some rows before they are used, 2 KB a warp, which hides a part of their latency.
#pragma once
#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/tile.h"

namespace llmc::cuda {

template <bool kNeighbours>
struct Columns {
    static GPU int of(int j, int t) { return kNeighbours ? 8 * (j - j % 2) + 4 * t + 2 * (j % 2) : 8 * j + 2 * t; }
    // The first one that this lane stores.
    template <class T>
    static GPU int stored(int t) {
        return !kNeighbours && sizeof(T) == 2 ? 8 * (t % 2) + 4 * (t / 2) : of(0, t);
    }

    // Pairs of two tiles, from and to this lane's first column there; `exists`: each of them.
    static GPU void read(uint32_t (&pairs)[2], const bf16* p, const bool (&exists)[2]) {
        if constexpr (kNeighbours) {
            if (!exists[0]) return;
            const uint2 both = load8(p);
            pairs[0] = both.x, pairs[1] = both.y;
        } else {
#pragma unroll
            for (int q = 0; q < 2; ++q)
                if (exists[q]) pairs[q] = load4(p + 8 * q);
        }
    }
    static GPU void read(uint2 (&pairs)[2], const float* p, const bool (&exists)[2]) {
#pragma unroll
        for (int q = 0; q < 2; ++q)
            if (exists[q]) pairs[q] = load8(p + of(q, 0));
    }
    static GPU void write(bf16* p, uint32_t (&pairs)[2], const bool (&exists)[2]) {
        if constexpr (!kNeighbours) exchange_pairs(pairs);
        const bool mine = kNeighbours || lane_id() % 2 == 0 ? exists[0] : exists[1];
        if (mine) store8(p, {pairs[0], pairs[1]});
    }
    static GPU void write(float* p, uint2 (&pairs)[2], const bool (&exists)[2]) {
#pragma unroll
        for (int q = 0; q < 2; ++q)
            if (exists[q]) store8(p + of(q, 0), pairs[q]);
    }
};

// Tiles [kFirst, kFirst + kTiles) of the warp's, at (row, column) of D, where all rows are aligned.
template <bool kNeighbours, int kFirst, int kTiles, int kM16, int kN8, class Epilogue>
GPU void store_aligned(const float (&acc)[kM16][kN8][4], const Epilogue& epilogue, int row, int column, int M) {
    using T = typename Epilogue::Element;
    using C = Columns<kNeighbours>;
    constexpr int kRows = 2 * kM16, kPairs = kTiles / 2, kAhead = Epilogue::kReads ? 8 / int(sizeof(T)) : 0;
    const Tensors<T>& tensors = epilogue.tensors;
    const int lane = int(hidden(threadIdx.x)) % kWarp, t = lane % 4;  // hidden: computed here, not kept from the start
    row += lane / 4, column += 8 * kFirst;
    bool exists[kPairs][2];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) exists[j / 2][j % 2] = row < M && column + C::of(j, t) < tensors.N;

    float bias[kTiles][2] = {};
    if (tensors.bias)
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
            Pair<T> both[2] = {};
            C::read(both, tensors.bias + column + C::of(2 * j, t), exists[j]);
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                bias[2 * j + q][0] = tensors.bias_scale * low_of(both[q]);
                bias[2 * j + q][1] = tensors.bias_scale * high_of(both[q]);
            }
        }

    const int64_t stride = int64_t{8} * tensors.N, first = int64_t(row) * tensors.N + column;
    Pair<T> inputs[kAhead + 1][kPairs][2] = {};  // a ring
    const bool reads = Epilogue::kReads && tensors.input;
    const T* input = reads ? tensors.input + first + C::of(0, t) : nullptr;
    const auto read = [&](int r) {
#pragma unroll
        for (int j = 0; j < kPairs; ++j) C::read(inputs[r % (kAhead + 1)][j], input + 16 * j, exists[j]);
        if (row + 8 * (r + 1) < M) input += stride;  // else the same again: nothing is stored of it
    };
    if (reads)
#pragma unroll
        for (int r = 0; r < kAhead; ++r) read(r);

    const int64_t stored = first + C::template stored<T>(t);
    T *out = tensors.out + stored, *kept = Epilogue::kKeeps ? tensors.kept + stored : nullptr;
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
        if (reads && r + kAhead < kRows) read(r + kAhead);
        const bool below = row + 8 * r < M;
#pragma unroll
        for (int j = 0; j < kPairs; ++j) {
            Pair<T> results[2], keeps[2];
#pragma unroll
            for (int q = 0; q < 2; ++q) {
                const float (&d)[4] = acc[r / 2][kFirst + 2 * j + q];
                results[q] = epilogue({d[r % 2 * 2], d[r % 2 * 2 + 1]}, bias[2 * j + q], inputs[r % (kAhead + 1)][j][q],
                                      keeps[q]);
            }
            const bool both[2] = {below && exists[j][0], below && exists[j][1]};
            if constexpr (Epilogue::kKeeps) C::write(kept + 16 * j, keeps, both);
            C::write(out + 16 * j, results, both);
        }
        out += stride;
        if constexpr (Epilogue::kKeeps) kept += stride;
    }
}

// All of the warp's tiles, element by element.
template <bool kNeighbours, int kM16, int kN8, class Epilogue>
GPU void store_unaligned(const float (&acc)[kM16][kN8][4], const Epilogue& epilogue, int row, int column, int M) {
    const int lane = int(hidden(threadIdx.x)) % kWarp;
    row += lane / 4;
#pragma unroll
    for (int r = 0; r < 2 * kM16; ++r)
#pragma unroll
        for (int j = 0; j < kN8; ++j) {
            const float (&d)[4] = acc[r / 2][j];
            const float v[2] = {d[r % 2 * 2], d[r % 2 * 2 + 1]};
            const int c = column + Columns<kNeighbours>::of(j, lane % 4), count = epilogue.tensors.N - c;
            if (row + 8 * r < M && count > 0) finish_row<false>(epilogue, row + 8 * r, c, v, count);
        }
}

template <bool kNeighbours, int kM16, int kN8, class Epilogue>
GPU void store_fragments(const float (&acc)[kM16][kN8][4], const Epilogue& epilogue, int row, int column, int M) {
    if (epilogue.tensors.aligned) {  // in halves, for the sake of registers
        store_aligned<kNeighbours, 0, kN8 / 2>(acc, epilogue, row, column, M);
        store_aligned<kNeighbours, kN8 / 2, kN8 / 2>(acc, epilogue, row, column, M);
    } else {
        store_unaligned<kNeighbours>(acc, epilogue, row, column, M);
    }
}

}  // namespace llmc::cuda
