"""The environment variables of a coordinate check, parsed; what cannot give a verdict is refused before it runs."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from pathlib import Path

from llmc.cpus import usable_cpus
from llmc.errors import UsageError
from llmc.mup.check_csv import LEAST_STEPS
from llmc.mup.variables import (
    CHECK,
    NOT_OF_CHECK,
    Env,
    merged,
    refuse_mistakes,
    schemes_of,
    seeds_of,
    whole_number,
    whole_numbers,
)
from llmc.numbers import real
from llmc.paths import trainer

DEFAULTS = {
    "width": {"WIDTHS": "64 128 256 512 1024", "DEPTHS": "2", "PARAMETRIZATIONS": "sp mup completep u-mup"},
    "depth": {"WIDTHS": "64", "DEPTHS": "2 4 8 16 32", "PARAMETRIZATIONS": "mup completep"},
}
# Small enough for a smooth descent in ten steps: at five times these rates, runs of one width differ more than widths
# do. sp and the forms of mup are the same model at the base width; u-mup's rate is in units of its scaled weights.
LEARNING_RATE, U_MUP_LEARNING_RATE = "1e-3", "0.1"
DATA = "data/pystdlib/pystdlib_train_*.bin"
# What a check compares, or needs for its statistics: not in EXTRA
TAKEN = set(
    "width depth heads head-dim seed steps tokens epochs parametrization base-width base-heads base-depth lr "
    "coord-check overfit-single-batch tie-embeddings train-data threads out config preset resume init".split()
)


@dataclass(frozen=True)
class Settings:
    widths: list[int]
    depths: list[int]
    schemes: list[str]
    seeds: list[int]
    steps: int
    heads: int  # 0: head_dim
    head_dim: int
    lr: str
    data: str
    program: list[str]
    extra: list[str]
    threads: int
    jobs: int
    out: Path

    @property
    def on_gpu(self) -> bool:
        return self.program[-1].endswith("train_gpt2cu")


def read_settings(env: Env, command: str = "llmc check") -> Settings:
    refuse_mistakes(env, command, CHECK, NOT_OF_CHECK)
    axis = env.get("AXIS") or "width"
    if axis not in DEFAULTS:
        raise UsageError(f"AXIS is {axis!r}: give width or depth")
    value = {name: env.get(name) or default for name, default in DEFAULTS[axis].items()}
    program = trainer(env)
    threads = whole_number(env, "THREADS", 1)
    cores = 1 if program[-1].endswith("train_gpt2cu") else max(1, usable_cpus() // threads)
    settings = Settings(
        widths=whole_numbers("WIDTHS", value["WIDTHS"]),
        depths=whole_numbers("DEPTHS", value["DEPTHS"]),
        schemes=schemes_of(env, value["PARAMETRIZATIONS"]),
        seeds=seeds_of(env),
        steps=whole_number(env, "STEPS", 10, least=LEAST_STEPS),
        heads=whole_number(env, "HEADS", 0) if env.get("HEADS") else 0,
        head_dim=whole_number(env, "HEAD_DIM", 16),
        lr=learning_rate(env),
        data=env.get("DATA") or DATA,
        program=program,
        extra=shlex.split(env.get("EXTRA", "")),
        threads=threads,
        jobs=whole_number(env, "JOBS", cores),
        out=Path(env.get("OUT") or "runs/coordinate_check"),
    )
    refuse_too_little(settings, axis)
    merged([], settings.extra, TAKEN, command)
    return settings


def learning_rate(env: Env) -> str:
    text = env.get("LR", "").strip()
    if text:
        value = real(text)
        if value is None or not (0 < value < math.inf):
            raise UsageError(f"LR is {text!r}: give one learning rate above 0, such as 0.001")
    return text


def refuse_too_little(settings: Settings, axis: str) -> None:
    """UsageError for sizes and seeds that cannot give a slope with an interval, or that the model refuses."""
    name, sizes = ("WIDTHS", settings.widths) if axis == "width" else ("DEPTHS", settings.depths)
    other, fixed = ("DEPTHS", settings.depths) if axis == "width" else ("WIDTHS", settings.widths)
    if len(fixed) > 1:
        raise UsageError(
            f"{other} is '{' '.join(map(str, fixed))}': give one, because only the {axis} may differ "
            f"(AXIS={'depth' if axis == 'width' else 'width'} compares several)"
        )
    if len(sizes) < 2:
        raise UsageError(f"{name} is '{sizes[0]}': give at least two, because a slope needs two {axis}s")
    if len(sizes) * len(settings.seeds) < 3:
        raise UsageError(
            f"{name} has two {axis}s and SEEDS one seed: an interval needs a third run, give SEEDS=3 or more {axis}s"
        )
    divisor, text = (settings.heads, "HEADS") if settings.heads else (settings.head_dim, "HEAD_DIM")
    odd = [width for width in settings.widths if width % divisor]
    if odd:
        raise UsageError(f"WIDTHS has {odd[0]}, which is no multiple of {text}={divisor}: change one of them")
