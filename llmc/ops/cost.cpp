#include "llmc/ops/cost.h"

#include <algorithm>
#include <initializer_list>

#include "llmc/core/error.h"
#include "llmc/ops/checks.h"

namespace llmc {
namespace {

double bytes_of(std::initializer_list<Tensor> tensors) {
    double sum = 0;
    for (const Tensor& t : tensors)
        if (t) sum += double(t.bytes());
    return sum;
}

// Bytes of `rows` rows of a tensor (rows, columns).
double rows_of(const Tensor& t, int64_t rows) { return double(rows * t.last()) * double(size_of(t.dtype)); }

// Rows of a table that the tokens can use.
int64_t used_rows(const Tensor& tokens, const Tensor& table) { return std::min(tokens.numel(), table.rows()); }

double product(int64_t m, int64_t n, int64_t k) { return 2 * double(m) * double(n) * double(k); }

// Number of pairs of a query in [first, T) and a key up to the query.
double causal_pairs(int64_t T, int64_t first = 0) {
    return (double(T) * double(T + 1) - double(first) * double(first + 1)) / 2;
}

std::string rows_by_columns(const char* op, const Tensor& t) { return str(op, " ", t.rows(), " x ", t.last()); }
std::string batch_of(const char* op, const Tensor& t) {
    return str(op, " ", t.shape[0], " x ", t.shape[1], " x ", t.shape[2]);
}

}  // namespace

Cost cost(const EmbeddingForward& a) {
    return {0,
            bytes_of({a.out, a.tokens}) + rows_of(a.wte, used_rows(a.tokens, a.wte)) + rows_of(a.wpe, a.tokens.last())};
}
Cost cost(const EmbeddingBackward& a) {
    return {0, bytes_of({a.dout, a.tokens}) + 2 * rows_of(a.dwte, used_rows(a.tokens, a.dwte)) +
                   2 * rows_of(a.dwpe, a.tokens.last())};
}
Cost cost(const LayerNormForward& a) { return {0, bytes_of({a.out, a.mean, a.rstd, a.inp, a.weight, a.bias})}; }
Cost cost(const LayerNormBackward& a) {
    return {0,
            bytes_of({a.dinp, a.dout, a.inp, a.weight, a.mean, a.rstd, a.dskip}) + 2 * bytes_of({a.dweight, a.dbias})};
}
Cost cost(const MatmulForward& a) {
    return {product(a.inp.rows(), a.weight.rows(), a.inp.last()),
            bytes_of({a.out, a.inp, a.weight, a.bias, a.pre_gelu, a.residual})};
}
Cost cost(const MatmulBackward& a) {
    const double each = product(a.dout.rows(), a.dout.last(), channels_of(a));
    Cost c{0, bytes_of({a.dout}) + 2 * bytes_of({a.dbias})};
    if (a.dinp) c.flops += each, c.bytes += bytes_of({a.dinp, a.weight, a.pre_gelu});
    if (a.dweight)
        c.flops += each, c.bytes += bytes_of({a.inp}) + (a.overwrite_dweight ? 1 : 2) * bytes_of({a.dweight});
    return c;
}
Cost cost(const AttentionForward& a) {
    const int64_t B = a.out.shape[0], T = a.out.shape[1], C = a.out.shape[2], rows = B * (T - a.first_query);
    return {2 * product(B, C, 1) * causal_pairs(T, a.first_query),  // q k^T and p v
            2 * rows_of(a.out, rows) + 2 * rows_of(a.out, B * T) +  // out, q; k, v
                double(rows * a.lse.shape[1]) * sizeof(float)};
}
Cost cost(const AttentionBackward& a) {
    const int64_t B = a.out.shape[0], T = a.out.shape[1], C = a.out.shape[2];
    return {5 * product(B, C, 1) * causal_pairs(T),  // q k^T, dout v^T; p^T dout, ds k, ds^T q
            bytes_of({a.dqkv, a.dout, a.out, a.lse, a.qkv})};
}
Cost cost(const AttentionLogits& a) {
    const int64_t B = a.qkv.shape[0], T = a.qkv.shape[1], C = a.qkv.shape[2] / 3;
    return {product(B, C, 1) * causal_pairs(T), bytes_of({a.out}) + bytes_of({a.qkv}) * 2 / 3};
}
Cost cost(const GeluForward& a) { return {0, bytes_of({a.out, a.inp})}; }
Cost cost(const GeluBackward& a) { return {0, bytes_of({a.dinp, a.dout, a.inp})}; }
Cost cost(const Classifier& a) {
    return {0, (a.dloss != 0 ? 2 : 1) * bytes_of({a.logits}) + bytes_of({a.losses, a.targets})};
}
Cost cost(const Sum& a) { return {0, bytes_of({a.inp}) + 2 * bytes_of({a.out})}; }
Cost cost(const Statistics& a) {
    const int64_t columns = a.columns ? a.columns : a.inp.last() - a.first_column;
    return {0, double(a.inp.rows() * columns) * double(size_of(a.inp.dtype)) * (a.minus ? 2 : 1) + bytes_of({a.out})};
}
Cost cost(const Tensor& out, std::span<const Tensor> tensors) {
    Cost c{0, bytes_of({out})};
    for (const Tensor& t : tensors) c.bytes += bytes_of({t});
    return c;
}
Cost cost(const Tensor& dst, const Tensor& src) { return {0, bytes_of({dst, src})}; }
Cost cost(const OptimizerStep& a, float, float) {
    Cost c{0, bytes_of({a.grad_norm})};
    for (const ParameterUpdate& p : a.parameters) {
        c.bytes += bytes_of({p.grad, p.param}) + 2 * bytes_of({p.master, p.m, p.v});
        if (!p.master) c.bytes += bytes_of({p.param});  // read too
    }
    return c;
}

std::string label(const EmbeddingForward& a) { return rows_by_columns("embedding_forward", a.out); }
std::string label(const EmbeddingBackward& a) { return rows_by_columns("embedding_backward", a.dout); }
std::string label(const LayerNormForward& a) { return rows_by_columns("layernorm_forward", a.inp); }
std::string label(const LayerNormBackward& a) { return rows_by_columns("layernorm_backward", a.inp); }
std::string label(const MatmulForward& a) {
    return str(rows_by_columns("matmul_forward", a.inp), " -> ", a.weight.rows(),
               a.pre_gelu   ? ", gelu"
               : a.residual ? ", residual"
                            : "");
}
std::string label(const MatmulBackward& a) {
    return str("matmul_backward ", a.dout.rows(), " x ", channels_of(a), " -> ", a.dout.last(),
               a.pre_gelu ? ", gelu" : "");
}
std::string label(const AttentionForward& a) { return batch_of("attention_forward", a.out); }
std::string label(const AttentionBackward& a) { return batch_of("attention_backward", a.out); }
std::string label(const AttentionLogits& a) { return batch_of("attention_logits", a.qkv); }
std::string label(const GeluForward& a) { return str("gelu_forward ", a.out.numel()); }
std::string label(const GeluBackward& a) { return str("gelu_backward ", a.dinp.numel()); }
std::string label(const Classifier& a) { return str("classifier ", a.logits.rows(), " x ", a.vocab_size); }
std::string label(const Sum&) { return "accumulate_sum"; }
std::string label(const Statistics& a) { return rows_by_columns("statistics", a.inp); }
std::string label(const Tensor&, std::span<const Tensor>) { return "global_norm"; }
std::string label(const Tensor& dst, const Tensor&) { return str("cast ", dst.numel()); }
std::string label(const OptimizerStep&, float, float) { return "adamw_step"; }
std::string label(const OptimizerStep&, float) { return "sgd_step"; }

double flops_per_token(int64_t depth, int64_t width, int64_t seq_len, int64_t vocab_size) {
    const double L = double(depth), C = double(width), T = double(seq_len), V = double(vocab_size);
    return 6 * (12 * L * C * C + V * C) + 12 * L * C * T;
}

double executed_flops_per_token(int64_t depth, int64_t width, int64_t seq_len, int64_t padded_vocab,
                                bool recompute_blocks) {
    const double L = double(depth), C = double(width), V = double(padded_vocab);
    const double keys = causal_pairs(seq_len) / double(seq_len);                   // of a query, on average
    const double again = recompute_blocks ? 2 * 8 * C * C + 2 * 2 * C * keys : 0;  // without mlp.c_proj
    return 6 * (12 * L * C * C + V * C) + L * ((2 + 5) * 2 * C * keys + again);
}

}  // namespace llmc
