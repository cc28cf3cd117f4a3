// What the linear layer's forward and backward pass share. Formulas: llmc/ops/ops.h.
//
// Products are computed in blocks of rows, each by one thread: what a block reads and writes stays in that thread's
// cache for the pass over the result (gelu, residual, conversion), and threads synchronise once, at the end. Without
// bf16 products, bf16 is converted to fp32 block by block.
#pragma once
#include "llmc/cpu/onednn.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/scratch.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/ops.h"

namespace llmc::cpu::LLMC_ISA {

constexpr int64_t kLeastRows = 32, kCacheBytes = 512 << 10;
constexpr int64_t kBlockRows = 256;  // small enough for the cache, large enough to repay packing the other operand

// Whether products take elements of this type without conversion: bf16 if this instruction set multiplies it and oneDNN
// may use that (ONEDNN_MAX_CPU_ISA). Otherwise fp32 products of converted elements are three times faster than oneDNN's
// emulation.
inline bool is_native(DType dtype) { return dtype == DType::f32 || (kMultipliesBf16 && has_fast_bf16()); }

inline void* at_row(const Tensor& t, int64_t row) { return t.as<char>() + row * t.last() * int64_t(size_of(t.dtype)); }

// `rows` rows in the type that products take: the rows themselves, or converted to fp32 in scratch memory.
inline const void* source(const Tensor& t, int64_t row, int64_t rows, Scratch use) {
    if (is_native(t.dtype)) return at_row(t, row);
    int64_t n = rows * t.last();
    float* out = scratch(use, n);
    const bf16* src = static_cast<const bf16*>(at_row(t, row));
    parallel_for(n, 16384, [=](int64_t begin, int64_t end) { to_floats(out + begin, src + begin, end - begin); });
    return out;
}

// Whether each thread computes rows of its own: if there are enough rows, or if the whole weight fits into each
// thread's cache. Otherwise all threads work on one product, as oneDNN divides it.
inline bool rows_are_shared_out(int64_t N, const Tensor& weight) {
    const int64_t threads = device::threads();
    return N >= 2 * kBlockRows * threads || (N >= kLeastRows * threads && int64_t(weight.bytes()) <= kCacheBytes);
}
// The same for the rows of dweight, a sum over `rows` rows.
inline bool weight_is_shared_out(int64_t rows, int64_t C, int64_t OC) {
    return rows >= 4 * kBlockRows || OC * C * 4 <= kCacheBytes * device::threads();
}

// Calls body(row, rows) on blocks of rows, each by one thread, or once for all rows.
template <class Body>
void in_blocks(int64_t N, const Tensor& weight, Body&& body) {
    if (!rows_are_shared_out(N, weight)) return body(int64_t{0}, N);
    const int64_t threads = device::threads();
    int64_t block = N >= 2 * kBlockRows * threads ? kBlockRows : ((N + threads - 1) / threads + 15) / 16 * 16;
    parallel_tasks((N + block - 1) / block, true, [&](int64_t i) { body(i * block, std::min(block, N - i * block)); });
}

}  // namespace llmc::cpu::LLMC_ISA
