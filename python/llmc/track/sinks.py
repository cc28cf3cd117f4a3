"""Where the events of a log go: TensorBoard, W&B, or both."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from llmc.errors import UsageError
from llmc.log import Event
from llmc.track.tensorboard_file import TensorBoardFile
from llmc.track.wandb_run import Target, WandbRun, run_id


class Sink(Protocol):
    """A tracker's record of one run. Steps do not go back."""

    def add(self, event: Event, wall_time: float) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def discard(self) -> None:
        """Ends and removes the record, to begin another of the same run."""

    def where(self) -> str:
        """The record, and the command that shows it."""


Opener = Callable[[bytes], Sink]  # the first line of the log -> an empty record


def refuse_shared_folders(logs: Sequence[Path], out: Path | None) -> None:
    """UsageError if two runs would write event files into the same folder: TensorBoard takes a folder as one run."""
    by_folder: dict[Path, Path] = {}
    for log in logs if out is None else ():
        other = by_folder.setdefault(log.resolve().parent, log)
        if other is not log:
            raise UsageError(f"{other} and {log} are in one folder, which TensorBoard takes as one run: give a folder")


def to_tensorboard(log: Path, name: str, out: Path | None) -> Opener:
    """Into the folder of the run, or OUT/NAME."""
    folder = out / name if out else log.parent
    return lambda first_line: TensorBoardFile(folder)


def to_wandb(log: Path, name: str, out: Path | None, target: Target) -> Opener:
    """Into wandb/ in the folder of the run, or in OUT."""
    return lambda first_line: WandbRun(target, out or log.parent, name, run_id(name, first_line))


def add_project(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--project", metavar="NAME", help="of W&B [WANDB_PROJECT, or llmc-mup]")
