"""The results of the runs of a sweep: how they ended, and the table of their losses, OUT/sweep.csv."""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmc.log import Event, read_events
from llmc.mup.jobs import FINISHED
from llmc.mup.sweep_run import SweepJob, number
from llmc.wording import plural

COLUMNS = (
    "parametrization scale_axis scale axis value seed status steps tokens train_loss val_loss seconds width "
    "depth heads seq_len batch_size total_batch_size base_width parameters log"
).split()


def report(jobs: Sequence[SweepJob]) -> int:
    """Prints how the jobs ended, and failures by message with one command each. Returns how many are not finished."""
    states = [job.state() for job in jobs]
    failures: dict[str, list[SweepJob]] = {}
    for job, state in zip(jobs, states, strict=True):
        if state == "failed":
            path = job.out / "stderr.txt"
            lines = path.read_text(errors="replace").rstrip().splitlines()[-5:] if path.exists() else []
            failures.setdefault("\n".join(lines) or "(nothing on stderr)", []).append(job)
    for message, failed in failures.items():
        more = f", and {len(failed) - 1} more alike" if len(failed) > 1 else ""
        print(
            f"\nfailed with exit code {failed[0].exit_code()}{more}:\n  {failed[0].command}\n    "
            + message.replace("\n", "\n    "),
            file=sys.stderr,
        )
    left = sum(state not in FINISHED for state in states)
    print(
        f"{plural(len(jobs), 'run')}: {states.count('done')} done, {states.count('diverged')} diverged, "
        f"{states.count('failed')} failed, {left - states.count('failed')} not run to the end"
        + ("; the same command again runs only what is left" if left else "")
    )
    return left


def last_window(steps: int) -> int:
    """Steps over which training losses are averaged: the last 50, in a long run the last tenth, in a short one half."""
    return max(1, min(max(50, steps // 10), steps // 2))


def result(job: SweepJob, out: Path) -> dict[str, Any]:
    """The row of one run; `out` is the folder of the table."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "") | job.labels() | {"status": job.state()}
    log = job.out / "log.jsonl"
    if row["status"] in ("missing", "other") or not log.exists():
        return row
    events = read_events(log)
    row["log"] = os.path.relpath(log, out)
    for event in events:
        if event["event"] == "config":
            row |= model_columns(event)
    train = [event for event in events if event["event"] == "train"]
    if train:
        row |= {"steps": train[-1]["step"], "tokens": train[-1].get("tokens", "")}
    final = events[-1] if events and events[-1]["event"] == "final" else {}
    row["seconds"] = final.get("elapsed", "")
    if row["status"] == "done":
        losses = [event["loss"] for event in train[-last_window(len(train)) :]]
        if losses and None not in losses:
            row["train_loss"] = math.fsum(losses) / len(losses)
        row["val_loss"] = final.get("val_loss", "")
    return row


def model_columns(event: Event) -> dict[str, Any]:
    """The columns about model and batch, from the first line of a log."""
    config, model = event["config"], event.get("model", {})
    return {
        "width": model.get("channels", ""),
        "depth": model.get("num_layers", ""),
        "heads": model.get("num_heads", ""),
        "parameters": event.get("parameters", ""),
        "base_width": event.get("parametrization", {}).get("base_width", ""),
        **{name: config.get(name, "") for name in ("seq_len", "batch_size", "total_batch_size")},
    }


def collect(jobs: Sequence[SweepJob], path: Path) -> None:
    """Writes the table, sorted by scheme, scale, value and seed."""

    def key(pair: tuple[int, dict[str, Any]]) -> tuple[Any, ...]:
        position, row = pair
        value = number(row["value"]) if row["axis"] != "schedule" else 0
        return row["parametrization"], float(row["scale"]), value, row["value"], int(row["seed"]), position

    rows = [row for _, row in sorted(enumerate(result(job, path.parent) for job in jobs), key=key)]
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
    print(f"wrote {path}")
