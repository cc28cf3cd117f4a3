"""Runs programs, several at a time, with progress, until all are finished or a signal arrives.

The state of a job is in its files. So a later call runs only unfinished jobs, and progress can be shown for jobs that
other processes run.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Literal, Protocol, TypeVar

from llmc.errors import ExitCode, Stopped
from llmc.progress import Progress

# other: its folder has a finished run of another command. A diverged run is a result.
State = Literal["missing", "unfinished", "done", "diverged", "failed", "other"]
FINISHED = ("done", "diverged")


def was_stopped(code: int) -> bool:
    """Whether the exit code is from a signal: the run may be started again."""
    return code < 0 or code in (ExitCode.INTERRUPTED, ExitCode.TERMINATED)


class Job(Protocol):
    @property
    def work(self) -> float:
        """Its duration, in a unit that is the same for all jobs of a list."""

    def state(self) -> State: ...

    def part(self) -> float | None:
        """The share of its work that is done, 0 to 1. None: it is not running."""

    def start(self) -> subprocess.Popen[bytes] | None:
        """Starts it. None: it could not start; its files have the reason."""

    def end(self, code: int) -> None:
        """Records that it has ended with this exit code."""


J = TypeVar("J", bound=Job)


class Watch:
    """Shows the progress of all jobs.

    every    seconds between lines if stdout is not a terminal
    """

    def __init__(self, jobs: Sequence[Job], every: float = 30):
        self.jobs = jobs
        self.states: dict[int, State] = {}
        done, text = self._survey()
        self.progress = Progress(sum(job.work for job in jobs), text, done=done, every=every)
        self.shown = time.monotonic()

    def _survey(self) -> tuple[float, str]:
        """The work that is done, and a text with the number of jobs in each state."""
        done, running = 0.0, 0
        for index, job in enumerate(self.jobs):
            if self.states.get(index) not in FINISHED:
                self.states[index] = job.state()
            state = self.states[index]
            if state in FINISHED or state == "failed":
                done += job.work
            elif state == "unfinished" and (part := job.part()) is not None:
                running += 1
                done += job.work * part
        count = {name: sum(state == name for state in self.states.values()) for name in ("done", "diverged", "failed")}
        text = (
            f"{sum(count.values())}/{len(self.jobs)} runs ({running} running, {count['diverged']} diverged, "
            f"{count['failed']} failed)"
        )
        return done, text

    def update(self) -> None:
        """Call it often; it reads the files once a second."""
        if time.monotonic() - self.shown >= 1:
            self.progress.show(*self._survey())
            self.shown = time.monotonic()

    def close(self) -> None:
        self.progress.close(*self._survey())


@contextmanager
def caught_signals() -> Iterator[list[signal.Signals]]:
    """Appends SIGINT, SIGTERM and SIGHUP to a list; they do not end this process."""
    caught: list[signal.Signals] = []

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(signal.Signals(number))

    before = {}
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(each) != signal.SIG_IGN:  # nohup
            before[each] = signal.signal(each, catch)
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def stopped_by(caught: list[signal.Signals]) -> Stopped:
    code = ExitCode.INTERRUPTED if caught[0] == signal.SIGINT else ExitCode.TERMINATED
    return Stopped("interrupted: the same command goes on from here", code)


def run(jobs: Sequence[J], at_once: int, watch: Watch | None = None, stop_at_failure: bool = False) -> J | None:
    """Runs jobs in order, `at_once` at a time. Their states tell how they ended.

    After a signal no more jobs are started, running ones get SIGTERM (SIGKILL after a second signal), and Stopped is
    raised when they have ended. With stop_at_failure the same happens after a job has failed, but that job is returned.
    """
    waiting = deque(jobs)
    running: dict[subprocess.Popen[bytes], J] = {}
    failed: J | None = None
    sent = 0  # number of signals sent to the running jobs
    with caught_signals() as caught:
        try:
            while running or (waiting and not caught and failed is None):
                while waiting and len(running) < at_once and not caught and failed is None:
                    job = waiting.popleft()
                    process = job.start()
                    if process is not None:
                        running[process] = job
                    elif stop_at_failure:
                        failed = job
                for process in [each for each in running if each.poll() is not None]:
                    job = running.pop(process)
                    job.end(process.returncode)
                    if stop_at_failure and failed is None and job.state() not in FINISHED:
                        failed = job
                while sent < len(caught) + (failed is not None):
                    for process in running:
                        process.kill() if sent else process.terminate()
                    sent += 1
                if watch is not None:
                    watch.update()
                time.sleep(0.02)
        finally:
            for process in running:
                process.terminate()
            if watch is not None:
                watch.close()
    if caught:
        raise stopped_by(caught)
    return failed
