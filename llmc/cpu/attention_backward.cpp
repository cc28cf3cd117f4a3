// The backward pass of causal attention: scores are computed again, tile by tile. Formulas: llmc/ops/ops.h.
#include "llmc/cpu/attention.h"
#include "llmc/cpu/kernels.h"
#include "llmc/cpu/scratch.h"

namespace llmc::cpu::LLMC_ISA {

namespace {

// One head's operands and gradients.
template <class E>
struct HeadBackward {
    E *q, *dout;                                    // (T, row): operands along D
    E *key_panels, *value_panels;                   // (T / kPanel, operands, kPanel)
    E *q_positions, *k_positions, *dout_positions;  // (T / kPack, Dp): operands along T
    float *dk, *dv;                                 // (T, Dp)
    float* dq;                                      // (kQueries, Dp)
    float *p, *ds;                                  // tiles, then operands along the queries
    E* ds_rows;                                     // dS as operands along the keys
    float *lse, *delta;                             // (T), lse in units of log 2
};

template <class E>
HeadBackward<E> cut(const HeadShape<E>& s) {
    const int64_t rows = s.Tp * s.row, panels = s.Tp * s.operands, positions = s.positions() * s.Dp, sums = s.Tp * s.Dp,
                  tile = kQueries * kTileRow;
    Arena arena{scratch(Scratch::attention,
                        2 * (rows + panels + sums + s.Tp) + 3 * (positions + tile) + kQueries * s.Dp + 1024)};
    HeadBackward<E> x{};
    x.q = arena.take<E>(rows);
    x.dout = arena.take<E>(rows);
    x.key_panels = arena.take<E>(panels);
    x.value_panels = arena.take<E>(panels);
    for (E** m : {&x.q_positions, &x.k_positions, &x.dout_positions}) *m = arena.take<E>(positions);
    x.dk = arena.take<float>(sums);
    x.dv = arena.take<float>(sums);
    x.dq = arena.take<float>(kQueries * s.Dp);
    x.p = arena.take<float>(tile);
    x.ds = arena.take<float>(tile);
    x.ds_rows = arena.take<E>(tile);
    x.lse = arena.take<float>(s.Tp);
    x.delta = arena.take<float>(s.Tp);
    return x;
}

// The rows that pad the last block of queries are zero, so they add nothing to the gradients.
template <class T, class E>
HeadBackward<E> load_head(const AttentionBackward& args, const HeadShape<E>& s, int64_t head) {
    HeadBackward<E> x = cut(s);
    const int64_t b = head / s.H, h = head % s.H, stride = 3 * s.C();
    const T *q = args.qkv.as<T>() + b * s.T * stride + h * s.D, *k = q + s.C(), *v = k + s.C(),
            *dout = args.dout.as<T>() + b * s.T * s.C() + h * s.D, *out = args.out.as<T>() + b * s.T * s.C() + h * s.D;
    for (const T* rows : {k, v, q}) prefetch_rows(rows, s.T, stride, s.D);
    for (const T* rows : {dout, out}) prefetch_rows(rows, s.T, s.C(), s.D);
    E* buffer = x.q;  // free until q is loaded below
    load_panels(x.key_panels, k, s.T, stride, s, buffer);
    load_panels(x.value_panels, v, s.T, stride, s, buffer);
    load_rows(x.q, q, s.T, stride, s);
    load_rows(x.dout, dout, s.T, s.C(), s);
    for (E* rows : {x.q, x.dout}) std::fill(rows + s.T * s.row, rows + s.Tp * s.row, E{});
    if constexpr (kPack<E> == 1) {  // then the layouts are the same
        x.q_positions = x.q, x.dout_positions = x.dout, x.ds_rows = x.ds;
    } else {
        load_positions(x.q_positions, q, s.T, s.Tp, stride, s);
        load_positions(x.dout_positions, dout, s.T, s.Tp, s.C(), s);
    }
    load_positions(x.k_positions, k, s.T, s.Tp, stride, s);
    std::fill(x.dk, x.dk + s.Tp * s.Dp, 0.0f);
    std::fill(x.dv, x.dv + s.Tp * s.Dp, 0.0f);
    const float* lse = args.lse.as<float>() + head * s.T;
    for (int64_t t = 0; t < s.T; ++t) {
        Vector products{};
        for_vectors(s.D, [&](int64_t d, auto count) {
            products += load_as(out + t * s.C() + d, count) * load_as(dout + t * s.C() + d, count);
        });
        x.delta[t] = sum(products);
        x.lse[t] = kLog2e * lse[t];
    }
    std::fill(x.delta + s.T, x.delta + s.Tp, 0.0f);
    std::fill(x.lse + s.T, x.lse + s.Tp, 0.0f);
    return x;
}

// P and dS from kLanes scores of one query.
struct Gradients {
    float logit_scale, out_scale;  // the former in units of log 2
    struct Result {
        Vector p, ds;
    };
    Result operator()(const float* score, const float* dp, float lse, float delta) const {
        const Vector p = exp2(logit_scale * load<Vector>(score) - lse);
        return {p, p * (out_scale * load<Vector>(dp) - delta)};
    }
};

// For queries i and i + 1 of a tile: replaces the scores in p and dout v^T in ds by P and dS, with zeros for keys after
// the query, up to the end of the register tiles that read them. The results are operands: along the queries in p and
// ds, along the keys in ds_rows.
template <class E>
void gradient_rows(const HeadBackward<E>& x, const Tile& t, int64_t i, const Gradients& gradients) {
    float *p = x.p + i * kTileRow, *ds = x.ds + i * kTileRow;
    E* ds_rows = x.ds_rows + i * kTileRow;
    const float *lse = x.lse + t.q0 + i, *delta = x.delta + t.q0 + i;
    const int64_t valid = i + t.diagonal() + 1;  // keys of the first query; the second has one more
    auto columns = [&](int64_t j, auto last) {
        auto a = gradients(p + j, ds + j, lse[0], delta[0]);
        auto b = gradients(p + kTileRow + j, ds + kTileRow + j, lse[1], delta[1]);
        if constexpr (last) {
            const auto lane = lane_numbers() + int32_t(j);
            const auto in_first = lane < int32_t(valid), in_second = lane < int32_t(valid + 1);
            a = {in_first ? a.p : Vector{}, in_first ? a.ds : Vector{}};
            b = {in_second ? b.p : Vector{}, in_second ? b.ds : Vector{}};
        }
        if constexpr (kPack<E> == 2) {
            store(p + j, pairs_of(a.p, b.p));
            store(ds + j, pairs_of(a.ds, b.ds));
            store_in_row(ds_rows, j, a.ds);
            store_in_row(ds_rows + kTileRow, j, b.ds);
        } else {
            store(p + j, a.p), store(p + kTileRow + j, b.p);
            store(ds + j, a.ds), store(ds + kTileRow + j, b.ds);
        }
    };
    const int64_t keys = std::min(valid + 1, t.keys);
    int64_t j = 0;
    for (; j + kLanes <= std::min(valid, t.keys); j += kLanes) columns(j, std::false_type{});
    for (; j < keys; j += kLanes) columns(j, std::true_type{});
    for (int row = 0; row < 2; ++row) {
        store(p + row * kTileRow + j, Vector{});
        store(ds + row * kTileRow + j, Vector{});
        store_in_row(ds_rows + row * kTileRow, j, Vector{});
    }
}

// dq of queries [q0, q0 + kQueries), and what they add to dk and dv.
template <class E>
void backward_queries(const HeadShape<E>& s, const HeadBackward<E>& x, int64_t q0, const Gradients& gradients) {
    const int64_t rows = round_up(std::min(kQueries, s.T - q0), kTileRows);
    for (int64_t k0 = 0; k0 < q0 + rows; k0 += kKeys) {
        const Tile tile{q0, k0, rows, std::min(kKeys, q0 + rows - k0)};
        multiply_by_keys(tile, x.q + q0 * s.row, x.key_panels, x.p, s);
        multiply_by_keys(tile, x.dout + q0 * s.row, x.value_panels, x.ds, s);
        for (int64_t i = 0; i < rows; i += 2) gradient_rows(x, tile, i, gradients);
        multiply_transposed(tile, reinterpret_cast<const E*>(x.p), x.dout_positions, x.dv, s);
        multiply_transposed(tile, reinterpret_cast<const E*>(x.ds), x.q_positions, x.dk, s);
        multiply_by_positions(tile, x.ds_rows, x.k_positions, x.dq, k0 > 0, s);
    }
}

template <class T, class E>
void store_rows(T* dst, const float* src, int64_t rows, float scale, const HeadShape<E>& s) {
    for (int64_t t = 0; t < rows; ++t) {
        for_vectors(s.D, [&](int64_t d, auto count) {
            store_as(dst + t * 3 * s.C() + d, scale * load<Vector>(src + t * s.Dp + d), count);
        });
    }
}

// A head is one task: its dk and dv are sums over all queries, computed by one thread in order.
template <class T>
void backward_head(const AttentionBackward& args, const AttentionShape& shape, int64_t head) {
    using E = Operand<T>;
    const HeadShape<E> s(shape);
    const HeadBackward<E> x = load_head<T>(args, s, head);
    T* dqkv = args.dqkv.as<T>() + head / s.H * s.T * 3 * s.C() + head % s.H * s.D;
    for (int64_t q0 = 0; q0 < s.T; q0 += kQueries) {
        backward_queries(s, x, q0, {args.logit_scale * kLog2e, args.out_scale});
        store_rows(dqkv + q0 * 3 * s.C(), x.dq, std::min(kQueries, s.T - q0), args.logit_scale, s);
    }
    store_rows(dqkv + s.C(), x.dk, s.T, args.logit_scale, s);
    store_rows(dqkv + 2 * s.C(), x.dv, s.T, args.out_scale, s);
}

}  // namespace

void attention_backward(const AttentionBackward& args) {
    const AttentionShape s = check(args);
    with_type("attention_backward", "qkv", args.qkv.dtype, [&]<class T>(T) {
        parallel_tasks(s.B * s.H, true, [&](int64_t head) { backward_head<T>(args, s, head); });
    });
}

}  // namespace llmc::cpu::LLMC_ISA
