// The target that stands for none: it has no loss.
#pragma once
#include <cstdint>

namespace llmc {

constexpr int32_t kNoTarget = -100;  // PyTorch's ignore_index

}  // namespace llmc
