"""llmc.mup.check_runs and its script: the runs of a coordinate check, continuing, and exit codes."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time

import pytest
from program import BINARY, ROOT

from llmc.mup.check_runs import run_checks

SCRIPT = ROOT / "scripts" / "mup_coordinate_check.sh"

# Behaves like the trainer in a coordinate check: it writes the statistics that follow from the rules, and counts its
# runs in RUNS. For the seed in the file FAIL it fails with the exit code in that file.
FAKE = f"""
import os, sys
sys.path[:0] = [{str(ROOT / "tests")!r}, {str(ROOT / "python")!r}, {str(ROOT)!r}]
from pathlib import Path
from check_tools import rows_of, write
words = sys.argv[1:]
get = lambda name: words[words.index(name) + 1]
here, width, seed = Path(sys.argv[0]).parent, int(get("--width")), int(get("--seed"))
with open(here / "RUNS", "a") as file:
    file.write(" ".join(words) + "\\n")
out = Path(get("--coord-check"))
out.write_text("half")
if (here / "FAIL").exists() and (here / "FAIL").read_text().split()[0] == str(seed):
    print("step 1")
    print("error: no memory for seed", seed, file=sys.stderr)
    sys.exit(int((here / "FAIL").read_text().split()[1]))
slopes = {{"mlp.c_fc": 0.7, "logits": 0.9}} if get("--parametrization") == "sp" else {{}}
write(out, rows_of(get("--parametrization"), slopes=slopes, sizes=(width,), seeds=(seed,), base_size=64))
"""


@pytest.fixture
def fake(tmp_path):
    """A folder with a fake trainer; environment for a small check with it."""
    (tmp_path / "fake.py").write_text(FAKE)
    old = time.time() - 100
    os.utime(tmp_path / "fake.py", (old, old))
    return tmp_path, {
        "PROGRAM": f"{shlex.quote(sys.executable)} {tmp_path}/fake.py",
        "OUT": f"{tmp_path}/out",
        "DATA": f"{tmp_path}/none.bin",
        "WIDTHS": "64 128 256",
        "SEEDS": "2",
        "STEPS": "4",
    }


def check(env, *arguments, expect=0):
    names = (
        "AXIS WIDTHS DEPTHS PARAMETRIZATIONS SEEDS STEPS HEADS HEAD_DIM PROGRAM OUT DATA LR EXTRA JOBS THREADS"
    ).split()
    clean = {key: value for key, value in os.environ.items() if key not in names} | {"PYTHON": sys.executable}
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, env=clean | env, check=False)
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr
    return done


def runs(folder):
    path = folder / "RUNS"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def option(words, name):
    return words[words.index(name) + 1]


def test_runs_verdict_and_figures(fake):
    folder, env = fake
    done = check(env | {"PARAMETRIZATIONS": "sp mup"})
    assert done.stdout.startswith("12 runs of 4 steps, 0 of them done earlier, ")
    assert "12/12 runs" in done.stdout
    assert "sp: FAIL, as it should" in done.stdout
    assert "mup: PASS" in done.stdout
    assert done.stdout.rstrip().endswith("overall: PASS (sp expected to fail)")
    out = folder / "out"
    lines = (out / "coordinate_check.csv").read_text().splitlines()
    parts = list((out / "runs").glob("*.csv"))
    assert len(parts) == 12
    assert len(lines) == 1 + sum(len(path.read_text().splitlines()) - 1 for path in parts)
    assert lines.count(lines[0]) == 1
    assert [c["verdict"] for c in json.loads((out / "verdict.json").read_text())["checks"]] == ["FAIL", "PASS"]
    assert (out / "curves.png").stat().st_size > 10_000
    assert (out / "layers.png").exists()


def test_all_runs_start_alike_and_differ_in_what_is_checked(fake):
    folder, env = fake
    env |= {"PARAMETRIZATIONS": "sp mup completep u-mup", "EXTRA": "--eps 1e-9", "THREADS": "2", "JOBS": "1"}
    run_checks([], None, env)
    words = runs(folder)
    assert len(words) == 4 * 3 * 2
    assert [int(option(run, "--width")) for run in words] == [256] * 8 + [128] * 8 + [64] * 8
    for run in words:
        scheme = option(run, "--parametrization")
        assert ("--zero-init-query" in run, "--zero-init-head" in run) == (scheme == "sp", scheme == "sp")
        assert ("--base-width" in run) == (scheme in ("mup", "completep"))
        assert ("--base-depth" in run) == (scheme == "completep")
        assert float(option(run, "--lr")) == (0.1 if scheme == "u-mup" else 1e-3)
        assert "--no-tie-embeddings --head-dim 16" in " ".join(run)
        assert " --overfit-single-batch --seq-len 64 --batch-size 8 --steps 4 --schedule constant" in " ".join(run)
        assert "--threads 2 --eps 1e-9 --coord-check" in " ".join(run)
    assert {option(run, "--base-width") for run in words if "--base-width" in run} == {"64"}


def test_the_number_of_heads_can_be_kept(fake):
    folder, env = fake
    run_checks([], None, env | {"PARAMETRIZATIONS": "mup", "HEADS": "4", "LR": "0.002"})
    assert all(" --heads 4 --base-width 64 --base-heads 4 " in " ".join(run) for run in runs(folder))
    assert {option(run, "--lr") for run in runs(folder)} == {"0.002"}
    assert len(list((folder / "out/runs").glob("fake.py_mup_w*_d2_h4_s*.csv"))) == 6


def test_finished_runs_are_kept(fake, capsys):
    folder, env = fake
    env["PARAMETRIZATIONS"] = "mup"
    run_checks([], None, env)
    assert len(runs(folder)) == 6
    capsys.readouterr()
    run_checks([], None, env)
    assert (
        capsys.readouterr().out
        == f"6 runs of 4 steps, 6 of them done earlier, {len(os.sched_getaffinity(0))} at a time\n"
    )
    run_checks([], None, env | {"WIDTHS": "64 128 256 512"})
    assert len(runs(folder)) == 6 + 2
    (folder / "out/runs/fake.py_mup_w128_d2_s1.csv").unlink()
    run_checks([], None, env)
    assert len(runs(folder)) == 8 + 1
    run_checks([], None, env | {"EXTRA": "--eps 1e-9"})  # another command
    assert len(runs(folder)) == 9 + 6
    later = time.time() + 100
    os.utime(folder / "fake.py", (later, later))  # another program
    run_checks([], None, env)
    assert len(runs(folder)) == 15 + 6


def test_a_trainer_that_fails_ends_the_check_with_its_code(fake):
    folder, env = fake
    env |= {"PARAMETRIZATIONS": "mup", "JOBS": "1"}
    (folder / "FAIL").write_text("2 5")
    done = check(env, expect=5)
    assert "no memory for seed 2" in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: mup width 256 depth 2 seed 2: ")
    assert "ended with exit code 5; all it said is in" in last
    assert len(runs(folder)) == 2  # no run was started after it
    assert not (folder / "out/coordinate_check.csv").exists()
    (folder / "FAIL").unlink()
    run_checks([], None, env)
    assert len(runs(folder)) == 2 + 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AXIS": "heads"}, "AXIS=heads: width or depth"),
        ({"WIDTHS": "64 wide"}, "WIDTHS is '64 wide'"),
        ({"DEPTHS": "0"}, "DEPTHS is '0'"),
        ({"SEEDS": "two"}, "SEEDS is 'two'"),
        ({"JOBS": "-1"}, "JOBS is '-1'"),
        ({"PROGRAM": "./no_such_program"}, "./no_such_program is missing"),
    ],
)
def test_wrong_use_is_one_sentence(fake, change, message):
    _, env = fake
    done = check(env | change, expect=2)
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_and_arguments():
    assert "AXIS=depth scripts/mup_coordinate_check.sh" in check({}, "--help").stdout
    assert "--widths" in check({}, "--widths", "64", expect=2).stderr


def test_depth_is_compared_with_the_smallest_one(fake):
    folder, env = fake
    env |= {"AXIS": "depth", "WIDTHS": "", "DEPTHS": "2 4", "PARAMETRIZATIONS": "completep", "SEEDS": "1", "JOBS": "1"}
    run_checks([], None, env)
    assert [option(run, "--depth") for run in runs(folder)] == ["4", "2"]
    assert {(option(run, "--width"), option(run, "--base-depth")) for run in runs(folder)} == {("64", "2")}


@pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")
def test_a_small_check_of_the_trainer(tmp_path):
    from shards import random_text, write_text_shards

    data = write_text_shards(tmp_path / "data", random_text(30_000), shards=1)
    env = {"OUT": f"{tmp_path}/out", "DATA": data, "PROGRAM": str(BINARY), "WIDTHS": "64 128 256", "SEEDS": "2"}
    done = check(env | {"PARAMETRIZATIONS": "mup"})
    assert "mup: PASS (102 slopes)" in done.stdout
