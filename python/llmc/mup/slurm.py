"""SLURM array scripts of a sweep: one task for each line of OUT/jobs.txt.

A script replaces its bash by the runner of one line (exec): SLURM sends signals of `--signal=B:...` only to the process
of the batch script. Before the time limit the runner gets SIGUSR1, lets the run save, and requeues the task, which
continues from there. A task that SLURM requeues (a failed node, preemption) continues from the newest checkpoint.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from llmc.errors import UsageError
from llmc.wording import plural

MAX_ARRAY_SIZE = 1001  # SLURM's default: the largest index of an array is one less
DAYS = r"(?P<days>\d+)-(?P<day_hours>\d+)(?::(?P<day_minutes>\d+)(?::(?P<day_seconds>\d+))?)?"
TIME = rf"(?:{DAYS})|(?P<clock>\d+(:\d+){{0,2}})"


@dataclass(frozen=True)
class SlurmOptions:
    time: str = ""
    memory: str = ""
    partition: str = ""
    gpus: str = ""
    account: str = ""
    lines: list[str] = field(default_factory=list)  # further ones, without #SBATCH
    max_array_size: int = 0  # 0: that of this machine's SLURM


def add_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("with --slurm")
    group.add_argument("--time", default="", metavar="LIMIT", help="time limit of a task: minutes, H:MM:SS or D-HH:MM")
    group.add_argument("--mem", default="", metavar="SIZE", help="memory of a task, such as 8G")
    group.add_argument("--partition", default="", metavar="NAME")
    group.add_argument("--account", default="", metavar="NAME")
    group.add_argument("--gpus", default="", metavar="[TYPE:]N", help="GPUs of a task [1 for train_gpt2cu]")
    group.add_argument(
        "--sbatch",
        action="append",
        default=[],
        metavar="LINE",
        help="a further #SBATCH line, such as --sbatch=--qos=long; repeatable, and the last of equal options counts",
    )
    group.add_argument(
        "--max-array-size", type=int, default=0, metavar="N", help=f"[that of this SLURM, or {MAX_ARRAY_SIZE}]"
    )


def options_of(args: argparse.Namespace) -> SlurmOptions:
    """The options that add_options added. UsageError for one that SLURM would refuse."""
    if args.time and seconds_of(args.time) is None:
        raise UsageError(f"--time is {args.time!r}: give minutes, H:MM:SS or D-HH:MM:SS")
    if args.mem and not re.fullmatch(r"\d+[KMGTkmgt]?", args.mem):
        raise UsageError(f"--mem is {args.mem!r}: give a number with K, M, G or T, such as 8G")
    if args.gpus and not re.fullmatch(r"(\w[\w.-]*:)?\d+", args.gpus):
        raise UsageError(f"--gpus is {args.gpus!r}: give a number, or a type and a number such as a100:1")
    for name in ("partition", "account"):
        if re.search(r"\s", getattr(args, name)):
            raise UsageError(f"--{name} is {getattr(args, name)!r}: give one word")
    lines = [re.sub(r"^#SBATCH\s+", "", line.strip()) for line in args.sbatch]
    for line in lines:
        if not line.startswith("-") or "\n" in line:
            raise UsageError(f"--sbatch is {line!r}: give an option of sbatch, such as --sbatch=--qos=long")
    if args.max_array_size < 0 or args.max_array_size == 1:
        raise UsageError(f"--max-array-size is {args.max_array_size}: give at least 2")
    return SlurmOptions(args.time, args.mem, args.partition, args.gpus, args.account, lines, args.max_array_size)


def given(args: argparse.Namespace) -> list[str]:
    """The options of add_options that were given."""
    names = ("time", "mem", "partition", "account", "gpus", "sbatch", "max_array_size")
    return [name.replace("_", "-") for name in names if getattr(args, name)]


def seconds_of(text: str) -> int | None:
    """A time limit as SLURM reads it: minutes, M:SS, H:MM:SS, D-H, D-H:MM, D-H:MM:SS. None: none of these."""
    match = re.fullmatch(TIME, text)
    if not match:
        return None
    if match["clock"]:
        parts = [int(part) for part in match["clock"].split(":")]
        return parts[0] * 60 if len(parts) == 1 else sum(p * 60**i for i, p in enumerate(reversed(parts)))
    hours = int(match["days"]) * 24 + int(match["day_hours"])
    return hours * 3600 + int(match["day_minutes"] or 0) * 60 + int(match["day_seconds"] or 0)


def array_limit() -> int:
    """MaxArraySize of this machine's SLURM, or its default."""
    if shutil.which("scontrol") is None:
        return MAX_ARRAY_SIZE
    try:
        done = subprocess.run(["scontrol", "show", "config"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return MAX_ARRAY_SIZE
    found = re.search(r"^MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return max(2, int(found[1])) if found else MAX_ARRAY_SIZE


def script(
    command: Sequence[str], jobs: Path, first: int, count: int, threads: int, at_once: int, options: SlurmOptions
) -> str:
    """The text of a script for `count` lines of jobs.txt from `first`; at_once: how many tasks may run, 0: all."""
    limit = seconds_of(options.time) if options.time else None
    early = 120 if limit is None else max(10, min(120, limit // 5))  # seconds before the limit
    output = f"{jobs.parent.absolute()}/slurm/".replace("%", "%%")
    lines = [
        "--job-name=mup_sweep",
        f"--array=1-{count}" + (f"%{at_once}" if at_once else ""),
        "--ntasks=1",
        f"--cpus-per-task={threads}",
        *([f"--time={options.time}"] if options.time else []),
        *([f"--mem={options.memory}"] if options.memory else []),
        *([f"--partition={options.partition}"] if options.partition else []),
        *([f"--account={options.account}"] if options.account else []),
        *([f"--gpus-per-task={options.gpus}"] if options.gpus else []),
        f'--output="{output}%A_%a.out"',
        "--open-mode=append",  # a requeued task would truncate its output
        "--requeue",
        f"--signal=B:USR1@{early}",
        *options.lines,
    ]
    line = "$SLURM_ARRAY_TASK_ID" if first == 1 else f"$((SLURM_ARRAY_TASK_ID + {first - 1}))"
    return (
        "#!/usr/bin/env bash\n"
        + "".join(f"#SBATCH {line}\n" for line in lines)
        + f"# One array task for each of lines {first} to {first + count - 1} of {jobs}; finished runs are skipped.\n"
        + "# exec: signals reach the runner, which lets the run save; after SIGUSR1 it requeues the task.\n"
        + f"cd {shlex.quote(os.getcwd())} || exit 1\n"
        + f'exec {shlex.join(command)} "{line}"\n'
    )


def write_scripts(
    path: Path, command: Sequence[str], jobs: Path, count: int, threads: int, at_once: int, options: SlurmOptions
) -> list[Path]:
    """Writes FILE, and FILE with .2, .3 ... before its ending if an array cannot have so many tasks."""
    if not count:
        raise UsageError(f"{jobs} has no lines: there is nothing to run")
    for broken in ('"', "\n", "\\"):
        if broken in str(jobs.parent.absolute()):
            raise UsageError(f"{jobs.parent} has {broken!r} in its name, which sbatch cannot read: choose another OUT")
    size = (options.max_array_size or array_limit()) - 1
    (jobs.parent / "slurm").mkdir(parents=True, exist_ok=True)  # SLURM does not make it
    path.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for number, first in enumerate(range(1, count + 1, size), start=1):
        each = path if number == 1 else path.with_name(f"{path.stem}.{number}{path.suffix}")
        text = script(command, jobs, first, min(size, count - first + 1), threads, at_once, options)
        each.write_text(text, encoding="utf-8")
        written.append(each)
    names = " ".join(shlex.quote(str(each)) for each in written)
    print(
        f"wrote {names} for {plural(count, 'run')}: sbatch {'each' if len(written) > 1 else 'it'}, then run the "
        f"sweep's command again without --slurm to collect; output is in {jobs.parent / 'slurm'}"
    )
    return written


# --- In a task ---


def requeue(progress: bool) -> str:
    """Requeues the SLURM task of this process; progress: whether it came further. Returns a sentence for the user."""
    task = os.environ.get("SLURM_JOB_ID", "")
    if not task:
        return "the run has saved: start it again to continue"
    if not progress:
        return "not requeued: no step was done within the time limit, give more --time"
    try:
        done = subprocess.run(["scontrol", "requeue", task], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"not requeued: scontrol requeue {task}: {error}"
    if done.returncode:
        return f"not requeued: scontrol requeue {task}: {done.stderr.strip() or f'exit code {done.returncode}'}"
    return f"the time limit is near: requeued as {task}, to continue from the last step"
