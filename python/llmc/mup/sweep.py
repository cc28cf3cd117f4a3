"""Sweeps a hyperparameter at several model sizes, to see whether its best value stays the same; draws the losses.

  scripts/mup_sweep.sh AXIS [--dry-run] [--slurm FILE ...] [--overwrite] [--verdict] [--no-figures]     in a clone
  llmc sweep AXIS ...                                                      the same, relative to the current folder

AXIS is lr, attn_mult, output_mult, embed_mult, init_std, weight_decay or schedule; environment variables, listed below,
set everything else.
sp runs with an untied head, and query and head start at zero: at the base width it is the same model as mup.

OUT/jobs.txt has one command per line. --dry-run stops after writing it; --slurm also writes an array script and stops:
tasks save before their time limit and requeue themselves, and their output is in OUT/slurm.
The commands are run by GNU parallel if it is installed, otherwise by llmc itself. Finished runs are skipped, so the
same command continues after an interruption, repeats failed runs, and adds new VALUES, SCALES or SEEDS. A diverged run
is a result. Only the logs of finished runs are kept; their checkpoints are deleted. The results are OUT/sweep.csv,
sweep.json, sweep.png, wider.png and a page of them, report.html.
Exit codes: 1 runs or the verdict failed; 2 wrong usage; 6 with --verdict: undecided; 130, 143 interrupted.
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
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from llmc.atomic import lock_file
from llmc.cpus import usable_cpus
from llmc.data import pystdlib
from llmc.errors import UsageError
from llmc.mup import slurm
from llmc.mup.jobs import Watch, caught_signals, run, share_cpus, stopped_by
from llmc.mup.sweep_jobs import AXES, make_plan, write_job_list
from llmc.mup.sweep_results import collect, report
from llmc.mup.sweep_run import SweepJob, prune_joblog, unfinished
from llmc.mup.variables import NOT_OF_SWEEP, SWEEP, SWEEP_HELP, Env, refuse_mistakes, whole_number
from llmc.paths import clone, require_program, trainer
from llmc.wording import plural


class Finished(NamedTuple):
    """A completed sweep."""

    failed: bool  # some runs failed
    plot_arguments: list[str]  # arguments of llmc.plot.sweep, which makes tables, figures and the verdict


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog,
        description=f"{__doc__}\n{SWEEP_HELP}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("axis", nargs="?", metavar="AXIS", help=", ".join(AXES))
    parser.add_argument("--dry-run", action="store_true", help="write OUT/jobs.txt and stop")
    parser.add_argument("--slurm", metavar="FILE", help="write a SLURM array script and stop")
    parser.add_argument("--overwrite", action="store_true", help="repeat runs in OUT that have other options")
    parser.add_argument("--verdict", action="store_true", help="exit status 1 or 6 unless the optimum transfers")
    parser.add_argument("--no-figures", action="store_true", help="tables only")
    slurm.add_options(parser)
    args = parser.parse_args(argv)
    if not args.axis:
        raise UsageError(f"no axis is given: choose {', '.join(list(AXES)[:-1])} or {list(AXES)[-1]}")
    if args.axis not in AXES:
        raise UsageError(f"there is no axis {args.axis!r} to sweep: choose one of {', '.join(AXES)}")
    if not args.slurm and slurm.given(args):
        raise UsageError(f"--{slurm.given(args)[0]} is an option of --slurm: give --slurm FILE too")
    return args


def run_sweep(argv: list[str] | None, prog: str | None, env: Env) -> Finished | None:
    """Writes the list of jobs, runs unfinished ones, collects OUT/sweep.csv. None after --dry-run or --slurm."""
    args = parse(argv, prog)
    refuse_mistakes(env, prog or "llmc sweep", SWEEP, NOT_OF_SWEEP)
    loss = env.get("LOSS") or "auto"
    if loss not in ("train", "val", "auto"):
        raise UsageError(f"LOSS is {loss}: choose train or val")
    threads = whole_number(env, "THREADS", 1)
    at_once = whole_number(env, "JOBS", max(1, usable_cpus() // threads))
    out = Path(env.get("OUT") or f"runs/sweep_{args.axis}_{env.get('SCALE') or 'width'}")
    plan = make_plan(args.axis, str(out), env, verdict=args.verdict)
    array = slurm.options_of(args)
    if not args.dry_run and not args.slurm:
        require_program(trainer(env))
        share_cpus(at_once, threads)
    out.mkdir(parents=True, exist_ok=True)
    with lock_file(out / ".lock") as free:
        if not free:
            raise UsageError(f"another sweep is running in {out}: wait for it, or choose another OUT")
        jobs = write_job_list(plan, args.overwrite)
        if args.slurm:
            write_slurm_scripts(Path(args.slurm), out / "jobs.txt", len(jobs), array, env)
        if args.slurm or args.dry_run:
            return None
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
    print(
        f"{at_once} at a time with {plural(threads, 'thread')} each, by {'parallel' if parallel else 'llmc'}",
        flush=True,
    )
    watch = Watch(jobs)
    if not parallel:
        run(unfinished(jobs), at_once, watch)
        return
    prune_joblog(jobs, out / "joblog.txt")
    command = ["parallel", "--will-cite", "-j", str(at_once), "--joblog", str(out / "joblog.txt"), "--resume-failed"]
    command += ["--termseq", "TERM,30000,KILL,25"]  # its default kills after 0.35 s, while runs save
    if hosts:
        command += ["--sshloginfile", hosts, "--workdir", os.getcwd()]
    command += [shlex.join(job_command(out / "jobs.txt", env, alone=at_once == 1)), "{}"]  # {}: a line number
    run_parallel(command, len(jobs), watch)


def has_gnu_parallel() -> bool:
    """Whether `parallel` is GNU parallel: moreutils has another program of this name."""
    if shutil.which("parallel") is None:
        return False
    done = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False)
    return done.stdout.startswith("GNU parallel")


def job_command(jobs: Path, env: Env, alone: bool = False) -> list[str]:
    """The command that runs one line of OUT/jobs.txt; the line number is added as the last argument. alone: a machine
    runs one at a time."""
    python = env.get("PYTHON") or sys.executable
    in_clone = clone() == Path.cwd().resolve()
    return [
        python,
        *(["dev/mup_sweep.py"] if in_clone else ["-m", "llmc.mup.sweep_tool"]),
        "job",
        *["--alone"] * alone,
        str(jobs),
    ]


def run_parallel(command: list[str], count: int, watch: Watch) -> None:
    """Runs GNU parallel on the lines 1 to `count`. Its exit status is not used: the report shows failures."""
    with caught_signals() as caught, tempfile.TemporaryFile() as lines:  # a pipe that is full would block this process
        lines.write("".join(f"{line}\n" for line in range(1, count + 1)).encode())
        lines.seek(0)
        # In a session of its own: Ctrl-C reaches it once, through this process.
        process = subprocess.Popen(command, stdin=lines, start_new_session=True)
        sent = 0
        try:
            while process.poll() is None:
                # On SIGTERM it would wait for running jobs; on SIGINT it ends them by --termseq.
                if caught and (not sent or (len(caught) > sent and caught.count(signal.SIGINT) >= 3)):
                    process.send_signal(signal.SIGINT)
                    sent = len(caught)
                watch.update()
                time.sleep(0.05)
        finally:
            watch.close()
    if caught:
        raise stopped_by(caught)


def write_slurm_scripts(path: Path, jobs: Path, count: int, options: slurm.SlurmOptions, env: Env) -> None:
    """JOBS is the number of tasks that may run at a time; not given: all."""
    at_once = whole_number(env, "JOBS", 0, least=0) if env.get("JOBS") else 0
    if not options.gpus and "train_gpt2cu" in env.get("PROGRAM", ""):
        options = replace(options, gpus="1")
    slurm.write_scripts(path, job_command(jobs, env), jobs, count, whole_number(env, "THREADS", 1), at_once, options)
