"""Sweeps of a hyperparameter over model sizes: the job list, one job, progress, and the table of results.

    scripts/mup_sweep.sh AXIS        is how to use it; this file holds what is no shell

A job is one line of OUT/jobs.txt, a command that can also be run by hand from the project's folder. Its --out,
OUT/SCHEME/SCALE_AXIS=SCALE/AXIS=VALUE/seed=SEED, says what it is; its log says whether it is finished. That is all the
state there is: whatever stops a sweep, starting it again does what is left. Exit codes: 1 jobs failed, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from mup_sweep_jobs import (
    DEFAULT_CONFIG,
    ROOT,
    Job,
    UsageError,
    make_jobs,
    number,
    read_flat_toml,
    read_jobs,
    without_length,
    work,
)

DIVERGED = 4  # exit code of a run whose loss became infinite or NaN: a result, not a failure
COLUMNS = (
    "parametrization scale_axis scale axis value seed status steps tokens train_loss val_loss seconds width "
    "depth heads seq_len batch_size total_batch_size base_width parameters log"
).split()


# ---- what the runs have left behind


def last_event(log: Path) -> dict:
    """The last whole line of a log, without reading all of it."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 20_000))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1])
    except (OSError, ValueError, IndexError):
        return {}


def same_options(job: Job, log: Path) -> bool:
    """Whether the log is of this command. Another program or number of threads is the same run."""

    def options(words):
        line = " ".join(words)
        return re.sub(r" --threads \d+", "", line[line.find(" --") :])

    try:
        with open(log, encoding="utf-8") as file:
            command = json.loads(file.readline())["command"]
        return options(job.words) in (options([command]), options(shlex.split(command)))
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def state(job: Job) -> str:
    """done, diverged, failed, unfinished, missing; or other: the folder holds a finished run of other options."""
    log = job.out / "log.jsonl"
    reason = last_event(log).get("reason")
    if reason in ("done", "diverged"):
        return reason if same_options(job, log) else "other"
    code = exit_code(job)
    if code is None:
        return "unfinished" if log.exists() else "missing"
    return "diverged" if code == DIVERGED else "unfinished" if code in (130, 143) or code < 0 else "failed"


def exit_code(job: Job) -> int | None:
    try:
        return int((job.out / "exit_code").read_text())
    except (OSError, ValueError):
        return None


def run_job(job: Job) -> int:
    """Runs it unless it is finished. Its checkpoint goes: a sweep needs the log only. 0: done or diverged."""
    if state(job) in ("done", "diverged"):
        shutil.rmtree(job.out / "checkpoints", ignore_errors=True)
        return 0
    job.out.mkdir(parents=True, exist_ok=True)
    for name in ("exit_code", "log.jsonl"):
        (job.out / name).unlink(missing_ok=True)
    with open(job.out / "stderr.txt", "wb") as stderr:
        try:
            child = subprocess.Popen(job.words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)
        except OSError as error:
            stderr.write(f"error: cannot run {job.words[0]}: {error.strerror}\n".encode())
            (job.out / "exit_code").write_text("127\n")
            return 1
        signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        signal.signal(signal.SIGINT, lambda *_: child.send_signal(signal.SIGINT))
        code = child.wait()
    (job.out / "exit_code").write_text(f"{code}\n")
    shutil.rmtree(job.out / "checkpoints", ignore_errors=True)
    if (job.out / "stderr.txt").stat().st_size == 0:
        (job.out / "stderr.txt").unlink()
    if state(job) in ("done", "diverged"):
        return 0
    return code if 0 < code < 255 else 1


def prune_joblog(jobs: list[Job], joblog: Path) -> None:
    """GNU parallel skips what its joblog calls finished: only what is finished, and in this list, may stay there."""
    if not joblog.exists():
        return
    header, *lines = joblog.read_text().splitlines()
    kept = []
    for line in lines:
        fields = line.split("\t")
        index = int(fields[0]) - 1
        if index < len(jobs) and (fields[6] != "0" or state(jobs[index]) in ("done", "diverged")):
            kept.append(line)
    joblog.write_text("\n".join([header, *kept]) + "\n")


# ---- progress


