"""Sweeps a hyperparameter at several model sizes, to see whether its best value stays the same; draws the losses.

  scripts/mup_sweep.sh AXIS [--dry-run] [--slurm FILE] [--overwrite] [--verdict] [--no-figures]     in a clone
  llmc sweep AXIS ...                                                      the same, relative to the current folder

AXIS is lr, attn_mult, output_mult, embed_mult, init_std, weight_decay or schedule. Environment variables:
  SCALE             the size that varies: width, depth, batch_size, seq_len or tokens          [width]
  SCALES            its values; the axis is tuned at the smallest                              [width: 32 64 128 256]
  VALUES            of the axis, 2^-7 or 0.0078125; VALUES_SP, VALUES_U_MUP for one scheme     [a grid of factor 2]
  SEEDS             seeds of init and data order                                               [1 2 3]
  PARAMETRIZATIONS  schemes to compare                                                         [sp mup]
  BASE_WIDTH        of the schemes with a base model (completep: BASE_DEPTH too)               [the smallest width]
  STEPS             optimizer steps of a run (not if SCALE is tokens)                          [those of CONFIG]
  CONFIG            TOML file of all other options                                             [scripts/mup_sweep.toml]
  EXTRA             further options for all runs, such as EXTRA="--schedule cosine"; EXTRA_SP for one scheme
  PROGRAM           [./train_gpt2]; ./train_gpt2cu, or '.venv/bin/python train_gpt2.py'
  THREADS, JOBS     CPU threads of a run [1]; runs at a time [cores / THREADS]
  LOSS              the loss to compare: val, after the last step, or train, the mean of the last 50 steps (in a long
                    run the last tenth), which is better for a constant learning rate          [val]
  SSHLOGINFILE      other machines for GNU parallel; they must have this folder at the same path
  OUT               folder for all output                                                      [runs/sweep_AXIS_SCALE]
sp runs with an untied head, and query and head start at zero: at the base width it is the same model as mup.

OUT/jobs.txt has one command per line. --dry-run stops after writing it; --slurm also writes an array script and stops.
The commands are run by GNU parallel if it is installed, otherwise by llmc itself. Finished runs are skipped, so the
same command continues after an interruption, repeats failed runs, and adds new VALUES, SCALES or SEEDS. A diverged run
is a result. Only the logs of runs are kept; checkpoints are deleted. The results are OUT/sweep.csv, sweep.json,
sweep.png and wider.png.
Exit codes: 1 runs or the verdict failed; 2 wrong usage; 130, 143 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llmc.atomic import lock_file
from llmc.data import pystdlib
from llmc.errors import UsageError
from llmc.mup.jobs import Watch, caught_signals, run, stopped_by
from llmc.mup.sweep_jobs import AXES, write_job_list
from llmc.mup.sweep_results import collect, report
from llmc.mup.sweep_run import SweepJob, prune_joblog, unfinished
from llmc.paths import clone, trainer

Env = Mapping[str, str]


class Finished(NamedTuple):
    """A completed sweep."""

    failed: bool  # some runs failed
    plot_arguments: list[str]  # arguments of llmc.plot.sweep, which makes tables, figures and the verdict


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("axis", nargs="?", metavar="AXIS", help=", ".join(AXES))
    parser.add_argument("--dry-run", action="store_true", help="write OUT/jobs.txt and stop")
    parser.add_argument("--slurm", metavar="FILE", help="write a SLURM array script and stop")
    parser.add_argument("--overwrite", action="store_true", help="repeat runs in OUT that have other options")
    parser.add_argument("--verdict", action="store_true", help="exit status 1 unless the optimum transfers")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    args = parser.parse_args(argv)
    if not args.axis:
        raise UsageError(f"no axis is given: choose {', '.join(list(AXES)[:-1])} or {list(AXES)[-1]}")
    return args


def whole_number(env: Env, name: str, default: int) -> int:
    text = env.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"{name} is {text}: give a whole number, at least 1")
    return int(text)


def run_sweep(argv: list[str] | None, prog: str | None, env: Env) -> Finished | None:
    """Writes the list of jobs, runs unfinished ones, collects OUT/sweep.csv. None after --dry-run or --slurm."""
    args = parse(argv, prog)
    loss = env.get("LOSS") or "auto"
    if loss not in ("train", "val", "auto"):
        raise UsageError(f"LOSS is {loss}: choose train or val")
    threads = whole_number(env, "THREADS", 1)
    at_once = whole_number(env, "JOBS", max(1, len(os.sched_getaffinity(0)) // threads))
    out = Path(env.get("OUT") or f"runs/sweep_{args.axis}_{env.get('SCALE') or 'width'}")
    out.mkdir(parents=True, exist_ok=True)
    with lock_file(out / ".lock") as free:
        if not free:
            raise UsageError(f"another sweep is running in {out}: wait for it, or choose another OUT")
        jobs = write_job_list(args.axis, str(out), args.overwrite, env)
        if args.dry_run:
            return None
        if args.slurm:
            write_slurm_script(Path(args.slurm), out / "jobs.txt", len(jobs), env)
            return None
        program = trainer(env)[0]
        if shutil.which(program) is None:
            raise UsageError(f"{program} is missing: run make, or set PROGRAM")
        if not env.get("CONFIG"):  # the default base model uses the default corpus
            with contextlib.redirect_stdout(io.StringIO()):
                pystdlib.main([])
        run_jobs(jobs, out, at_once, threads, env)
        left = report(jobs)
        collect(jobs, out / "sweep.csv")
    figures = [] if args.no_figures else ["--out", str(out / "sweep.png"), "--wider", str(out / "wider.png")]
    verdict = ["--verdict"] if args.verdict else []
    arguments = [str(out / "sweep.csv"), "--loss", loss, *figures, "--json", str(out / "sweep.json"), *verdict]
    return Finished(left > 0, arguments)


def run_jobs(jobs: Sequence[SweepJob], out: Path, at_once: int, threads: int, env: Env) -> None:
    parallel = has_gnu_parallel()
    hosts = env.get("SSHLOGINFILE")
    if hosts and not parallel:
        raise UsageError("SSHLOGINFILE needs GNU parallel, which is not installed")
    print(f"{at_once} at a time with {threads} threads each, by {'parallel' if parallel else 'llmc'}", flush=True)
    watch = Watch(jobs)
    if not parallel:
        run(unfinished(jobs), at_once, watch)
        return
    prune_joblog(jobs, out / "joblog.txt")
    command = ["parallel", "--will-cite", "-j", str(at_once), "--joblog", str(out / "joblog.txt"), "--resume-failed"]
    if hosts:
        command += ["--sshloginfile", hosts, "--workdir", os.getcwd()]
    command += [shlex.join(job_command(out / "jobs.txt", env)), "{}"]  # {}: a line number
    run_parallel(command, len(jobs), watch)


def has_gnu_parallel() -> bool:
    """Whether `parallel` is GNU parallel: moreutils has another program of this name."""
    if shutil.which("parallel") is None:
        return False
    done = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.startswith("GNU parallel")


def job_command(jobs: Path, env: Env) -> list[str]:
    """The command that runs one line of OUT/jobs.txt; the line number is added as the last argument."""
    python = env.get("PYTHON") or sys.executable
    in_clone = clone() == Path.cwd().resolve()
    return [python, *(["dev/mup_sweep.py"] if in_clone else ["-m", "llmc.mup.sweep_tool"]), "job", str(jobs)]


def run_parallel(command: list[str], count: int, watch: Watch) -> None:
    """Runs GNU parallel on the lines 1 to `count`. Its exit status is not used: the report shows failures."""
    with caught_signals() as caught:
        process = subprocess.Popen(command, stdin=subprocess.PIPE)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write("".join(f"{line}\n" for line in range(1, count + 1)).encode())
            process.stdin.close()
        sent = 0
        try:
            while process.poll() is None:
                while sent < len(caught):  # on SIGTERM it would wait for running jobs; on SIGINT it ends them
                    process.send_signal(signal.SIGINT)
                    sent += 1
                watch.update()
                time.sleep(0.05)
        finally:
            watch.close()
    if caught:
        raise stopped_by(caught)


def write_slurm_script(path: Path, jobs: Path, count: int, env: Env) -> None:
    threads = env.get("THREADS") or "1"
    gpu = "#SBATCH --gpus-per-task=1\n" if "train_gpt2cu" in env.get("PROGRAM", "") else ""
    path.write_text(
        f"#!/usr/bin/env bash\n#SBATCH --job-name=mup_sweep\n#SBATCH --array=1-{count}\n#SBATCH --ntasks=1\n"
        f"#SBATCH --cpus-per-task={threads}\n{gpu}#SBATCH --output=/dev/null\n"
        f"# One array task per line of {jobs}; finished runs are skipped. A run's stderr is in its folder.\n"
        f"cd {shlex.quote(os.getcwd())} || exit 1\n"
        f'exec {shlex.join(job_command(jobs, env))} "$SLURM_ARRAY_TASK_ID"\n',
        encoding="utf-8",
    )
    print(f"wrote {path}: sbatch it, then run the sweep's command again without --slurm to collect")
