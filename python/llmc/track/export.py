"""Brings runs from their logs to TensorBoard, Weights & Biases or CSV.

    python dev/log_export.py RUN [MORE ...] --to tensorboard    # a run's folder or its log.jsonl; (or: llmc log export)
    python dev/log_export.py runs/* --to csv --out curves

Where things go: tensorboard, an event file into each run's folder, so that `tensorboard --logdir runs` shows all by
name; wandb, a run into wandb/ in each run's folder; csv, scalars.csv, runs.csv and samples.csv into csv/ in the run's
folder, or in the one that several have in common. --out FOLDER: there instead (tensorboard: FOLDER/NAME). What an
earlier export wrote there is replaced. The run may still be training; dev/log_follow.py goes on with it. Of several
paths, those without a log are left out, with a note.
doc/formats.md has the names of the scalars.
Exit codes: 1 a package is missing or a folder cannot be written, 2 wrong usage, 3 unusable log.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llmc.errors import DataError
from llmc.log import Event, log_files, of_runs, run_names, without_repeats
from llmc.paths import shown_path
from llmc.track.csv_files import write_csv
from llmc.track.sinks import Opener, add_project, refuse_shared_folders, to_tensorboard, to_wandb
from llmc.track.tail import Tail
from llmc.track.values import Clock
from llmc.track.wandb_run import MODES, target
from llmc.wording import plural


def options(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or its log.jsonl")
    parser.add_argument("--to", choices=["tensorboard", "wandb", "csv"], required=True)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="where to write [beside the log]")
    add_project(parser)
    parser.add_argument("--mode", choices=MODES, help="of W&B [WANDB_MODE, or offline]")
    return parser


def read_counting(log: Path) -> tuple[list[Event], bytes]:
    """The events of a log that count, and its first line. DataError if there are none."""
    tail = Tail(log)
    try:
        events, _ = tail.poll()
    except OSError as error:
        raise DataError(f"{log}: {error.strerror}: give the log.jsonl of a run, or its folder") from None
    finally:
        tail.close()
    if not events:
        problem = "has no complete line of a log" if log.exists() else "is missing"
        raise DataError(f"{log} {problem}: give the log.jsonl of a run, or its folder")
    if tail.broken:
        print(f"note: {log}: left out {plural(tail.broken, 'line')} without an event")
    return without_repeats(events), tail.first_line


def send(events: list[Event], first_line: bytes, opener: Opener) -> str:
    """Returns where the record is."""
    sink, clock = opener(first_line), Clock()
    try:
        for event in events:
            sink.add(event, clock.time_of(event))
        sink.close()
    except BaseException:
        sink.discard()
        raise
    return sink.where()


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    args = options(prog).parse_args(argv)
    logs = log_files(of_runs(args.runs))
    if args.to == "tensorboard":
        refuse_shared_folders(logs, args.out)
    names = run_names(logs)
    read = {name: read_counting(log) for name, log in zip(names, logs, strict=True)}
    if args.to == "csv":
        common = Path(os.path.commonpath([log.resolve().parent for log in logs]))
        paths = write_csv(args.out or common / "csv", {name: events for name, (events, _) in read.items()})
        print(f"wrote {', '.join(str(shown_path(path)) for path in paths)}")
        return 0
    for log, (name, (events, first_line)) in zip(logs, read.items(), strict=True):
        if args.to == "tensorboard":
            opener = to_tensorboard(log, name, args.out)
        else:
            opener = to_wandb(log, name, args.out, target(args.project, args.mode))
        last = max(int(event["step"]) for event in events)
        print(f"{name}: {plural(last, 'step')} in {send(events, first_line, opener)}")
    return 0
