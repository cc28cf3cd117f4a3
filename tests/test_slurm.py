"""SLURM array scripts of sweeps: their text, and (make test-slow) what a real SLURM does with them, and with a program
under srun at its time limit. Measured with SLURM 22.05.8 of Debian."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from program import BACKEND, BINARY, ROOT
from shards import random_text, write_text_shards
from sweep_tools import clean_environment, fake_sweep, job_list, option, runs, sweep

from llmc.errors import UsageError
from llmc.mup import slurm


@pytest.fixture
def fake(tmp_path):
    """A folder (with a blank and a percent sign in its name) with a fake trainer; environment for a small sweep."""
    folder = tmp_path / "50% here"
    folder.mkdir()
    return fake_sweep(folder)


def directives(script: Path) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in script.read_text().splitlines() if line.startswith("#SBATCH ")]


# ---- the text


def test_the_script_runs_one_line_a_task(fake):
    folder, env = fake
    script = folder / "sweep.sbatch"
    sweep(env | {"THREADS": "4"}, "--slurm", script)
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0
    assert script.read_text().startswith("#!/usr/bin/env bash\n#SBATCH")
    lines = directives(script)
    assert "--array=1-12" in lines
    assert "--cpus-per-task=4" in lines
    output = f"{folder}/out/slurm/%A_%a.out".replace("50% here", "50%% here")
    assert f'--output="{output}"' in lines  # kept
    assert {"--open-mode=append", "--requeue", "--signal=B:USR1@120"} <= set(lines)
    assert (folder / "out/slurm").is_dir()  # SLURM does not make it
    assert not any(word in line for line in lines for word in ("gpus", "time", "mem", "partition", "account", "null"))
    assert runs(folder) == []
    for _ in range(2):  # the second one finds it finished
        subprocess.run(["bash", script], env=clean_environment() | {"SLURM_ARRAY_TASK_ID": "12"}, check=True)
    assert runs(folder) == [option(job_list(env)[11], "--out")]


def test_limits_and_further_lines(fake):
    folder, env = fake
    script = folder / "sweep.sbatch"
    sweep(
        env | {"JOBS": "3"},
        *["--slurm", script, "--time", "10:00", "--mem", "8G", "--partition", "gpu", "--account", "me"],
        *["--gpus", "a100:2", "--sbatch=--qos=long", "--sbatch=#SBATCH --signal=B:USR1@300"],
    )
    lines = directives(script)
    wanted = "--array=1-12%3 --time=10:00 --mem=8G --partition=gpu --account=me --gpus-per-task=a100:2 --qos=long"
    assert set(wanted.split()) <= set(lines)
    assert "--signal=B:USR1@120" in lines
    assert lines[-1] == "--signal=B:USR1@300"  # the last one counts
    sweep(env | {"PROGRAM": "./train_gpt2cu", "OUT": env["OUT"] + "2"}, "--slurm", script)
    assert "--gpus-per-task=1" in directives(script)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--time", "1h"], "--time is '1h': give minutes, H:MM:SS or D-HH:MM:SS"),
        (["--mem", "8 GB"], "--mem is '8 GB'"),
        (["--gpus", "two"], "--gpus is 'two'"),
        (["--partition", "a b"], "--partition is 'a b'"),
        (["--sbatch=qos=long"], "--sbatch is 'qos=long'"),
        (["--max-array-size", "1"], "--max-array-size is 1: give at least 2"),
    ],
)
def test_what_slurm_would_refuse_is_refused_and_nothing_is_written(fake, arguments, message):
    folder, env = fake
    done = sweep(env, "--slurm", folder / "x.sbatch", *arguments, expect=2)
    assert done.stderr.startswith(f"error: {message}")
    assert not (folder / "out").exists() and not (folder / "x.sbatch").exists()
    name = arguments[0].removeprefix("--").partition("=")[0]
    assert f"--{name} is an option of --slurm" in sweep(env, *arguments, expect=2).stderr


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-0", 86400),
        ("1-2:30", 95400),
        ("0-0:0:9", 9),
        ("1:2:3:4", None),
    ],
)
def test_time_limits_are_read_as_slurm_reads_them(text, seconds):
    assert slurm.seconds_of(text) == seconds


def test_more_tasks_than_an_array_may_have_are_split(fake, tmp_path):
    folder, env = fake
    done = sweep(env, "--slurm", folder / "a.sbatch", "--max-array-size", 6)
    scripts = [folder / name for name in ("a.sbatch", "a.2.sbatch", "a.3.sbatch")]
    assert [next(line for line in directives(s) if "--array" in line) for s in scripts] == [
        "--array=1-5", "--array=1-5", "--array=1-2",
    ]  # fmt: skip
    assert "sbatch each" in done.stdout
    for script, task in zip(scripts, ("1", "5", "2"), strict=True):
        subprocess.run(["bash", script], env=clean_environment() | {"SLURM_ARRAY_TASK_ID": task}, check=True)
    lines = job_list(env)
    assert runs(folder) == [option(lines[number - 1], "--out") for number in (1, 10, 12)]
    assert slurm.array_limit() >= 2
    for count, arrays in [(1000, 1), (1001, 2), (2001, 3)]:  # SLURM 22.05 refuses --array=1-1001 by default
        written = slurm.write_scripts(
            tmp_path / "s.sbatch", ["true"], tmp_path / "jobs.txt", count, 1, 0, slurm.SlurmOptions(max_array_size=1001)
        )
        assert len(written) == arrays
    for name in ('a"b', "a\\b"):
        with pytest.raises(UsageError, match="sbatch cannot read"):
            slurm.write_scripts(tmp_path / "s", ["true"], tmp_path / name / "jobs.txt", 1, 1, 0, slurm.SlurmOptions())


def test_requeue_only_in_a_task_and_after_progress(monkeypatch, tmp_path):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert "start it again" in slurm.requeue(progress=True)
    monkeypatch.setenv("SLURM_JOB_ID", "77")
    assert "give more --time" in slurm.requeue(progress=False)
    scontrol = tmp_path / "scontrol"
    scontrol.write_text(f'#!/bin/bash\necho "$@" >{tmp_path}/called\n')
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert "requeued as 77" in slurm.requeue(progress=True)
    assert (tmp_path / "called").read_text() == "requeue 77\n"
    scontrol.write_text("#!/bin/bash\necho no such job >&2; exit 1\n")
    assert slurm.requeue(progress=True) == "not requeued: scontrol requeue 77: no such job"


# ---- with the trainer

needs_trainer = pytest.mark.skipif(not BINARY.exists() or BACKEND != "cpu", reason="not built: run make train_gpt2")


@pytest.fixture
def long_run(tmp_path):
    """OUT/jobs.txt with one run of thousands of steps; environment of its sweep."""
    data = write_text_shards(tmp_path / "data", random_text(20_000))
    (tmp_path / "long.toml").write_text(
        f'train-data = "{data}"\nval-data = "{data}"\ndepth = 1\nwidth = 32\nhead-dim = 8\nseq-len = 16\n'
        "batch-size = 4\nsteps = 100_000\neval-every = 0\n"
    )
    env = {
        "PROGRAM": str(BINARY),
        "CONFIG": f"{tmp_path}/long.toml",
        "OUT": f"{tmp_path}/out",
        "SCALES": "32",
        "VALUES": "2^-8",
        "PARAMETRIZATIONS": "mup",
        "SEEDS": "1",
    }
    return tmp_path, env


def run_folder(env: dict) -> Path:
    return Path(option(job_list(env)[0], "--out"))


def events(folder: Path) -> list[dict]:
    path = folder / "log.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []  # the last one may be incomplete
    return [json.loads(line) for line in lines]


def wait_for(what, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.1)


@needs_trainer
def test_a_run_that_was_stopped_continues_from_its_checkpoint(long_run):
    """What a requeued task does: `job` again, after SIGUSR1, SIGTERM, and SIGKILL of runner and run."""
    _, env = long_run
    sweep(env, "--dry-run")
    folder = run_folder(env)
    command = [sys.executable, "dev/mup_sweep.py", "job", f"{env['OUT']}/jobs.txt", "1"]
    steps = [0]
    for number in (signal.SIGUSR1, signal.SIGTERM):
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=clean_environment())
        wait_for(lambda: sum(e["event"] == "train" for e in events(folder)) > steps[-1] + 3)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 143, errors
        assert ("start it again to continue" if number == signal.SIGUSR1 else "interrupted") in errors
        assert list((folder / "checkpoints").glob("step_*"))
        steps.append(max(e["step"] for e in events(folder) if e["event"] == "train"))
    log = events(folder)
    assert [e.get("resumed_from") is not None for e in log if e["event"] == "config"] == [False, True]
    trained = [e["step"] for e in log if e["event"] == "train"]
    assert trained == list(range(1, steps[-1] + 1))  # none is lost, none is repeated
    # other options: it starts over
    jobs = Path(env["OUT"]) / "jobs.txt"
    jobs.write_text(jobs.read_text().replace("--lr 0.00390625", "--lr 0.004 --steps 20"))
    subprocess.run(command, cwd=ROOT, check=True, env=clean_environment())
    assert [e["step"] for e in events(folder) if e["event"] == "train"] == list(range(1, 21))
    assert not (folder / "checkpoints").exists()  # finished: only the log is kept


# ---- a real SLURM


@pytest.mark.slow
def test_slurm_runs_a_split_sweep_and_keeps_its_output(cluster, fake):
    folder, env = fake
    (folder / "FAIL").write_text("0.0078125")  # every second value of lr 2^-7 fails: its message must be found
    sweep(env, "--slurm", folder / "a.sbatch", "--max-array-size", 9, "--time", "5", "--mem", "100M")
    numbers = [cluster.submit(folder / name, cwd=ROOT) for name in ("a.sbatch", "a.2.sbatch")]
    tasks = [f"{numbers[0]}_{task}" for task in range(1, 9)] + [f"{numbers[1]}_{task}" for task in range(1, 5)]
    wait_for(lambda: all(cluster.ended(task) for task in tasks), 120)
    assert sorted(runs(folder)) == sorted(option(words, "--out") for words in job_list(env))
    states = [cluster.state(task) for task in tasks]
    assert (states.count("COMPLETED"), states.count("FAILED")) == (8, 4)
    assert len(list((folder / "out/slurm").glob("*.out"))) == 12
    done = sweep(env, "--slurm", folder / "again.sbatch")
    assert "8 are finished" in done.stdout
    (folder / "FAIL").unlink()
    assert "12 runs: 12 done" in sweep(env).stdout
    assert len(runs(folder)) == 12 + 4


@pytest.mark.slow
def test_slurm_refuses_what_we_split(cluster, tmp_path):
    """SLURM 22.05: MaxArraySize 1001 refuses --array=1-1001 and takes 1-1000."""
    (tmp_path / "x.sh").write_text("#!/bin/bash\ntrue\n")
    for count, accepted in [(1000, True), (1001, False)]:
        said = cluster.call("sbatch", "--test-only", f"--array=1-{count}", tmp_path / "x.sh", check=False)
        assert ("Invalid job array" in said) != accepted, said
    jobs = tmp_path / "jobs.txt"
    options = slurm.SlurmOptions(max_array_size=1001, time="1:00:00", memory="100M", partition="all", account="me")
    for script in slurm.write_scripts(tmp_path / "s.sbatch", ["true"], jobs, 1001, 1, 2, options):
        cluster.call("sbatch", "--test-only", script)  # accepted


@pytest.mark.slow
@needs_trainer
def test_a_requeued_task_continues_and_appends_its_output(cluster, long_run):
    tmp_path, env = long_run
    sweep(env, "--slurm", tmp_path / "s.sbatch", "--time", "10")
    number = cluster.submit(tmp_path / "s.sbatch", cwd=ROOT)
    folder, task = run_folder(env), f"{number}_1"
    wait_for(lambda: len(events(folder)) > 5)
    identity = cluster.job(task)["JobId"]
    cluster.call("scancel", "--batch", "--signal=USR1", identity)  # as --signal=B:USR1@... does near the time limit
    wait_for(lambda: cluster.job(task).get("Restarts") == "1" and cluster.state(task) == "PENDING")
    assert list((folder / "checkpoints").glob("step_*"))
    before = len(events(folder))
    wait_for(lambda: "the time limit is near: requeued" in next(
        (Path(env["OUT"]) / "slurm").glob("*.out")).read_text())  # fmt: skip
    cluster.call("scontrol", "update", f"JobId={identity}", "StartTime=now")  # SLURM would wait about two minutes
    wait_for(lambda: any(e.get("resumed_from") for e in events(folder)), 180)
    wait_for(lambda: len(events(folder)) > before + 5)
    cluster.call("scancel", identity)  # SIGTERM: saves, and is not requeued
    wait_for(lambda: cluster.ended(task), 90)
    assert cluster.state(task) == "CANCELLED"
    wait_for(lambda: events(folder)[-1].get("reason") == "signal", 40)  # SLURM kills after 30 seconds
    trained = [e["step"] for e in events(folder) if e["event"] == "train"]
    assert trained == list(range(1, len(trained) + 1))
    [output] = (Path(env["OUT"]) / "slurm").glob("*.out")
    assert "requeued as" in output.read_text()  # of the first run: appended to, not truncated


PROGRAMS = {"C++": [str(BINARY)], "PyTorch": [sys.executable, str(ROOT / "train_gpt2.py")]}


@pytest.mark.slow
@needs_trainer
def test_at_the_time_limit_every_run_saves(cluster, tmp_path):
    """SLURM 22.05: under srun SIGTERM comes twice within 0.4 s. A step takes longer than that; the run must save."""
    data = write_text_shards(tmp_path / "data", random_text(20_000))
    words = "--depth 2 --width 128 --heads 4 --seq-len 128 --batch-size 8 --threads 1 --eval-every 0 --steps 100000"
    numbers = {}
    for name, program in PROGRAMS.items():
        for launcher in ("srun", "exec"):
            out = tmp_path / f"{launcher}_{name}"
            command = [*program, *words.split(), "--total-batch-size", "32768", "--train-data", data, "--out", str(out)]
            script = tmp_path / f"{launcher}_{name}.sh"
            script.write_text(f"#!/bin/bash\n{launcher} {shlex.join(command)}\n")
            limit = ["--time=1", f"--output={out}.txt", "--cpus-per-task=1", "--chdir", ROOT, "--oversubscribe"]
            numbers[out] = cluster.submit(*limit, script, env={"OMP_NUM_THREADS": "1"})
    wait_for(lambda: all(cluster.ended(number) for number in numbers.values()), 400)
    lost = {}
    for out, number in numbers.items():
        assert cluster.state(number) == "TIMEOUT"
        steps = max(e["step"] for e in events(out) if e["event"] == "train")
        saved = [path.name for path in (out / "checkpoints").glob("step_*") if (path / "model.safetensors").exists()]
        if f"step_{steps:08d}" not in saved or events(out)[-1].get("reason") != "signal":
            lost[out.name] = (steps, saved, Path(f"{out}.txt").read_text()[-500:])
    assert not lost
