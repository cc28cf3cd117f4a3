// Checks of token ids, which come from files.
#pragma once
#include <optional>
#include "llmc/core/error.h"
#include "llmc/core/tensor.h"

namespace llmc::cpu {

// An error that names the first index outside of [0, limit): it would access memory outside of the table. `none`: a
// number that stands for no index.
inline void require_indices(const char* op, const char* name, const Tensor& t, int64_t limit,
                            std::optional<int32_t> none = {}) {
    const int32_t* index = t.as<int32_t>();
    for (int64_t i = 0, n = t.numel(); i < n; ++i) {
        if ((index[i] < 0 || index[i] >= limit) && index[i] != none)
            fail(op, ": ", name, "[", i, "] is ", index[i], ", it must be in [0, ", limit, ")",
                 none ? str(" or ", *none) : "");
    }
}

}  // namespace llmc::cpu
