"""Layer norm against PyTorch in float64. How ops are tested: op_tools.py."""

import pytest
import torch
import torch.nn.functional as F
from op_tools import TOLERANCE, Data, assert_close, double

LAYERNORM_SHAPES = [
    (1, 1),
    (1, 16),
    (7, 13),
    (64, 128),
    (33, 257),
    (130, 768),
    (5, 1600),
    (6, 2048),
    (9, 2056),
    (3, 4096),
    (5, 4097),
    (3, 5120),
    (2, 8200),
    (2, 16_384),
    (3, 16_392),
]  # N, C: rows of one warp to rows that are read again, aligned and not


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
    # The backward pass has separate scales: the forward pass's weight_scale is used for dinp, but not for dweight.
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
