"""Runs programs, several at a time, with progress, until all are finished or a signal arrives.

The state of a job is in its files. So a later call runs only unfinished jobs, and progress can be shown for jobs that
other processes run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Literal, Protocol, TypeVar

from llmc.cpus import usable_cpus
from llmc.errors import ExitCode, Stopped
from llmc.progress import LINES, Progress
from llmc.wording import plural

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

    every    seconds between lines if stdout is not a terminal; while no run ends, six times as long
    """

    def __init__(self, jobs: Sequence[Job], every: float = LINES):
        self.jobs = jobs
        self.states: dict[int, State] = {}
        done, text = self._survey()
        self.progress = Progress(sum(job.work for job in jobs), text, done=done, every=every)
        self.shown = time.monotonic()
        self.ended = self._ended()  # in the last line

    def _ended(self) -> int:
        return sum(state in FINISHED or state == "failed" for state in self.states.values())

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
            f"{sum(count.values())}/{plural(len(self.jobs), 'run')} ({running} running, {count['diverged']} diverged, "
            f"{count['failed']} failed)"
        )
        return done, text

    def update(self) -> None:
        """Call it often; it reads the files once a second."""
        if time.monotonic() - self.shown >= 1:
            done, text = self._survey()
            if self.progress.show(done, text, news=self._ended() != self.ended):
                self.ended = self._ended()
            self.shown = time.monotonic()

    def close(self) -> None:
        self.progress.close(*self._survey())


# With one of these, libgomp pins the threads of a program before its main: to the same first CPUs in every run.
PINNING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")


def share_cpus(at_once: int, threads: int) -> None:
    """Several runs at a time: warns of more threads than CPUs, and takes from this process's environment what would
    pin all runs to the same CPUs."""
    cpus = usable_cpus()
    if at_once * threads > cpus:
        print(
            f"warning: {plural(at_once, 'run')} at a time x {plural(threads, 'thread')} on {plural(cpus, 'CPU')}: runs "
            f"slow each other down; JOBS={max(1, cpus // threads)} fits",
            file=sys.stderr,
        )
    if at_once > 1:
        unpin()


def unpin(quiet: bool = False) -> None:
    """Takes the variables that pin from this process's environment."""
    for name in PINNING:
        value = os.environ.get(name, "")
        if value and value.lower() not in ("false", "disabled", "none"):
            del os.environ[name]
            if not quiet:
                print(f"{name}={value} is not passed on: it would pin the runs to the same CPUs", flush=True)


@contextmanager
def caught_signals(*also: signal.Signals) -> Iterator[list[signal.Signals]]:
    """Appends SIGINT, SIGTERM, SIGHUP and `also` to a list; they do not end this process."""
    caught: list[signal.Signals] = []

    def catch(number: int, _: FrameType | None) -> None:
        caught.append(signal.Signals(number))

    before = {}
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *also):
        if signal.getsignal(each) != signal.SIG_IGN:  # nohup
            before[each] = signal.signal(each, catch)
    try:
        yield caught
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def stopped_by(caught: list[signal.Signals]) -> Stopped:
    code = ExitCode.INTERRUPTED if caught[0] == signal.SIGINT else ExitCode.TERMINATED
    stopped = Stopped("interrupted: the same command goes on from here", code)
    stopped.signals = tuple(caught)
    return stopped


PATIENCE = 20.0  # seconds; SLURM sends SIGTERM twice within half a second, while a run is saving


def must_kill(caught: Sequence[signal.Signals], since: float) -> bool:
    """Whether running jobs get SIGKILL: after a third Ctrl-C, or after a signal repeated when PATIENCE is over.

    since    seconds since the first signal
    """
    return caught.count(signal.SIGINT) >= 3 or (len(caught) > len(set(caught)) and since > PATIENCE)


def run(
    jobs: Sequence[J],
    at_once: int,
    watch: Watch | None = None,
    stop_at_failure: bool = False,
    also: Sequence[signal.Signals] = (),
) -> J | None:
    """Runs jobs in order, `at_once` at a time. Their states tell how they ended.

    After a signal, also one of `also`, no more jobs are started, running ones get SIGTERM once (SIGKILL: must_kill),
    and Stopped is raised when they have ended. With stop_at_failure the same happens after a job has failed, but it
    is returned.
    """
    waiting = deque(jobs)
    running: dict[subprocess.Popen[bytes], J] = {}
    failed: J | None = None
    sent: list[float] = []  # when the running jobs got SIGTERM
    repeated = 0  # signals when they were looked at last
    with caught_signals(*also) as caught:
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
                if (caught or failed is not None) and not sent:
                    sent.append(time.monotonic())
                    for process in running:
                        process.terminate()
                    if running and sys.stderr.isatty():
                        print("\nstopping: the runs save and end; Ctrl-C twice more kills them", file=sys.stderr)
                elif len(caught) > repeated and sent and must_kill(caught, time.monotonic() - sent[0]):
                    for process in running:
                        process.kill()
                repeated = len(caught)
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
