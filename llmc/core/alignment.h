// Where tensors start in a larger piece of memory: at multiples of what cudaMalloc guarantees, on every backend.
#pragma once
#include <cstddef>

namespace llmc {

constexpr size_t kAlignment = 256;  // bytes

// The next multiple of kAlignment.
constexpr size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace llmc
