// Causal attention by blocks of queries and keys, softmax on the fly. Formulas: llmc/ops.h; Dao, "FlashAttention-2",
// 2023.
//
// A head's q, k, v lie 3C apart, possibly in bf16: they are copied once into dense fp32 matrices, (T, Dp) with D padded
// by zeros to whole vectors, and k, v also transposed in panels (small_matmul.h). Memory per thread grows as T * D,
// never as T * T.
#include <cmath>
#include <limits>
#include "llmc/checks.h"
#include "llmc/cpu/parallel.h"
#include "llmc/cpu/small_matmul.h"
#include "llmc/cpu/vector.h"
#include "llmc/ops.h"

namespace llmc {

using namespace cpu;

namespace {

constexpr int64_t kQueries = 32;  // rows of a tile of scores
constexpr int64_t kKeys = 256;    // columns: a tile takes 32 KB
constexpr int64_t kTileRow = kKeys +
                             16;  // its row stride, no power of two: a column of the tile then spreads over the cache

struct Shape {
    int64_t B, T, H, D, Dp, Tp;  // D and T rounded up to whole vectors and panels
    int64_t C() const { return H * D; }
};

Shape padded(const AttentionShape& s) { return {s.B, s.T, s.H, s.D, round_up(s.D, kLanes), round_up(s.T, kPanel)}; }

// Cuts consecutive matrices from scratch memory.
struct Arena {
    float* next;
    float* take(int64_t count) {
        float* p = next;
        next += round_up(count, 16);
        return p;
    }
};

// dst (rows, Dp) = src (rows, D) with row stride `stride`, padded by zeros.
template <class T>
void load_rows(float* dst, const T* src, int64_t rows, int64_t stride, const Shape& s) {
    for (int64_t t = 0; t < rows; ++t) {
        to_floats(dst + t * s.Dp, src + t * stride, s.D);
        std::fill(dst + t * s.Dp + s.D, dst + (t + 1) * s.Dp, 0.0f);
    }
}

// The transpose of `rows` dense rows as panels (rows / kPanel, D, kPanel), the last one padded by zeros.
void transpose_to_panels(float* dst, const float* src, int64_t rows, const Shape& s) {
    for (int64_t first = 0; first < rows; first += kPanel, dst += s.D * kPanel) {
        int64_t width = std::min<int64_t>(kPanel, rows - first);
        for (int64_t d = 0; d < s.D; ++d) {
            for (int64_t j = 0; j < width; ++j) dst[d * kPanel + j] = src[(first + j) * s.Dp + d];
            for (int64_t j = width; j < kPanel; ++j) dst[d * kPanel + j] = 0;
        }
    }
}

Right panels_at(const float* panels, int64_t key, const Shape& s) { return {panels + key * s.D, kPanel, s.D * kPanel}; }
Right rows_at(const float* rows, int64_t row, const Shape& s) { return {rows + row * s.Dp, s.Dp, kPanel}; }

// One row of a tile: turns scores into exp(scale * score - maximum) and updates the row's running maximum and sum.
// Returns by how much the output so far has to be multiplied.
float softmax_row(float* score, int64_t valid, int64_t columns, float scale, float& maximum, float& sum) {
    int64_t whole = round_up(valid, kLanes);  // whole vectors: loops over the rest would take longer than the row
    float largest = maximum, added = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < whole; ++j) {
        float z = j < valid ? scale * score[j] : -std::numeric_limits<float>::infinity();
        score[j] = z;
        largest = largest > z ? largest : z;
    }
#pragma omp simd reduction(+ : added)
    for (int64_t j = 0; j < whole; ++j) {
        float p = fast_exp(score[j] - largest);
        score[j] = p;
        added += p;  // 1e-38 for each -inf: nothing beside the maximum's 1
    }
    std::fill(score + valid, score + columns, 0.0f);  // the keys after the query
    float correction = fast_exp(maximum - largest);   // of no matter before the first tile, where sum is 0
    sum = sum * correction + added;
    maximum = largest;
    return correction;
}

// Queries [q0, q0 + rows) of one head, against all keys up to them.
template <class T>
void forward_queries(const AttentionForward& args, const Shape& s, int64_t b, int64_t h, int64_t q0,
                     const float* key_panels, const float* v, Arena arena) {
    int64_t rows = std::min(kQueries, s.T - q0), end = q0 + rows;
    float *q = arena.take(kQueries * s.Dp), *out = arena.take(kQueries * s.Dp), *tile = arena.take(kQueries * kTileRow);
    load_rows(q, args.qkv.as<T>() + (b * s.T + q0) * 3 * s.C() + h * s.D, rows, 3 * s.C(), s);
    float maximum[kQueries], sum[kQueries] = {};
    std::fill(maximum, maximum + kQueries, -std::numeric_limits<float>::infinity());
    for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
        int64_t keys = std::min(kKeys, end - k0);
        multiply_small(rows, round_up(keys, kLanes), s.D, {q, s.Dp, 1}, panels_at(key_panels, k0, s), tile, kTileRow,
                       false);
        for (int64_t i = 0; i < rows; ++i) {
            int64_t valid = std::clamp<int64_t>(q0 + i + 1 - k0, 0, keys);
            float correction = softmax_row(tile + i * kTileRow, valid, keys, args.logit_scale, maximum[i], sum[i]);
            if (k0 > 0) {
                for (int64_t d = 0; d < s.Dp; ++d) out[i * s.Dp + d] *= correction;
            }
        }
        multiply_small(rows, s.Dp, keys, {tile, kTileRow, 1}, rows_at(v, k0, s), out, s.Dp, k0 > 0);
    }
    for (int64_t i = 0; i < rows; ++i) {
        T* dst = args.out.as<T>() + (b * s.T + q0 + i) * s.C() + h * s.D;
        float scale = args.out_scale / sum[i];
#pragma omp simd
        for (int64_t d = 0; d < s.D; ++d) dst[d] = from_float<T>(scale * out[i * s.Dp + d]);
        args.lse.as<float>()[(b * s.H + h) * s.T + q0 + i] = maximum[i] + std::log(sum[i]);
    }
}

