// How a tensor stands in a model file: the matrices of a block as (in, out), as Hugging Face's Conv1D keeps them; this
// program, like torch.nn.Linear, has (out, in).
#pragma once
#include <vector>

#include "llmc/mup/parametrization.h"

namespace llmc {

inline bool stored_transposed(const TensorSpec& spec) { return spec.role == Role::hidden; }

inline std::vector<int64_t> stored_shape(const TensorSpec& spec) {
    return stored_transposed(spec) ? std::vector<int64_t>{spec.shape[1], spec.shape[0]} : spec.shape;
}

// (rows, cols) -> (cols, rows)
inline std::vector<float> transposed(const std::vector<float>& values, int64_t rows, int64_t cols) {
    std::vector<float> out(values.size());
    for (int64_t i = 0; i < rows; ++i)
        for (int64_t j = 0; j < cols; ++j) out[j * rows + i] = values[i * cols + j];
    return out;
}

inline std::vector<float> from_stored(const TensorSpec& spec, std::vector<float> values) {
    if (stored_transposed(spec)) return transposed(values, spec.shape[1], spec.shape[0]);
    return values;
}

}  // namespace llmc
