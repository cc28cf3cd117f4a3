"""Every op of llmc/ops/ops.h against PyTorch in float64, on every built backend and in both element types.

Inputs are rounded to the element type first, so that only the op's own rounding is left: relative Frobenius error below
1e-5 in fp32, 1e-2 in bf16. Results that an op overwrites hold NaN before the call (llmc/bind/arrays.h), so an element
left out shows. Scales are never 1. The optimizers have their own file, test_optimizers.py.
"""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_tools import TOLERANCE, Data, assert_close, double, parameter

import llmc


def gelu(x, scale):
    return F.gelu(scale * x, approximate="tanh") / scale


# --- embedding ---

EMBEDDING_SHAPES = [
    (2, 5, 7, 11, 9),
    (1, 1, 1, 3, 1),
    (4, 16, 32, 64, 16),
    (3, 33, 50, 257, 40),
    (2, 64, 129, 70, 64),
    (2, 400, 40, 3, 400),  # few tokens, many of each
    (3, 700, 16, 70_000, 700),
]  # B, T, C, Vp, maxT


@pytest.mark.parametrize("B,T,C,V,maxT", EMBEDDING_SHAPES)
def test_embedding_forward(backend, dtype, B, T, C, V, maxT):
    data = Data(1, dtype)
    tokens, wte, wpe = data.integers(V, B, T), data.normal(V, C), data.normal(maxT, C)
    out = backend.embedding_forward(tokens, wte, wpe, scale=1.7, dtype=dtype)
    assert_close(out, 1.7 * (double(wte)[torch.from_numpy(tokens).long()] + double(wpe)[:T]), TOLERANCE[dtype])


@pytest.mark.parametrize("B,T,C,V,maxT", EMBEDDING_SHAPES)
def test_embedding_backward_accumulates(backend, dtype, B, T, C, V, maxT):
    data = Data(2, dtype)
    tokens, dout = data.integers(V, B, T), data.normal(B, T, C)
    dwte, dwpe = data.normal32(V, C), data.normal32(maxT, C)
    result = backend.embedding_backward(dout, tokens, dwte, dwpe, dwte_scale=0.6, dwpe_scale=-1.3, dtype=dtype)
    expected = double(dwte).index_add(0, torch.from_numpy(tokens.reshape(-1)).long(), 0.6 * double(dout).reshape(-1, C))
    assert_close(result["dwte"], expected, 1e-5)
    positions = double(dwpe).clone()
    positions[:T] += -1.3 * double(dout).sum(0)
    assert_close(result["dwpe"], positions, 1e-5)


# --- layer norm ---

LAYERNORM_SHAPES = [(1, 1), (1, 16), (7, 13), (64, 128), (33, 257), (130, 768), (5, 1600), (9, 2000), (3, 4104)]  # N, C


def layernorm_reference(inp, weight, bias, weight_scale, bias_scale):
    return F.layer_norm(inp, inp.shape[-1:], weight_scale * weight, bias_scale * bias, 1e-5)


@pytest.mark.parametrize("N,C", LAYERNORM_SHAPES)
def test_layernorm_forward(backend, dtype, N, C):
    data = Data(3, dtype)
    inp, weight, bias = data.normal(N, C) + 1, data.normal(C), data.normal(C)
    inp = double(inp).to(torch.bfloat16 if dtype == "bf16" else torch.float32).float().numpy()
    result = backend.layernorm_forward(inp, weight, bias, weight_scale=0.7, bias_scale=1.3, dtype=dtype)
    assert_close(
        result["out"], layernorm_reference(double(inp), double(weight), double(bias), 0.7, 1.3), TOLERANCE[dtype]
    )
    assert_close(result["mean"], double(inp).mean(-1), 1e-5)
    assert_close(result["rstd"], 1 / torch.sqrt(double(inp).var(-1, unbiased=False) + 1e-5), 1e-5)


