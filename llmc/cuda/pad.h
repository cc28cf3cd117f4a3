// cp.async copies 16 aligned bytes: the tensor-core kernels want every row of a bf16 operand to start at a multiple of 16
// bytes. Rows that do not are copied once to where they do, with zeros behind them.
#pragma once
#include "llmc/cuda/host.h"

namespace llmc::cuda {

// A matrix of `rows` rows of `columns` elements; `stride` elements from one row to the next, or 0: dense.
struct Rows {
    const bf16* data;
    int64_t rows, columns, stride = 0;
};

// Bytes of scratch memory that aligned_rows needs; 0 where the rows are aligned as they are.
size_t padding_bytes(const Rows& m);
// The rows as they are (dense), or their copy in `memory`.
Rows aligned_rows(const Rows& m, void* memory);

}  // namespace llmc::cuda