// Blocks of queries [first, last) of one head; the keys' and values' copies are shared by them.
template <class T>
void forward_head(const AttentionForward& args, const Shape& s, int64_t b, int64_t h, int64_t first, int64_t last) {
    int64_t keys = std::min(last * kQueries, s.T), stride = 3 * s.C();
    Arena arena{scratch(Scratch::attention, 3 * s.Tp * s.Dp + kQueries * (2 * s.Dp + kTileRow) + 1024)};
    float *k = arena.take(s.Tp * s.Dp), *v = arena.take(s.Tp * s.Dp), *panels = arena.take(s.Tp * s.Dp);
    const T* qkv = args.qkv.as<T>() + b * s.T * stride + h * s.D;
    load_rows(k, qkv + s.C(), keys, stride, s);
    load_rows(v, qkv + 2 * s.C(), keys, stride, s);
    transpose_to_panels(panels, k, keys, s);
    for (int64_t block = first; block < last; ++block)
        forward_queries<T>(args, s, b, h, block * kQueries, panels, v, arena);
}

}  // namespace

void attention_forward(const AttentionForward& args) {
    Shape s = padded(check(args));
    // One task per head, or parts of a head where there are fewer heads than threads need to share the work well.
    int64_t heads = s.B * s.H, first = args.first_query / kQueries, blocks = (s.T + kQueries - 1) / kQueries - first;
    if (heads * blocks == 0) return;
    int64_t parts = std::clamp<int64_t>(4 * device::threads() / heads, 1, blocks);
    with_type("attention_forward", "qkv", args.qkv.dtype, [&]<class T>(T) {
        parallel_tasks(heads * parts, parts == 1, [&](int64_t task) {
            int64_t head = task / parts, part = task % parts;
            forward_head<T>(args, s, head / s.H, head % s.H, first + blocks * part / parts,
                            first + blocks * (part + 1) / parts);
        });
    });
}

namespace {

// One head's operands and gradients as dense fp32 matrices.
struct HeadBackward {
    float *q, *k, *v, *dout;           // (T, Dp)
    float *key_panels, *value_panels;  // (T / kPanel, D, kPanel)
    float *dk, *dv;                    // (T, Dp)
    float* dq;                         // (kQueries, Dp)
    float *p, *ds;                     // (kQueries, kTileRow)
    float* delta;                      // (T)
};

int64_t backward_floats(const Shape& s) { return 8 * s.Tp * s.Dp + s.Tp + kQueries * (s.Dp + 2 * kTileRow) + 1024; }

template <class T>
HeadBackward load_head(const AttentionBackward& args, const Shape& s, int64_t b, int64_t h) {
    Arena arena{scratch(Scratch::attention, backward_floats(s))};
    auto matrix = [&] { return arena.take(s.Tp * s.Dp); };
    HeadBackward x{};
    for (float** m : {&x.q, &x.k, &x.v, &x.dout, &x.key_panels, &x.value_panels, &x.dk, &x.dv}) *m = matrix();
    x.dq = arena.take(kQueries * s.Dp);
    x.p = arena.take(kQueries * kTileRow);
    x.ds = arena.take(kQueries * kTileRow);
    x.delta = arena.take(s.Tp);
    int64_t stride = 3 * s.C();
    const T* qkv = args.qkv.as<T>() + b * s.T * stride + h * s.D;
    load_rows(x.q, qkv, s.T, stride, s);
    load_rows(x.k, qkv + s.C(), s.T, stride, s);
    load_rows(x.v, qkv + 2 * s.C(), s.T, stride, s);
    load_rows(x.dout, args.dout.as<T>() + b * s.T * s.C() + h * s.D, s.T, s.C(), s);
    transpose_to_panels(x.key_panels, x.k, s.T, s);
    transpose_to_panels(x.value_panels, x.v, s.T, s);
    std::fill(x.dk, x.dk + s.T * s.Dp, 0.0f);
    std::fill(x.dv, x.dv + s.T * s.Dp, 0.0f);
    for (int64_t t = 0; t < s.T; ++t) {
        const T* out = args.out.as<T>() + (b * s.T + t) * s.C() + h * s.D;
        float sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t d = 0; d < s.D; ++d) sum += to_float(out[d]) * x.dout[t * s.Dp + d];
        x.delta[t] = sum;
    }
    return x;
}

