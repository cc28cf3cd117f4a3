// What the linear layer's forward and backward pass share. Formulas: llmc/ops/ops.h.
//
// Products are computed in blocks of rows, one thread each: what a block reads and writes stays in that thread's cache,
// also for the pass over the result (gelu, residual, conversion), and threads meet once, at the end. bf16 on a
// processor without bf16 products is converted block by block.
#pragma once
#include "llmc/cpu/onednn.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/scratch.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/ops.h"

namespace llmc::cpu::LLMC_ISA {

constexpr int64_t kLeastRows = 32, kCacheBytes = 512 << 10;
constexpr int64_t kBlockRows = 256;  // few enough to stay in cache, enough to pay for repacking the other operand

// Whether products take elements of this type as they are: bf16 where this instruction set multiplies it, unless oneDNN is
// kept from doing so (ONEDNN_MAX_CPU_ISA). Otherwise fp32 products of converted elements are three times faster than
// oneDNN's emulation.
inline bool is_native(DType dtype) { return dtype == DType::f32 || (kMultipliesBf16 && has_fast_bf16()); }

inline void* at_row(const Tensor& t, int64_t row) { return t.as<char>() + row * t.last() * int64_t(size_of(t.dtype)); }

// `rows` rows as a product takes them: themselves, or converted to fp32 in scratch memory.
inline const void* source(const Tensor& t, int64_t row, int64_t rows, Scratch use) {
    if (is_native(t.dtype)) return at_row(t, row);
    int64_t n = rows * t.last();
    float* out = scratch(use, n);
    const bf16* src = static_cast<const bf16*>(at_row(t, row));
    parallel_for(n, 16384, [=](int64_t begin, int64_t end) { to_floats(out + begin, src + begin, end - begin); });
    return out;
}

// Whether each thread takes rows of its own: where there are enough of them, or where every thread has room for the whole
// weight in its cache. Otherwise threads work together on one product, as the library divides it.
inline bool rows_are_shared_out(int64_t N, const Tensor& weight) {
    const int64_t threads = device::threads();
    return N >= 2 * kBlockRows * threads || (N >= kLeastRows * threads && int64_t(weight.bytes()) <= kCacheBytes);
}
// The same of dweight's rows, for a sum over `rows` rows.
inline bool weight_is_shared_out(int64_t rows, int64_t C, int64_t OC) {
    return rows >= 4 * kBlockRows || OC * C * 4 <= kCacheBytes * device::threads();
}

// Calls body(row, rows) on blocks of rows, one thread each, or once.
template <class Body>
void in_blocks(int64_t N, const Tensor& weight, Body&& body) {
    if (!rows_are_shared_out(N, weight)) return body(int64_t{0}, N);
    const int64_t threads = device::threads();
    int64_t block = N >= 2 * kBlockRows * threads ? kBlockRows : ((N + threads - 1) / threads + 15) / 16 * 16;
    parallel_tasks((N + block - 1) / block, true, [&](int64_t i) { body(i * block, std::min(block, N - i * block)); });
}

}  // namespace llmc::cpu::LLMC_ISA
