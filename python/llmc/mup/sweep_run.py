"""One run of a sweep: its command, its folder, and its state.

Its --out, OUT/SCHEME/SCALE_AXIS=SCALE/AXIS=VALUE/seed=SEED, identifies the run; its log shows whether it is finished.
There is no other state: after an interruption, the sweep runs the unfinished runs when it is started again. A run that
was stopped by a signal, or killed after it had saved a checkpoint, continues from there.
"""

from __future__ import annotations

import math
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmc.errors import ExitCode
from llmc.log import first_event, last_event
from llmc.mup.jobs import FINISHED, State, was_stopped
from llmc.numbers import real


def number(text: str) -> float | int:
    """2^-7, 0.0078125 or 64; integers stay integers."""
    power = re.fullmatch(r"(\d+)\^([+-]?\d+(?:\.\d+)?)", text)
    value = float(power[1]) ** float(power[2]) if power else real(text)
    if value is None or not math.isfinite(value):
        raise ValueError(f"{text} is not a finite number")
    whole = power or re.fullmatch(r"\d+", text)
    return int(value) if whole and value == int(value) and value < 2**53 else value


def plain(text: str) -> str:
    """The value as the program gets it: decimal, with all digits of a double; names are unchanged."""
    try:
        return repr(number(text))
    except ValueError:
        return text


@dataclass(frozen=True)
class SweepJob:
    """A line of OUT/jobs.txt. Paths in it are relative to the folder in which the sweep was started."""

    command: str
    work: float  # see sweep_jobs.work

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)

    @property
    def out(self) -> Path:
        return Path(self.option("--out"))

    def option(self, name: str) -> str:
        words = self.words
        return words[words.index(name) + 1]

    def labels(self) -> dict[str, str]:
        """From the folder's name: parametrization, scale_axis, scale, axis, value, seed."""
        scheme, scale, axis, seed = self.out.parts[-4:]
        scale_axis, scale = scale.split("=")
        axis, value = axis.split("=")
        return {
            "parametrization": scheme,
            "scale_axis": scale_axis,
            "scale": plain(scale),
            "axis": axis,
            "value": plain(value),
            "seed": seed.split("=")[1],
        }

    def state(self) -> State:
        log = self.out / "log.jsonl"
        reason = last_event(log).get("reason")
        if reason == "done" or reason == "diverged":
            return reason if self._same_options(log) else "other"
        code = self.exit_code()
        if code is None:
            return "unfinished" if log.exists() else "missing"
        if code == ExitCode.DIVERGED:
            return "diverged"
        return "unfinished" if was_stopped(code) else "failed"

    def _same_options(self, log: Path) -> bool:
        """Whether the log is from this command, apart from the program and the number of threads."""

        def options(words: Sequence[str]) -> str:
            line = " ".join(words)
            return re.sub(r" --threads \d+", "", line[line.find(" --") :])

        try:
            command = str(first_event(log)["command"])
            return options(self.words) in (options([command]), options(shlex.split(command)))
        except (KeyError, ValueError):
            return False

    def exit_code(self) -> int | None:
        try:
            return int((self.out / "exit_code").read_text())
        except (OSError, ValueError):
            return None

    def step(self) -> int:
        """The optimizer steps in its log."""
        return int(last_event(self.out / "log.jsonl").get("step", 0))

    def can_resume(self) -> bool:
        """Whether the folder has checkpoints of this command: those of other options would be refused."""
        return any((self.out / "checkpoints").glob("step_*")) and self._same_options(self.out / "log.jsonl")

    def part(self) -> float | None:
        if self.exit_code() is not None:
            return None
        log = self.out / "log.jsonl"
        try:
            config = first_event(log)["config"]
            steps = config["steps"] if config["steps"] > 0 else config["tokens"] / config["total_batch_size"]
            return min(1.0, float(last_event(log)["step"] / steps))
        except (KeyError, TypeError, ZeroDivisionError):
            return 0.0

    def start(self) -> subprocess.Popen[bytes] | None:
        """Starts the run, from its newest checkpoint if it has one, in a separate session: Ctrl-C reaches only this
        process, which passes it on once."""
        self.out.mkdir(parents=True, exist_ok=True)
        words = self.words
        (self.out / "exit_code").unlink(missing_ok=True)
        if self.can_resume():
            words = ["--resume" if word == "--overwrite" else word for word in words]
        else:
            (self.out / "log.jsonl").unlink(missing_ok=True)
        with open(self.out / "stderr.txt", "wb") as stderr:
            try:
                return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=stderr, start_new_session=True)
            except OSError as error:
                stderr.write(f"error: cannot run {self.words[0]}: {error.strerror}\n".encode())
        (self.out / "exit_code").write_text("127\n")
        return None

    def end(self, code: int) -> None:
        (self.out / "exit_code").write_text(f"{code}\n")
        if not was_stopped(code):  # also after a failure: a checkpoint that is no use must not be tried again
            self.remove_checkpoints()
        errors = self.out / "stderr.txt"
        if errors.exists() and errors.stat().st_size == 0:
            errors.unlink()

    def remove_checkpoints(self) -> None:
        """A sweep needs only the log."""
        shutil.rmtree(self.out / "checkpoints", ignore_errors=True)


def unfinished(jobs: Sequence[SweepJob]) -> list[SweepJob]:
    """The jobs that must be run, in order."""
    left = []
    for job in jobs:
        if job.state() in FINISHED:
            job.remove_checkpoints()
        else:
            left.append(job)
    return left


def prune_joblog(jobs: Sequence[SweepJob], joblog: Path) -> None:
    """GNU parallel (20221122) matches jobs with its joblog by line number, not by command, and a SIGKILLed job has the
    exit value 0 there (and signal 9): keeps only entries of jobs that are finished in this list."""
    if not joblog.exists():
        return
    header, *lines = joblog.read_text(errors="replace").splitlines() or [""]
    if not header.startswith("Seq\t"):
        joblog.unlink()
        return
    kept = []
    for line in lines:
        fields = line.split("\t")
        if not (len(fields) > 7 and fields[0].isdecimal()):
            continue  # cut off
        index = int(fields[0]) - 1
        if 0 <= index < len(jobs) and fields[6:8] == ["0", "0"] and jobs[index].state() in FINISHED:
            kept.append(line)
    joblog.write_text("\n".join([header, *kept]) + "\n")