class Watch:
    """One line about all jobs. On a terminal it is rewritten every second, elsewhere a line comes now and then."""

    def __init__(self, jobs: list[Job], config: Path):
        known = read_flat_toml(config)
        self.work = {job: work(job, known) for job in jobs}
        self.total = sum(self.work.values())
        self.states: dict[Job, str] = {}
        self.begin, self.done_at_begin = time.monotonic(), None

    def line(self) -> str:
        done, running = 0.0, 0
        for job, work_ in self.work.items():
            if self.states.get(job) not in ("done", "diverged"):
                self.states[job] = state(job)
            current = self.states[job]
            if current in ("done", "diverged", "failed"):
                done += work_
            elif current == "unfinished" and exit_code(job) is None:
                running += 1
                done += work_ * self.part(job)
        if self.done_at_begin is None:
            self.done_at_begin = done
        count = {name: sum(s == name for s in self.states.values()) for name in ("done", "diverged", "failed")}
        text = (
            f"{sum(count.values())}/{len(self.work)} runs ({running} running, {count['diverged']} diverged, "
            f"{count['failed']} failed) | {100 * done / self.total:3.0f}% of the work"
        )
        elapsed, progress = time.monotonic() - self.begin, done - self.done_at_begin
        if progress > 0 and elapsed > 3:
            text += f" | ETA {duration(elapsed * (self.total - done) / progress)}"
        return text

    @staticmethod
    def part(job: Job) -> float:
        event = last_event(job.out / "log.jsonl")
        try:
            with open(job.out / "log.jsonl", encoding="utf-8") as file:
                config = json.loads(file.readline())["config"]
            steps = config["steps"] if config["steps"] > 0 else config["tokens"] / config["total_batch_size"]
            return min(1.0, event["step"] / steps) if steps > 0 else 0.0
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
            return 0.0

    def run(self, every: float) -> None:
        terminal, parent = sys.stdout.isatty(), os.getppid()
        stop = []
        signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
        signal.signal(signal.SIGINT, lambda *_: stop.append(True))
        shown = -math.inf
        while not stop:
            if terminal or time.monotonic() - shown >= every:
                print(f"\r\033[K{self.line()}" if terminal else self.line(), end="" if terminal else "\n", flush=True)
                shown = time.monotonic()
            time.sleep(1 if terminal else 0.2)
            if os.getppid() != parent:  # the script is gone
                return
        print(f"\r\033[K{self.line()}" if terminal else self.line(), flush=True)


def duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"


# ---- results


def report(jobs: list[Job]) -> int:
    """How the jobs ended; the failures by message, one command for each. Returns how many are not finished."""
    states = [state(job) for job in jobs]
    failures: dict[str, list[Job]] = {}
    for job, current in zip(jobs, states, strict=True):
        if current == "failed":
            path = job.out / "stderr.txt"
            lines = path.read_text(errors="replace").rstrip().splitlines()[-5:] if path.exists() else []
            failures.setdefault("\n".join(lines) or "(nothing on stderr)", []).append(job)
    for message, failed in failures.items():
        more = f", and {len(failed) - 1} more alike" if len(failed) > 1 else ""
        print(
            f"\nfailed with exit code {exit_code(failed[0])}{more}:\n  {failed[0].command}\n    "
            + message.replace("\n", "\n    "),
            file=sys.stderr,
        )
    left = [s for s in states if s not in ("done", "diverged")]
    print(
        f"{len(jobs)} runs: {states.count('done')} done, {states.count('diverged')} diverged, "
        f"{states.count('failed')} failed, {len(left) - states.count('failed')} not run to the end"
        + ("; the same command again runs only what is left" if left else "")
    )
    return len(left)


