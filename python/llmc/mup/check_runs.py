"""Coordinate check: short runs at several widths (or depths), their statistics in one CSV, figures, and a verdict on
every tensor.

  scripts/mup_coordinate_check.sh                             in a clone: sp, mup, completep, u-mup; widths 64 to 1024
  llmc check                                                  the same, relative to the current folder
  PARAMETRIZATIONS="mup mup-table3 mup-table9 u-mup" scripts/mup_coordinate_check.sh
  HEADS=4 PARAMETRIZATIONS=mup scripts/mup_coordinate_check.sh                 4 heads at every width: their size grows
  AXIS=depth scripts/mup_coordinate_check.sh                                   mup and completep, depths 2 to 32
  PROGRAM=./train_gpt2cu OUT=runs/check_gpu scripts/mup_coordinate_check.sh    or ".venv/bin/python train_gpt2.py"

Environment variables:
  AXIS              the size that varies: width or depth                   [width]
  WIDTHS, DEPTHS    sizes of the models                                    [width: 64 128 256 512 1024 at depth 2
                                                                            depth: 2 4 8 16 32 at width 64]
  PARAMETRIZATIONS  schemes to check                                       [width: sp mup completep u-mup
                                                                            depth: mup completep]
  SEEDS             number of seeds; all use the same data                 [3]
  STEPS             steps of each run                                      [10]
  HEADS             number of heads at every size, instead of HEAD_DIM     [HEAD_DIM=16]
  LR                learning rate                                          [1e-3; u-mup: 0.1]
  DATA              token shards                                           [data/pystdlib/pystdlib_train_*.bin]
  PROGRAM, EXTRA    the trainer; further options for all runs              [./train_gpt2]
  THREADS, JOBS     CPU threads of a run; runs at a time                   [1; cores, 1 for train_gpt2cu]
  OUT               folder for all output                                  [runs/coordinate_check]

Finished runs are kept: a second call continues where the first one stopped. Exit codes: 0 all as expected, 1 a
parametrization failed its check, 2 wrong usage, 3 unusable data or statistics; if a trainer fails, its exit code.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmc.data import pystdlib
from llmc.errors import Error, UsageError
from llmc.mup.jobs import FINISHED, State, Watch, run, was_stopped
from llmc.paths import trainer

Env = Mapping[str, str]
DEFAULTS = {
    "width": {"WIDTHS": "64 128 256 512 1024", "DEPTHS": "2", "PARAMETRIZATIONS": "sp mup completep u-mup"},
    "depth": {"WIDTHS": "64", "DEPTHS": "2 4 8 16 32", "PARAMETRIZATIONS": "mup completep"},
}
# Small enough for a smooth descent in ten steps: at five times these rates, runs of one width differ more than widths
# do. sp and the forms of mup are the same model at the base width; u-mup's rate is in units of its scaled weights.
LEARNING_RATE, U_MUP_LEARNING_RATE = "1e-3", "0.1"
DATA = "data/pystdlib/pystdlib_train_*.bin"


@dataclass(frozen=True)
class Settings:
    """The environment variables, parsed."""

    widths: list[int]
    depths: list[int]
    schemes: list[str]
    seeds: int
    steps: str
    heads: str
    head_dim: str
    lr: str
    data: str
    program: list[str]
    extra: list[str]
    threads: str
    jobs: int
    out: Path

    @property
    def on_gpu(self) -> bool:
        return self.program[-1].endswith("train_gpt2cu")


def whole_numbers(name: str, text: str) -> list[int]:
    if not all(word.isdecimal() and int(word) > 0 for word in text.split()) or not text.split():
        raise UsageError(f"{name} is {text!r}: give whole numbers, at least 1")
    return [int(word) for word in text.split()]


def read_settings(env: Env) -> Settings:
    axis = env.get("AXIS") or "width"
    if axis not in DEFAULTS:
        raise UsageError(f"AXIS={axis}: width or depth")
    value = {name: env.get(name) or default for name, default in DEFAULTS[axis].items()}
    program = trainer(env)
    cores = 1 if program[-1].endswith("train_gpt2cu") else len(os.sched_getaffinity(0))
    return Settings(
        widths=whole_numbers("WIDTHS", value["WIDTHS"]),
        depths=whole_numbers("DEPTHS", value["DEPTHS"]),
        schemes=value["PARAMETRIZATIONS"].split(),
        seeds=whole_numbers("SEEDS", env.get("SEEDS") or "3")[0],
        steps=env.get("STEPS") or "10",
        heads=env.get("HEADS", ""),
        head_dim=env.get("HEAD_DIM") or "16",
        lr=env.get("LR", ""),
        data=env.get("DATA") or DATA,
        program=program,
        extra=shlex.split(env.get("EXTRA", "")),
        threads=env.get("THREADS") or "1",
        jobs=whole_numbers("JOBS", env.get("JOBS") or str(cores))[0],
        out=Path(env.get("OUT") or "runs/coordinate_check"),
    )


def options(settings: Settings, scheme: str, width: int, depth: int, seed: int) -> list[str]:
    """The trainer's options for one run. All schemes but u-mup start with queries and a head of zeros."""
    rate = settings.lr or (U_MUP_LEARNING_RATE if scheme == "u-mup" else LEARNING_RATE)
    words = [
        *["--train-data", settings.data, "--overfit-single-batch", "--seq-len", "64", "--batch-size", "8"],
        *["--steps", settings.steps, "--schedule", "constant", "--grad-clip", "0", "--dtype", "fp32"],
        *["--depth", str(depth), "--width", str(width), "--seed", str(seed)],
        *["--parametrization", scheme, "--lr", rate, "--no-tie-embeddings"],
        *(["--heads", settings.heads] if settings.heads else ["--head-dim", settings.head_dim]),
    ]
    if scheme == "sp":
        words += ["--zero-init-query", "--zero-init-head"]
    elif scheme != "u-mup":
        words += ["--base-width", str(min(settings.widths))]
        words += ["--base-heads", settings.heads] if settings.heads else []
    if scheme == "completep":
        words += ["--base-depth", str(min(settings.depths))]
    return [*words, *([] if settings.on_gpu else ["--threads", settings.threads]), *settings.extra]


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
                for seed in range(1, settings.seeds + 1):
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
    if shutil.which(program) is None:
        raise UsageError(f"{program} is missing: run make, or set PROGRAM")
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
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args(argv)
    settings = read_settings(env)
    prepare(settings)
    (settings.out / "runs").mkdir(parents=True, exist_ok=True)
    jobs = make_jobs(settings)
    left = [job for job in jobs if job.state() not in FINISHED]
    print(
        f"{len(jobs)} runs of {settings.steps} steps, {len(jobs) - len(left)} of them done earlier, "
        f"{settings.jobs} at a time",
        flush=True,
    )
    failed = run(left, settings.jobs, Watch(left, every=10) if left else None, stop_at_failure=True)
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
