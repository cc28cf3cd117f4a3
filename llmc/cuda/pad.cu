// Copies rows to multiples of 16 bytes, for channels and head sizes that are not multiples of 8. Bytes: 4 rows columns.
#include "llmc/cuda/pad.h"

#include "llmc/cuda/vec.h"

namespace llmc::cuda {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads)
    pad_rows_kernel(bf16* out, const bf16* inp, int64_t rows, int64_t columns, int64_t stride) {
    launch_bounds<kThreads>();
    const int64_t i = int64_t(blockIdx.x) * kThreads + threadIdx.x, vectors = stride / kVec, row = i / vectors;
    if (row >= rows) return;
    const int64_t column = i % vectors * kVec;
    float x[kVec];
    load_some(x, inp + row * columns + column, columns - column);
    store(out + row * stride + column, x);
}

bool rows_are_whole(const Rows& m) { return reinterpret_cast<uintptr_t>(m.data) % 16 == 0 && m.columns % kVec == 0; }
int64_t padded(int64_t columns) { return ceil_div(columns, kVec) * kVec; }

}  // namespace

size_t padding_bytes(const Rows& m) {
    return rows_are_whole(m) ? 0 : size_t(m.rows * padded(m.columns)) * sizeof(bf16);
}

Rows aligned_rows(const Rows& m, void* memory) {
    if (rows_are_whole(m)) return {m.data, m.rows, m.columns, m.columns};
    const int64_t stride = padded(m.columns), vectors = m.rows * (stride / kVec);
    bf16* copy = static_cast<bf16*>(memory);
    if (vectors > 0)
        launch({unsigned(ceil_div(vectors, kThreads)), kThreads}, pad_rows_kernel, copy, m.data, m.rows, m.columns,
               stride);
    return {copy, m.rows, m.columns, stride};
}

}  // namespace llmc::cuda
