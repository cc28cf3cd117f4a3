"""Sums, norms, statistics and casts against PyTorch in float64. How ops are tested: op_tools.py."""

import math

import numpy as np
import pytest
import torch
from op_tools import Data, assert_close, double


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
    """Ties to even, both infinities, overflow to infinity, denormals: bit for bit as in PyTorch."""
    actual = backend.cast(CAST_EDGES, src_dtype="fp32", dst_dtype="bf16")
    expected = torch.from_numpy(CAST_EDGES).bfloat16().float().numpy()
    np.testing.assert_array_equal(actual.view(np.uint32), expected.view(np.uint32))
    # NaNs stay NaN, also if the mantissa is in the half that is cut off, or would carry into the sign.
    nans = np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFF800001, 0x7FC00000], np.uint32).view(np.float32)
    assert np.isnan(backend.cast(nans, src_dtype="fp32", dst_dtype="bf16")).all()


@pytest.mark.parametrize("n", [1, 17, 40_001])
def test_cast(backend, n):
    x = Data(16, "fp32").normal(n)
    rounded = torch.from_numpy(x).bfloat16().float().numpy()
    np.testing.assert_array_equal(backend.cast(x, src_dtype="fp32", dst_dtype="bf16"), rounded)
    np.testing.assert_array_equal(backend.cast(rounded, src_dtype="bf16", dst_dtype="fp32"), rounded)
    np.testing.assert_array_equal(backend.cast(x, src_dtype="fp32", dst_dtype="fp32"), x)
