"""AdamW and SGD of llmc/ops/ops.h against their formulas in float64 and against torch.optim; stochastic rounding bit
for bit against doc/formats.md, with a separate Philox that is checked against the published known answers.
"""

import math

import numpy as np
import pytest
import torch
from op_tools import TOLERANCE, Data, assert_close, double, parameter


def adamw_reference(p, step, beta1, beta2, clip=1.0):
    g, m, v = clip * double(p["grad"]), double(p["m"]), double(p["v"])
    w = double(p.get("master", p["param"]))
    m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g * g
    w = (1 - p["decay"]) * w - p["lr"] * (m / (1 - beta1**step)) / (torch.sqrt(v / (1 - beta2**step)) + p["eps"])
    return w, m, v


@pytest.mark.parametrize("grad_norm", [None, 0.5, 4.0])
@pytest.mark.parametrize("step", [1, 10])
def test_adamw(backend, dtype, step, grad_norm):
    """Three tensors whose sizes are not multiples of a block, each with its own rates."""
    data = Data(17, dtype)
    shapes, rates = [(1,), (129, 257), (3, 5)], [0.1, 0.02, 0.5]
    parameters = [
        parameter(data, dtype, *s, lr=r, decay=0.1 * r, eps=1e-3 * r) for s, r in zip(shapes, rates, strict=True)
    ]
    results = backend.adamw_step(
        parameters, step=step, beta1=0.9, beta2=0.95, grad_norm=grad_norm, grad_clip=1.0, dtype=dtype
    )
    clip = 1.0 if grad_norm is None else min(1.0, 1.0 / grad_norm)
    for entry, result in zip(parameters, results, strict=True):
        w, m, v = adamw_reference(entry, step, 0.9, 0.95, clip)
        assert_close(result["m"], m, 1e-6)
        assert_close(result["v"], v, 1e-6)
        assert_close(result["param"], w, TOLERANCE[dtype])
        if dtype == "bf16":
            assert_close(result["master"], w, 1e-6)
            np.testing.assert_array_equal(result["param"], torch.from_numpy(result["master"]).bfloat16().float())


def test_adamw_without_master(backend):
    data = Data(18, "bf16")
    entry = parameter(data, "bf16", 100, master=False, lr=0.1, decay=0.01, eps=1e-8)
    (result,) = backend.adamw_step([entry], step=3, beta1=0.9, beta2=0.95, dtype="bf16")
    assert_close(result["param"], adamw_reference(entry, 3, 0.9, 0.95)[0], 1e-2)


def test_adamw_against_torch(backend):
    """Five steps against torch.optim.AdamW, not only against the formula."""
    data = Data(19, "fp32")
    w0, grads = data.normal(50), [data.normal(50) for _ in range(5)]
    theirs = double(w0, True)
    optimizer = torch.optim.AdamW([theirs], lr=0.01, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1)
    entry = {
        "param": w0,
        "m": np.zeros(50, np.float32),
        "v": np.zeros(50, np.float32),
        "lr": 0.01,
        "decay": 0.001,
        "eps": 1e-8,
    }
    for step, grad in enumerate(grads, 1):
        theirs.grad = double(grad)
        optimizer.step()
        (result,) = backend.adamw_step([{**entry, "grad": grad}], step=step, beta1=0.9, beta2=0.95)
        entry.update(result)
    assert_close(entry["param"], theirs, 1e-6)


@pytest.mark.parametrize("grad_norm", [None, 4.0])
@pytest.mark.parametrize("step", [1, 2])
def test_sgd(backend, dtype, step, grad_norm):
    data = Data(20, dtype)
    parameters = [parameter(data, dtype, *s, second=False, lr=0.1, decay=0.02) for s in [(5,), (40, 33)]]
    if step == 1:  # the buffer is empty before the first step
        for entry in parameters:
            entry["m"] = np.full_like(entry["m"], np.nan)
    results = backend.sgd_step(parameters, step=step, momentum=0.9, grad_norm=grad_norm, grad_clip=1.0, dtype=dtype)
    for entry, result in zip(parameters, results, strict=True):
        g = double(entry["grad"]) * (1.0 if grad_norm is None else 1.0 / grad_norm)
        m = g if step == 1 else 0.9 * double(entry["m"]) + g
        assert_close(result["m"], m, 1e-6)
        assert_close(result["param"], 0.98 * double(entry.get("master", entry["param"])) - 0.1 * m, TOLERANCE[dtype])


