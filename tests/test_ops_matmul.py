"""The linear layer against PyTorch in float64. How ops are tested: op_tools.py."""

import numpy as np
import pytest
from op_tools import TOLERANCE, Data, assert_close, double, gelu

import llmc

MATMUL_SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (64, 32, 48),
    (17, 33, 65),
    (130, 257, 96),
    (600, 40, 24),
    (1030, 72, 19),
    (270, 520, 200),
    (380, 200, 120),
    (377, 203, 121),
    (200, 760, 40),
    (201, 763, 41),
    (300, 200, 200),
    (299, 201, 199),
    (380, 40, 760),
    (377, 41, 763),
    (40, 60, 500),
    (41, 61, 499),
]  # N, OC, C; with the emulator's three multiprocessors, every epilogue on every size of tile (test_work.py)


# The instructions of products in bf16 on a GPU; everything else has one kernel.
CHOICES = [(name, dtype, kernel) for name in llmc.backends() for dtype in ("fp32", "bf16")
           for kernel in (("mma", "wgmma") if dtype == "bf16" and name != "cpu" else ("auto",))]  # fmt: skip


@pytest.fixture(params=CHOICES, ids="-".join, autouse=True)
def choice(request):
    name, _, kernel = request.param
    try:
        llmc.backend(name).choose_matmul_kernel(kernel)
    except llmc.errors.UsageError as error:
        pytest.skip(str(error))
    yield request.param
    llmc.backend(name).choose_matmul_kernel("auto")


@pytest.fixture
def backend(choice):
    return llmc.backend(choice[0])


@pytest.fixture
def dtype(choice):
    return choice[1]


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
