"""A run in Weights & Biases, offline or online."""

from __future__ import annotations

import hashlib
import html
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.errors import Error
from llmc.extras import load
from llmc.log import Event
from llmc.track.values import final, options, sample, scalars

MODES = ("offline", "online")


@dataclass(frozen=True)
class Target:
    """Where W&B runs go. mode: one of MODES"""

    project: str
    mode: str


def target(project: str | None, mode: str | None) -> Target:
    """project, mode: as given; without them W&B's own variables decide. Offline otherwise: nothing goes over the
    network unless asked for."""
    mode = mode or ("online" if os.environ.get("WANDB_MODE") == "online" else "offline")
    return Target(project or os.environ.get("WANDB_PROJECT") or "llmc-mup", mode)


def run_id(name: str, first_line: bytes) -> str:
    """The same for every export of a log: its first line has the options, the host and the start of the run. A copy of
    a run that was continued in another way has another name."""
    return hashlib.sha256(name.encode(errors="replace") + b"\n" + first_line).hexdigest()[:16]


class WandbRun:
    """folder: gets the folder wandb/; name: of the run; identity: its id.

    A step's row stays open until the next one, so that the events of a step share it. W&B drops rows of steps that go
    back: the caller's steps must not.
    """

    def __init__(self, to: Target, folder: Path, name: str, identity: str) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # read when wandb is imported
        self._wandb = load("wandb", "track")
        self._folder, self._mode, self._id = folder, to.mode, identity
        settings = self._wandb.Settings(
            console="off",
            silent=True,
            disable_git=True,
            disable_code=True,
            # W&B would describe this process and its machine: the config has those that trained
            x_disable_meta=True,
            x_disable_machine_info=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        folder.mkdir(parents=True, exist_ok=True)
        try:
            self._run: Any = self._wandb.init(
                project=to.project,
                dir=str(folder),
                id=identity,
                name=name,
                mode=to.mode,
                reinit="create_new",
                settings=settings,
            )
        except Exception as error:  # of many classes, not all of them wandb.Error
            reason = " ".join(str(error).split())
            raise Error(f"W&B cannot start the run {name} ({to.mode}): {reason}") from None
        self.sync_folder = Path(self._run.settings.sync_dir)

    def add(self, event: Event, wall_time: float) -> None:
        row: dict[str, Any] = dict(scalars(event))
        if event["event"] == "config":
            described = {
                key: event[key]
                for key in ("model", "provenance", "parameters", "command", "resumed_from")
                if event.get(key) is not None
            }
            rules = {"rules": event["parametrization"]} if "parametrization" in event else {}
            self._run.config.update(options(event) | described | rules, allow_val_change=True)
        elif event["event"] == "sample":
            row["sample"] = self._wandb.Html(f"<pre>{html.escape(sample(event))}</pre>", inject=False)
        elif event["event"] == "final":
            self._run.summary["final"] = final(event)
        if row:
            self._run.log(row | {"_timestamp": wall_time}, step=int(event["step"]))

    def flush(self) -> None:
        """W&B writes by itself, all but the row of the newest step."""

    def close(self) -> None:
        self._run.finish()
        # of earlier exports of the same log; W&B appends -1 to the name of a second run that starts in the same second
        for old in (self._folder / "wandb").glob(f"offline-run-*-{self._id}*"):
            if old.resolve() != self.sync_folder.resolve():
                shutil.rmtree(old, ignore_errors=True)

    def discard(self) -> None:
        """Ends the run, whose steps the log no longer has, and removes it if it is offline."""
        self._run.finish()
        if self._mode == "offline":
            shutil.rmtree(self.sync_folder, ignore_errors=True)

    def where(self) -> str:
        return f"{self.sync_folder} (wandb sync uploads it)" if self._mode == "offline" else str(self._run.url)
