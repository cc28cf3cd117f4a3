"""Schedules, update rules and skipped updates of train_gpt2.py."""

import json
import math

import numpy as np
import pytest
import torch
from measures import deviation
from reference_tools import MUP, TINY, initialise, model_with, resolved, run
from safetensors import safe_open

import train_gpt2
from llmc.checkpoint import newest_checkpoint

pytestmark = pytest.mark.usefixtures("one_thread")


def test_schedules():
    def lr(schedule, t, **more):
        config, _ = resolved("--schedule", schedule, "--warmup-steps", "10", "--final-lr-frac", "0.1")
        return train_gpt2.lr_factor(config, t, 110)

    for schedule in ("cosine", "linear", "constant", "wsd"):
        assert [lr(schedule, t) for t in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert lr("cosine", 60) == pytest.approx(0.55)
    assert lr("cosine", 109) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.99)))
    assert lr("linear", 60) == pytest.approx(0.55)
    assert lr("constant", 109) == 1
    assert lr("wsd", 89) == 1
    assert lr("wsd", 95) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.25)))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_group_rates_keep_their_ratios(schedule):
    """A scheduler that sets one rate for all groups would undo muP."""
    model = model_with(
        *TINY,
        *MUP["mup"],
        "--vocab-size",
        "10",
        "--weight-decay",
        "0.3",
        "--schedule",
        schedule,
        "--warmup-steps",
        "5",
        "--final-lr-frac",
        "0.1",
    )
    optimizer = train_gpt2.Optimizer(model, model.config)
    for t in range(30):
        factor = train_gpt2.lr_factor(model.config, t, 30)
        optimizer.set_rates(factor)
        assert len(optimizer.torch.param_groups) == 3
        for group in optimizer.torch.param_groups:
            hidden = group["rule_decay"] == 0.6
            assert group["lr"] == pytest.approx(0.01 * factor / (2 if hidden else 1), rel=1e-12)
            assert group["lr"] * group["weight_decay"] == pytest.approx(
                0.003 * factor if group["rule_decay"] else 0, rel=1e-12
            )


@pytest.mark.parametrize("mode", ["scaled", "independent"])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_update_formula(kind, mode):
    model = model_with(
        *TINY,
        *MUP["mup"],
        "--vocab-size",
        "10",
        "--optimizer",
        kind,
        "--weight-decay",
        "0.3",
        "--weight-decay-mode",
        mode,
        "--grad-clip",
        "1",
        "--schedule",
        "constant",
    )
    initialise(model, 1)
    optimizer = train_gpt2.Optimizer(model, model.config)
    name = "h.0.mlp.c_fc.weight"
    rule = next(t for t in model.rules["tensors"] if t["name"] == name)
    p = dict(model.named_parameters())[name]
    w, m, v = p.detach().double().clone(), 0, 0
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3):
        for q in model.parameters():
            q.grad = torch.randn(q.shape, generator=generator)
        norm = optimizer.norm().item()
        assert norm == pytest.approx(
            math.sqrt(sum(q.grad.double().square().sum().item() for q in model.parameters())), rel=1e-6
        )
        g = p.grad.double() * min(1, 1 / norm)
        optimizer.step(0.5, norm)
        lr = rule["lr"] * 0.5
        decay = lr * rule["weight_decay"] if mode == "scaled" else 0.5 * 0.3
        if kind == "adamw":
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
            w = (1 - decay) * w - lr * (m / (1 - 0.9**n)) / ((v / (1 - 0.95**n)).sqrt() + rule["eps"])
        else:
            m = 0.9 * m + g
            w = (1 - decay) * w - lr * m
        assert torch.allclose(p.detach().double(), w, rtol=1e-5, atol=1e-7)


def test_outliers():
    detector = train_gpt2.Outliers(3.0, [])
    values = np.random.default_rng(0).normal(size=128)
    assert not any(detector.observe(x) for x in [1e9, *values[1:]])  # the window is not full yet
    detector.window = list(values)
    assert detector.observe(values.mean() + 3.1 * deviation(values))  # float64
    assert detector.window == list(values)  # an outlier is not added
    assert not detector.observe(values.mean() + 2.9 * deviation(values))  # float64
    assert len(detector.window) == 128


def test_skipped_update(data, tmp_path, monkeypatch):
    """A skipped update does not change weights, moments or the count of the bias correction."""
    seen = iter([False, False, True, False])
    monkeypatch.setattr(train_gpt2.Outliers, "observe", lambda self, value: self.threshold > 0 and next(seen))
    lines = run(
        tmp_path,
        *data,
        *TINY,
        "--steps",
        4,
        "--skip-loss-zscore",
        3,
        "--schedule",
        "constant",
        "--overfit-single-batch",
    )
    assert [line.get("skipped") for line in lines] == [None, None, True, None]
    assert lines[3]["loss"] == lines[2]["loss"] != lines[1]["loss"]
    file = safe_open(newest_checkpoint(tmp_path) / "optimizer.safetensors", "pt")
    assert json.loads(file.metadata()["state"])["updates"] == 3
