// Adds up the parts of a product whose K was split, and applies the epilogue. Bytes: 4 splits M N read, and those of
// the epilogue.
#pragma once
#include "llmc/cuda/column_sums.h"
#include "llmc/cuda/matmul/epilogue.h"
#include "llmc/cuda/matmul/problem.h"

namespace llmc::cuda {

constexpr int kSplitThreads = 256;

template <class Epilogue>
__global__ void __launch_bounds__(kSplitThreads)
    finish_splits_kernel(Parts parts, ColumnSum column_sum, int M, int N, int splits, Epilogue epilogue) {
    launch_bounds<kSplitThreads>();
    const int64_t i = int64_t(blockIdx.x) * kSplitThreads + threadIdx.x;
    const int vectors = (N + kVec - 1) / kVec;
    if (column_sum.out && i < M) {
        float sum = 0;
        for (int part = 0; part < splits; ++part) sum += parts.column_sums[int64_t(part) * M + i];
        column_sum.out[i] += column_sum.scale * sum;
    }
    const int64_t row = i / vectors;
    if (row >= M) return;
    const int column = int(i % vectors) * kVec, count = N - column;
    float sum[kVec] = {}, x[kVec];
    for (int part = 0; part < splits; ++part) {
        load_upto(x, parts.products + (int64_t(part) * M + row) * N + column, count, N % 8 == 0);
#pragma unroll
        for (int k = 0; k < kVec; ++k) sum[k] += x[k];
    }
    finish_vector(epilogue, row, column, sum, count);
}

}  // namespace llmc::cuda