@pytest.mark.parametrize("skip", ["none", "separate", "in place"])
@pytest.mark.parametrize("N,C", LAYERNORM_SHAPES[1:])
def test_layernorm_backward(backend, dtype, N, C, skip):
    data = Data(4, dtype)
    inp, weight, dout, dskip = data.normal(N, C), data.normal(C), data.normal(N, C), data.normal(N, C)
    dweight, dbias = data.normal32(C), data.normal32(C)
    x, w, b = double(inp, True), double(weight, True), torch.zeros(C, dtype=torch.float64, requires_grad=True)
    # The scales of the backward pass stand alone: the forward's weight_scale enters dinp, but not dweight.
    layernorm_reference(x, w, b, 0.7, 1.0).backward(double(dout))
    mean, variance = double(inp).mean(-1), double(inp).var(-1, unbiased=False)
    result = backend.layernorm_backward(
        dout,
        inp,
        weight,
        mean.numpy(),
        (1 / torch.sqrt(variance + 1e-5)).numpy(),
        dskip=None if skip == "none" else dskip,
        dinp_is_dskip=skip == "in place",
        dweight=dweight,
        dbias=dbias,
        weight_scale=0.7,
        skip_scale=0.9,
        dinp_scale=1.2,
        dweight_scale=0.4,
        dbias_scale=1.9,
        dtype=dtype,
    )
    assert_close(result["dinp"], 1.2 * x.grad + (0 if skip == "none" else 0.9 * double(dskip)), TOLERANCE[dtype])
    assert_close(result["dweight"], double(dweight) + 0.4 * w.grad / 0.7, 1e-5)
    assert_close(result["dbias"], double(dbias) + 1.9 * b.grad, 1e-5)


# --- matmul ---

MATMUL_SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (64, 32, 48),
    (17, 33, 65),
    (130, 257, 96),
    (600, 40, 24),
    (1030, 72, 19),
    (270, 520, 200),
]  # N, OC, C


@pytest.mark.parametrize("extra", ["nothing", "bias", "residual", "unscaled residual", "gelu", "gelu without bias"])
@pytest.mark.parametrize("N,OC,C", MATMUL_SHAPES)
def test_matmul_forward(backend, dtype, N, OC, C, extra):
    data = Data(5, dtype)
    inp, weight, bias, residual = (
        data.normal(N, C),
        data.normal(OC, C, scale=C**-0.5),
        data.normal(OC),
        data.normal(N, OC),
    )
    skip_scale = 1.0 if extra.startswith("unscaled") else 0.8
    with_bias, with_gelu, with_residual = (
        extra not in ("nothing", "gelu without bias"),
        extra.startswith("gelu"),
        extra.endswith("residual"),
    )
    result = backend.matmul_forward(
        inp,
        weight,
        bias if with_bias else None,
        with_gelu=with_gelu,
        residual=residual if with_residual else None,
        scale=1.3,
        bias_scale=0.7,
        skip_scale=skip_scale,
        gelu_scale=1.6,
        dtype=dtype,
    )
    linear = 1.3 * double(inp) @ double(weight).T + (0.7 * double(bias) if with_bias else 0)
    if with_gelu:
        assert_close(result["pre_gelu"], linear, TOLERANCE[dtype])
        linear = gelu(linear, 1.6)
    assert_close(result["out"], linear + (skip_scale * double(residual) if with_residual else 0), TOLERANCE[dtype])


def test_matmul_forward_unscaled(backend, dtype):
    data = Data(6, dtype)
    inp, weight, bias, residual = (
        data.normal(37, 24),
        data.normal(40, 24, scale=0.2),
        data.normal(40),
        data.normal(37, 40),
    )
    result = backend.matmul_forward(inp, weight, bias, residual=residual, dtype=dtype)
    assert_close(result["out"], double(inp) @ double(weight).T + double(bias) + double(residual), TOLERANCE[dtype])
    result = backend.matmul_forward(inp, weight, bias, scale=0.0, bias_scale=0.5, dtype=dtype)  # a scale may be 0
    assert_close(result["out"], 0.5 * double(bias).expand(37, 40), TOLERANCE[dtype])


