"""Attention against PyTorch in float64. How ops are tested: op_tools.py."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from op_tools import TOLERANCE, Data, assert_close, double
from program import ROOT

import llmc

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
    (1, 129, 1, 1),
    (1, 257, 1, 33),
    (1, 321, 1, 64),
    (1, 385, 1, 127),
]
# Of the kernel on wgmma: less than a tile of 64, odd lengths of up to several rounds of its ring, one warpgroup at the
# end of a sequence and two.
WGMMA_SHAPES = [(3, 5, 2, 64), (1, 1, 1, 64), (2, 65, 3, 64), (1, 449, 2, 64), (2, 577, 1, 64), (3, 63, 1, 128),
                (2, 193, 2, 128), (1, 520, 1, 128)]  # fmt: skip


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
    # The outputs of the forward pass, as in training; their rounding to bf16 is part of the allowed error.
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


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_attention_with_a_scale_that_is_not_positive(backend, dtype, scale):
    """The softmax looks for the largest score before it is scaled."""
    data = Data(14, dtype)
    qkv, dout = data.normal(1, 150, 3 * 2 * 24), data.normal(1, 150, 2 * 24)
    forward = backend.attention_forward(qkv, num_heads=2, logit_scale=scale, out_scale=0.7, dtype=dtype)
    x = double(qkv, True)
    out, lse = attention_reference(x, 2, scale, 0.7)
    assert_close(forward["out"], out, TOLERANCE[dtype])
    assert_close(forward["lse"], lse, TOLERANCE[dtype])
    out.backward(double(dout))
    saved = forward["out"], forward["lse"]
    dqkv = backend.attention_backward(dout, *saved, qkv, logit_scale=scale, out_scale=0.7, dtype=dtype)
    assert_close(dqkv, x.grad, 2 * TOLERANCE[dtype])


BACKWARD = """
import sys
sys.path[:0] = ["python", "tests"]
import llmc, numpy as np
from op_tools import Data
emulated, results = llmc.backend("emulated"), []
for B, T, H, D in ((2, 300, 8, 16), (1, 200, 1, 64), (1, 330, 2, 128)):
    data = Data(13, "bf16")
    qkv, dout = data.normal(B, T, 3 * H * D), data.normal(B, T, H * D)
    settings = {"logit_scale": 0.2, "dtype": "bf16"}
    # Not the emulated one's: its kernel, and with that the last bit, depends on the GPU.
    forward = llmc.backend("cpu").attention_forward(qkv, num_heads=H, **settings)
    results.append(emulated.attention_backward(dout, forward["out"], forward["lse"], qkv, **settings))
