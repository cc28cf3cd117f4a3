"""The single steps of a sweep, for GNU parallel, SLURM and manual use. scripts/mup_sweep.sh runs a whole sweep.

The steps use OUT/jobs.txt, which scripts/mup_sweep.sh writes. A job is one line of this file, a command that can also
be run manually in the folder in which the sweep was started. Exit codes: 1 jobs failed, 2 wrong usage, 130 or 143
interrupted. SIGUSR1 tells `job` that the time limit of its SLURM task is near: it lets the run save, and requeues.
"""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path

from llmc.errors import ExitCode, Stopped, UsageError, run_main
from llmc.mup import slurm
from llmc.mup.jobs import FINISHED, Watch, caught_signals, run, unpin
from llmc.mup.sweep import write_slurm_scripts
from llmc.mup.sweep_jobs import make_plan, read_jobs, write_job_list
from llmc.mup.sweep_results import collect, report
from llmc.mup.sweep_run import SweepJob, prune_joblog, unfinished
from llmc.progress import LINES
from llmc.wording import plural


def has_own_cpus() -> bool:
    """Whether this is an array task with CPUs of its own: its affinity mask lacks some of the machine's, so pinning
    stays within the task. Without task/affinity or task/cgroup all tasks of a machine have the same mask. Not in any
    other job of SLURM: there xargs may run several lines on the same mask."""
    return bool(os.environ.get("SLURM_ARRAY_TASK_ID")) and len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)


def run_one(job: SweepJob, alone: bool = False) -> int:
    """Runs the job unless it is finished. Returns 0 (done or diverged) or the exit code of its program.

    alone    no other job runs on this machine meanwhile. Otherwise there may be others that this process does not know
             of (xargs, GNU parallel on another machine, a second task), so that pinning is not passed on.
    """
    if not (alone or has_own_cpus()):
        unpin(quiet="PARALLEL_SEQ" in os.environ)  # GNU parallel would show the sentence with every job
    before = job.step() if job.can_resume() else 0
    try:
        run(unfinished([job]), 1, also=(signal.SIGUSR1,))
    except Stopped as stopped:
        if signal.SIGUSR1 not in stopped.signals:
            raise
        raise Stopped(slurm.requeue(progress=job.step() > before), ExitCode.TERMINATED) from None
    if job.state() in FINISHED:
        return ExitCode.DONE
    code = job.exit_code() or ExitCode.FAILED
    return code if 0 < code < 255 else ExitCode.FAILED  # for GNU parallel, 255 is a lost connection


def watch_jobs(jobs: list[SweepJob], every: float) -> None:
    """Shows progress until a signal arrives or the parent process has ended."""
    parent, watch = os.getppid(), Watch(jobs, every)
    with caught_signals() as caught:
        while not caught and os.getppid() == parent:
            watch.update()
            time.sleep(0.2)
    watch.close()


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser(
        "list", help="write OUT/jobs.txt for the environment variables of scripts/mup_sweep.sh --help"
    )
    new.add_argument("axis")
    new.add_argument("out")
    new.add_argument("--overwrite", action="store_true", help="repeat runs in OUT that have other options")
    for name, text in [
        ("job", "run one line"),
        ("watch", "show progress until SIGTERM"),
        ("report", "print how the jobs ended"),
        ("collect", "write the CSV"),
        ("prune", "remove unfinished jobs from GNU parallel's joblog"),
        ("slurm", "write a SLURM array script"),
    ]:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("jobs", type=Path, help="OUT/jobs.txt")
        if name == "job":
            sub.add_argument("line", type=int, help="line number, from 1")
            sub.add_argument("--alone", action="store_true", help="nothing else runs here: OMP_PROC_BIND is passed on")
        elif name == "watch":
            sub.add_argument("--every", type=float, default=LINES, help="least seconds between lines [%(default)s]")
        elif name != "report":
            sub.add_argument("file", type=Path)
        if name == "slurm":
            slurm.add_options(sub)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None, folder: Path | None = None) -> int:
    """folder: where the sweep was started, if it is not the current folder."""
    args = parse(argv, prog)
    if folder is not None:
        for name in {"jobs", "file"} & vars(args).keys():
            setattr(args, name, getattr(args, name).absolute())
        os.chdir(folder)
    if args.command == "list":
        write_job_list(make_plan(args.axis, args.out, os.environ), args.overwrite)
        return ExitCode.DONE
    jobs = read_jobs(args.jobs)
    if args.command == "job":
        if not 1 <= args.line <= len(jobs):
            raise UsageError(f"{args.jobs} has {plural(len(jobs), 'line')}, and none is number {args.line}")
        return run_one(jobs[args.line - 1], args.alone)
    if args.command == "watch":
        watch_jobs(jobs, args.every)
    elif args.command == "report":
        return ExitCode.FAILED if report(jobs) else ExitCode.DONE
    elif args.command == "collect":
        collect(jobs, args.file)
    elif args.command == "prune":
        prune_joblog(jobs, args.file)
    else:
        write_slurm_scripts(args.file, args.jobs, len(jobs), slurm.options_of(args), os.environ)
    return ExitCode.DONE


if __name__ == "__main__":
    run_main(main)
