"""Checkpoints of every scheme with random numbers in every tensor, for the tests of models for other programs."""

import torch
from reference_tools import ALL, main
from safetensors.torch import load_file, save_file

from llmc.checkpoint import open_checkpoint

WIDTH, HEADS, LENGTH = 64, 4, 16
SHAPE = f"--depth 2 --width {WIDTH} --heads {HEADS} --seq-len {LENGTH} --batch-size 2 --steps 0".split()
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


def random_checkpoint(data, folder, *options, strength=1.0):
    """Path of the model file.

    data      --train-data
    options   besides SHAPE, or instead of parts of it
    strength  of the matrices of the blocks, in units of how they are initialised
    """
    assert main(["--train-data", data, *SHAPE, *options, "--out", folder]) == 0
    path = folder / "checkpoints/step_00000000/model.safetensors"
    opened = open_checkpoint(path)
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for name, value in load_file(path).items():
        rule = next(rule for rule in opened.parametrization["tensors"] if rule["name"] == name)
        size = (rule["init_std"] or 0.2) * (strength if rule["role"] == "hidden" else 1)
        random = size * torch.randn(value.shape, generator=generator) + rule["init_mean"]
        tensors[name] = random.to(value.dtype)
    save_file(tensors, path, opened.files.metadata)
    return path
