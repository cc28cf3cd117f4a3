"""GELU by itself against PyTorch in float64. How ops are tested: op_tools.py."""

import numpy as np
import pytest
import torch.nn.functional as F
from op_tools import TOLERANCE, Data, assert_close, double, gelu


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
    """Far from 0, where exp overflows or terms cancel, every single element must be correct."""
    inp = np.array([[-1e4, -100, -20, -9, -6, -5, -1e-3, -0.0, 0.0, 1e-30, 1e-3, 5, 9, 20, 100, 1e4]], np.float32)
    x = double(inp, True)
    F.gelu(x, approximate="tanh").sum().backward()
    np.testing.assert_allclose(backend.gelu_forward(inp), F.gelu(double(inp), approximate="tanh"), rtol=2e-6, atol=1e-8)
    np.testing.assert_allclose(backend.gelu_backward(np.ones_like(inp), inp), x.grad, rtol=2e-6, atol=1e-7)
    assert np.isnan(backend.gelu_forward(np.array([[np.nan]], np.float32))).all()