@pytest.mark.parametrize("with_gelu", [False, True])
@pytest.mark.parametrize("N,OC,C", MATMUL_SHAPES)
def test_matmul_backward(backend, dtype, N, OC, C, with_gelu):
    data = Data(7, dtype)
    dout, inp, weight, pre_gelu = (
        data.normal(N, OC),
        data.normal(N, C),
        data.normal(OC, C, scale=OC**-0.5),
        data.normal(N, C),
    )
    dweight, dbias = data.normal32(OC, C), data.normal32(OC)
    result = backend.matmul_backward(
        dout,
        inp=inp,
        weight=weight,
        pre_gelu=pre_gelu if with_gelu else None,
        dweight=dweight,
        dbias=dbias,
        dinp_scale=1.4,
        dweight_scale=0.6,
        dbias_scale=2.5,
        gelu_scale=1.6,
        dtype=dtype,
    )
    dinp = 1.4 * double(dout) @ double(weight)
    if with_gelu:
        x = double(pre_gelu, True)
        gelu(x, 1.6).backward(dinp)
        dinp = x.grad
    assert_close(result["dinp"], dinp, TOLERANCE[dtype])
    assert_close(result["dweight"], double(dweight) + 0.6 * double(dout).T @ double(inp), 1e-5)
    assert_close(result["dbias"], double(dbias) + 2.5 * double(dout).sum(0), 1e-5)
    whatever, zeros = np.full((OC, C), np.nan, np.float32), np.zeros((OC, C), np.float32)
    fresh, added = (
        backend.matmul_backward(dout, inp=inp, dweight=held, overwrite_dweight=overwrite, dtype=dtype)["dweight"]
        for held, overwrite in ((whatever, True), (zeros, False))
    )
    np.testing.assert_array_equal(fresh, added)


def test_overwritten_gradient_of_no_rows_is_zero(backend, dtype):
    dout, inp = np.zeros((0, 12), np.float32), np.zeros((0, 9), np.float32)
    whatever = np.full((12, 9), np.nan, np.float32)
    result = backend.matmul_backward(dout, inp=inp, dweight=whatever, overwrite_dweight=True, dtype=dtype)
    assert (result["dweight"] == 0).all()


@pytest.mark.parametrize("part", ["dinp", "dweight", "dbias"])
def test_matmul_backward_parts(backend, dtype, part):
    data = Data(8, dtype)
    dout, inp, weight = data.normal(20, 12), data.normal(20, 9), data.normal(12, 9)
    arguments = {
        "dinp": {"weight": weight},
        "dweight": {"inp": inp, "dweight": np.zeros((12, 9), np.float32)},
        "dbias": {"dbias": np.zeros(12, np.float32)},
    }[part]
    result = backend.matmul_backward(dout, **arguments, dtype=dtype)
    expected = {
        "dinp": double(dout) @ double(weight),
        "dweight": double(dout).T @ double(inp),
        "dbias": double(dout).sum(0),
    }
    assert list(result) == [part]
    assert_close(result[part], expected[part], TOLERANCE[dtype] if part == "dinp" else 1e-5)


# --- attention ---

ATTENTION_SHAPES = [
    (1, 1, 1, 4),
    (2, 1, 3, 8),
    (1, 7, 2, 5),
    (2, 33, 3, 16),
    (1, 64, 2, 32),
    (2, 100, 1, 64),
    (1, 300, 2, 19),
    (1, 545, 1, 40),
    (1, 40, 1, 128),
    (1, 200, 2, 72),
    (2, 150, 1, 128),
]


