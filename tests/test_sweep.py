"""scripts/mup_sweep.sh: its jobs, that it runs only unfinished ones, and the table that it collects."""

from __future__ import annotations

import csv
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

from llmc.errors import UsageError
from llmc.mup.check_settings import read_settings
from llmc.mup.sweep import job_command, run_sweep
from llmc.mup.sweep_jobs import DEFAULT_CONFIG, make_plan
from llmc.mup.sweep_results import last_window
from llmc.mup.sweep_run import prune_joblog
from llmc.mup.transfer import environment

ROOT = Path(__file__).resolve().parents[1]
SWEEP = ROOT / "scripts" / "mup_sweep.sh"
TOOLS = "bash env sed nproc seq wc xargs flock mkdir dirname sleep grep cat".split()

# Behaves like the trainer in a sweep. Its loss is lowest at lr 2^-7, at every width. It fails for the value in the file
# FAIL in its folder, diverges from lr 0.1 on, and counts its runs in RUNS. A run takes a minute while there is a file
# SLOW.
FAKE = """
import json, math, os, shlex, sys, time
words = sys.argv[1:]
get = lambda name, default=None: words[words.index(name) + 1] if name in words else default
here, out, lr, width = os.path.dirname(sys.argv[0]), get("--out"), float(get("--lr")), int(get("--width"))
with open(here + "/RUNS", "a") as file:
    file.write(out + "\\n")
if os.path.exists(here + "/FAIL") and get("--lr") in open(here + "/FAIL").read().split():
    print("step 1", flush=True)
    print("a line before\\nerror: no memory for " + get("--lr"), file=sys.stderr)
    sys.exit(1)
if os.path.exists(here + "/SLOW"):
    time.sleep(60)
os.makedirs(out + "/checkpoints/step_1", exist_ok=True)
open(out + "/checkpoints/step_1/model.safetensors", "w").write("x" * 1000)
steps, diverged = int(get("--steps", 8)), lr > 0.1
with open(out + "/log.jsonl", "w") as log:
    def write(event, step, **fields):
        log.write(json.dumps({"event": event, "step": step} | fields) + "\\n")
    write("config", 0, command=shlex.join(sys.argv), parameters=12 * width * width,
          config={"steps": steps, "seq_len": 4, "batch_size": 2, "total_batch_size": 8},
          model={"channels": width, "num_layers": 2, "num_heads": 1}, parametrization={"base_width": width})
    low = 2 + 0.01 * (math.log2(lr) + 7) ** 2 - 0.001 * width + 0.0001 * int(get("--seed"))
    for step in range(1, steps + 1):
        write("train", step, loss=None if diverged and step == 3 else low + 1 / step, tokens=8 * step)
        if diverged and step == 3:
            break
    last = {} if diverged else {"val_loss": low}
    write("final", step, elapsed=0.5, reason="diverged" if diverged else "done", **last)
sys.exit(4 if diverged else 0)
"""


@pytest.fixture
def fake(tmp_path):
    """A folder with a fake trainer; environment for a small sweep with it."""
    (tmp_path / "fake.py").write_text(FAKE)
    (tmp_path / "config.toml").write_text("depth = 2\nhead-dim = 8\nseq-len = 4 # short\nbatch-size = 2\nsteps = 8\n")
    return tmp_path, {
        "PROGRAM": f"{shlex.quote(sys.executable)} {tmp_path}/fake.py",
        "OUT": f"{tmp_path}/out",
        "CONFIG": f"{tmp_path}/config.toml",
        "SCALES": "8 16",
        "VALUES": "2^-8 2^-7 2^-6",
        "SEEDS": "4-4",
    }


def clean_environment() -> dict[str, str]:
    names = (
        "SCALE SCALES VALUES SEEDS STEPS PARAMETRIZATIONS EXTRA BASE_WIDTH BASE_DEPTH CONFIG OUT JOBS THREADS "
        "LOSS PROGRAM SSHLOGINFILE"
    ).split()
    return {key: value for key, value in os.environ.items() if key not in names} | {"PYTHON": sys.executable}


