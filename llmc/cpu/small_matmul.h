// Matrix products of a few dozen rows, for one thread and operands in cache: what attention is made of. Library calls
// would spend as much time on finding a kernel and repacking as on multiplying.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>

namespace llmc::cpu {

#if defined(__AVX512F__)
constexpr int kLanes = 16, kTileRows = 8;
#elif defined(__AVX__)
constexpr int kLanes = 8, kTileRows = 4;  // 16 registers: 4 x 2 sums, 2 of b, 1 of a
#else
constexpr int kLanes = 4, kTileRows = 8;  // aarch64: 32 registers
#endif
constexpr int kPanel = 2 * kLanes;  // columns of b multiplied at a time

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// a(i, p) = data[i * row + p * column]: a matrix or, with the strides swapped, its transpose.
struct Left {
    const float* data;
    int64_t row, column;
};
// Columns j of panel j / kPanel: b(p, j) = data[j / kPanel * panel + p * row + j % kPanel]. A row-major matrix has
// panel = kPanel.
struct Right {
    const float* data;
    int64_t row, panel;
};

using Vector = float __attribute__((vector_size(4 * kLanes), aligned(4), may_alias));

// R x (V vectors) of c (+)= a b, sums in registers.
template <int R, int V>
inline void multiply_tile(int64_t k, Left a, const float* b, int64_t b_row, float* c, int64_t c_row, bool accumulate) {
    Vector sum[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j)
            sum[i][j] = accumulate ? reinterpret_cast<const Vector*>(c + i * c_row)[j] : Vector{};
    }
    for (int64_t p = 0; p < k; ++p) {
        const Vector* row = reinterpret_cast<const Vector*>(b + p * b_row);
        const float* column = a.data + p * a.column;
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
            for (int j = 0; j < V; ++j) sum[i][j] += column[i * a.row] * row[j];
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) reinterpret_cast<Vector*>(c + i * c_row)[j] = sum[i][j];
    }
}

template <int V>
inline void multiply_panel(int64_t m, int64_t k, Left a, const float* b, int64_t b_row, float* c, int64_t c_row,
                           bool accumulate) {
    int64_t i = 0;
    auto rows = [&]<int R>(std::integral_constant<int, R>) {
        for (; i + R <= m; i += R)
            multiply_tile<R, V>(k, {a.data + i * a.row, a.row, a.column}, b, b_row, c + i * c_row, c_row, accumulate);
    };
    rows(std::integral_constant<int, kTileRows>{});
    rows(std::integral_constant<int, 4>{});
    rows(std::integral_constant<int, 1>{});
}

// c(i, j) = c[i * c_row + j] (+)= sum_p a(i, p) b(p, j) for i < m, j < n, p < k. n must be a multiple of kLanes.
inline void multiply_small(int64_t m, int64_t n, int64_t k, Left a, Right b, float* c, int64_t c_row, bool accumulate) {
    for (int64_t j = 0; j < n; j += kPanel) {
        const float* panel = b.data + j / kPanel * b.panel;
        if (n - j >= kPanel)
            multiply_panel<2>(m, k, a, panel, b.row, c + j, c_row, accumulate);
        else
            multiply_panel<1>(m, k, a, panel, b.row, c + j, c_row, accumulate);
    }
}

}  // namespace llmc::cpu
