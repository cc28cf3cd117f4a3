"""Softmax, cross entropy and their gradient against PyTorch in float64. How ops are tested: op_tools.py."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from op_tools import TOLERANCE, Data, assert_close, double


@pytest.mark.parametrize(
    "N,V,Vp",
    [
        (1, 1, 1),
        (5, 11, 16),
        (33, 257, 320),
        (7, 1000, 1000),
        (2, 20_481, 20_483),
        (3, 50257, 50304),
        (2, 60_001, 60_032),  # more than shared memory holds
        (2, 128_000, 128_256),
    ],
)
def test_classifier(backend, dtype, N, V, Vp):
    data = Data(13, dtype)
    logits, targets = data.normal(N, Vp, scale=2.0), data.integers(V, N)
    logits[:, V:] = 1e4  # padding must not be used
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


@pytest.mark.parametrize("V,Vp", [(11, 16), (257, 320), (60_001, 60_032)])
def test_rows_without_a_target(backend, dtype, V, Vp):
    """Target -100, PyTorch's default ignore_index: loss 0 and gradient 0, whatever the logits are."""
    data = Data(14, dtype)
    logits, targets = data.normal(6, Vp, scale=2.0), data.integers(V, 6)
    targets[[0, 3]] = -100
    logits[3] = np.inf
    x = double(logits, True)
    losses = F.cross_entropy(x[:, :V], torch.from_numpy(targets).long(), reduction="none")
    losses[torch.from_numpy(targets) != -100].sum().backward()
    evaluated = backend.classifier(logits, targets, vocab_size=V, dtype=dtype)
    trained = backend.classifier(logits, targets, vocab_size=V, dloss=1.0, dtype=dtype)
    for result in (evaluated, trained):
        assert (result["losses"][[0, 3]] == 0).all()
        assert_close(result["losses"], losses, 1e-5)
    assert (trained["logits"][[0, 3]] == 0).all()
    rest = [1, 2, 4, 5]
    assert_close(trained["logits"][rest], x.grad[rest], TOLERANCE[dtype])


def test_logits_that_are_excluded(backend, dtype):
    """-inf: probability 0, or at most the smallest normal number (exp2 of cpu/simd.h), also where it is all that a
    thread reads."""
    data = Data(15, dtype)
    logits, targets = data.normal(4, 3000, scale=2.0), data.integers(300, 4) + 2600
    logits[:, :2600] = -np.inf
    x = double(logits, True)
    losses = F.cross_entropy(x, torch.from_numpy(targets).long(), reduction="none")
    losses.sum().backward()
    result = backend.classifier(logits, targets, vocab_size=3000, dloss=1.0, dtype=dtype)
    assert_close(result["losses"], losses, 1e-5)
    assert_close(result["logits"], x.grad, TOLERANCE[dtype])
    assert (np.abs(result["logits"][:, :2600]) <= 2.0**-126).all()
