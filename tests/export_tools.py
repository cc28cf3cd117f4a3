"""Checkpoints of every scheme with random numbers, for the tests of models for other programs."""

import torch
from reference_tools import ALL, main
from safetensors.torch import load_file, save_file

from llmc.checkpoint import open_checkpoint

TIED, UNTIED = ["--tie-embeddings"], ["--no-tie-embeddings"]
MULTIPLIERS = "--attn-mult 2.3 --output-mult 1.7 --embed-mult 3.1".split()
CASES = {
    **{
        f"{name} tied": [*options, *TIED, *MULTIPLIERS]
        for name, options in ALL.items()
        if name not in ("mup-table3", "u-mup")
    },
    **{f"{name} untied": [*options, *UNTIED, *MULTIPLIERS] for name, options in ALL.items() if name != "u-mup"},
    "sp": [],
    "sp untied": UNTIED,
    "sp multipliers": MULTIPLIERS,
    "u-mup": ALL["u-mup"],
}


def random_checkpoint(data, out, *options, larger=None):
    """The model.safetensors of a run with these options and no steps, with random numbers in every tensor: none starts
    as a constant. larger: factors of their sizes by role"""
    assert main(["--train-data", data, "--steps", "0", *options, "--out", out]) == 0
    path = out / "checkpoints/step_00000000/model.safetensors"
    opened = open_checkpoint(path)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, value in load_file(path).items():
        rule = next(rule for rule in opened.parametrization["tensors"] if rule["name"] == name)
        std = (rule["init_std"] or 0.2) * (larger or {}).get(rule["role"], 1)
        random = std * torch.randn(value.shape, generator=generator) + rule["init_mean"]
        tensors[name] = random.to(value.dtype)
    save_file(tensors, path, opened.files.metadata)
    return path
