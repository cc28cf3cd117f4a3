"""scripts/mup_sweep.sh running: only what is unfinished, signals, runners, and the table that it collects."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from sweep_tools import (
    FAKE,
    ROOT,
    SWEEP,
    clean_environment,
    fake_sweep,
    folder_without_parallel,
    job_list,
    option,
    rows,
    runs,
    sweep,
)

from llmc.mup.sweep import job_command
from llmc.mup.sweep_jobs import DEFAULT_CONFIG, make_plan
from llmc.mup.sweep_results import last_window
from llmc.mup.sweep_run import prune_joblog
from llmc.mup.sweep_tool import has_own_cpus


@pytest.fixture
def fake(tmp_path):
    """A folder with a fake trainer; environment for a small sweep with it."""
    return fake_sweep(tmp_path)


@pytest.fixture
def bin_without_parallel(tmp_path):
    return folder_without_parallel(tmp_path)


# ---- running


def test_finished_runs_are_not_run_again_and_the_table_is_complete(fake):
    folder, env = fake
    done = sweep(env, figures=True)
    assert len(runs(folder)) == 12
    assert "12 runs: 12 done" in done.stdout
    assert "12/12 runs" in done.stdout  # the progress line
    table = rows(env)
    assert len(table) == 12
    assert {row["status"] for row in table} == {"done"}
    row = next(
        r
        for r in table
        if (r["parametrization"], r["scale"], r["value"], r["seed"]) == ("mup", "16", "0.00390625", "4")
    )
    assert (row["steps"], row["tokens"], row["width"], row["depth"], row["seconds"]) == ("8", "64", "16", "2", "0.5")
    low = 2 + 0.01 - 0.016 + 0.0004
    assert float(row["val_loss"]) == pytest.approx(low)
    assert float(row["train_loss"]) == pytest.approx(low + (1 / 5 + 1 / 6 + 1 / 7 + 1 / 8) / 4)  # half of 8 steps
    assert (Path(env["OUT"]) / row["log"]).exists()
    assert not list(Path(env["OUT"]).rglob("checkpoints"))
    for name in ("sweep.png", "wider.png", "sweep.json", "report.html"):
        assert (Path(env["OUT"]) / name).stat().st_size > 500
    assert done.stdout.endswith(f"\nwrote {env['OUT']}/report.html\n")
    again = sweep(env)
    assert "12 are finished" in again.stdout
    assert len(runs(folder)) == 12
    sweep(env | {"VALUES": "2^-9 2^-8 2^-7 2^-6", "THREADS": "2"})  # a wider grid; threads do not matter
    assert len(runs(folder)) == 16
    assert len(rows(env)) == 16


def test_unfinished_runs_start_over(fake):
    folder, env = fake
    sweep(env)
    logs = sorted(Path(env["OUT"]).rglob("log.jsonl"))
    text = logs[0].read_text()
    logs[0].write_text(text[: text.rindex('{"event": "final"')])  # killed
    logs[1].write_text(logs[1].read_text().replace('"done"', '"signal"'))  # stopped by Ctrl-C
    (logs[1].parent / "exit_code").write_text("130\n")
    logs[2].write_text(logs[2].read_text()[:-9])  # the last line is cut
    sweep(env)
    assert sorted(runs(folder)[12:]) == [str(log.parent) for log in logs[:3]]


def test_failures_are_reported_and_only_they_are_retried(fake):
    folder, env = fake
    (folder / "FAIL").write_text("0.0078125")
    done = sweep(env, expect=1)
    assert "8 done, 0 diverged, 4 failed" in done.stdout
    assert "failed with exit code 1, and 3 more alike" in done.stderr
    assert "error: no memory for 0.0078125" in done.stderr
    assert "--lr 0.0078125" in done.stderr  # the command
    assert "4 of 12 runs failed" in done.stdout
    assert sorted(row["status"] for row in rows(env)) == ["done"] * 8 + ["failed"] * 4
    assert len(runs(folder)) == 12
    (folder / "FAIL").unlink()
    assert "12 done" in sweep(env).stdout
    assert len(runs(folder)) == 12 + 4


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on(fake, bin_without_parallel, number, code):
    folder, env = fake
    (folder / "SLOW").touch()
    process = subprocess.Popen(
        [SWEEP, "lr", "--no-figures"],
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment() | env | {"JOBS": "2", "PATH": str(bin_without_parallel)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while len(runs(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    begin = time.monotonic()
    _, errors = process.communicate(timeout=60)  # ends when no process holds its stderr any more
    assert time.monotonic() - begin < 20
    assert process.returncode == code
    assert errors == "interrupted: the same command goes on from here\n"
    assert len(runs(folder)) == 2
    codes = [path.read_text() for path in Path(env["OUT"]).rglob("exit_code")]
    assert codes == ["-15\n", "-15\n"]
    (folder / "SLOW").unlink()
    assert "12 runs: 12 done" in sweep(env).stdout
    assert len(runs(folder)) == 2 + 12


def test_a_diverged_run_is_a_result(fake):
    folder, env = fake
    env |= {"VALUES": "2^-8 2^-7 2^-6 2^-1"}
    done = sweep(env)
    assert "12 done, 4 diverged, 0 failed" in done.stdout
    diverged = [row for row in rows(env) if row["status"] == "diverged"]
    found = {(row["value"], row["val_loss"], row["train_loss"], row["steps"]) for row in diverged}
    assert found == {("0.5", "", "", "3")}
    sweep(env)
    assert len(runs(folder)) == 16
    result = json.loads((Path(env["OUT"]) / "sweep.json").read_text())
    assert result["schemes"]["sp"][0]["diverged_values"] == [0.5]
    assert result["schemes"]["sp"][0]["optimum"] == 2.0**-7


def test_runs_of_other_options_are_not_mistaken_nor_overwritten(fake):
    folder, env = fake
    sweep(env)
    done = sweep(env | {"STEPS": "9"}, expect=2)
    assert "holds a finished run of other options" in done.stderr
    config = Path(env["CONFIG"])
    config.write_text(config.read_text() + "beta1 = 0.8\n")
    assert "differs from CONFIG" in sweep(env, expect=2).stderr
    assert len(runs(folder)) == 12
    sweep(env, "--overwrite")
    assert len(runs(folder)) == 24
    sweep(env | {"STEPS": "9"}, "--overwrite")
    assert {row["steps"] for row in rows(env)} == {"9"}


def test_two_sweeps_do_not_share_a_folder(fake):
    _, env = fake
    Path(env["OUT"]).mkdir()
    with open(env["OUT"] + "/.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "another sweep is running" in sweep(env, expect=2).stderr


def test_a_schedule_is_swept_too(fake):
    _, env = fake
    config = Path(env["CONFIG"])
    Path(env["PROGRAM"].split()[-1]).write_text(FAKE.replace('get("--lr")', '"0.01"'))
    sweep({key: value for key, value in env.items() if key != "VALUES"}, axis="schedule")
    assert config.exists()
    assert {row["value"] for row in rows(env)} == {"constant", "linear", "cosine", "wsd"}
    result = json.loads((Path(env["OUT"]) / "sweep.json").read_text())
    assert result["schemes"]["mup"][1]["drift_octaves"] is None
    assert result["schemes"]["mup"][1]["regret"] == 0


@pytest.mark.parametrize(
    ("steps", "window"),
    [(1, 1), (2, 1), (8, 4), (79, 39), (99, 49), (100, 50), (101, 50), (509, 50), (510, 51), (2000, 200)],
)
def test_training_losses_are_averaged_over_the_last_fifty_steps_a_tenth_or_a_half(steps, window):
    assert last_window(steps) == window


# ---- runners


def test_llmc_runs_the_jobs_where_parallel_is_missing(fake, bin_without_parallel):
    folder, env = fake
    (folder / "FAIL").write_text("0.0078125")
    done = sweep(env | {"JOBS": "3"}, path=bin_without_parallel, expect=1)
    assert "3 at a time with 1 thread each, by llmc" in done.stdout
    assert "8 done, 0 diverged, 4 failed" in done.stdout
    refused = sweep(env | {"SSHLOGINFILE": "hosts"}, path=bin_without_parallel, expect=2)
    assert "SSHLOGINFILE needs GNU parallel" in refused.stderr


def test_parallel_gets_its_options(fake, bin_without_parallel):
    """With a fake parallel that records its arguments and runs the jobs one after the other."""
    folder, env = fake
    stub = bin_without_parallel / "parallel"
    stub.write_text(
        '#!/bin/bash\nif [[ $1 = --version ]]; then echo "GNU parallel 20221122"; exit 0; fi\n'
        f'printf "%s\\n" "$@" >{folder}/ARGUMENTS\nn=$#; command=${{@:n-1:1}}\n'
        'while read -r line; do bash -c "$command $line"; done\n'
    )
    stub.chmod(0o755)
    done = sweep(env | {"JOBS": "3", "SSHLOGINFILE": "hosts"}, path=bin_without_parallel)
    assert "by parallel" in done.stdout
    assert len(runs(folder)) == 12
    arguments = (folder / "ARGUMENTS").read_text().splitlines()
    for name, value in [
        ("-j", "3"),
        ("--joblog", env["OUT"] + "/joblog.txt"),
        ("--sshloginfile", "hosts"),
        ("--workdir", str(ROOT)),
    ]:
        assert arguments[arguments.index(name) + 1] == value
    assert "--resume-failed" in arguments
    assert " job --alone " not in arguments[-2]
    sweep(env | {"JOBS": "1", "OUT": env["OUT"] + "2"}, path=bin_without_parallel)
    assert " job --alone " in (folder / "ARGUMENTS").read_text().splitlines()[-2]


def has_gnu_parallel() -> bool:
    if not shutil.which("parallel"):
        return False
    version = subprocess.run(["parallel", "--version"], capture_output=True, text=True, check=False).stdout
    return version.startswith("GNU parallel")


@pytest.mark.skipif(not has_gnu_parallel(), reason="GNU parallel is not installed")
def test_gnu_parallel_retries_what_failed_and_keeps_to_what_is_so(fake):
    folder, env = fake
    (folder / "FAIL").write_text("0.0078125")
    done = sweep(env | {"JOBS": "2"}, expect=1)
    assert "by parallel" in done.stdout
    assert "8 done, 0 diverged, 4 failed" in done.stdout
    joblog = (Path(env["OUT"]) / "joblog.txt").read_text().splitlines()
    assert len(joblog) == 1 + 12
    (folder / "FAIL").unlink()
    log = next(Path(env["OUT"]).rglob("lr=2^-8/seed=4/log.jsonl"))
    log.unlink()  # finished according to the joblog, but its result is gone
    assert "12 done" in sweep(env).stdout
    assert len(runs(folder)) == 12 + 4 + 1
    sweep(env | {"VALUES": "2^-9 2^-8 2^-7 2^-6"})  # another list: its lines have other numbers
    assert len(runs(folder)) == 17 + 4
    assert {row["status"] for row in rows(env)} == {"done"}
    assert len(rows(env)) == 16


def test_jobs_are_run_by_the_script_in_the_clone_and_by_the_package_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert job_command(Path("jobs.txt"), {"PYTHON": "py"}) == ["py", "dev/mup_sweep.py", "job", "jobs.txt"]
    monkeypatch.chdir(tmp_path)
    assert job_command(Path("jobs.txt"), {"PYTHON": "py"}) == ["py", "-m", "llmc.mup.sweep_tool", "job", "jobs.txt"]
    assert DEFAULT_CONFIG.read_text() == (ROOT / "scripts/mup_sweep.toml").read_text()


JOBLOG = "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand\n"


def joblog_line(number: int, code: int = 0, by_signal: int = 0) -> str:
    return f"{number}\t:\t1700000000.000\t     1.000\t0\t0\t{code}\t{by_signal}\tjob {number}\n"


def test_a_joblog_keeps_only_what_is_finished_in_this_list(fake):
    """GNU parallel 20221122: --resume-failed skips by line number, whatever the command, and the entry of a SIGKILLed
    job has Exitval 0 and Signal 9."""
    _, env = fake
    sweep(env | {"VALUES": "2^-8", "SCALES": "8"})  # two runs are finished
    jobs = make_plan("lr", env["OUT"], env).jobs  # twelve, in another order
    finished = [number for number, job in enumerate(jobs, start=1) if job.state() == "done"]
    assert len(finished) == 2
    joblog = Path(env["OUT"]) / "joblog.txt"
    killed = next(number for number in range(1, 13) if number not in finished)
    joblog.write_text(
        JOBLOG + "".join(joblog_line(number) for number in (*finished, 99)) + joblog_line(killed, by_signal=9)
        + joblog_line(finished[0], code=1) + "7\t:\t17000"
    )  # fmt: skip
    prune_joblog(jobs, joblog)
    assert joblog.read_text() == JOBLOG + "".join(joblog_line(number) for number in finished)
    joblog.write_text("")
    prune_joblog(jobs, joblog)  # as after a full disk
    assert not joblog.exists()


@pytest.mark.parametrize("code", [255, 126, 1])
def test_a_job_never_ends_with_255(fake, code):
    """xargs 4.9.0 stops all jobs at an exit code of 255, and GNU parallel takes it for a lost connection."""
    folder, env = fake
    (folder / "fake.py").write_text(f"import sys; sys.exit({code})")
    sweep(env, "--dry-run")
    done = subprocess.run(
        [sys.executable, ROOT / "dev/mup_sweep.py", "job", f"{env['OUT']}/jobs.txt", "1"], check=False, text=True,
        capture_output=True,
    )  # fmt: skip
    assert done.returncode == (1 if code == 255 else code)
    lines = "".join(f"{number}\n" for number in range(1, 13))
    if code == 255:  # all twelve are run; with 255 xargs would stop after the first
        subprocess.run(
            ["xargs", "-P", "1", "-n", "1", sys.executable, ROOT / "dev/mup_sweep.py", "job", f"{env['OUT']}/jobs.txt"],
            input=lines, text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert len(list(Path(env["OUT"]).rglob("exit_code"))) == 12


def signalled(fake, signals, **extra) -> tuple[int, str]:
    """Starts a sweep whose runs take a minute, sends signals when two of them run; its exit code and stderr."""
    folder, env = fake
    (folder / "SLOW").touch()
    process = subprocess.Popen(
        [SWEEP, "lr", "--no-figures"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env=clean_environment() | env | {"JOBS": "2"} | extra,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while len(runs(folder)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    for number in signals:
        process.send_signal(number)
        time.sleep(0.2)
    _, errors = process.communicate(timeout=50)  # ends when no process holds its stderr any more
    return process.returncode, errors


@pytest.mark.skipif(not has_gnu_parallel(), reason="GNU parallel is not installed")
@pytest.mark.parametrize(
    ("signals", "code"), [([signal.SIGINT], 130), ([signal.SIGTERM], 143), ([signal.SIGTERM] * 2, 143)]
)
def test_a_sweep_under_gnu_parallel_hears_signals_at_once(fake, signals, code):
    """GNU parallel 20221122: on SIGTERM it waits for the running jobs, and on SIGINT it kills them after 0.35 s."""
    folder, env = fake
    returned, errors = signalled(fake, signals)
    assert returned == code
    assert "interrupted: the same command goes on from here" in errors
    assert len(runs(folder)) == 2  # no further one was started
    assert [path.read_text() for path in Path(env["OUT"]).rglob("exit_code")] == ["-15\n", "-15\n"]  # they had time
    (folder / "SLOW").unlink()
    assert "12 runs: 12 done" in sweep(env).stdout


def test_the_steps_of_a_sweep_by_hand_from_another_folder(fake):
    folder, env = fake
    sweep(env, "--dry-run")
    script = ROOT / "dev/mup_sweep.py"
    for words, code, says in [
        (["job", "out/jobs.txt", "12"], 0, ""),
        (["job", "out/jobs.txt", "13"], 2, "has 12 lines, and none is number 13"),
        (["report", "out/jobs.txt"], 1, "12 runs: 1 done, 0 diverged, 0 failed, 11 not run to the end"),
        (["collect", "out/jobs.txt", "table.csv"], 0, "wrote "),
        (["slurm", "out/jobs.txt", "x.sbatch", "--time", "1:00:00"], 0, "x.sbatch"),
        (["report", "none/jobs.txt"], 2, "No such file"),
    ]:
        done = subprocess.run([sys.executable, script, *words], cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert says in done.stdout + done.stderr
    assert runs(folder) == [option(job_list(env)[11], "--out")]
    assert (folder / "table.csv").read_text().count(",done,") == 1
    assert "SLURM_ARRAY_TASK_ID" in (folder / "x.sbatch").read_text()


@pytest.mark.parametrize(
    ("words", "extra", "passed"),
    [
        (["job"], {}, False),
        (["job", "--alone"], {}, True),
        (["job"], {"SLURM_JOB_ID": "7"}, False),
        (["job"], {"SLURM_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"}, len(os.sched_getaffinity(0)) < os.cpu_count()),
        (["job"], {"PARALLEL_SEQ": "1"}, False),
    ],
)
def test_a_job_by_itself_is_pinned_only_where_it_is_alone(fake, words, extra, passed):
    """xargs and GNU parallel on another machine run several at a time, which would be pinned to the same CPUs."""
    folder, env = fake
    script = folder / "fake.py"
    script.write_text(FAKE + "open(out + '/BIND', 'w').write(os.environ.get('OMP_PROC_BIND', '-'))\n")
    script.write_text(script.read_text().replace("sys.exit(4 if diverged else 0)\n", ""))
    sweep(env, "--dry-run")
    done = subprocess.run(
        [sys.executable, ROOT / "dev/mup_sweep.py", *words, f"{env['OUT']}/jobs.txt", "1"],
        env=clean_environment() | {"OMP_PROC_BIND": "true"} | extra, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert next(Path(env["OUT"]).rglob("BIND")).read_text() == ("true" if passed else "-")
    said = "OMP_PROC_BIND=true is not passed on" in done.stdout
    assert said == (not passed and "PARALLEL_SEQ" not in extra)


def test_a_task_of_slurm_with_cpus_of_its_own(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    for task, cpus, own in [("7", 4, True), ("7", 2, False), ("", 4, False)]:
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", task)
        monkeypatch.setattr(os, "cpu_count", lambda cpus=cpus: cpus)
        assert has_own_cpus() == own
    monkeypatch.delenv("SLURM_ARRAY_TASK_ID")  # xargs in the script of another job: several at a time share its CPUs
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    assert not has_own_cpus()


# ---- with the real trainer


def test_a_small_sweep_of_the_trainer(tmp_path):
    if not (ROOT / "train_gpt2").exists():
        pytest.skip("./train_gpt2 is not built: run make")
    pytest.importorskip("numpy")
    from shards import random_text, write_text_shards

    data = write_text_shards(tmp_path / "data", random_text(20_000))
    (tmp_path / "tiny.toml").write_text(
        f'train-data = "{data}"\nval-data = "{data}"\ndepth = 1\nhead-dim = 8\nseq-len = 16\nbatch-size = 4\n'
        'steps = 20\nschedule = "constant"\ninit-std = 0.3\noutput-mult = 4.0\neval-every = 0\neval-tokens = 256\n'
    )
    shutil.copy(ROOT / "train_gpt2", tmp_path / "train_gpt2")
    env = {
        "PROGRAM": str(tmp_path / "train_gpt2"),
        "CONFIG": str(tmp_path / "tiny.toml"),
        "OUT": str(tmp_path / "out"),
        "SCALES": "8 16",
        "VALUES": "2^-9 2^-6 2^-3",
        "SEEDS": "1",
    }
    done = sweep(env)
    table = rows(env)
    assert [row["status"] for row in table] == ["done"] * 12, done.stderr
    losses = {(row["parametrization"], row["width"], row["value"]): float(row["val_loss"]) for row in table}
    at_base = {value: losses["sp", "8", value] for scheme, width, value in losses if (scheme, width) == ("sp", "8")}
    for value, loss in at_base.items():
        assert losses["mup", "8", value] == loss  # at the base width they are one model, bit for bit
    wider = [losses["sp", "16", value] - losses["mup", "16", value] for value in at_base]
    assert max(map(abs, wider)) > 1e-4
    assert {row["tokens"] for row in table} == {str(20 * 4 * 16)}
    size = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file())
    assert size < 2_000_000
    assert len([line for line in (tmp_path / "out/jobs.txt").read_text().splitlines() if "--overwrite" in line]) == 12
    log_times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("log.jsonl")}
    sweep(env)
    assert log_times == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("log.jsonl")}


RECORD = """
import re, subprocess, sys, time
run, last = subprocess.Popen([{binary!r}, *sys.argv[1:]]), ""
while run.poll() is None:
    try:
        found = re.search("Cpus_allowed_list:\\s*(\\S+)", open(f"/proc/{{run.pid}}/status").read())
        last = found[1] if found else last
    except OSError:
        pass
    time.sleep(0.01)
