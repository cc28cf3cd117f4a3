"""Brings runs to TensorBoard and Weights & Biases while they train.

    python dev/log_follow.py RUN [MORE ...] --tensorboard [FOLDER] --wandb [offline|online]     # (or: llmc log follow)

Waits for each run's log.jsonl, reads what the program adds, and ends when all logs have their final event (--stay: goes
on, for runs that will be continued or overwritten), after Ctrl-C, when a program ends without a final event, or when
nothing new came for --timeout seconds. The trainer does not know of it, and the log is only read. When a resumed run
takes back steps, its record begins again with what the log has; so does that of an overwritten run, of which W&B keeps
the earlier record. Started again, it replaces its earlier record of the same run. Without --tensorboard FOLDER, event
files go to the runs' own folders; W&B's into wandb/ there.
Exit codes: 0 all final events were seen, 1 not, 2 wrong usage, 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from llmc.errors import Error, ExitCode
from llmc.log import Event, log_files, run_names, without_repeats
from llmc.track.sinks import Opener, Sink, add_project, refuse_shared_folders, to_tensorboard, to_wandb
from llmc.track.tail import Tail
from llmc.track.values import Clock
from llmc.track.wandb_run import MODES, target

POLL = 0.5  # seconds between looks at the logs
HERE = "\0"  # --tensorboard without a folder


def holds_lock(folder: Path) -> bool:
    """Whether a process has the lock of a run's folder. Reads the kernel's list: trying to lock could refuse a trainer
    that starts at this moment. False where the list does not tell (another machine, some file systems)."""
    with suppress(OSError):
        status = os.stat(folder / ".lock")
        device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        with open("/proc/locks") as file:
            return any("FLOCK" in line and f" {device} " in line for line in file if " -> " not in line)
    return False


class Follower:
    """Sends the events of one log to trackers, as they come."""

    def __init__(self, name: str, log: Path, openers: Sequence[Opener]) -> None:
        self.name, self.log, self.openers = name, log, openers
        self.tail = Tail(log)
        self.sinks: list[Sink] = []
        self.clock = Clock()
        self.last_step = -1
        self.kinds: set[str] = set()  # of the events of the last step
        self.reason = ""  # of the final event, if the last event is one
        self.first_line = b""
        self.seen_lock = False

    def poll(self) -> bool:
        """Sends what is new. Returns whether there was anything."""
        events, fresh = self.tail.poll()
        if not fresh and any(self._takes_back(event) for event in events):
            events, fresh = self.tail.restart(), True
        if not events:
            return False
        if fresh:
            self._restart()
        for event in without_repeats(events):
            self._send(event)
        for sink in self.sinks:
            sink.flush()
        self.reason = str(events[-1].get("reason", "unknown")) if events[-1]["event"] == "final" else ""
        return True

    def _takes_back(self, event: Event) -> bool:
        """Whether the event does not follow those that were sent. A resumed program writes a second config event."""
        step = int(event["step"])
        again = step == self.last_step and event["event"] in self.kinds and event["event"] != "config"
        return step < self.last_step or again

    def _restart(self) -> None:
        if self.sinks:
            print(f"{self.name}: the log no longer has what was read before: beginning again", flush=True)
        same_run = self.tail.first_line == self.first_line
        while self.sinks:
            sink = self.sinks.pop()
            if same_run:
                sink.discard()
            else:  # the last that there is of another run
                sink.close()
        self.first_line = self.tail.first_line
        self.clock, self.last_step, self.kinds = Clock(), -1, set()
        for opener in self.openers:
            self.sinks.append(opener(self.tail.first_line))
        print(f"{self.name}: into {', '.join(sink.where() for sink in self.sinks)}", flush=True)

    def _send(self, event: Event) -> None:
        step, wall_time = int(event["step"]), self.clock.time_of(event)
        for sink in self.sinks:
            sink.add(event, wall_time)
        if step > self.last_step:
            self.last_step, self.kinds = step, set()
        self.kinds.add(event["event"])

    def ended(self) -> bool:
        """Whether the program that wrote the log has ended; False if it was never seen."""
        locked = holds_lock(self.log.parent)
        self.seen_lock = self.seen_lock or locked
        return self.seen_lock and not locked

    def loss(self) -> str:
        step = max(0, self.last_step)
        return (
            f"its program ended without a final event after step {step} (killed?): continue it by --resume, and start "
            "this again"
        )

    def close(self) -> None:
        self.tail.close()
        while self.sinks:
            self.sinks.pop().close()


def follow(followers: list[Follower], stay: bool, timeout: float) -> int:
    """Returns when no log will get more. Returns the exit code."""
    active, lost, news = list(followers), 0, time.monotonic()
    while active:
        for follower in list(active):
            ended = follower.ended()  # before the last look at its log
            if follower.poll():
                news = time.monotonic()
            if follower.reason and not stay:
                print(f"{follower.name}: ended at step {follower.last_step}: {follower.reason}", flush=True)
            elif ended and not stay:
                lost += 1
                print(f"{follower.name}: {follower.loss()}", flush=True)
            else:
                continue
            follower.close()
            active.remove(follower)
        if active and timeout and time.monotonic() - news > timeout:
            names = ", ".join(str(follower.log) for follower in active)
            raise Error(f"nothing new for {timeout:g} seconds (--timeout) in {names}")
        if active:
            time.sleep(POLL)
    return ExitCode.FAILED if lost else ExitCode.DONE


def options(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder or its log.jsonl")
    parser.add_argument(
        "--tensorboard",
        nargs="?",
        const=HERE,
        metavar="FOLDER",
        help="event files, into the folders of the runs, or FOLDER/NAME",
    )
    parser.add_argument(
        "--wandb", nargs="?", const=HERE, metavar="|".join(MODES), help="a W&B run [WANDB_MODE, or offline]"
    )
    add_project(parser)
    parser.add_argument("--stay", action="store_true", help="go on after final events, until --timeout or Ctrl-C")
    parser.add_argument("--timeout", type=float, default=0, metavar="SECONDS", help="end after so long without news")
    return parser


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(prog)
    args = parser.parse_args(argv)
    if args.tensorboard is None and args.wandb is None:
        parser.error("give --tensorboard, --wandb, or both")
    if args.wandb not in (None, HERE, *MODES):
        parser.error(f"argument --wandb: {args.wandb}: give offline or online, and the runs before the options")
    if not args.timeout >= 0:
        parser.error(f"argument --timeout: {args.timeout:g} is not a number of seconds")
    to = target(args.project, None if args.wandb == HERE else args.wandb)
    folder = None if args.tensorboard in (None, HERE) else Path(args.tensorboard)
    logs = log_files(args.runs)
    if args.tensorboard:
        refuse_shared_folders(logs, folder)
    followers = []
    for name, log in zip(run_names(logs), logs, strict=True):
        openers = [to_tensorboard(log, name, folder)] if args.tensorboard else []
        openers += [to_wandb(log, name, None, to)] if args.wandb else []
        followers.append(Follower(name, log, openers))
        if not log.exists():
            print(f"{name}: waiting for {log}", flush=True)
    try:
        return follow(followers, args.stay, args.timeout)
    finally:
        for follower in followers:
            follower.close()
