"""Coordinate check: short runs at several widths (or depths), their statistics in one CSV, figures, and a verdict on
every tensor.

  scripts/mup_coordinate_check.sh                             in a clone: sp, mup, completep, u-mup; widths 64 to 1024
  llmc check                                                  the same, relative to the current folder
  PARAMETRIZATIONS="mup mup-table3 mup-table9 u-mup" scripts/mup_coordinate_check.sh
  HEADS=4 PARAMETRIZATIONS=mup scripts/mup_coordinate_check.sh                 4 heads at every width: their size grows
  AXIS=depth scripts/mup_coordinate_check.sh                                   mup and completep, depths 2 to 32
  PROGRAM=./train_gpt2cu OUT=runs/check_gpu scripts/mup_coordinate_check.sh    or ".venv/bin/python train_gpt2.py"

The results are OUT/coordinate_check.csv, verdict.json, curves.png, layers.png and a page of them, report.html.
Finished runs are kept: a second call continues where the first one stopped. Exit codes: 0 all as expected, 1 a
parametrization failed its check, 2 wrong usage, 3 unusable data or statistics, 6 undecided (rerun with more SEEDS or
sizes), 130 or 143 interrupted; if a trainer fails, its exit code.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmc.data import pystdlib
from llmc.errors import Error
from llmc.mup.check_settings import LEARNING_RATE, U_MUP_LEARNING_RATE, Settings, read_settings
from llmc.mup.job_options import read_options
from llmc.mup.jobs import FINISHED, State, Watch, run, share_cpus, was_stopped
from llmc.mup.variables import CHECK_HELP, Env, merged
from llmc.paths import require_program
from llmc.wording import plural


def options(settings: Settings, scheme: str, width: int, depth: int, seed: int) -> list[str]:
    """The trainer's options for one run. All schemes but u-mup start with queries and a head of zeros."""
    rate = settings.lr or (U_MUP_LEARNING_RATE if scheme == "u-mup" else LEARNING_RATE)
    words = [
        *["--train-data", settings.data, "--overfit-single-batch", "--seq-len", "64", "--batch-size", "8"],
        *["--steps", str(settings.steps), "--schedule", "constant", "--grad-clip", "0", "--dtype", "fp32"],
        *["--depth", str(depth), "--width", str(width), "--seed", str(seed)],
        *["--parametrization", scheme, "--lr", rate, "--no-tie-embeddings"],
        *(["--heads", str(settings.heads)] if settings.heads else ["--head-dim", str(settings.head_dim)]),
    ]
    if scheme == "sp":
        words += ["--zero-init-query", "--zero-init-head"]
    elif scheme != "u-mup":
        words += ["--base-width", str(min(settings.widths))]
        words += ["--base-heads", str(settings.heads)] if settings.heads else []
    if scheme == "completep":
        words += ["--base-depth", str(min(settings.depths))]
    words += [] if settings.on_gpu else ["--threads", str(settings.threads)]
    return merged(words, settings.extra, set(), "llmc check")