sys.stdout.buffer.write(np.concatenate([r.ravel() for r in results]).tobytes())
"""


@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
def test_gradients_are_the_same_bits_on_every_gpu():
    """dq is added up by blocks that run at the same time, in memory that later heads use again, with tiles that depend
    on the shared memory that a block can have."""
    results = []
    for emulator in (
        "workers=1",
        "workers=4 shuffle=1 seed=1",
        "workers=3 shuffle=1 seed=2 multiprocessors=1",
        "workers=2 shuffle=1 seed=3 capability=80 multiprocessors=108",
        "workers=4 shuffle=1 seed=4 capability=86",
    ):
        environment = dict(os.environ, LLMC_EMULATOR=emulator)
        done = subprocess.run([sys.executable, "-c", BACKWARD], cwd=ROOT, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        results.append(np.frombuffer(done.stdout, np.float32))
    assert results[0].size == 3 * (2 * 300 * 8 * 16 + 200 * 64 + 330 * 2 * 128) and np.isfinite(results[0]).all()
    for other in results[1:]:
        np.testing.assert_array_equal(results[0].view(np.uint32), other.view(np.uint32))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("T,D", [(70, 64), (70, 128), (33, 24)])
def test_a_broken_sequence_does_not_touch_others(backend, dtype, T, D, bad):
    """Tiles end after a sequence: what follows may be NaN."""
    data = Data(18, dtype)
    qkv, dout = data.normal(3, T, 3 * 2 * D), data.normal(3, T, 2 * D)
    settings = {"logit_scale": 0.2, "dtype": dtype}
    results = []
    for broken in (False, True):
        if broken:
            qkv[1] = dout[1] = bad
        out, lse = (backend.attention_forward(qkv, num_heads=2, **settings)[name] for name in ("out", "lse"))
        dqkv = backend.attention_backward(dout, out, lse, qkv, **settings)
        results.append([x[[0, 2]] for x in (out, lse, dqkv)])
    for whole, beside in zip(*results, strict=True):
        np.testing.assert_array_equal(whole, beside)


@pytest.mark.parametrize("kernel", ["auto", "mma"])
@pytest.mark.parametrize("scale", [0.3, -0.2, 0.0])
@pytest.mark.parametrize("B,T,H,D", WGMMA_SHAPES)
def test_attention_on_wgmma(B, T, H, D, scale, kernel):
    """And the same on mma.sync, which other GPUs have for these heads, and of the last queries."""
    if "emulated" not in llmc.backends():
        pytest.skip("not built: run make module-emu")
    emulated = llmc.backend("emulated")
    data = Data(15, "bf16")
    qkv, dout = data.normal(B, T, 3 * H * D), data.normal(B, T, H * D)
    emulated.choose_matmul_kernel(kernel)
    try:
        forward, last = (
            emulated.attention_forward(
                qkv, num_heads=H, logit_scale=scale, out_scale=0.7, first_query=first, dtype="bf16"
            )
            for first in (0, T // 2)
        )
        saved = forward["out"], forward["lse"]
        dqkv = emulated.attention_backward(dout, *saved, qkv, logit_scale=scale, out_scale=0.7, dtype="bf16")
    finally:
        emulated.choose_matmul_kernel("auto")
    x = double(qkv, True)
    out, lse = attention_reference(x, H, scale, 0.7)
    out.backward(double(dout))
    for i, name in enumerate("qkv"):
        part, tolerance = slice(i * H * D, (i + 1) * H * D), 2 * TOLERANCE["bf16"]
        if name != "v" and (T == 1 or scale == 0):  # no gradient
            assert np.abs(dqkv[:, :, part]).max() < 5 * tolerance
        else:
            assert_close(dqkv[:, :, part], x.grad[:, :, part], tolerance)
    assert_close(forward["out"], out, TOLERANCE["bf16"])
    assert_close(forward["lse"], lse, TOLERANCE["bf16"])
    assert (last["out"][:, T // 2 :] == forward["out"][:, T // 2 :]).all()
    assert (last["lse"][:, :, T // 2 :] == forward["lse"][:, :, T // 2 :]).all()


WGMMA = """
import sys
sys.path[:0] = ["python", "tests"]
import llmc, numpy as np
from op_tools import Data
emulated, results = llmc.backend("emulated"), []
for B, T, H, D in ((2, 300, 3, 64), (1, 450, 1, 64), (2, 330, 1, 128)):
    qkv = Data(16, "bf16").normal(B, T, 3 * H * D)
    forward = emulated.attention_forward(qkv, num_heads=H, logit_scale=0.2, dtype="bf16")
    results += [forward["out"].ravel(), forward["lse"].ravel()]
    dout, saved = Data(17, "bf16").normal(B, T, H * D), (forward["out"], forward["lse"])
    results.append(emulated.attention_backward(dout, *saved, qkv, logit_scale=0.2, dtype="bf16").ravel())
sys.stdout.buffer.write(np.concatenate(results).tobytes())
"""


@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
def test_attention_on_wgmma_gives_the_same_bits_in_every_order():
    results = set()
    schedules = ("workers=1", "workers=2 shuffle=1 seed=1", "workers=3 shuffle=1 seed=2 multiprocessors=1",
                 "shuffle=1 seed=3")  # fmt: skip
    for emulator in schedules:
        environment = dict(os.environ, LLMC_EMULATOR=f"capability=90 {emulator}")
        done = subprocess.run([sys.executable, "-c", WGMMA], cwd=ROOT, env=environment, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        results.add(done.stdout)
    assert len(results) == 1 and np.isfinite(np.frombuffer(results.pop(), np.float32)).all()


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
    """Later positions have no effect: same bits before position 40 with other values after it."""
    data = Data(10, dtype)
    qkv = data.normal(1, 70, 3 * 32)
    other = qkv.copy()
    other[:, 40:] = data.normal(1, 30, 3 * 32)
    out = [backend.attention_forward(x, num_heads=2, logit_scale=0.25, dtype=dtype)["out"] for x in (qkv, other)]
    assert (out[0][:, :40] == out[1][:, :40]).all()
    assert (out[0][:, 40:] != out[1][:, 40:]).any()


def test_attention_large_logits(backend, dtype):
    """Scores of some hundreds: the softmax must subtract the maximum, also if it is in a later block of keys."""
    data = Data(11, dtype)
    qkv = data.normal(1, 520, 3 * 16, scale=4.0)
    forward = backend.attention_forward(qkv, num_heads=1, logit_scale=2.0, dtype=dtype)
    out, lse = attention_reference(double(qkv), 1, 2.0, 1.0)
    # A score of s has an error of s * 2^-24 before the exponential.
    assert_close(forward["out"], out, 10 * TOLERANCE[dtype])
    assert_close(forward["lse"], lse, TOLERANCE[dtype])