open(sys.argv[sys.argv.index("--out") + 1] + "/cpus", "w").write(last)
sys.exit(run.returncode)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="there is one CPU")
def test_runs_at_a_time_are_not_pinned_to_one_cpu(tmp_path):
    """libgomp of GCC 12: with OMP_PROC_BIND=true the first thread of every run is pinned to the first CPU."""
    if not (ROOT / "train_gpt2").exists():
        pytest.skip("./train_gpt2 is not built: run make")
    from shards import random_text, write_text_shards

    data = write_text_shards(tmp_path / "data", random_text(20_000))
    (tmp_path / "record.py").write_text(RECORD.format(binary=str(ROOT / "train_gpt2")))
    (tmp_path / "tiny.toml").write_text(
        f'train-data = "{data}"\ndepth = 1\nhead-dim = 8\nseq-len = 32\nbatch-size = 8\nsteps = 200\neval-every = 0\n'
    )
    env = {
        "PROGRAM": f"{shlex.quote(sys.executable)} {tmp_path}/record.py",
        "CONFIG": f"{tmp_path}/tiny.toml",
        "OUT": f"{tmp_path}/out",
        "SCALES": "16",
        "VALUES": "2^-7",
        "SEEDS": "1",
        "JOBS": "2",
        "LOSS": "train",
        "OMP_PROC_BIND": "true",
    }
    done = sweep(env)
    assert "OMP_PROC_BIND=true is not passed on" in done.stdout
    mine = re.search(r"Cpus_allowed_list:\s*(\S+)", Path("/proc/self/status").read_text())[1]
    assert {path.read_text() for path in (tmp_path / "out").rglob("cpus")} == {mine}
