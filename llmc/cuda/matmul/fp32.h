// The fp32 product on the ordinary FMA units, without TF32.
//
// FLOPs 2 M N K. Bound: FMA units, 67 TFLOP/s on an H200. A block computes 128 x 128 of D, a thread 8 x 8: 64 FMA for
// 16 floats read from shared memory, where both operands are stored along M and N, in two buffers. The next step's
// elements are loaded into registers while this step is multiplied: one barrier a step. A thread's 8 rows and columns are
// 4 and another 4, 64 further: then the 16 lanes that have a row read 256 consecutive bytes of shared memory, without
// bank conflicts, and whole sectors of D.
#pragma once
#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/matmul/plan.h"

namespace llmc::cuda {

constexpr int kFp32Block = 128, kFp32Half = kFp32Block / 2, kFp32Threads = 256, kFp32K = 16,
              kFp32Pitch = kFp32Block + 4;

// One step of an operand: rows of K. A gap of 8 floats in the middle: elements that a warp transposes, 4 j from each of
// 4 rows and 8 columns, are in different banks.
struct Fp32Operand {
    alignas(16) float data[kFp32K * kFp32Pitch + 8];
    GPU float* at(int k, int mn) { return data + k * kFp32Pitch + k / (kFp32K / 2) * 8 + mn; }
};
struct Fp32Shared {
    Fp32Operand a[2], b[2];
};

// This thread's part of one step of an operand: twice four elements that are neighbours in memory. The thread's index is
// hidden from the compiler so that it computes addresses in each step: kept over the loop, they do not fit into the
// registers beside the accumulators.
template <bool kAlongMn>
struct Fp32Part {
    float v[2][4];

    // Elements [mn, mn + 128) x [k, k + 16) of a matrix (k_count, mn_count) if kAlongMn, else (mn_count, k_count).
    GPU void fetch(const float* matrix, int mn, int k, int mn_count, int k_count, bool aligned) {
        const int thread = int(hidden(threadIdx.x));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int index = thread + i * kFp32Threads;
            const int row = kAlongMn ? k + index / 32 : mn + index / 4;
            const int column = kAlongMn ? mn + index % 32 * 4 : k + index % 4 * 4;
            const int rows = kAlongMn ? k_count : mn_count, columns = kAlongMn ? mn_count : k_count;
            const int count = row < rows ? columns - column : 0;
            load_upto(v[i], matrix + (count > 0 ? int64_t(row) * columns + column : 0), count, aligned);
        }
    }
    GPU void put(Fp32Operand& tile) const {
        const int thread = int(hidden(threadIdx.x));
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int index = thread + i * kFp32Threads;
            if constexpr (kAlongMn) {
                store_shared(tile.at(index / 32, index % 32 * 4), v[i]);
            } else {
#pragma unroll
                for (int j = 0; j < 4; ++j) tile.at(index % 4 * 4, index / 4)[j * kFp32Pitch] = v[i][j];
            }
        }
    }
};

// acc = the product of steps [begin, end) of kFp32K for this thread's 8 x 8 elements of the tile from (m, n) on.
template <bool kAByColumns, bool kBByRows>
GPU void multiply_fp32(float (&acc)[8][2][4], Fp32Shared& s, const Problem<float>& p, int m, int n, int begin, int end,
                       bool aligned) {
    Fp32Part<kAByColumns> a;
    Fp32Part<kBByRows> b;
    a.fetch(p.a, m, begin, p.M, p.K, aligned);
    b.fetch(p.b, n, begin, p.N, p.K, aligned);
    for (int k = begin; k < end; k += kFp32K) {
        const int buffer = k / kFp32K % 2;
        a.put(s.a[buffer]);
        b.put(s.b[buffer]);
        __syncthreads();  // also: all threads are done with the step before last, which used this buffer
        if (k + kFp32K < end) {
            a.fetch(p.a, m, k + kFp32K, p.M, p.K, aligned);
            b.fetch(p.b, n, k + kFp32K, p.N, p.K, aligned);
        }
        const int thread = int(hidden(threadIdx.x)), row = thread / 16 * 4, column = thread % 16 * 4;
#pragma unroll
        for (int i = 0; i < kFp32K; ++i) {
            float x[2][4], y[4];
#pragma unroll
            for (int half = 0; half < 2; ++half) load_shared(x[half], s.a[buffer].at(i, row + half * kFp32Half));
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                load_shared(y, s.b[buffer].at(i, column + half * kFp32Half));
#pragma unroll
                for (int r = 0; r < 8; ++r)
#pragma unroll
                    for (int c = 0; c < 4; ++c) acc[r][half][c] += x[r / 4][r % 4] * y[c];
            }
        }
    }
}

template <bool kAByColumns, bool kBByRows, class Epilogue>
__global__ void __launch_bounds__(kFp32Threads, kFp32Tile.resident)
    matmul_fp32_kernel(Problem<float> p, Work work, uint32_t* turns, bool aligned, Epilogue epilogue) {
    launch_bounds<kFp32Threads, kFp32Tile.resident>();
    Fp32Shared& s = shared<Fp32Shared>();
    // Hidden from the compiler so that it computes a piece again after the product: there are no registers to keep it in.
    const auto piece_at = [&](int index) { return piece_of<kAddsUp<Epilogue>>(work, int(hidden(blockIdx.x)), index); };
    for (int index = 0;; ++index) {
        float acc[8][2][4] = {};
        {
            const Piece piece = piece_at(index);
            if (piece.steps() == 0) return;
            const TilePosition tile = tile_position(piece.tile, work.tiles_m, work.tiles_n);
            if (index > 0) __syncthreads();  // all threads are done with the last piece's buffers
            multiply_fp32<kAByColumns, kBByRows>(acc, s, p, tile.m * kFp32Block, tile.n * kFp32Block,
                                                 piece.begin * kTileK, smaller(piece.end * kTileK, p.K), aligned);
        }
        const Piece piece = piece_at(index);
        const TilePosition tile = tile_position(piece.tile, work.tiles_m, work.tiles_n);
        Epilogue apply = epilogue;
        if constexpr (kAddsUp<Epilogue>) {
            if (piece.turn > 0) apply.add_to_out();
            wait_for_turn(turns, work, piece);
        }
        const int thread = int(hidden(threadIdx.x)), row = tile.m * kFp32Block + thread / 16 * 4,
                  column = tile.n * kFp32Block + thread % 16 * 4;
#pragma unroll
        for (int r = 0; r < 8; ++r)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int at = row + r / 4 * kFp32Half + r % 4, c = column + half * kFp32Half, count = p.N - c;
                if (at < p.M && count > 0) finish_vector(apply, at, c, acc[r][half], count);
            }
        if constexpr (kAddsUp<Epilogue>) end_turn(turns, work, piece);
    }
}

}  // namespace llmc::cuda
