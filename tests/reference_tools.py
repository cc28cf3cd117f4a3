"""Runs train_gpt2.py in this process, and makes its models and rule tables from options."""

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from program import last_wins
from safetensors.torch import load_file

import train_gpt2
from llmc.checkpoint import newest_checkpoint, open_checkpoint
from llmc.command_line import parse_command_line
from llmc.run_setup import take_shape
from train_gpt2 import GPT2

TINY = ["--depth", "2", "--width", "32", "--heads", "2", "--seq-len", "16", "--batch-size", "2", "--lr", "1e-2"]
MUP = {name: ["--parametrization", name, "--base-width", "16"] for name in ("mup", "mup-table3", "mup-table9")}
COMPLETEP = ["--parametrization", "completep", "--base-width", "16", "--base-depth"]
UNIT = ["--parametrization", "u-mup"]
ODD_UNIT = [
    *UNIT,
    *"--ffn-act-mult 1.5 --attn-softmax-mult 0.7 --residual-mult 1.3 --residual-attn-ratio 0.6 "
    "--loss-softmax-mult 2".split(),
]  # all numbers of the scheme differ from their defaults
ALL = MUP | {"completep": [*COMPLETEP, "1"], "u-mup": ODD_UNIT}


def run(out, *options, code=0):
    """Trains into `out`; returns the train events of its log."""
    assert main([*options, "--out", out]) == code
    return log(out)


def log(out, event="train"):
    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if event in (line["event"], None)]


def losses(lines):
    return [line["loss"] for line in lines]


def tensors(out, name="model"):
    return load_file(newest_checkpoint(out) / f"{name}.safetensors")


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def main(words):
    return train_gpt2.main(last_wins(words))


def model_of(path):
    """The model of a checkpoint."""
    checkpoint = open_checkpoint(str(path))
    line = parse_command_line(train_gpt2.PROGRAM, ["eval", str(path)])
    config, shape = take_shape(line.config, line.given, checkpoint)
    model = train_gpt2.GPT2(config, shape, checkpoint.parametrization)
    model.set_weights(checkpoint.values)
    return model


def parse(*options):
    return parse_command_line(train_gpt2.PROGRAM, last_wins(options))


def resolved(*options):
    """The config and the shape of a run with these options, which needs no data."""
    setup, _ = train_gpt2.resolve(parse(*options, "--dry-run"))
    return setup.config, setup.shape


def model_with(*options):
    return GPT2(*resolved(*options))


def initialise(model, seed):
    model.set_weights(partial(train_gpt2.initial_value, seed))


def table(*options):
    """A rule table and its tensors by name: 3 blocks, 4 heads, T 8, V 257, lr 0.01, lambda 0.1, eps 1e-6."""
    common = "--vocab-size 257 --depth 3 --heads 4 --seq-len 8 --lr 0.01 --weight-decay 0.1 --eps 1e-6".split()
    rules = train_gpt2.parametrization(*resolved(*common, *options))
    return rules, {t["name"]: t for t in rules["tensors"]}


def gelu_rms(mult):
    """Root mean square of gelu(mult z) / mult, by Gauss-Hermite quadrature and PyTorch's gelu."""
    z, weight = np.polynomial.hermite_e.hermegauss(180)
    y = F.gelu(torch.from_numpy(mult * z), approximate="tanh").numpy() / mult
    return math.sqrt((weight * y * y).sum() / math.sqrt(2 * math.pi))
