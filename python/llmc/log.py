"""Reads `log.jsonl`, the log of a run: one JSON object per line (doc/formats.md)."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmc.errors import DataError
from llmc.wording import one_of, plural

Event = dict[str, Any]


def finite(value: object) -> float | None:
    """A finite number, or None: a diverged run logs null, NaN or infinity."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def parse_event(line: str | bytes) -> Event | None:
    """The event of a line; None if it is not a JSON object with an event and a step, a whole number."""
    try:
        event = json.loads(line)
        if isinstance(event["event"], str) and type(event["step"]) is int and event["step"] >= 0:
            return dict(event)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def read_lines(path: Path) -> list[str]:
    """The lines of a log. Not by str.splitlines: a sample's text may have U+2028 or another separator of it."""
    return path.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n")


def read_events(path: Path) -> list[Event]:
    """All events in order, without lines that are not events, such as the incomplete last line of a running program."""
    return [event for event in map(parse_event, read_lines(path)) if event is not None]


def first_event(path: Path) -> Event:
    """The first line of a log, normally the config event; {} if there is none."""
    try:
        with open(path, "rb") as file:
            return parse_event(file.readline()) or {}
    except OSError:
        return {}


def last_event(path: Path) -> Event:
    """The last complete line of a log, without reading the whole file; {} if there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            lines = file.read().split(b"\n")[:-1]
    except OSError:
        return {}
    return (parse_event(lines[-1]) if lines else None) or {}


def without_repeats(events: Iterable[Event]) -> list[Event]:
    """The events that count, by step: a resumed program (a config event with resumed_from) takes back final events, and
    all of later steps than its checkpoint's; of two events of a kind at one step the last counts, but every config."""
    kept: dict[tuple[str, int, int], Event] = {}
    configs = 0
    for event in events:
        kind, step = str(event["event"]), int(event["step"])
        if kind == "config":
            configs += 1
            if event.get("resumed_from") is not None:
                kept = {key: old for key, old in kept.items() if key[1] <= step and key[0] != "final"}
        key = (kind, step, configs if kind == "config" else 0)
        kept.pop(key, None)  # its place is that of the last
        kept[key] = event
    return sorted(kept.values(), key=lambda event: int(event["step"]))


def of_runs(paths: list[Path], files: Sequence[str] = ("log.jsonl",)) -> list[Path]:
    """Of several paths, those that may be runs, or have another of `files`. A note names the others, such as figures
    and tables among runs/*. A path that does not exist stays, and so do all if none has such a file: the reader says
    what is missing."""
    suffixes = {Path(name).suffix for name in files}

    def belongs(path: Path) -> bool:
        if path.is_dir():
            return any(os.path.isfile(path / name) for name in files)
        return not path.exists() or path.suffix in suffixes or bool(first_event(path))

    others = [path for path in paths if not belongs(path)]
    if not others or len(others) == len(paths):
        return paths
    print(f"note: left out, without a {one_of(files)}: {', '.join(map(str, others))}")
    return [path for path in paths if path not in others]


def log_files(runs: Iterable[Path]) -> list[Path]:
    """The logs of runs, each once. A run is named by its folder, which need not exist yet, or by its log."""
    logs = [run if run.suffix == ".jsonl" or run.is_file() else run / "log.jsonl" for run in runs]
    return list({log.resolve(): log for log in reversed(logs)}.values())[::-1]


def run_names(logs: Sequence[Path]) -> list[str]:
    """The folder of each log, with as many parent folders as needed to make the names different. Bytes that are not
    UTF-8 are written as \\xe9."""
    folders = [os.fsencode(path.resolve().parent).decode(errors="backslashreplace") for path in logs]
    counts = Counter(folders)
    parts = {folder: Path(folder).parts for folder in counts}
    depth = 1
    while len({p[-depth:] for p in parts.values()}) < len(parts):
        depth += 1
    names = {folder: "/".join(p[-depth:]).lstrip("/") for folder, p in parts.items()}  # relative: some become folders
    return [
        f"{names[folder]} ({path.name})" if counts[folder] > 1 else names[folder]
        for folder, path in zip(folders, logs, strict=True)
    ]


@dataclass
class Run:
    """The events of a run by step. If a step was repeated after a resume, the last event counts."""

    name: str
    train: dict[int, Event] = field(default_factory=dict)
    evals: dict[int, Event] = field(default_factory=dict)
    others: list[Event] = field(default_factory=list)  # config, sample, checkpoint, final, ... in their order
    flops_per_token: float | None = None  # None: its config event does not have the model


def flops_per_token(config_event: Event) -> float | None:
    """FLOPs of a training step for each token, as llmc/ops/cost.h counts them: 6 N + 12 L C T."""
    try:
        model = config_event["model"]
        depth, width, vocabulary = (float(model[name]) for name in ("num_layers", "channels", "vocab_size"))
        length = float(config_event["config"]["seq_len"])
    except (KeyError, TypeError, ValueError):
        return None
    return 6 * (12 * depth * width**2 + vocabulary * width) + 12 * depth * width * length


def read_log(path: Path, finite_loss: bool = True) -> Run:
    """Reads a log, or the log in a folder. DataError if it has no training step, or none with a finite loss (without
    finite_loss, a run that diverged at once is read, too)."""
    file = path / "log.jsonl" if path.is_dir() else path
    events: list[Event] = []
    try:
        lines = read_lines(file)
    except OSError as error:
        raise DataError(f"{file}: {error.strerror}: give the log.jsonl of a run, or its folder") from None
    run = Run(str(file))
    broken = []
    before = now = 0.0  # seconds of the programs that ended before a --resume, and so far
    for position, line in enumerate(lines, start=1):
        event = parse_event(line)
        if event is None:
            if line.strip():
                broken.append(position)
            continue
        if event["event"] == "config":
            run.flops_per_token, before = flops_per_token(event), now
        elif finite(event.get("elapsed")) is not None:
            now = event["elapsed"] = event["elapsed"] + before
        events.append(event)
    for event in without_repeats(events):
        if event["event"] == "train":
            run.train[int(event["step"])] = event
        elif event["event"] == "eval":
            run.evals[int(event["step"])] = event
        else:
            run.others.append(event)
    if any(position != len(lines) for position in broken):  # an incomplete last line is normal in a running program
        print(f"note: {file}: left out {plural(len(broken), 'line')} without an event, the first is line {broken[0]}")
    if not any(not finite_loss or finite(event.get("loss")) is not None for event in run.train.values()):
        count = sum(bool(line) for line in lines)
        raise DataError(
            f"{file} has no train events with a loss ({plural(count, 'line')}): "
            f"is it the log.jsonl of a run that has done a step?"
        )
    return run
