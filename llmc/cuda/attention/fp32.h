// Causal attention in fp32 on the ordinary FMA units: the same algorithms as in forward_bf16.h and backward_bf16.h,
// tile by tile in shared memory. It is meant for checks of numerics and of parametrizations rather than for training
// large models: it reads two floats from shared memory for two FMA, which limits it to about a fifth of the FMA rate.
//
// Tiles of 32 queries and 32 keys, 256 threads as 16 x 16: thread (y, x) has rows 2y, 2y + 1 and columns x, x + 16, ...
#pragma once
#include "llmc/cuda/attention/heads.h"

namespace llmc::cuda {

constexpr int kFp32Rows = 32, kFp32HeadSize = 128, kFp32AttentionThreads = 256;

// 32 rows of a head; the odd pitch spreads a column over the banks.
struct HeadRows {
    float at[kFp32Rows][kFp32HeadSize + 1];

    GPU void load(const float* source, int64_t stride, int rows, int size) {
        for (int i = int(threadIdx.x); i < kFp32Rows * size; i += kFp32AttentionThreads) {
            const int r = i / size, c = i % size;
            at[r][c] = r < rows ? source[r * stride + c] : 0;
        }
    }
};
using ScoreTile = float[kFp32Rows][kFp32Rows + 1];

struct ThreadPlace {
    int y = int(threadIdx.x) / 16, x = int(threadIdx.x) % 16;
};

// out[r][c] = dot product of rows a[2y + r] and b[x + 16 c].
GPU void row_products(float (&out)[2][2], const HeadRows& a, const HeadRows& b, int size) {
    const ThreadPlace p;
    float sum[2][2] = {};
    for (int d = 0; d < size; ++d)
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
            for (int c = 0; c < 2; ++c) sum[r][c] += a.at[2 * p.y + r][d] * b.at[p.x + 16 * c][d];
#pragma unroll
    for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int c = 0; c < 2; ++c) out[r][c] = sum[r][c];
}

// A thread's sums of a (32, size) result: rows 2y + r, columns x + 16 c.
struct HeadSums {
    float sum[2][kFp32HeadSize / 16] = {};

    // += P B with P (32, 32), or P^T B.
    template <bool kTransposed>
    GPU void add(const ScoreTile& tile, const HeadRows& b, int size) {
        const ThreadPlace p;
        for (int k = 0; k < kFp32Rows; ++k)
#pragma unroll
            for (int r = 0; r < 2; ++r) {
                const float factor = kTransposed ? tile[k][2 * p.y + r] : tile[2 * p.y + r][k];
#pragma unroll
                for (int c = 0; c < kFp32HeadSize / 16; ++c)
                    if (p.x + 16 * c < size) sum[r][c] += factor * b.at[k][p.x + 16 * c];
            }
    }
    // Stores the scaled sums in the rows of a head.
    template <class Scale>
    GPU void store(float* target, int64_t stride, int rows, int size, Scale&& scale) const {
        const ThreadPlace p;
#pragma unroll
        for (int r = 0; r < 2; ++r) {
            if (2 * p.y + r >= rows) continue;
            const float factor = scale(2 * p.y + r);
#pragma unroll
            for (int c = 0; c < kFp32HeadSize / 16; ++c)
                if (p.x + 16 * c < size) target[(2 * p.y + r) * stride + p.x + 16 * c] = factor * sum[r][c];
        }
    }
};

GPU int rows_from(int first, int length) { return length - first < kFp32Rows ? length - first : kFp32Rows; }

}  // namespace llmc::cuda