def sweep(env: dict, *arguments, axis="lr", expect=0, path=None, figures=False) -> subprocess.CompletedProcess:
    command = [SWEEP, *([axis] if axis else []), *([] if figures else ["--no-figures"]), *map(str, arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env=clean_environment() | ({"PATH": str(path)} if path else {}) | env,
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def job_list(env: dict) -> list[list[str]]:
    return [shlex.split(line) for line in (Path(env["OUT"]) / "jobs.txt").read_text().splitlines()]


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def rows(env: dict) -> list[dict]:
    with open(Path(env["OUT"]) / "sweep.csv", newline="") as file:
        return list(csv.DictReader(file))


def runs(folder: Path) -> list[str]:
    path = folder / "RUNS"
    return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def bin_without_parallel(tmp_path):
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


# ---- the job list


def test_job_list_is_runnable_exact_and_longest_first(fake):
    folder, env = fake
    env["SEEDS"] = "1 2"
    done = sweep(env, "--dry-run")
    jobs = job_list(env)
    assert "24 runs" in done.stdout
    assert len(jobs) == len({option(words, "--out") for words in jobs}) == 2 * 2 * 3 * 2
    assert runs(folder) == []
    assert [option(words, "--width") for words in jobs] == ["16"] * 12 + ["8"] * 12
    for words in jobs:
        scheme, width, value, seed = option(words, "--out").split("/")[-4:]
        assert scheme == option(words, "--parametrization")
        assert width == f"width={option(words, '--width')}"
        assert seed == f"seed={option(words, '--seed')}"
        assert float(option(words, "--lr")) == 2.0 ** int(value.removeprefix("lr=2^"))
        assert "--overwrite" in words
        assert ("--base-width" in words) == (scheme == "mup")
        # the same model at the base width
        assert ("--zero-init-head" in words and "--no-tie-embeddings" in words) == (scheme == "sp")
    assert {option(words, "--base-width") for words in jobs if "mup" in words} == {"8"}
    first = (Path(env["OUT"]) / "jobs.txt").read_text().splitlines()[0]
    subprocess.run(first, shell=True, check=True, cwd=ROOT)
    assert len(runs(folder)) == 1


def test_values_keep_all_their_digits(fake):
    _, env = fake
    sweep(env | {"VALUES": "2^-7.5 0.0030000000000000001 1e-05", "SCALES": "8"}, "--dry-run")
    found = {option(words, "--out").split("/")[-2]: float(option(words, "--lr")) for words in job_list(env)}
    assert found == {"lr=2^-7.5": 2.0**-7.5, "lr=0.0030000000000000001": 0.003, "lr=1e-05": 1e-5}


@pytest.mark.parametrize(
    ("axis", "wanted"),
    [
        ("attn_mult", "--attn-mult 4"),
        ("output_mult", "--output-mult 4"),
        ("embed_mult", "--embed-mult 4"),
        ("init_std", "--init-std 4"),
        ("weight_decay", "--weight-decay 4"),
    ],
)
def test_axes_set_their_option(fake, axis, wanted):
    _, env = fake
    sweep(env | {"VALUES": "2^2", "SCALES": "8"}, "--dry-run", axis=axis)
    assert all(f" {wanted} " in " ".join(words) for words in job_list(env))


@pytest.mark.parametrize(
    ("scale", "scales", "wanted"),
    [
        ("depth", "2 4", {"2", "4"}),
        ("batch_size", "2 8", {"2", "8"}),
        ("seq_len", "2^3 16", {"8", "16"}),
        ("tokens", "2^10 2^11", {"1024", "2048"}),
    ],
)
def test_scales_set_their_option(fake, scale, scales, wanted):
    _, env = fake
    sweep(env | {"SCALE": scale, "SCALES": scales, "BASE_WIDTH": "8", "STEPS": "5"}, "--dry-run")
    jobs = job_list(env)
    assert {option(words, "--" + scale.replace("_", "-")) for words in jobs} == wanted
    assert option(jobs[0], "--" + scale.replace("_", "-")) == max(wanted, key=int)
    config = (Path(env["OUT"]) / "config.toml").read_text()
    if scale == "tokens":  # the programs refuse two lengths
        assert not any("--steps" in words for words in jobs)
        assert "\n# the sweep sets it: steps = 8\n" in config
    else:
        assert {option(words, "--steps") for words in jobs} == {"5"}
        assert "\nsteps = 8\n" in config


def test_schemes_have_their_own_options_and_grids(fake):
    _, env = fake
    env |= {
        "PARAMETRIZATIONS": "sp mup completep u-mup",
        "BASE_DEPTH": "2",
        "VALUES_U_MUP": "2^0 2^1",
        "EXTRA": "--threads 3",
        "EXTRA_SP": "--tie-embeddings",
    }
    sweep(env, "--dry-run")
    jobs = {
        scheme: [w for w in job_list(env) if option(w, "--parametrization") == scheme]
        for scheme in env["PARAMETRIZATIONS"].split()
    }
    assert {option(words, "--lr") for words in jobs["u-mup"]} == {"1", "2"}
    assert {option(words, "--lr") for words in jobs["mup"]} == {"0.00390625", "0.0078125", "0.015625"}
    for words in jobs["u-mup"]:
        assert "--base-width" not in words
        assert (option(words, "--init-std"), option(words, "--output-mult")) == ("0.02", "1")
    assert all(option(words, "--base-depth") == "2" for words in jobs["completep"])
    assert all("--tie-embeddings" in words and "--no-tie-embeddings" not in words for words in jobs["sp"])
    assert all(words.count("--threads") == 1 and option(words, "--threads") == "3" for words in job_list(env))
    sweep(env | {"OUT": env["OUT"] + "2", "PARAMETRIZATIONS": "u-mup"}, "--dry-run", axis="output_mult")
    second = job_list(env | {"OUT": env["OUT"] + "2"})
    assert {option(words, "--loss-softmax-mult") for words in second} == {"1", "2"}
    assert {option(words, "--output-mult") for words in second} == {"1"}  # u-mup accepts no other value


@pytest.mark.parametrize(
    ("change", "axis", "message"),
    [
        ({}, "momentum", "no axis 'momentum'"),
        ({}, "", "no axis is given"),
        ({"SCALE": "heads"}, "lr", "SCALE is 'heads'"),
        ({"VALUES": "fast"}, "lr", "'fast'"),
        ({"VALUES": "2^-7 0.0078125"}, "lr", "same value twice"),
        ({"SCALES": "8.5"}, "lr", "whole numbers"),
        ({"SEEDS": "0"}, "lr", "SEEDS is '0': give how many (SEEDS=3), the seeds themselves"),
        ({"SEEDS": "6-4"}, "lr", "SEEDS is '6-4'"),
        ({"SEEDS": "1 2-3 2"}, "lr", "SEEDS has 2 twice"),
        ({"STEPS": "0"}, "lr", "STEPS is '0': give one whole number, at least 1"),
        ({"PARAMETRIZATIONS": "mup ntk"}, "lr", "PARAMETRIZATIONS has 'ntk': there are sp, mup,"),
        ({"CONFIG": "none.toml"}, "lr", "none.toml"),
        ({"SCALE": "depth"}, "lr", "BASE_WIDTH"),
        ({"VALUES": "sine"}, "schedule", "'sine'"),
        ({"EXTRA": "--lr 1"}, "lr", "--lr"),
        ({"EXTRA": "--out x"}, "lr", "--out"),
        ({"PARAMETRIZATIONS": "u-mup"}, "init_std", "u-mup has no init_std"),
        ({"JOBS": "many"}, "lr", "JOBS is 'many'"),
        ({"LOSS": "test"}, "lr", "LOSS is test"),
        ({"SCALE": "batch_size", "EXTRA": "--eval-batches=3"}, "lr", "different text: give --eval-tokens"),
        ({"SCALE": "seq_len", "EXTRA_MUP": "--eval-batches 3"}, "lr", "different text: give --eval-tokens"),
        ({"PROGRAM": "./no_such_program"}, "lr", "no_such_program is missing"),
        ({"PROGRAM": "python3 no_such.py"}, "lr", "no_such.py is missing"),
        ({"PROGRAM": "a 'b"}, "lr", "quote it as in a shell"),
        ({"EXTRA": "cosine"}, "lr", "EXTRA begins with 'cosine'"),
        ({"WIDTHS": "8 16"}, "lr", "WIDTHS is set, and it is no variable of llmc sweep: give SCALES"),
        ({"WIDTH": "8"}, "lr", "give SCALES"),
        ({"SEED": "8"}, "lr", "is it SEEDS?"),
        ({"VALUE": "2^-3"}, "lr", "is it VALUES?"),
        ({"VALUES_MU": "2^-3"}, "lr", "is it VALUES_MUP?"),
        ({"EXTRA_NTK": "--lr 3"}, "lr", "there is no parametrization ntk"),
    ],
)
def test_wrong_use_is_one_sentence(fake, change, axis, message):
    _, env = fake
    with pytest.raises(UsageError) as error:
        run_sweep([axis] if axis else [], None, env | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path(env["OUT"]).exists()  # nothing is written
    assert runs(fake[0]) == []


def test_a_wrong_axis_leaves_no_folder(fake):
    done = sweep(fake[1], axis="momentum", expect=2)
    assert done.stderr.startswith("error: there is no axis 'momentum' to sweep")
    assert not Path(fake[1]["OUT"]).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SCALES": "8"}, "SCALES has one scale, which gives no verdict: give at least two"),
        (
            {"VALUES": "2^-7 2^-6"},
            "VALUES has 2 values for sp, and an optimum at the edge of the grid gives no verdict",
        ),
        ({"SCALE": "depth", "BASE_WIDTH": "8"}, "SCALE is depth, and a transfer compares widths"),
    ],
)
def test_a_transfer_without_a_verdict_is_refused_before_it_runs(fake, change, message):
    _, env = fake
    with pytest.raises(UsageError) as error:
        run_sweep(["lr", "--verdict"], None, environment(env | change))
    assert str(error.value).startswith(message)
    assert not Path(env["OUT"]).exists()
    assert runs(fake[0]) == []


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("2", [1, 2]), ("1", [1]), ("3-5", [3, 4, 5]), ("7-7", [7]), ("2 9", [2, 9]), ("2,9", [2, 9]), ("", [1, 2, 3])],
)
def test_seeds_mean_the_same_in_all_scripts(fake, text, seeds):
    _, env = fake
    plan = make_plan("lr", env["OUT"], env | {"SEEDS": text, "SCALES": "8", "VALUES": "2^-7"})
    assert sorted({int(job.option("--seed")) for job in plan.jobs}) == seeds
    assert read_settings({"SEEDS": text, "PROGRAM": "x"}).seeds == seeds


