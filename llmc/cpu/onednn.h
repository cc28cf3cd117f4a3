// Dense matrix products by oneDNN (https://oneapi-src.github.io/oneDNN, versions 2 and 3).
#pragma once
#include <cstdint>
#include "llmc/core/tensor.h"

namespace llmc::cpu {

// c = alpha * (a b + bias), or c += alpha * a b.
struct Product {
    int64_t m, n, k;
    const void* a;  // (m, k), or (k, m) if a_transposed
    const void* b;  // (k, n), or (n, k) if b_transposed
    void* c;        // (m, n)
    bool a_transposed = false, b_transposed = false;
    DType in, out;  // of a and b; of c
    float alpha = 1;
    bool accumulate = false;
    const float* bias = nullptr;  // (n)
    int64_t a_stride = 0;         // elements from one stored row of a to the next; 0: dense
};

// Sums are taken in fp32. Uses all threads, or inside of a parallel region only the calling one. The primitive for a
// shape is built at its first use and kept.
void multiply(const Product& product);

// Whether oneDNN multiplies bf16 with this processor's instructions for it, rather than by emulating them.
bool has_fast_bf16();

}  // namespace llmc::cpu
