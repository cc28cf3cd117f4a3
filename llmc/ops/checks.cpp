#include "llmc/ops/checks.h"

#include "llmc/core/format.h"

namespace llmc {
namespace {

void require_type(const char* op, const char* name, const Tensor& t, DType dtype) {
    if (t.dtype != dtype) fail(op, ": ", name, " is ", name_of(t.dtype), ", it must be ", name_of(dtype));
}

void require_float(const char* op, const char* name, const Tensor& t) {
    if (t.dtype == DType::i32) fail(op, ": ", name, " is int32, it must be fp32 or bf16");
}

// `t`, as a matrix (rows(), last()), must be (rows, columns): (B, T, C) is accepted for (B*T, C).
void require(const char* op, const char* name, const Tensor& t, int64_t rows, int64_t columns, DType dtype) {
    if (!t) fail(op, ": ", name, " is missing, it must be (", rows, ", ", columns, ") ", name_of(dtype));
    if (t.rank == 0 || t.numel() != rows * columns || (columns > 0 && t.last() != columns))
        fail(op, ": ", name, " has shape ", t.shape_string(), ", it must be (", rows, ", ", columns, ")");
    require_type(op, name, t, dtype);
}

// Any shape with `count` elements.
void require_count(const char* op, const char* name, const Tensor& t, int64_t count, DType dtype) {
    if (!t) fail(op, ": ", name, " is missing, it must have ", count, " elements of ", name_of(dtype));
    if (t.numel() != count)
        fail(op, ": ", name, " has shape ", t.shape_string(), ", it must have ", count, " elements");
    require_type(op, name, t, dtype);
}

void require_rank(const char* op, const char* name, const Tensor& t, int rank) {
    if (!t) fail(op, ": ", name, " is missing");
    if (t.rank != rank)
        fail(op, ": ", name, " has shape ", t.shape_string(), ", it must have ", plural(rank, "dimension"));
}

void require_positions(const char* op, const char* name, const Tensor& t, int64_t T, int64_t C, DType dtype) {
    require_rank(op, name, t, 2);
    require(op, name, t, t.rows(), C, dtype);
    if (t.rows() < T) fail(op, ": ", name, " has ", plural(t.rows(), "position"), ", tokens has ", T);
}

AttentionShape attention_shape(const char* op, const Tensor& out, const Tensor& lse, const Tensor& qkv) {
    require_rank(op, "out", out, 3);
    require_rank(op, "lse", lse, 3);
    const int64_t B = out.shape[0], T = out.shape[1], C = out.shape[2], H = lse.shape[1];
    if (H < 1 || C < 1 || C % H != 0)
        fail(op, ": ", plural(C, "channel"), " cannot be divided among ", plural(H, "head"), " (out has shape ",
             out.shape_string(), ", lse ", lse.shape_string(), ")");
    require_float(op, "out", out);
    require(op, "lse", lse, B * H, T, DType::f32);
    require(op, "qkv", qkv, B * T, 3 * C, out.dtype);
    return {B, T, H, C / H};
}

}  // namespace

void check(const EmbeddingForward& args) {
    const char* op = "embedding_forward";
    require_rank(op, "tokens", args.tokens, 2);
    require_type(op, "tokens", args.tokens, DType::i32);
    require_rank(op, "wte", args.wte, 2);
    require_float(op, "wte", args.wte);
    const int64_t B = args.tokens.shape[0], T = args.tokens.shape[1], C = args.wte.last();
    require(op, "out", args.out, B * T, C, args.wte.dtype);
    require_positions(op, "wpe", args.wpe, T, C, args.wte.dtype);
}

void check(const EmbeddingBackward& args) {
    const char* op = "embedding_backward";
    require_rank(op, "tokens", args.tokens, 2);
    require_type(op, "tokens", args.tokens, DType::i32);
    if (!args.dout) fail(op, ": dout is missing");
    require_rank(op, "dwte", args.dwte, 2);
    require_float(op, "dout", args.dout);
    const int64_t B = args.tokens.shape[0], T = args.tokens.shape[1], C = args.dout.last();
    require(op, "dout", args.dout, B * T, C, args.dout.dtype);
    require(op, "dwte", args.dwte, args.dwte.shape[0], C, DType::f32);
    require_positions(op, "dwpe", args.dwpe, T, C, DType::f32);
}

void check(const LayerNormForward& args) {
    const char* op = "layernorm_forward";
    const int64_t N = args.inp.rows(), C = args.inp.last();
    require_float(op, "inp", args.inp);
    require(op, "out", args.out, N, C, args.inp.dtype);
    require_count(op, "mean", args.mean, N, DType::f32);
    require_count(op, "rstd", args.rstd, N, DType::f32);
    require_count(op, "weight", args.weight, C, args.inp.dtype);
    require_count(op, "bias", args.bias, C, args.inp.dtype);
}

void check(const LayerNormBackward& args) {
    const char* op = "layernorm_backward";
    const int64_t N = args.inp.rows(), C = args.inp.last();
    const DType dtype = args.inp.dtype;
    require_float(op, "inp", args.inp);
    require(op, "dinp", args.dinp, N, C, dtype);
    require(op, "dout", args.dout, N, C, dtype);
    if (args.dskip) require(op, "dskip", args.dskip, N, C, dtype);
    require_count(op, "weight", args.weight, C, dtype);
    require_count(op, "mean", args.mean, N, DType::f32);
    require_count(op, "rstd", args.rstd, N, DType::f32);
    require_count(op, "dweight", args.dweight, C, DType::f32);
    require_count(op, "dbias", args.dbias, C, DType::f32);
}

void check(const MatmulForward& args) {
    const char* op = "matmul_forward";
    const int64_t N = args.inp.rows(), C = args.inp.last(), OC = args.weight.rows();
    const DType dtype = args.inp.dtype;
    require_float(op, "inp", args.inp);
    require(op, "weight", args.weight, OC, C, dtype);
    require(op, "out", args.out, N, OC, dtype);
    if (args.bias) require_count(op, "bias", args.bias, OC, dtype);
    if (args.pre_gelu) require(op, "pre_gelu", args.pre_gelu, N, OC, dtype);
    if (args.residual) require(op, "residual", args.residual, N, OC, dtype);
    if (args.residual && args.pre_gelu) fail(op, ": pre_gelu and residual cannot be given together");
}

void check(const MatmulBackward& args) {
    const char* op = "matmul_backward";
    const int64_t N = args.dout.rows(), OC = args.dout.last(), C = channels_of(args);
    const DType dtype = args.dout.dtype;
    require_float(op, "dout", args.dout);
    if (args.dinp) {
        require(op, "weight", args.weight, OC, C, dtype);
        require(op, "dinp", args.dinp, N, C, dtype);
        if (args.pre_gelu) require(op, "pre_gelu", args.pre_gelu, N, C, dtype);
    }
    if (args.dweight) {
        require(op, "inp", args.inp, N, C, dtype);
        require(op, "dweight", args.dweight, OC, C, DType::f32);
    }
    if (args.dbias) require_count(op, "dbias", args.dbias, OC, DType::f32);
}

AttentionShape check(const AttentionForward& args) {
    const AttentionShape s = attention_shape("attention_forward", args.out, args.lse, args.qkv);
    if (args.first_query < 0 || args.first_query > s.T)
        fail("attention_forward: first_query ", args.first_query, " is outside of the ", plural(s.T, "row"));
    return s;
}

AttentionShape check(const AttentionBackward& args) {
    const char* op = "attention_backward";
    const AttentionShape s = attention_shape(op, args.out, args.lse, args.qkv);
    require(op, "dqkv", args.dqkv, s.B * s.T, 3 * s.C(), args.qkv.dtype);
    require(op, "dout", args.dout, s.B * s.T, s.C(), args.qkv.dtype);
    return s;
}

AttentionShape check(const AttentionLogits& args) {
    const char* op = "attention_logits";
    require_rank(op, "qkv", args.qkv, 3);
    require_rank(op, "out", args.out, 3);
    require_float(op, "qkv", args.qkv);
    const int64_t B = args.qkv.shape[0], T = args.qkv.shape[1], C = args.qkv.shape[2] / 3, H = args.out.shape[1];
    if (H < 1 || args.qkv.shape[2] % (3 * H))
        fail(op, ": ", plural(C, "channel"), " cannot be divided among ", plural(H, "head"), " (qkv has shape ",
             args.qkv.shape_string(), ", out ", args.out.shape_string(), ")");
    require(op, "out", args.out, B * H, T * (T + 1) / 2, DType::f32);
    return {B, T, H, C / H};
}

void check(const GeluForward& args) {
    require_float("gelu_forward", "inp", args.inp);
    require("gelu_forward", "out", args.out, args.inp.rows(), args.inp.last(), args.inp.dtype);
}

void check(const GeluBackward& args) {
    const int64_t rows = args.inp.rows(), columns = args.inp.last();
    require_float("gelu_backward", "inp", args.inp);
    require("gelu_backward", "dinp", args.dinp, rows, columns, args.inp.dtype);
    require("gelu_backward", "dout", args.dout, rows, columns, args.inp.dtype);
}

void check(const Classifier& args) {
    const char* op = "classifier";
    if (!args.logits) fail(op, ": logits is missing");
    require_float(op, "logits", args.logits);
    const int64_t N = args.logits.rows(), Vp = args.logits.last();
    require_count(op, "losses", args.losses, N, DType::f32);
    require_count(op, "targets", args.targets, N, DType::i32);
    if (args.vocab_size < 1 || args.vocab_size > Vp)
        fail(op, ": vocab_size is ", args.vocab_size, ", logits has shape ", args.logits.shape_string());
}

void check(const Sum& args) {
    require_count("accumulate_sum", "out", args.out, 1, DType::f32);
    require_type("accumulate_sum", "inp", args.inp, DType::f32);
}

void check(const Statistics& args) {
    const char* op = "statistics";
    if (!args.inp || args.inp.numel() == 0) fail(op, ": inp is missing or empty");
    require_float(op, "inp", args.inp);
    require_count(op, "out", args.out, kStatistics, DType::f32);
    if (args.minus) require(op, "minus", args.minus, args.inp.rows(), args.inp.last(), args.inp.dtype);
    if (args.first_column < 0 || args.columns < 0 || args.first_column >= args.inp.last() ||
        args.first_column + args.columns > args.inp.last())
        fail(op, ": columns ", args.first_column, " to ", args.first_column + args.columns,
             " are not columns of inp, which has shape ", args.inp.shape_string());
}

void check_global_norm(const Tensor& out, std::span<const Tensor> tensors) {
    require_count("global_norm", "out", out, 1, DType::f32);
    for (const Tensor& t : tensors) require_type("global_norm", "tensors", t, DType::f32);
}

void check_cast(const Tensor& dst, const Tensor& src) {
    require_float("cast", "src", src);
    require_float("cast", "dst", dst);
    require_count("cast", "dst", dst, src.numel(), dst.dtype);
}

void check_optimizer(const char* op, const OptimizerStep& args, bool second_moment) {
    if (args.grad_norm) require_count(op, "grad_norm", args.grad_norm, 1, DType::f32);
    for (const ParameterUpdate& p : args.parameters) {
        const int64_t n = p.param.numel();
        require_float(op, "param", p.param);
        require_count(op, "grad", p.grad, n, DType::f32);
        require_count(op, "m", p.m, n, DType::f32);
        if (second_moment) require_count(op, "v", p.v, n, DType::f32);
        if (p.master) require_count(op, "master", p.master, n, DType::f32);
        if (p.first < 0 || p.first % 4) fail(op, ": a part starts at element ", p.first, ", not at a multiple of 4");
    }
}

}  // namespace llmc