def test_lists_may_have_commas(fake):
    _, env = fake
    plan = make_plan("lr", env["OUT"], env | {"SCALES": "8,16", "VALUES": "2^-7, 0.5", "PARAMETRIZATIONS": "sp,mup"})
    assert len(plan.jobs) == 2 * 2 * 2


def test_the_transfer_script_compares_like_with_like(tmp_path):
    env = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path / "out"), "CONFIG": "", "PROGRAM": ""}
    subprocess.run([ROOT / "scripts/mup_transfer.sh", "--dry-run"], env=env, check=True, capture_output=True)
    jobs = job_list(env)
    assert len(jobs) == 2 * 4 * 9 * 3
    points = {
        scheme: {
            tuple(option(words, name) for name in ("--width", "--lr", "--seed"))
            for words in jobs
            if option(words, "--parametrization") == scheme
        }
        for scheme in ("sp", "mup")
    }
    assert points["sp"] == points["mup"]  # the same grid for both, at every width
    assert {option(words, "--base-width") for words in jobs if "mup" in words} == {"32"}
    config = (tmp_path / "out/config.toml").read_text()
    assert config == (ROOT / "scripts/mup_sweep.toml").read_text()


@pytest.mark.parametrize("script", ["mup_sweep.sh", "mup_transfer.sh"])
def test_help_is_the_comment_at_the_top(script):
    done = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=True)
    assert f"scripts/{script}" in done.stdout
    assert "Exit codes" in done.stdout
    assert "set -euo" not in done.stdout


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
    for name in ("sweep.png", "wider.png", "sweep.json"):
        assert (Path(env["OUT"]) / name).stat().st_size > 500
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
