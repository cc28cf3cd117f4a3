"""Training runs for benchmarks: the command, and the speed from its log."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from llmc.data.shards import write_shard
from llmc.log import read_events


class Shape(Protocol):
    """What a run needs of a benchmark's model."""

    @property
    def depth(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...


def train_command(
    program: Sequence[str],
    model: Shape,
    *,
    shard: Path,
    out: Path,
    seq_len: int,
    batch_size: int,
    steps: int,
    dtype: str,
    extra: Sequence[str] = (),
) -> list[str]:
    options = {
        "train-data": shard,
        "depth": model.depth,
        "width": model.width,
        "heads": model.heads,
        "seq-len": seq_len,
        "batch-size": batch_size,
        "steps": steps,
        "dtype": dtype,
        "eval-every": 0,
        "out": out,
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [*program, *words, "--overwrite", *extra]


def tokens_per_second(out: Path, warm_up: int, least: int = 0) -> float:
    """The median over the steps of a run without the first ones: steps // warm_up of them, and at least `least`."""
    events = read_events(out / "log.jsonl")
    rates = [float(event["tokens_per_second"]) for event in events if event["event"] == "train"]
    return statistics.median(rates[max(least, len(rates) // warm_up) :])


def write_random_shard(path: Path, vocab_size: int, tokens: int) -> None:
    write_shard(path, np.random.default_rng(1).integers(0, vocab_size, tokens), vocab_size)
