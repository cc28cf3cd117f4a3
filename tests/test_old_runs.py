"""Runs of version 0.1.0 are read and continued: tests/data/run_0.1.0 has one of each program, stopped at step 4 of
8. The log goes on to step 8: the losses of 0.1.0.

    cpp   train_gpt2     bf16, stochastic rounding, muP at width_mult 2
    py    train_gpt2.py  fp32, muP at width_mult 2, an outlier detector
"""

import shutil
import sys

import numpy as np
import pytest
from program import BACKEND, BINARY, ROOT, log, losses, run
from safetensors.numpy import load_file

import llmc

OLD = ROOT / "tests" / "data" / "run_0.1.0"
SHAPE = "--steps 8 --checkpoint-every 4 --keep 5 --seq-len 16 --batch-size 2 --total-batch-size 64 --depth 1 --width 8"
RULES = "--heads 2 --threads 1 --lr 0.01 --weight-decay 0.1 --warmup-steps 2 --parametrization mup --base-width 4"
COMMON = [*SHAPE.split(), *RULES.split(), "--base-heads", "2"]
OPTIONS = {
    "cpp": [*COMMON, "--dtype", "bf16", "--rounding", "stochastic"],
    "py": [*COMMON, "--skip-loss-zscore", "5"],
}
PROGRAMS = {"cpp": [BINARY], "py": [sys.executable, ROOT / "train_gpt2.py", "--device", "cpu"]}
# Other processors and libraries add in another order. In bf16 a weight may then round to its other neighbour.
TOLERANCE = {"cpp": 2e-2, "py": 1e-5}


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("old", OPTIONS)
def test_is_continued(old, program, tmp_path):
    """By the program that wrote it and by the other one."""
    shutil.copytree(OLD / old, tmp_path / "run")
    options = ["--train-data", OLD / "train.bin", *OPTIONS[old], "--out", tmp_path / "run", "--resume"]
    out, _ = run(*options, program=PROGRAMS[program])
    assert "at step 4" in out and "training data:" not in out  # 0.1.0 stored no hash of the shards' content
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(OLD / old), rtol=TOLERANCE[old])
    configs = log(tmp_path / "run", "config")
    assert len(configs) == 2 and "resumed_from" in configs[1]
    assert configs[1]["parametrization"]["scales"] == configs[0]["parametrization"]["scales"]
    state = load_file(tmp_path / "run/checkpoints/step_00000008/optimizer.safetensors")
    assert set(state) == set(load_file(OLD / old / "checkpoints/step_00000004/optimizer.safetensors"))


@pytest.mark.parametrize("old", OPTIONS)
def test_weights_are_loaded_exactly(old):
    import torch
    from safetensors.torch import load_file as load_torch

    checkpoint = OLD / old / "checkpoints" / "step_00000004"
    model = llmc.load(checkpoint, backend=BACKEND)
    stored = load_torch(checkpoint / "model.safetensors")
    for rule in model.parametrization["tensors"]:
        expected = stored[rule["name"]].to(torch.float32).numpy()
        values = model.parameters()[rule["name"]]
        np.testing.assert_array_equal(values, expected.T if rule["role"] == "hidden" else expected)
    assert model.config["dtype"] == log(OLD / old, "config")[0]["config"]["dtype"]
