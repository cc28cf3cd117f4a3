// What attention's forward and backward pass share: products of blocks of queries and blocks of keys, and copies of a
// head's rows in the layouts that these products read. Formulas: llmc/ops/ops.h; Dao, "FlashAttention-2", 2023.
//
// The rows of a head's q, k and v are 3C elements apart in memory. They are copied once for each head: as dense rows;
// as transposed panels for the right operand of q k^T; and as rows of operands (in bf16: pairs of positions) for the
// sums over positions. Memory per thread grows with T * D, not with T * T. Everything is padded with zeros to whole
// tiles, so that no product has a remainder.
#pragma once
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/small_matmul.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops/checks.h"

namespace llmc::cpu::LLMC_ISA {

constexpr int64_t kQueries = 32;  // rows of a tile of scores
constexpr int64_t kKeys = 128;    // columns: a tile takes 16 KB
// Row stride of a tile: not a power of two, so that the elements of a column fall into different cache sets, and with
// room for a vector of zeros after the last key.
constexpr int64_t kTileRow = kKeys + 16;
static_assert(kKeys % kQueries == 0 && kQueries % kPanel == 0 && kQueries % kTileRows == 0);

template <class E>
struct HeadShape {
    int64_t B, T, H, D;
    int64_t operands;  // in a row of D numbers
    int64_t row;       // stride of dense rows: `operands` rounded up to whole vectors
    int64_t Dp, Tp;    // D rounded up to whole vectors, T to whole blocks of queries
    explicit HeadShape(const AttentionShape& s)
        : B(s.B),
          T(s.T),
          H(s.H),
          D(s.D),
          operands(round_up(D, kPack<E>) / kPack<E>),
          row(round_up(operands, kLanes)),
          Dp(round_up(D, kLanes)),
          Tp(round_up(T, kQueries)) {}
    int64_t C() const { return H * D; }
    int64_t positions() const { return Tp / kPack<E>; }  // operands along T
};

// Takes consecutive matrices of operands or floats from scratch memory.
struct Arena {
    float* next;
    template <class E>
    E* take(int64_t count) {
        static_assert(sizeof(E) == sizeof(float));
        float* p = next;
        next += round_up(count, 16);
        return reinterpret_cast<E*>(p);
    }
};

// Query i of a tile attends to the keys up to i + diagonal of the tile.
struct Tile {
    int64_t q0, k0, rows, keys;  // rows: queries, rounded up to whole register tiles
    int64_t diagonal() const { return q0 - k0; }
};

// Prefetches rows into the second-level cache: the processor's own prefetcher does not follow such a large stride.
template <class T>
void prefetch_rows(const T* src, int64_t rows, int64_t stride, int64_t columns) {
    for (int64_t t = 0; t < rows; ++t, src += stride) {
        for (int64_t i = 0; i < columns; i += 64 / int64_t(sizeof(T))) __builtin_prefetch(src + i, 0, 2);
    }
}

// dst (rows, s.row): operands along D.
template <class E, class T>
void load_rows(E* dst, const T* src, int64_t rows, int64_t stride, const HeadShape<E>& s) {
    for (int64_t t = 0; t < rows; ++t, dst += s.row, src += stride) {
        for (int64_t i = 0; i < s.row; i += kLanes)
            store_operands_of_row(dst + i, src + i * kPack<E>, s.D - i * kPack<E>);
    }
}

// dst (padded / kPack, Dp): operands along the rows, for sums over positions. Rows from index `rows` on are zero.
template <class E, class T>
void load_positions(E* dst, const T* src, int64_t rows, int64_t padded, int64_t stride, const HeadShape<E>& s) {
    for (int64_t t = 0; t < rows; t += kPack<E>, dst += s.Dp) {
        const T *first = src + t * stride, *second = t + 1 < rows ? first + stride : nullptr;
        for (int64_t d = 0; d < s.Dp; d += kLanes)
            store_operands_of_rows(dst + d, first + d, second ? second + d : nullptr, s.D - d);
    }
    std::fill(dst, dst + (padded - rows) / kPack<E> * s.Dp, E{});
}

// The transpose of `rows` rows as panels (rows / kPanel, operands, kPanel), the last one padded with zeros.
template <class E, class T>
void load_panels(E* dst, const T* src, int64_t rows, int64_t stride, const HeadShape<E>& s, E* buffer) {
    for (int64_t first = 0; first < rows; first += kPanel, dst += s.operands * kPanel) {
        const int64_t count = std::min<int64_t>(kPanel, rows - first);
        load_rows(buffer, src + first * stride, count, stride, s);
        std::fill(buffer + count * s.row, buffer + kPanel * s.row, E{});
        for (int64_t half = 0; half < kPanel; half += kLanes) {
            for (int64_t column = 0; column < s.operands; column += kLanes) {
                Words block[kLanes];
                for (int i = 0; i < kLanes; ++i) block[i] = load<Words>(buffer + (half + i) * s.row + column);
                transpose(block);
                for (int64_t i = 0; i < std::min<int64_t>(kLanes, s.operands - column); ++i)
                    store(dst + (column + i) * kPanel + half, block[i]);
            }
        }
    }
}

// tile (rows, kTileRow) = a (rows, D) times the keys [k0, ...) of the panels, up to the diagonal.
template <class E>
void multiply_by_keys(const Tile& t, const E* a, const E* panels, float* tile, const HeadShape<E>& s) {
    multiply_small<E>(t.rows, round_up(t.keys, kLanes), {a, s.row, 1},
                      {panels + t.k0 * s.operands, kPanel, s.operands * kPanel}, tile, kTileRow, false,
                      [&](int64_t i, int64_t j) { return Part{0, s.operands, i + kTileRows + t.diagonal() - j}; });
}

// out (rows, Dp) (+)= tile (rows, keys) times positions (T, Dp), along each query's keys.
template <class E>
void multiply_by_positions(const Tile& t, const E* tile, const E* positions, float* out, bool accumulate,
                           const HeadShape<E>& s) {
    multiply_small<E>(t.rows, s.Dp, {tile, kTileRow, 1}, {positions + t.k0 / kPack<E> * s.Dp, s.Dp, kPanel}, out, s.Dp,
                      accumulate, [&](int64_t i, int64_t) {
                          const int64_t keys = std::min(t.keys, i + kTileRows + t.diagonal());
                          return Part{0, (keys + kPack<E> - 1) / kPack<E>};
                      });
}

// out (keys, Dp) += tile^T times positions (rows, Dp), along each key's queries. tile: operands along the queries,
// (rows / kPack, kPack * kTileRow).
template <class E>
void multiply_transposed(const Tile& t, const E* tile, const E* positions, float* out, const HeadShape<E>& s) {
    multiply_small<E>(
        round_up(t.keys, kTileRows), s.Dp, {tile, 1, kPack<E> * kTileRow},
        {positions + t.q0 / kPack<E> * s.Dp, s.Dp, kPanel}, out + t.k0 * s.Dp, s.Dp, true,
        [&](int64_t j, int64_t) { return Part{std::max<int64_t>(0, j - t.diagonal()) / kPack<E>, t.rows / kPack<E>}; });
}

}  // namespace llmc::cpu::LLMC_ISA
