// The parts of the scratch memory of each op that a training step calls: each op makes its Workspace of them, and
// scratch.cu adds up what a step needs, before anything is allocated.
#pragma once
#include <algorithm>
#include <vector>

#include "llmc/core/alignment.h"
#include "llmc/cuda/pad.h"
#include "llmc/cuda/vec.h"

namespace llmc::cuda {

using ScratchParts = std::vector<size_t>;  // bytes of each
inline size_t total_bytes(const ScratchParts& parts) {
    size_t total = 0;
    for (size_t part : parts) total += aligned(part);
    return total;
}

// Copies of a product's operands whose rows are not aligned (bf16 only).
inline ScratchParts padding_scratch(const Rows& a, const Rows& b) { return {padding_bytes(a), padding_bytes(b)}; }

// Rows of a column sum's parts: blocks that sum the rows of (N, C), each for kSumColumns columns.
constexpr int kSumWarps = 8, kSumColumns = kWarp * kVec;
inline int64_t sum_blocks(int64_t N, int64_t C) {
    return std::clamp<int64_t>(4 * multiprocessors() / ceil_div(C, kSumColumns), 1, ceil_div(N, kSumWarps));
}
inline ScratchParts column_sum_scratch(int64_t N, int64_t C) { return {size_t(sum_blocks(N, C) * C) * sizeof(float)}; }

constexpr int kNormWarps = 8;  // of a block of layer norm: a row each
inline unsigned layernorm_blocks(int64_t N) {
    return unsigned(std::min<int64_t>(ceil_div(N, kNormWarps), 2 * multiprocessors()));
}
inline ScratchParts layernorm_scratch(int64_t N, int64_t C) {
    return {size_t(layernorm_blocks(N)) * size_t(2 * C) * sizeof(float)};
}

// Two parts of a run of equal tokens for each piece of kPiece sorted positions; positions twice; counts of digits.
constexpr int kPiece = 64, kDigits = 256, kSortBlock = 1024;
inline ScratchParts embedding_scratch(int64_t N, int64_t C) {
    const size_t part = size_t(ceil_div(N, kPiece) * C) * sizeof(float), positions = size_t(N) * sizeof(int32_t);
    return {part, part, positions, positions, size_t(kDigits * ceil_div(N, kSortBlock)) * sizeof(int32_t)};
}

// delta, a float of each head and position; copies of qkv and dout whose rows are not aligned (bf16 only).
inline ScratchParts attention_backward_scratch(int64_t rows, const Rows& qkv, const Rows& dout, bool is_bf16) {
    return {size_t(rows) * sizeof(float), is_bf16 ? padding_bytes(qkv) : 0, is_bf16 ? padding_bytes(dout) : 0};
}

}  // namespace llmc::cuda