def attention_reference(qkv, H, logit_scale, out_scale):
    B, T, C = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    q, k, v = (x.reshape(B, T, H, C // H).transpose(1, 2) for x in qkv.split(C, dim=2))
    scores = (logit_scale * q @ k.transpose(2, 3)).masked_fill(torch.ones(T, T, dtype=torch.bool).triu(1), -torch.inf)
    out = out_scale * torch.softmax(scores, -1) @ v
    return out.transpose(1, 2).reshape(B, T, C), torch.logsumexp(scores, -1)


@pytest.mark.parametrize("B,T,H,D", ATTENTION_SHAPES)
def test_attention(backend, dtype, B, T, H, D):
    data = Data(9, dtype)
    qkv, dout = data.normal(B, T, 3 * H * D), data.normal(B, T, H * D)
    scales = {"logit_scale": 1.5 / math.sqrt(D), "out_scale": 0.7}
    forward = backend.attention_forward(qkv, num_heads=H, **scales, dtype=dtype)
    x = double(qkv, True)
    out, lse = attention_reference(x, H, **scales)
    assert_close(forward["out"], out, TOLERANCE[dtype])
    assert_close(forward["lse"], lse, TOLERANCE[dtype])
    out.backward(double(dout))
    # The forward pass's own outputs, as in training; rounding them to bf16 is part of the error allowed.
    dqkv = backend.attention_backward(dout, forward["out"], forward["lse"], qkv, **scales, dtype=dtype)
    for i, name in enumerate("qkv"):
        part = slice(i * H * D, (i + 1) * H * D)
        if T == 1 and name != "v":  # a softmax over one key has no gradient
            assert np.abs(dqkv[:, :, part]).max() < 10 * TOLERANCE[dtype]
        else:
            assert_close(dqkv[:, :, part], x.grad[:, :, part], 2 * TOLERANCE[dtype])


@pytest.mark.parametrize("B,T,H,D", [*ATTENTION_SHAPES[1:7], (1, 9, 1, 150)])
def test_attention_logits(backend, dtype, B, T, H, D):
    data = Data(11, dtype)
    qkv = data.normal(B, T, 3 * H * D)
    q, k, _ = (x.reshape(B, T, H, D).transpose(1, 2) for x in double(qkv).split(H * D, dim=2))
    i, j = np.tril_indices(T)
    expected = (0.3 * q @ k.transpose(2, 3))[:, :, i, j]
    assert_close(backend.attention_logits(qkv, num_heads=H, logit_scale=0.3, dtype=dtype), expected, 1e-5)


def test_attention_heads_too_large_for_the_gpu_kernels(backend, dtype):
    qkv = np.zeros((1, 2, 3 * 136), np.float32)
    if backend.backend() == "cpu":
        assert backend.attention_forward(qkv, num_heads=1, logit_scale=1.0, dtype=dtype)["out"].shape == (1, 2, 136)
    else:
        with pytest.raises(RuntimeError, match="heads of 136 channels, the GPU kernels have up to 128"):
            backend.attention_forward(qkv, num_heads=1, logit_scale=1.0, dtype=dtype)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 99])
def test_attention_of_the_last_queries(backend, dtype, first):
    """A new token against cached keys and values: the same bits as in the whole pass."""
    qkv = Data(12, dtype).normal(2, 100, 3 * 2 * 24)
    whole, part = (
        backend.attention_forward(qkv, num_heads=2, logit_scale=0.2, first_query=f, dtype=dtype) for f in (0, first)
    )
    assert (part["out"][:, first:] == whole["out"][:, first:]).all()
    assert (part["lse"][:, :, first:] == whole["lse"][:, :, first:]).all()
    with pytest.raises(RuntimeError, match="first_query 101 is outside of the 100 rows"):
        backend.attention_forward(qkv, num_heads=2, logit_scale=0.2, first_query=101, dtype=dtype)


