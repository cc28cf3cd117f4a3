"""Runs ./train_gpt2 (and train_gpt2.py) as a user would, and reads their output files.

With LLMC_TEST_BACKEND=cuda (or emulated) in the environment, the tests that use this file run that backend's program
and module instead of the CPU's, and train_gpt2.py on the GPU. `make gpu-check` does this.
"""

import json
import os
import subprocess
from pathlib import Path

from safetensors.numpy import load_file

ROOT = Path(__file__).resolve().parent.parent
BACKEND = os.environ.get("LLMC_TEST_BACKEND", "cpu")
BINARY = ROOT / {"cpu": "train_gpt2", "cuda": "train_gpt2cu", "emulated": "train_gpt2emu"}[BACKEND]
DEVICE = "cuda" if BACKEND == "cuda" else "cpu"  # of train_gpt2.py
# A model that trains in a moment; its sizes are not multiples of vector widths.
TINY = ["--depth", 2, "--width", 48, "--heads", 3, "--seq-len", 40, "--batch-size", 4, "--threads", 1]


def last_wins(words):
    """The words of a command line without the earlier one of two equal options, which the programs refuse: tests append
    options to those of TINY."""
    groups = []
    for word in map(str, words):
        if word.startswith("--") or not groups:
            groups.append([word])
        else:
            groups[-1].append(word)
    last = {group[0].split("=")[0]: i for i, group in enumerate(groups)}
    repeated = "--train-data", "--val-data"
    kept = [g for i, g in enumerate(groups) if last[g[0].split("=")[0]] == i or g[0] in repeated or g[0][:2] != "--"]
    return [word for group in kept for word in group]


def run(*arguments, expect=0, program=None, timeout=120, **kwargs):
    """Runs the program and returns (stdout, stderr). expect: the exit code it must end with."""
    command = [str(word) for word in [*(program or [BINARY]), *last_wins(arguments)]]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, errors="replace", **kwargs
    )
    assert done.returncode == expect, (
        f"exit {done.returncode}, not {expect}: {' '.join(command)}\n{done.stdout}\n{done.stderr}"
    )
    return done.stdout, done.stderr


def start(*arguments):
    """Starts the program in the background."""
    return subprocess.Popen(
        [str(BINARY), *last_wins(arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def make_variable(name):
    """The words of a variable of the Makefile."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}
    done = subprocess.run(["make", "-s", f"print-{name}"], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.stdout.split()


def log(out, event=None):
    """The events of OUT/log.jsonl, all or of one kind."""
    events = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [e for e in events if event is None or e["event"] == event]


def losses(out):
    return [e["loss"] for e in log(out, "train")]


def checkpoints(out):
    return sorted((Path(out) / "checkpoints").glob("step_*"))


def tensors(checkpoint):
    """All tensors of a checkpoint, the model's and the optimizer's, fp32 (bf16 ones by their bits)."""
    import torch
    from safetensors.torch import load_file as load_torch

    model = {
        name: t.float().numpy() if t.dtype == torch.bfloat16 else t.numpy()
        for name, t in load_torch(str(Path(checkpoint) / "model.safetensors")).items()
    }
    return model | load_file(str(Path(checkpoint) / "optimizer.safetensors"))


def snapshot(folder):
    """Every file in a folder with its content, to check that nothing changed."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(Path(folder).rglob("*")) if p.is_file()}
