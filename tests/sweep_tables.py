"""Tables of sweeps, and the logs of their runs, in which every optimum is known."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

OPTIMA = {"sp": {32: -7, 64: -8, 128: -9, 256: -10}, "mup": {32: -7, 64: -7, 128: -7, 256: -8}}
BEND = 0.018  # loss above the best, one octave from it; four times as much at two


def table(
    folder: Path, optima=None, exponents=range(-13, -3), seeds=(1, 2, 3), change=None, logs=False, **columns
) -> Path:
    """A parabola around the given optimum of each scheme and scale. change(row) may alter rows, or drop one (None)."""
    rows = []
    for scheme, scales in (optima or OPTIMA).items():
        for scale, best in scales.items():
            for exponent in exponents:
                for seed in seeds:
                    loss = 2.5 - 0.02 * math.log2(scale / 32) + BEND * (exponent - best) ** 2 + 0.001 * seed
                    row = {
                        "parametrization": scheme,
                        "scale_axis": "width",
                        "scale": scale,
                        "axis": "lr",
                        "value": 2.0**exponent,
                        "seed": seed,
                        "status": "done",
                        "train_loss": loss + 0.5,
                        "val_loss": loss,
                        "log": f"{scheme}/{scale}/{exponent}/{seed}/log.jsonl" if logs else "",
                    }
                    row = change(row | columns) if change else row | columns
                    if row is None:
                        continue
                    rows.append(row)
                    if logs and row["status"] == "done":
                        write_log(folder / row["log"], row["val_loss"])
    path = folder / "sweep.csv"
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_log(path: Path, last: float, steps: int = 200) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(
        "".join(
            json.dumps({"event": "train", "step": step, "loss": last + 3 / step}) + "\n" for step in range(1, steps + 1)
        )
    )