def test_attention_is_causal(backend, dtype):
    """The future changes nothing: same bits before position 40, whatever stands from there on."""
    data = Data(10, dtype)
    qkv = data.normal(1, 70, 3 * 32)
    other = qkv.copy()
    other[:, 40:] = data.normal(1, 30, 3 * 32)
    out = [backend.attention_forward(x, num_heads=2, logit_scale=0.25, dtype=dtype)["out"] for x in (qkv, other)]
    assert (out[0][:, :40] == out[1][:, :40]).all()
    assert (out[0][:, 40:] != out[1][:, 40:]).any()


def test_attention_large_logits(backend, dtype):
    """Scores of some hundreds: the softmax must subtract its maximum, also where a later block of keys holds it."""
    data = Data(11, dtype)
    qkv = data.normal(1, 520, 3 * 16, scale=4.0)
    forward = backend.attention_forward(qkv, num_heads=1, logit_scale=2.0, dtype=dtype)
    out, lse = attention_reference(double(qkv), 1, 2.0, 1.0)
    # A score of s carries an error of s * 2^-24 before the exponential.
    assert_close(forward["out"], out, 10 * TOLERANCE[dtype])
    assert_close(forward["lse"], lse, TOLERANCE[dtype])


# --- gelu, classifier ---


@pytest.mark.parametrize("N,C", [(1, 1), (3, 7), (33, 65), (100, 512)])
def test_gelu(backend, dtype, N, C):
    data = Data(12, dtype)
    inp, dout = data.normal(N, C, scale=3.0), data.normal(N, C)
    x = double(inp, True)
    expected = gelu(x, 1.7)
    expected.backward(double(dout))
    assert_close(backend.gelu_forward(inp, gelu_scale=1.7, dtype=dtype), expected, TOLERANCE[dtype])
    for in_place in (False, True):
        assert_close(
            backend.gelu_backward(dout, inp, dinp_is_dout=in_place, gelu_scale=1.7, dtype=dtype),
            x.grad,
            TOLERANCE[dtype],
        )


def test_gelu_tails(backend):
    """Far from 0, where exp overflows or everything cancels, every element has to be right by itself."""
    inp = np.array([[-1e4, -100, -20, -9, -6, -5, -1e-3, -0.0, 0.0, 1e-30, 1e-3, 5, 9, 20, 100, 1e4]], np.float32)
    x = double(inp, True)
    F.gelu(x, approximate="tanh").sum().backward()
    np.testing.assert_allclose(backend.gelu_forward(inp), F.gelu(double(inp), approximate="tanh"), rtol=2e-6, atol=1e-8)
    np.testing.assert_allclose(backend.gelu_backward(np.ones_like(inp), inp), x.grad, rtol=2e-6, atol=1e-7)
    assert np.isnan(backend.gelu_forward(np.array([[np.nan]], np.float32))).all()


@pytest.mark.parametrize(
    "N,V,Vp", [(1, 1, 1), (5, 11, 16), (33, 257, 320), (7, 1000, 1000), (3, 50257, 50304), (2, 60_001, 60_032)]
)
def test_classifier(backend, dtype, N, V, Vp):
    data = Data(13, dtype)
    logits, targets = data.normal(N, Vp, scale=2.0), data.integers(V, N)
    logits[:, V:] = 1e4  # must take no part
    x = double(logits, True)
    losses = F.cross_entropy(1.4 * x[:, :V], torch.from_numpy(targets).long(), reduction="none")
    (0.3 * losses.sum()).backward()
    evaluated = backend.classifier(logits, targets, vocab_size=V, logit_scale=1.4, dtype=dtype)
    trained = backend.classifier(logits, targets, vocab_size=V, logit_scale=1.4, dloss=0.3, dtype=dtype)
    if V == 1:  # one class: no loss and no gradient
        assert np.abs(trained["losses"]).max() < 1e-6 and np.abs(trained["logits"]).max() < 1e-6
        return
    assert_close(trained["losses"], losses, 1e-5)
    assert_close(trained["logits"], x.grad, TOLERANCE[dtype])
    assert (trained["logits"][:, V:] == 0).all()
    np.testing.assert_array_equal(evaluated["losses"], trained["losses"])
    np.testing.assert_array_equal(
        evaluated["logits"], double(logits).to(torch.bfloat16 if dtype == "bf16" else torch.float32).float()
    )


