"""Embeddings against PyTorch in float64. How ops are tested: op_tools.py."""

import pytest
import torch
from op_tools import TOLERANCE, Data, assert_close, double

EMBEDDING_SHAPES = [
    (2, 5, 7, 11, 9),
    (1, 1, 1, 3, 1),
    (4, 16, 32, 64, 16),
    (3, 33, 50, 257, 40),
    (2, 64, 129, 70, 64),
    (2, 400, 40, 3, 400),  # few tokens, many of each
    (2, 1500, 16, 1, 1500),  # one token: a run over all pieces
    (3, 700, 16, 70_000, 700),
    (5, 1000, 8, 300, 1000),  # several blocks of the sort
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
