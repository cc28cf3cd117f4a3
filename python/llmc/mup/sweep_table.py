"""The table of a sweep (OUT/sweep.csv): its points by scheme, scale and value."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from llmc.errors import DataError
from llmc.wording import plural

LOSSES = {"val": "val_loss", "train": "train_loss"}


@dataclass
class Point:
    """The runs of one scheme, scale and value."""

    losses: dict[str, float] = field(default_factory=dict)  # by seed
    logs: dict[str, Path] = field(default_factory=dict)
    diverged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # failed or not run to the end

    @property
    def mean(self) -> float:
        return math.inf if self.diverged or not self.losses else fmean(self.losses.values())


Value = float | str  # of the swept axis: schedules are names
Grid = dict[Value, Point]


@dataclass
class Sweep:
    axis: str
    scale_axis: str
    loss: str  # val or train
    points: dict[str, dict[float, Grid]] = field(default_factory=dict)  # scheme -> scale -> value -> Point
    warnings: list[str] = field(default_factory=list)

    @property
    def categorical(self) -> bool:
        return any(
            isinstance(value, str) for scales in self.points.values() for grid in scales.values() for value in grid
        )

    @property
    def scales(self) -> list[float]:
        return sorted({scale for scales in self.points.values() for scale in scales})

    @property
    def seeds(self) -> list[str]:
        return sorted(
            {
                seed
                for scales in self.points.values()
                for grid in scales.values()
                for point in grid.values()
                for seed in [*point.losses, *point.diverged, *point.missing]
            }
        )


def read_sweep(path: Path, loss: str = "auto") -> Sweep:
    """loss: val (after the last step), train (the mean over the end of training), or auto: val if the table has it."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: give the sweep.csv of scripts/mup_sweep.sh") from None
    needed = {"parametrization", "scale_axis", "scale", "axis", "value", "seed", "status"}
    if not rows or needed - set(rows[0]):
        raise DataError(f"{path} is no table of a sweep: it needs rows with the columns {', '.join(sorted(needed))}")
    if len({(row["axis"], row["scale_axis"]) for row in rows}) > 1:
        raise DataError(f"{path} has several axes: give a table with one")
    if loss == "auto":
        loss = "val" if any(row.get("val_loss") for row in rows) else "train"
    sweep = Sweep(rows[0]["axis"], rows[0]["scale_axis"], loss)
    for line, row in enumerate(rows, start=2):
        try:
            value, scale = value_of(row["value"]), float(row["scale"])
            result = float(row[LOSSES[loss]]) if row["status"] == "done" else math.nan
        except (KeyError, ValueError, TypeError):
            raise DataError(f"{path}, line {line}: no number in one of scale, {LOSSES[loss]}") from None
        point = sweep.points.setdefault(row["parametrization"], {}).setdefault(scale, {}).setdefault(value, Point())
        if row["status"] not in ("done", "diverged"):
            point.missing.append(row["seed"])
        elif not math.isfinite(result):
            point.diverged.append(row["seed"])
        else:
            point.losses[row["seed"]] = result
            if row.get("log"):
                point.logs[row["seed"]] = path.parent / row["log"]
    missing = sum(row["status"] not in ("done", "diverged") for row in rows)
    if missing:
        sweep.warnings.append(f"{missing} of {plural(len(rows), 'run')} failed or were not run to the end: left out")
    if not any(p.losses for scales in sweep.points.values() for grid in scales.values() for p in grid.values()):
        raise DataError(f"{path} has no run that is done: there is nothing to compare")
    return sweep


def value_of(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def ordered(values: Iterable[Value]) -> list[Value]:
    """Numbers sorted by size; names in their order."""
    return list(values) if any(isinstance(v, str) for v in values) else sorted(values)


def show(value: Value | None) -> str:
    """2^-7, 2^-7.5 or the number itself."""
    if value is None or isinstance(value, str):
        return value or "-"
    if value > 0 and abs(2 * math.log2(value) - round(2 * math.log2(value))) < 1e-9 and (value < 1 or value >= 2048):
        return f"2^{math.log2(value):g}"
    return f"{value:g}"