@dataclass
class CheckJob:
    """A run. Its CSV gets its final name when it is complete; a file next to it has the command that made it."""

    name: str
    words: list[str]  # without --coord-check
    program: Path  # a newer one makes the CSV outdated
    csv: Path
    work: float
    running: bool = field(default=False)
    code: int | None = field(default=None)

    def beside(self, ending: str) -> Path:
        return self.csv.with_name(self.csv.name + ending)

    def state(self) -> State:
        if self.running:
            return "unfinished"
        if self.code is not None:
            return "done" if self.code == 0 else "missing" if was_stopped(self.code) else "failed"
        try:
            same = self.beside(".command").read_text() == " ".join(self.words)
            newer = not self.program.exists() or self.csv.stat().st_mtime_ns > self.program.stat().st_mtime_ns
        except OSError:
            return "missing"
        return "done" if same and newer else "missing"

    def part(self) -> float | None:
        return 0.0 if self.running else None  # runs are short: a running one counts as 0

    def start(self) -> subprocess.Popen[bytes] | None:
        self.csv.unlink(missing_ok=True)
        with open(self.beside(".log"), "wb") as log:
            try:
                process = subprocess.Popen(
                    [*self.words, "--coord-check", str(self.beside(".part"))],
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                log.write(f"error: cannot run {self.words[0]}: {error.strerror}\n".encode())
                self.code = 127
                return None
        self.running = True
        return process

    def end(self, code: int) -> None:
        self.running, self.code = False, code
        if code == 0:
            self.beside(".command").write_text(" ".join(self.words))
            self.beside(".part").replace(self.csv)


def make_jobs(settings: Settings) -> list[CheckJob]:
    """All runs, the longest first, so that the last ones end at about the same time."""
    program, jobs = Path(settings.program[-1]), []
    for width in sorted(settings.widths, reverse=True):
        for depth in sorted(settings.depths, reverse=True):
            for scheme in settings.schemes:
                for seed in settings.seeds:
                    heads = f"_h{settings.heads}" if settings.heads else ""
                    csv = settings.out / "runs" / f"{program.name}_{scheme}_w{width}_d{depth}{heads}_s{seed}.csv"
                    name = f"{scheme} width {width} depth {depth} seed {seed}"
                    words = [*settings.program, *options(settings, scheme, width, depth, seed)]
                    jobs.append(CheckJob(name, words, program, csv, work=depth * width * (width + 300)))
    return jobs


def prepare(settings: Settings) -> None:
    """Builds ./train_gpt2 and makes the default data if they are missing."""
    program = settings.program[0]
    if settings.program == ["./train_gpt2"] and not os.access(program, os.X_OK) and Path("Makefile").exists():
        subprocess.run(["make", "train_gpt2"], check=False)
    require_program(settings.program)
    if settings.data.startswith("data/pystdlib/") and not Path("data/pystdlib/pystdlib_train_000001.bin").exists():
        pystdlib.main([])


def join(csvs: Sequence[Path], path: Path) -> None:
    """Joins the rows of all CSVs under one header line."""
    temporary = path.with_name(path.name + ".part")
    with open(temporary, "w", encoding="utf-8") as joined:
        for number, csv in enumerate(csvs):
            with open(csv, encoding="utf-8") as rows:
                joined.writelines(line for index, line in enumerate(rows) if index or not number)
    temporary.replace(path)


def run_checks(argv: list[str] | None, prog: str | None, env: Env) -> list[str]:
    """Runs unfinished runs and joins the statistics. Returns the arguments of llmc.plot.check, which judges them."""
    parser = argparse.ArgumentParser(
        prog=prog, description=f"{__doc__}\n{CHECK_HELP}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    settings = read_settings(env, prog or "llmc check")
    for scheme in settings.schemes:
        for width in settings.widths:
            for depth in settings.depths:
                read_options(settings.program, options(settings, scheme, width, depth, settings.seeds[0]))
    prepare(settings)
    share_cpus(settings.jobs, 1 if settings.on_gpu else settings.threads)
    (settings.out / "runs").mkdir(parents=True, exist_ok=True)
    jobs = make_jobs(settings)
    left = [job for job in jobs if job.state() not in FINISHED]
    print(
        f"{plural(len(jobs), 'run')} of {settings.steps} steps, {len(jobs) - len(left)} of them done earlier, "
        f"{settings.jobs} at a time",
        flush=True,
    )
    failed = run(left, settings.jobs, Watch(left) if left else None, stop_at_failure=True)
    if failed is not None:
        log = failed.beside(".log")
        print(*log.read_text(errors="replace").splitlines()[-3:], sep="\n", file=sys.stderr)
        code = failed.code or 1
        raise Error(
            f"{failed.name}: {shlex.join(settings.program)} ended with exit code {code}; all it said is in {log}",
            code if code > 0 else 128 - code,
        )
    path = settings.out / "coordinate_check.csv"
    join([job.csv for job in jobs], path)
    return [str(path), "--out", str(settings.out), "--json", str(settings.out / "verdict.json")]
