"""Runs as three tidy CSV files: scalars.csv, runs.csv, samples.csv (doc/formats.md)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from llmc.atomic import write_atomically
from llmc.errors import Error
from llmc.log import Event
from llmc.track.values import Clock, final, options, origin, plain, scalars


def write_csv(folder: Path, runs: dict[str, list[Event]]) -> list[Path]:
    """runs: the events that count, by the run's name. Replaces the files of an earlier export. Error for others."""
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
    files = {folder / f"{name}.csv": table for name, table in tables.items()}
    for path, (heads, _) in files.items():
        # options differ between versions of the program
        _refuse_other(path, heads[:1] if path.stem == "runs" else heads)
    for path, (heads, rows) in files.items():
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
        write_atomically(path, text.getvalue())
    return list(files)


def _refuse_other(path: Path, heads: list[str]) -> None:
    """Error if there is a file that no export wrote. heads: what its first line begins with"""
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        first = file.readline().strip().split(",")  # no name of a column is quoted
    if first[: len(heads)] != heads:
        raise Error(f"{path} exists and was not written by llmc log export: give another --out")


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
