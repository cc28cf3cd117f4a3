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

// Layer norm: a block has the threads of a row, and a multiprocessor runs about kNormThreads of them in the backward pass.
constexpr int kNormThreads = 512;
inline unsigned threads_of_row(int64_t C, int vectors) { return unsigned(ceil_div(C, vectors * kVec * kWarp) * kWarp); }
inline unsigned layernorm_blocks(int64_t N, int64_t C) {
    const int64_t threads = threads_of_row(C, C <= 2048 ? 1 : C <= 4096 ? 2 : 4);
    return unsigned(std::min(N, multiprocessors() * std::max<int64_t>(1, kNormThreads / threads)));
}
inline ScratchParts layernorm_scratch(int64_t N, int64_t C) {
    return {size_t(layernorm_blocks(N, C)) * size_t(2 * C) * sizeof(float)};
}

// Two parts of a run of equal tokens for each piece of kPiece sorted positions; tokens and positions, twice; counts of
// digits.
constexpr int kPiece = 64, kDigits = 256, kSortBlock = 2048;
inline ScratchParts embedding_scratch(int64_t N, int64_t C) {
    const size_t part = size_t(ceil_div(N, kPiece) * C) * sizeof(float), tokens = size_t(N) * sizeof(int32_t);
    return {part, part, tokens, tokens, tokens, tokens, size_t(kDigits * ceil_div(N, kSortBlock)) * sizeof(int32_t)};
}

// Attention's kernels are compiled for heads of these sizes, up to the largest.
constexpr int64_t kLargestHead = 128;
constexpr int64_t compiled_head_size(int64_t size) { return size <= 32 ? 32 : size <= 64 ? 64 : kLargestHead; }

// Attention's backward pass in bf16: a block computes dk and dv of kBackwardKeys keys, for tiles of up to
// kBackwardQueries queries, whose dq all blocks of a head add up in memory, in fp32. The blocks that run at a time, one
// or two on a multiprocessor, belong to few heads, so later heads use the memory of earlier ones: a block lasts as long
// as it takes to start those of so many heads.
constexpr int kBackwardKeys = 128, kBackwardQueries = 64;
struct BackwardMemory {
    int tiles;         // of keys in a head
    int64_t slots;     // heads whose dq is in memory at a time
    int64_t sums;      // floats
    int64_t counters;  // words: of each warp of each block
};
inline BackwardMemory backward_memory(int64_t all_heads, int64_t length, int64_t head_size) {
    const int64_t tiles = ceil_div(length, kBackwardKeys), columns = compiled_head_size(head_size);
    const int64_t slots = std::min(all_heads, 4 * multiprocessors() / (tiles + 1) + 2);
    const int64_t sums = tiles > 1 ? slots * ceil_div(length, kBackwardQueries) * kBackwardQueries * columns : 0;
    return {int(tiles), slots, sums, all_heads * tiles * (columns <= 64 ? 4 : 8)};
}

// delta, a float of each head and position; copies of qkv and dout whose rows are not aligned, sums and counters (bf16
// only).
inline ScratchParts attention_backward_scratch(int64_t all_heads, int64_t length, const Rows& qkv, const Rows& dout,
                                               bool is_bf16) {
    const size_t delta = size_t(all_heads * length) * sizeof(float);
    if (!is_bf16) return {delta};
    const BackwardMemory m = backward_memory(all_heads, length, dout.columns);
    return {delta, padding_bytes(qkv), padding_bytes(dout), size_t(m.sums) * sizeof(float),
            size_t(m.counters) * sizeof(uint32_t)};
}

}  // namespace llmc::cuda
