// Tensors in a larger block of memory start at multiples of kAlignment, on every backend: the alignment of cudaMalloc.
#pragma once
#include <cstddef>

namespace llmc {

constexpr size_t kAlignment = 256;  // bytes

// The next multiple of kAlignment.
constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace llmc