def last_window(steps: int) -> int:
    """Training losses are averaged over the last 50 steps, of a long run the last tenth, of a short one its half."""
    return max(1, min(max(50, steps // 10), steps // 2))


def result(job: Job, out: Path) -> dict:
    """The row of one run."""
    row = dict.fromkeys(COLUMNS, "") | job.labels() | {"status": state(job)}
    log = job.out / "log.jsonl"
    if row["status"] in ("missing", "other") or not log.exists():
        return row
    row["log"] = os.path.relpath(log, out)
    events = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            continue
    for event in events:
        if event["event"] == "config":
            config, model = event["config"], event.get("model", {})
            row |= {
                "width": model.get("channels", ""),
                "depth": model.get("num_layers", ""),
                "heads": model.get("num_heads", ""),
                "parameters": event.get("parameters", ""),
                "base_width": event.get("parametrization", {}).get("base_width", ""),
            }
            row |= {name: config.get(name, "") for name in ("seq_len", "batch_size", "total_batch_size")}
    train = [event for event in events if event["event"] == "train"]
    if train:
        row |= {"steps": train[-1]["step"], "tokens": train[-1].get("tokens", "")}
    final = events[-1] if events and events[-1]["event"] == "final" else {}
    row["seconds"] = final.get("elapsed", "")
    if row["status"] == "done":
        losses = [event["loss"] for event in train[-last_window(len(train)) :]]
        if losses and None not in losses:
            row["train_loss"] = math.fsum(losses) / len(losses)
        row["val_loss"] = final.get("val_loss", "")
    return row


def collect(jobs: list[Job], path: Path) -> None:
    order = {job: position for position, job in enumerate(jobs)}
    rows = [result(job, path.parent) for job in jobs]

    def key(pair):
        row, job = pair
        value = number(row["value"]) if row["axis"] != "schedule" else 0
        return row["parametrization"], float(row["scale"]), value, row["value"], int(row["seed"]), order[job]

    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(row for row, _ in sorted(zip(rows, jobs, strict=True), key=key))
    temporary.replace(path)
    print(f"wrote {path}")


# ---- commands


def command_list(axis: str, out: str, overwrite: bool) -> None:
    """Writes OUT/jobs.txt and the options it uses, OUT/config.toml, and says what it holds."""
    config = os.environ.get("CONFIG") or DEFAULT_CONFIG
    try:
        text = without_length((ROOT / config).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"CONFIG is {config}: {error.strerror}: give a TOML file of options") from None
    os.chdir(ROOT)
    folder = Path(out)
    own = folder / "config.toml"
    if own.exists() and own.read_text(encoding="utf-8") != text and not overwrite:
        raise UsageError(
            f"{own} differs from CONFIG {config}: {out} holds a sweep of other options; choose another "
            f"OUT, or --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    if not own.exists() or own.read_text(encoding="utf-8") != text:
        if overwrite:  # the commands would look the same
            for log in folder.glob("*/*=*/*=*/seed=*/log.jsonl"):
                log.unlink()
        own.write_text(text, encoding="utf-8")
    jobs = make_jobs(axis, out, str(own), config == DEFAULT_CONFIG)
    states = [state(job) for job in jobs]
    if "other" in states and not overwrite:
        job = jobs[states.index("other")]
        raise UsageError(
            f"{job.out} holds a finished run of other options than this sweep's: choose another OUT, or --overwrite"
        )
    (folder / "jobs.txt").write_text("".join(job.command + "\n" for job in jobs), encoding="utf-8")
    finished = sum(s in ("done", "diverged") for s in states)
    labels = [job.labels() for job in jobs]
    for scheme in dict.fromkeys(label["parametrization"] for label in labels):
        mine = [job.out.parts[-4:] for job in jobs if job.labels()["parametrization"] == scheme]
        scales, values, seeds = (sorted({p[i].split("=")[1] for p in mine}, key=in_order) for i in (1, 2, 3))
        print(
            f"{scheme}: {labels[0]['scale_axis']} {' '.join(scales)} | {axis} {' '.join(values)} | "
            f"seeds {' '.join(seeds)}"
        )
    print(
        f"{len(jobs)} runs in {folder / 'jobs.txt'}, one command a line, longest first"
        + (f"; {finished} are finished" if finished else "")
    )


def in_order(text: str):
    try:
        return number(text), ""
    except ValueError:
        return 0, text


def slurm_script(list_path: Path, count: int) -> str:
    threads = os.environ.get("THREADS") or "1"
    gpu = "#SBATCH --gpus-per-task=1\n" if "train_gpt2cu" in os.environ.get("PROGRAM", "") else ""
    python = os.environ.get("PYTHON") or ".venv/bin/python"
    return (
        f"#!/usr/bin/env bash\n#SBATCH --job-name=mup_sweep\n#SBATCH --array=1-{count}\n#SBATCH --ntasks=1\n"
        f"#SBATCH --cpus-per-task={threads}\n{gpu}#SBATCH --output=/dev/null\n"
        f"# One array task a line of {list_path}; finished runs are skipped. A run's stderr is in its folder.\n"
        f"cd {shlex.quote(str(ROOT))} || exit 1\n"
        f'exec {shlex.quote(python)} dev/mup_sweep.py job {shlex.quote(str(list_path))} "$SLURM_ARRAY_TASK_ID"\n'
    )


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    new = commands.add_parser("list", help="write OUT/jobs.txt as the environment says (scripts/mup_sweep.sh --help)")
    new.add_argument("axis")
    new.add_argument("out")
    new.add_argument("--overwrite", action="store_true", help="runs of other options in OUT are done again")
    for name, text in [
        ("job", "run one line"),
        ("watch", "show progress until SIGTERM"),
        ("report", "how the jobs ended"),
        ("collect", "write the CSV"),
        ("prune", "keep in GNU parallel's joblog only what is so"),
        ("slurm", "write a SLURM array script"),
    ]:
        sub = commands.add_parser(name, help=text)
        sub.add_argument("jobs", type=Path, help="OUT/jobs.txt")
        if name == "job":
            sub.add_argument("line", type=int, help="from 1 on")
        elif name == "watch":
            sub.add_argument("--every", type=float, default=30, help="seconds between lines [%(default)s]")
        elif name != "report":
            sub.add_argument("file", type=Path)
    args = parser.parse_args(argv)
    if args.command == "list":
        command_list(args.axis, args.out, args.overwrite)
        return 0
    jobs = read_jobs(args.jobs)
    if args.command == "job":
        if not 1 <= args.line <= len(jobs):
            raise UsageError(f"{args.jobs} has {len(jobs)} lines, and none is number {args.line}")
        return run_job(jobs[args.line - 1])
    if args.command == "watch":
        Watch(jobs, args.jobs.parent / "config.toml").run(args.every)
    elif args.command == "report":
        return 1 if report(jobs) else 0
    elif args.command == "collect":
        collect(jobs, args.file)
    elif args.command == "prune":
        prune_joblog(jobs, args.file)
    else:
        args.file.write_text(slurm_script(args.jobs, len(jobs)), encoding="utf-8")
        print(f"wrote {args.file}: sbatch it, then run the sweep's command again without --slurm to collect")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        print(f"error: {error.filename or 'while writing'}: {error.strerror}", file=sys.stderr)
        sys.exit(1)
