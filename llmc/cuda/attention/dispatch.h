// Chooses a kernel by head size, and makes its arguments from those of the op.
#pragma once
#include "llmc/cuda/attention/heads.h"
#include "llmc/cuda/pad.h"
#include "llmc/cuda/scratch.h"
#include "llmc/ops/checks.h"

namespace llmc::cuda {

// `aligned`: whether the memory of the outputs is.
inline Heads heads_of(const char* op, const AttentionShape& s, bool aligned) {
    if (s.D > kLargestHead) fail(op, ": heads of ", s.D, " channels, the GPU kernels have up to ", kLargestHead);
    return {int(s.T), int(s.H), int(s.D), int(s.D), aligned && s.D % kVec == 0};
}

// A packed tensor (B, T, parts * C) as rows of one head each.
inline Rows head_rows(const Tensor& t, const AttentionShape& s) { return {t.as<bf16>(), t.numel() / s.D, s.D}; }

// Calls f with the smallest compiled head size that holds `size`.
template <class F>
void with_head_size(int size, F&& f) {
    switch (compiled_head_size(size)) {
        case 32:
            return f.template operator()<32>();
        case 64:
            return f.template operator()<64>();
        default:
            return f.template operator()<128>();
    }
}

}  // namespace llmc::cuda
