// cp.async copies 16 aligned bytes, so the tensor-core kernels need every row of a bf16 operand to start at a multiple
// of 16 bytes. Other rows are copied once to such addresses, padded with zeros.
#pragma once
#include "llmc/cuda/host.h"

namespace llmc::cuda {

// A matrix of `rows` rows of `columns` elements; `stride` elements from one row to the next, or 0: dense.
struct Rows {
    const bf16* data;
    int64_t rows, columns, stride = 0;
};

// Bytes of scratch memory that aligned_rows needs; 0 if the rows are aligned already.
size_t padding_bytes(const Rows& m);
// The rows themselves (dense) if they are aligned, or their copy in `memory`.
Rows aligned_rows(const Rows& m, void* memory);

}  // namespace llmc::cuda