def test_clipping_shows_a_nan(backend):
    entry = {"param": np.ones(3, np.float32), "grad": np.ones(3, np.float32), "m": np.zeros(3, np.float32), "lr": 0.1}
    (result,) = backend.sgd_step([entry], step=1, momentum=0.9, grad_norm=math.nan, grad_clip=1.0)
    assert np.isnan(result["param"]).all()


def philox(seed, counter):
    """Philox4x32-10 on arrays of counters: doc/formats.md, written from Salmon et al., 2011."""
    c = [np.asarray(x, np.uint64) for x in counter]
    keys, low = [seed & 0xFFFFFFFF, seed >> 32], np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [
            (p1 >> np.uint64(32)) ^ c[1] ^ np.uint64(keys[0]),
            p1 & low,
            (p0 >> np.uint64(32)) ^ c[3] ^ np.uint64(keys[1]),
            p0 & low,
        ]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c


def test_philox_known_answer():
    """The known answers that the authors published with Random123."""
    assert [int(x) for x in philox(0, (0, 0, 0, 0))] == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert [int(x) for x in philox(2**64 - 1, (2**32 - 1,) * 4)] == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def stochastic_step(backend, weights, seed, step, stream, master=True):
    n = weights.size
    zeros = {"grad": np.zeros(n, np.float32), "m": np.zeros(n, np.float32)}
    entry = {"param": np.zeros(n, np.float32), "master": weights, **zeros, "lr": 0.0, "stream": stream}
    if not master:
        del entry["master"]
        entry["param"] = weights
    (result,) = backend.sgd_step([entry], step=step, momentum=0.0, stochastic_rounding=True, seed=seed, dtype="bf16")
    return result["param"]


@pytest.mark.parametrize("n", [1, 7, 1025, 20_003])
def test_stochastic_rounding_formula(backend, n):
    """doc/formats.md: purpose 4, index = element // 4 + step * 2^40, low 16 bits of x[element mod 4]."""
    weights, seed, step, stream = Data(21, "fp32").normal(n), 0x123456789ABCDEF, 300, 0xDEADBEEF
    index = np.arange((n + 3) // 4, dtype=np.uint64) + (np.uint64(step) << np.uint64(40))
    x = philox(
        seed,
        (index & np.uint64(0xFFFFFFFF), index >> np.uint64(32), np.full_like(index, 4), np.full_like(index, stream)),
    )
    random16 = (np.stack(x, 1).reshape(-1)[:n] & np.uint64(0xFFFF)).astype(np.uint32)
    expected = ((weights.view(np.uint32) + random16) & np.uint32(0xFFFF0000)).view(np.float32)
    np.testing.assert_array_equal(stochastic_step(backend, weights, seed, step, stream), expected)


def test_stochastic_rounding_unbiased(backend):
    n, value = 40_000, 1 + 0.3 * 2**-7  # 0.3 of the way between two bf16 numbers
    rounded = stochastic_step(backend, np.full(n, value, np.float32), 7, 1, 5)
    assert set(np.unique(rounded)) == {np.float32(1), np.float32(1 + 2**-7)}
    up = (rounded > 1).mean()
    assert abs(up - 0.3) < 5 * math.sqrt(0.3 * 0.7 / n)
    other = stochastic_step(backend, np.full(n, value, np.float32), 7, 2, 5)
    assert 0.35 < (rounded != other).mean() < 0.49  # steps draw different numbers: 2 * 0.3 * 0.7
    special = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0, 1.5], np.float32)
    np.testing.assert_array_equal(stochastic_step(backend, special, 7, 1, 5, master=False), special)