// Scores in x.p and dout v^T in x.ds become P and dS, zero for the keys after the query.
void gradient_row(float* p, float* ds, int64_t valid, int64_t columns, const AttentionBackward& args, float lse,
                  float delta) {
    float logit_scale = args.logit_scale, out_scale = args.out_scale;
#pragma omp simd
    for (int64_t j = 0; j < round_up(valid, kLanes); ++j) {  // whole vectors: see softmax_row
        float probability = fast_exp(logit_scale * p[j] - lse);
        p[j] = probability;
        ds[j] = probability * (out_scale * ds[j] - delta);
    }
    std::fill(p + valid, p + columns, 0.0f);
    std::fill(ds + valid, ds + columns, 0.0f);
}

template <class T>
void store_rows(T* dst, const float* src, int64_t rows, float scale, const Shape& s) {
    for (int64_t t = 0; t < rows; ++t) {
#pragma omp simd
        for (int64_t d = 0; d < s.D; ++d) dst[t * 3 * s.C() + d] = from_float<T>(scale * src[t * s.Dp + d]);
    }
}

// dq of queries [q0, q0 + kQueries), and their parts of dk and dv.
void backward_queries(const AttentionBackward& args, const Shape& s, const HeadBackward& x, const float* lse,
                      int64_t q0) {
    int64_t rows = std::min(kQueries, s.T - q0), end = q0 + rows;
    const float *q = x.q + q0 * s.Dp, *dout = x.dout + q0 * s.Dp;
    for (int64_t k0 = 0; k0 < end; k0 += kKeys) {
        int64_t keys = std::min(kKeys, end - k0), columns = round_up(keys, kLanes);
        multiply_small(rows, columns, s.D, {q, s.Dp, 1}, panels_at(x.key_panels, k0, s), x.p, kTileRow, false);
        multiply_small(rows, columns, s.D, {dout, s.Dp, 1}, panels_at(x.value_panels, k0, s), x.ds, kTileRow, false);
        for (int64_t i = 0; i < rows; ++i) {
            int64_t valid = std::clamp<int64_t>(q0 + i + 1 - k0, 0, keys);
            gradient_row(x.p + i * kTileRow, x.ds + i * kTileRow, valid, keys, args, lse[q0 + i], x.delta[q0 + i]);
        }
        multiply_small(keys, s.Dp, rows, {x.p, 1, kTileRow}, {dout, s.Dp, kPanel}, x.dv + k0 * s.Dp, s.Dp, true);
        multiply_small(keys, s.Dp, rows, {x.ds, 1, kTileRow}, {q, s.Dp, kPanel}, x.dk + k0 * s.Dp, s.Dp, true);
        multiply_small(rows, s.Dp, keys, {x.ds, kTileRow, 1}, rows_at(x.k, k0, s), x.dq, s.Dp, k0 > 0);
    }
}

// A head is one task: its dk and dv are sums over all queries, taken by one thread in order.
template <class T>
void backward_head(const AttentionBackward& args, const Shape& s, int64_t b, int64_t h) {
    HeadBackward x = load_head<T>(args, s, b, h);
    T* dqkv = args.dqkv.as<T>() + b * s.T * 3 * s.C() + h * s.D;
    const float* lse = args.lse.as<float>() + (b * s.H + h) * s.T;
    for (int64_t q0 = 0; q0 < s.T; q0 += kQueries) {
        backward_queries(args, s, x, lse, q0);
        store_rows(dqkv + q0 * 3 * s.C(), x.dq, std::min(kQueries, s.T - q0), args.logit_scale, s);
    }
    store_rows(dqkv + s.C(), x.dk, s.T, args.logit_scale, s);
    store_rows(dqkv + 2 * s.C(), x.dv, s.T, args.out_scale, s);
}

}  // namespace

void attention_backward(const AttentionBackward& args) {
    Shape s = padded(check(args));
    with_type("attention_backward", "qkv", args.qkv.dtype, [&]<class T>(T) {
        parallel_tasks(s.B * s.H, true, [&](int64_t head) { backward_head<T>(args, s, head / s.H, head % s.H); });
    });
}

}  // namespace llmc