def test_nan_is_not_lost(backend, dtype):
    """A diverged run is recognised by its NaN: no op may replace it by a number."""
    logits, targets = np.zeros((2, 40), np.float32), np.array([3, 4], np.int32)
    logits[0, 7] = np.nan
    logits[1, 7] = np.inf
    result = backend.classifier(logits, targets, vocab_size=40, dloss=1.0, dtype=dtype)
    assert not np.isfinite(result["losses"]).any()
    qkv = np.zeros((1, 5, 24), np.float32)
    qkv[0, 2, 9] = np.nan  # a key
    out = backend.attention_forward(qkv, num_heads=1, logit_scale=1.0, dtype=dtype)["out"]
    assert np.isfinite(out[0, :2]).all() and np.isnan(out[0, 2:]).all()
    assert np.isnan(
        backend.layernorm_forward(
            np.full((1, 4), np.nan, np.float32), np.ones(4, np.float32), np.ones(4, np.float32), dtype=dtype
        )["out"]
    ).all()
    assert np.isnan(backend.global_norm([np.array([1, np.nan], np.float32)])).all()


# --- reductions, cast ---


@pytest.mark.parametrize("n", [1, 3, 1000, 100_003])
def test_accumulate_sum(backend, n):
    inp = Data(14, "fp32").normal(n)
    result = backend.accumulate_sum(inp, out=2.5, scale=0.1)
    assert abs(result[0] - (2.5 + 0.1 * double(inp).sum())) < 1e-5 * max(1, abs(0.1 * double(inp).sum()))


def test_global_norm(backend):
    data = Data(15, "fp32")
    tensors = [data.normal(*shape) for shape in [(1,), (3, 5), (257, 129), (16384,), (16385,), (7,)]]
    expected = math.sqrt(sum(float((double(t) ** 2).sum()) for t in tensors))
    assert_close(backend.global_norm(tensors), np.array([expected]), 1e-6)


@pytest.mark.parametrize(
    "N,C,first,columns", [(1, 1, 0, 0), (7, 13, 0, 0), (300, 128, 0, 0), (33, 192, 64, 64), (5, 40, 3, 30)]
)
@pytest.mark.parametrize("with_minus", [False, True])
def test_statistics(backend, dtype, N, C, first, columns, with_minus):
    data = Data(23, dtype)
    inp, minus = data.normal(N, C) + 0.5, data.normal(N, C)
    inp = double(inp).to(torch.bfloat16 if dtype == "bf16" else torch.float32).float().numpy()
    result = backend.statistics(
        inp, minus=minus if with_minus else None, first_column=first, columns=columns, dtype=dtype
    )
    x = (double(inp) - (double(minus) if with_minus else 0))[:, first : first + columns if columns else C]
    expected = torch.stack([x.abs().mean(), x.mean(), (x * x).mean().sqrt(), x.abs().max()])  # float64
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-6)


def test_statistics_show_a_nan(backend):
    inp = np.ones((40, 64), np.float32)
    inp[33, 50] = np.nan
    assert np.isnan(backend.statistics(inp)).all()
    assert np.isfinite(backend.statistics(inp, columns=50)).all()


CAST_EDGES = np.array(
    [
        0.0,
        -0.0,
        1.0,
        1 + 2**-8,
        1 + 3 * 2**-8,
        1 + 2**-8 + 2**-20,
        -1 - 2**-8,
        np.inf,
        -np.inf,
        3.4e38,
        -3.4e38,
        1e-40,
        2**-133,
        1e-45,
    ],
    np.float32,
)


