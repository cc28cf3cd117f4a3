"""Runs as three tidy CSV files: scalars.csv, runs.csv, samples.csv (doc/formats.md)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmc.atomic import write_atomically
from llmc.log import Event
from llmc.track.values import Clock, final, options, origin, plain, scalars


def write_csv(folder: Path, runs: dict[str, list[Event]]) -> list[Path]:
    """runs: the events that count, by the run's name. Replaces the files of an earlier export."""
    folder.mkdir(parents=True, exist_ok=True)
    described = {name: _description(events) for name, events in runs.items()}
    columns = list(dict.fromkeys(key for row in described.values() for key in row))
    tables: dict[str, tuple[list[str], Iterable[list[Any]]]] = {
        "scalars": (
            ["run", "step", "tokens", "wall_time", "name", "value"],
            (row for name, events in runs.items() for row in _scalar_rows(name, events)),
        ),
        "runs": (["run", *columns], ([name, *map(row.get, columns)] for name, row in described.items())),
        "samples": (
            ["run", "step", "prompt", "text"],
            (
                [name, event["step"], event.get("prompt"), event.get("text")]
                for name, events in runs.items()
                for event in events
                if event["event"] == "sample"
            ),
        ),
    }
    paths = []
    for name, (heads, rows) in tables.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
        paths.append(folder / f"{name}.csv")
        write_atomically(paths[-1], text.getvalue())
    return paths


def _scalar_rows(name: str, events: list[Event]) -> Iterator[list[Any]]:
    """Python writes the shortest decimal that is the same float64: the values of the log, exactly."""
    clock = Clock()
    tokens = {int(event["step"]): event.get("tokens") for event in events if event["event"] == "train"}
    for event in events:
        step, wall_time = int(event["step"]), clock.time_of(event)
        for scalar, value in scalars(event).items():
            yield [name, step, tokens.get(step), wall_time, scalar, value]


def _description(events: list[Event]) -> dict[str, Any]:
    """The newest options and origin of a run, and how it ended."""
    row: dict[str, Any] = {}
    for event in events:
        if event["event"] == "config":
            row |= options(event) | origin(event)
        elif event["event"] == "final":
            row |= {f"final_{key}": value for key, value in final(event).items()}
    return {key: plain(value) for key, value in row.items() if value is not None}
