// Causal attention by blocks of queries and keys with a running softmax. Formulas: llmc/ops/ops.h.
#include <cmath>
#include <limits>
#include "llmc/cpu/attention.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/scratch.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

// The running maximum of a query's scores, in units of log 2, and the sum of 2^(score - maximum).
struct Softmax {
    float maximum = -std::numeric_limits<float>::infinity(), sum = 0;
};

// One row of a tile: replaces the scores [0, valid) by 2^(scale * score - maximum) as operands E, followed by zeros up
// to the end of the register tiles that read them. Returns the factor by which the output so far has to be multiplied.
template <class E>
float softmax_row(float* score, int64_t valid, float scale, Softmax& state) {
    E* row = reinterpret_cast<E*>(score);
    const int64_t whole = (valid - 1) / kLanes * kLanes;  // start of the last vector, which may end after `valid`
    const auto in_row = lane_numbers() < int32_t(valid - whole);
    Vector top = all(state.maximum);
    for (int64_t j = 0; j < whole; j += kLanes) {
        const Vector z = scale * load<Vector>(score + j);
        top = top > z ? top : z;
    }
    const Vector last = in_row ? scale * load<Vector>(score + whole) : all(-std::numeric_limits<float>::infinity());
    const float maximum = largest(top > last ? top : last);
    Vector added{};
    for (int64_t j = 0; j < whole; j += kLanes) {
        const Vector p = exp2(scale * load<Vector>(score + j) - maximum);
        added += p;
        store_in_row(row, j, p);
    }
    const Vector p = in_row ? exp2(last - maximum) : Vector{};
    added += p;
    store_in_row(row, whole, p);
    store_in_row(row, whole + kLanes, Vector{});
    float correction = 0;
    if (state.sum > 0) correction = exp2(all(state.maximum - maximum))[0];
    state = {maximum, state.sum * correction + sum(added)};
    return correction;
}

// Copies of a head's keys and values in the layouts of the products.
template <class E>
struct Keys {
    E *panels, *values;
};

// The queries of one head from q0 to the end of its block, with all keys up to them.
template <class T, class E>
void forward_queries(const AttentionForward& args, const HeadShape<E>& s, int64_t head, int64_t q0, const Keys<E>& keys,
                     Arena arena) {
    const int64_t b = head / s.H, h = head % s.H, rows = std::min(kQueries - q0 % kQueries, s.T - q0);
    E* q = arena.take<E>(kQueries * s.row);
    float *out = arena.take<float>(kQueries * s.Dp), *scores = arena.take<float>(kQueries * kTileRow);
    load_rows(q, args.qkv.as<T>() + (b * s.T + q0) * 3 * s.C() + h * s.D, rows, 3 * s.C(), s);
    const int64_t padded = round_up(rows, kTileRows);
    std::fill(q + rows * s.row, q + padded * s.row, E{});
    Softmax softmax[kQueries];
    for (int64_t k0 = 0; k0 < q0 + padded; k0 += kKeys) {
        const Tile tile{q0, k0, padded, std::min(kKeys, q0 + padded - k0)};
        multiply_by_keys(tile, q, keys.panels, scores, s);
        for (int64_t i = 0; i < padded; ++i) {
            const int64_t valid = std::min(i + tile.diagonal() + 1, tile.keys);
            const float correction = softmax_row<E>(scores + i * kTileRow, valid, args.logit_scale * kLog2e,
                                                    softmax[i]);
            if (k0 == 0) continue;
            for (int64_t d = 0; d < s.Dp; d += kLanes)
                store(out + i * s.Dp + d, correction * load<Vector>(out + i * s.Dp + d));
        }
        multiply_by_positions(tile, reinterpret_cast<const E*>(scores), keys.values, out, k0 > 0, s);
    }
    for (int64_t i = 0; i < rows; ++i) {
        T* dst = args.out.as<T>() + (b * s.T + q0 + i) * s.C() + h * s.D;
        const float scale = args.out_scale / softmax[i].sum;
        for_vectors(s.D,
                    [&](int64_t d, auto count) { store_as(dst + d, scale * load<Vector>(out + i * s.Dp + d), count); });
        args.lse.as<float>()[head * s.T + q0 + i] = softmax[i].maximum * kLn2 + std::log(softmax[i].sum);
    }
}

// Blocks of queries [first, last) of one head, which share the copies of keys and values.
template <class T>
void forward_head(const AttentionForward& args, const AttentionShape& shape, int64_t head, int64_t first,
                  int64_t last) {
    using E = Operand<T>;
    const HeadShape<E> s(shape);
    const int64_t keys = std::min(last * kQueries, s.T), padded = round_up(keys, kQueries), stride = 3 * s.C();
    Arena arena{scratch(Scratch::attention, s.Tp * s.operands + s.positions() * s.Dp + kPanel * s.row +
                                                kQueries * (s.row + s.Dp + kTileRow) + 1024)};
    const Keys<E> copies{arena.take<E>(s.Tp * s.operands), arena.take<E>(s.positions() * s.Dp)};
    const T* qkv = args.qkv.as<T>() + head / s.H * s.T * stride + head % s.H * s.D;
    for (int i = 0; i < 3; ++i) prefetch_rows(qkv + i * s.C(), keys, stride, s.D);
    load_panels(copies.panels, qkv + s.C(), keys, stride, s, arena.take<E>(kPanel * s.row));
    load_positions(copies.values, qkv + 2 * s.C(), keys, padded, stride, s);
    const int64_t first_query = args.first_query / kTileRows * kTileRows;
    for (int64_t block = first; block < last; ++block)
        forward_queries<T>(args, s, head, std::max(block * kQueries, first_query), copies, arena);
}

}  // namespace

void attention_forward(const AttentionForward& args) {
    const AttentionShape s = check(args);
    // One task per head, or several for each head if there are too few heads to keep all threads busy.
    const int64_t heads = s.B * s.H, first = args.first_query / kQueries,
                  blocks = (s.T + kQueries - 1) / kQueries - first;
    if (heads * blocks == 0) return;
    const int64_t parts = std::clamp<int64_t>(4 * device::threads() / heads, 1, blocks);
    with_type("attention_forward", "qkv", args.qkv.dtype, [&]<class T>(T) {
        parallel_tasks(heads * parts, parts == 1, [&](int64_t task) {
            const int64_t head = task / parts, part = task % parts;
            forward_head<T>(args, s, head, first + blocks * part / parts, first + blocks * (part + 1) / parts);
        });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