def test_cast_edges(backend):
    """Ties to even, both infinities, overflow to infinity, denormals: bit for bit what PyTorch does."""
    actual = backend.cast(CAST_EDGES, src_dtype="fp32", dst_dtype="bf16")
    expected = torch.from_numpy(CAST_EDGES).bfloat16().float().numpy()
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
    # NaNs stay NaN, also where the mantissa lies in the half that is cut off, or would carry into the sign.
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(backend.cast(nans, src_dtype="fp32", dst_dtype="bf16")).all()


@pytest.mark.parametrize("n", [1, 17, 40_001])
def test_cast(backend, n):
    x = Data(16, "fp32").normal(n)
    rounded = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(backend.cast(x, src_dtype="fp32", dst_dtype="bf16"), rounded)
    np.testing.assert_array_equal(backend.cast(rounded, src_dtype="bf16", dst_dtype="fp32"), rounded)
    np.testing.assert_array_equal(backend.cast(x, src_dtype="fp32", dst_dtype="fp32"), x)


# --- determinism, bad arguments ---


def results_of_all_ops(backend, dtype):
    data = Data(22, dtype)
    N, C, OC, B, T, H, V = 606, 72, 136, 3, 202, 3, 300
    tokens, inp, dout, weight = data.integers(V, B, T), data.normal(N, C), data.normal(N, OC), data.normal(OC, C)
    gain, bias, qkv = data.normal(C), data.normal(OC), data.normal(B, T, 3 * C)
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    kw = {"dtype": dtype}
    norm = backend.layernorm_forward(inp, gain, gain, **kw)
    forward = backend.attention_forward(qkv, num_heads=H, logit_scale=0.2, **kw)
    yield backend.embedding_backward(inp.reshape(B, T, C), tokens, zeros(V, C), zeros(T, C), **kw)
    yield norm
    yield backend.layernorm_backward(inp, inp, gain, norm["mean"], norm["rstd"], **kw)
    yield backend.matmul_forward(inp, weight, bias, with_gelu=True, **kw)
    yield backend.matmul_backward(
        dout, inp=inp, weight=weight, pre_gelu=inp, dweight=zeros(OC, C), dbias=zeros(OC), **kw
    )
    yield forward
    yield {
        "dqkv": backend.attention_backward(
            inp.reshape(B, T, C), forward["out"], forward["lse"], qkv, logit_scale=0.2, **kw
        )
    }
    yield {"logits": backend.attention_logits(qkv, num_heads=H, logit_scale=0.2, **kw)}
    yield backend.classifier(data.normal(N, V + 3), tokens.reshape(-1), vocab_size=V, dloss=0.1, **kw)
    yield {"norm": backend.global_norm([inp, dout]), "sum": backend.accumulate_sum(dout)}
    yield {"statistics": backend.statistics(inp, minus=dout[:, :C], **kw)}
    yield backend.adamw_step(
        [parameter(data, dtype, 333, 77, lr=0.1)], step=2, beta1=0.9, beta2=0.99, stochastic_rounding=True, **kw
    )[0]


def test_same_bits_twice(backend, dtype):
    for first, second in zip(*(results_of_all_ops(backend, dtype) for _ in range(2)), strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name].view(np.uint32), second[name].view(np.uint32), err_msg=name)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_bits_under_any_schedule(dtype, seed):
    """CUDA's threads run in any order between barriers: here in many, on one host thread and on several."""
    if "emulated" not in llmc.backends():
        pytest.skip("the emulated backend is not built: run make module-emu")
    emulated = llmc.backend("emulated")
    expected = list(results_of_all_ops(emulated, dtype))
    try:
        emulated.schedule(shuffle=True, seed=seed, workers=seed)
        for first, second in zip(expected, results_of_all_ops(emulated, dtype), strict=True):
            for name in first:
                np.testing.assert_array_equal(first[name].view(np.uint32), second[name].view(np.uint32), err_msg=name)
    finally:
        emulated.schedule()


