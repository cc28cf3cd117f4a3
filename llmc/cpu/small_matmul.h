// Matrix products of a few dozen rows by one thread with operands in cache, for attention. Library calls would spend as
// much time on finding a kernel and packing as on multiplying.
//
// Operands are floats, or Pairs of bf16 that are neighbours along the dimension of the sum; sums are fp32.
#pragma once
#include <algorithm>
#include "llmc/cpu/operand.h"

namespace llmc::cpu::LLMC_ISA {

#if defined(__AVX__) && !defined(LLMC_AVX512)
constexpr int kTileRows = 4;  // 16 registers: 4 x 2 sums, 2 of b, 1 of a
#else
constexpr int kTileRows = 8;  // 32 registers
#endif
constexpr int kPanel = 2 * kLanes;  // columns of b multiplied at a time

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// a(i, p) = data[i * row + p * column]: a matrix or, with the strides swapped, its transpose.
template <class E>
struct Left {
    const E* data;
    int64_t row, column;
};
// Columns j of panel j / kPanel: b(p, j) = data[j / kPanel * panel + p * row + j % kPanel]. A row-major matrix has
// panel = kPanel.
template <class E>
struct Right {
    const E* data;
    int64_t row, panel;
};
// The part of a tile that is computed: operands [begin, end) along the dimension of the sum, `columns` of the panel's
// columns.
struct Part {
    int64_t begin, end, columns = kPanel;
};

// R x (V vectors) of c (+)= a b, sums in registers.
template <int R, int V, class E>
inline void multiply_tile(const Part& part, Left<E> a, const E* b, int64_t b_row, float* c, int64_t c_row,
                          bool accumulate) {
    Vector sum[R][V];
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) sum[i][j] = accumulate ? load<Vector>(c + i * c_row + j * kLanes) : Vector{};
    }
    for (int64_t p = part.begin; p < part.end; ++p) {
        const E *row = b + p * b_row, *column = a.data + p * a.column;
#pragma GCC unroll 16
        for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
            for (int j = 0; j < V; ++j) sum[i][j] = multiply_add(sum[i][j], column[i * a.row], row + j * kLanes);
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < R; ++i) {
#pragma GCC unroll 2
        for (int j = 0; j < V; ++j) store(c + i * c_row + j * kLanes, sum[i][j]);
    }
}

// c(i, j) = c[i * c_row + j] (+)= sum of a(i, p) b(p, j) over the operands p of a part, for i < m, j < n. part(i, j) is
// that of the tile of kTileRows rows from i on and a panel from j on; if it is empty the tile is not changed.
// m has to be a multiple of kTileRows, n of kLanes.
template <class E, class Parts>
inline void multiply_small(int64_t m, int64_t n, Left<E> a, Right<E> b, float* c, int64_t c_row, bool accumulate,
                           Parts part) {
    for (int64_t j = 0; j < n; j += kPanel) {
        const E* panel = b.data + j / kPanel * b.panel;
        for (int64_t i = 0; i < m; i += kTileRows) {
            const Part tile = part(i, j);
            if (tile.begin >= tile.end || tile.columns <= 0) continue;
            const Left<E> rows{a.data + i * a.row, a.row, a.column};
            float* to = c + i * c_row + j;
            if (std::min(n - j, tile.columns) > kLanes)
                multiply_tile<kTileRows, 2>(tile, rows, panel, b.row, to, c_row, accumulate);
            else
                multiply_tile<kTileRows, 1>(tile, rows, panel, b.row, to, c_row, accumulate);
        }
    }
}

}  // namespace llmc::cpu::LLMC_ISA
