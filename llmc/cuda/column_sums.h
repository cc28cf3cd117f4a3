// Sums over the rows of a matrix, without atomics: blocks sum their rows, and a second kernel adds the blocks' parts in
// order.
#pragma once
#include "llmc/core/tensor.h"

namespace llmc::cuda {

struct ColumnSum {
    float* out = nullptr;  // (columns), +=
    int64_t columns = 0;
    float scale = 1;
};
// parts (blocks, first.columns + second.columns): first.out += first.scale * sum over the blocks; the same for second.
void add_parts(const float* parts, int blocks, const ColumnSum& first, const ColumnSum& second = {});

// sum.out += sum.scale * the column sums of inp (N, C), fp32 or bf16.
void add_column_sums(const Tensor& inp, const ColumnSum& sum);

}  // namespace llmc::cuda