def calls_with_wrong_shapes(backend):
    f = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    i = lambda *shape: np.zeros(shape, np.int32)  # noqa: E731
    yield "wpe", lambda: backend.embedding_forward(i(2, 5), f(7, 4), f(4, 4))
    yield "wpe", lambda: backend.embedding_forward(i(2, 5), f(7, 4), f(5, 3))
    yield "dwte", lambda: backend.embedding_backward(f(2, 5, 4), i(2, 5), f(7, 3), f(5, 4))
    yield "weight", lambda: backend.layernorm_forward(f(3, 4), f(5), f(4))
    yield "dout", lambda: backend.layernorm_backward(f(3, 5), f(3, 4), f(4), f(3), f(3))
    yield "weight", lambda: backend.matmul_forward(f(3, 4), f(2, 5))
    yield "bias", lambda: backend.matmul_forward(f(3, 4), f(2, 4), f(3))
    yield "residual", lambda: backend.matmul_forward(f(3, 4), f(2, 4), with_gelu=True, residual=f(3, 2))
    yield "dweight", lambda: backend.matmul_backward(f(3, 4), inp=f(3, 2), dweight=f(2, 4))
    yield "inp", lambda: backend.matmul_backward(f(3, 4), weight=f(4, 2), dweight=f(4, 2))
    yield "heads", lambda: backend.attention_forward(f(2, 3, 12), num_heads=3, logit_scale=1.0)
    yield "lse", lambda: backend.attention_backward(f(2, 3, 4), f(2, 3, 4), f(2, 2, 4), f(2, 3, 12), logit_scale=1.0)
    yield "dout", lambda: backend.attention_backward(f(2, 3, 5), f(2, 3, 4), f(2, 2, 3), f(2, 3, 12), logit_scale=1.0)
    yield "dout", lambda: backend.gelu_backward(f(3, 5), f(3, 4))
    yield "vocab_size", lambda: backend.classifier(f(3, 5), i(3), vocab_size=6)
    yield "targets", lambda: backend.classifier(f(3, 5), i(4), vocab_size=5)
    yield "columns", lambda: backend.statistics(f(3, 5), first_column=3, columns=3)
    yield "minus", lambda: backend.statistics(f(3, 5), minus=f(3, 4))
    yield "grad", lambda: backend.sgd_step([{"param": f(3), "grad": f(4), "m": f(3)}], step=1, momentum=0.9)
    yield "v", lambda: backend.adamw_step([{"param": f(3), "grad": f(3), "m": f(3)}], step=1, beta1=0.9, beta2=0.9)
    yield "dtype", lambda: backend.gelu_forward(f(3, 4), dtype="fp16")


def test_wrong_shapes_are_named(backend):
    for name, call in calls_with_wrong_shapes(backend):
        with pytest.raises(RuntimeError, match=name):
            call()


def test_indices_outside_are_refused(backend):
    """On the CPU an index outside the table is an error; a GPU kernel cannot afford to look, its data loader has to."""
    if backend.backend() != "cpu":
        pytest.skip("checked on the CPU only")
    ones = np.ones((5, 4), np.float32)
    for bad in (-1, 5):
        with pytest.raises(RuntimeError, match=rf"tokens\[1\] is {bad}"):
            backend.embedding_forward(np.array([[0, bad]], np.int32), ones, ones)
        with pytest.raises(RuntimeError, match=rf"targets\[0\] is {bad}"):
            backend.classifier(ones, np.array([bad, 0, 0, 0, 0], np.int32), vocab_size=4)


def test_device(backend):
    assert backend.backend() in backend.name() or backend.backend() != "cpu"
    assert backend.threads() >= 1
    assert backend.memory_total() > 2**28
