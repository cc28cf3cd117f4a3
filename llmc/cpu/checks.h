// Argument checks of the CPU ops: each failure names the op, the tensor, what it has and what it needs.
#pragma once
#include "llmc/error.h"
#include "llmc/tensor.h"

namespace llmc::cpu {

inline void require_type(const char* op, const char* name, const Tensor& t, DType dtype) {
    if (t.dtype != dtype) fail(op, ": ", name, " is ", name_of(t.dtype), ", it must be ", name_of(dtype));
}

// `t`, seen as a matrix (rows(), last()), must be (rows, columns): (B, T, C) is as good as (B*T, C).
inline void require(const char* op, const char* name, const Tensor& t, int64_t rows, int64_t columns, DType dtype) {
    if (!t) fail(op, ": ", name, " is missing, it must be (", rows, ", ", columns, ") ", name_of(dtype));
    if (t.rank == 0 || t.numel() != rows * columns || (columns > 0 && t.last() != columns)) {
        fail(op, ": ", name, " has shape ", t.shape_string(), ", it must be (", rows, ", ", columns, ")");
    }
    require_type(op, name, t, dtype);
}

// Any shape with `count` elements.
inline void require_count(const char* op, const char* name, const Tensor& t, int64_t count, DType dtype) {
    if (!t) fail(op, ": ", name, " is missing, it must have ", count, " elements of ", name_of(dtype));
    if (t.numel() != count)
        fail(op, ": ", name, " has shape ", t.shape_string(), ", it must have ", count, " elements");
    require_type(op, name, t, dtype);
}

inline void require_rank(const char* op, const char* name, const Tensor& t, int rank) {
    if (!t) fail(op, ": ", name, " is missing");
    if (t.rank != rank) fail(op, ": ", name, " has shape ", t.shape_string(), ", it must have ", rank, " dimensions");
}

// Every index in [0, limit): an index outside would read or write foreign memory.
inline void require_indices(const char* op, const char* name, const Tensor& t, int64_t limit) {
    const int32_t* index = t.as<int32_t>();
    for (int64_t i = 0, n = t.numel(); i < n; ++i) {
        if (index[i] < 0 || index[i] >= limit)
            fail(op, ": ", name, "[", i, "] is ", index[i], ", it must be in [0, ", limit, ")");
    }
}

// Calls f(float{}) or f(bf16{}), whichever element type the tensor has.
template <class F>
void with_type(const char* op, const char* name, DType dtype, F&& f) {
    if (dtype == DType::f32) return f(float{});
    if (dtype == DType::bf16) return f(bf16{});
    fail(op, ": ", name, " is ", name_of(dtype), ", it must be fp32 or bf16");
}

}  // namespace llmc::cpu
