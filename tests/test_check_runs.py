"""llmc.mup.check_runs and its script: the runs of a coordinate check, continuing, and exit codes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time

import pytest
from program import BINARY, ROOT

from llmc.cpus import usable_cpus
from llmc.errors import UsageError
from llmc.mup import variables
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
    out = folder / "out"
    assert done.stdout.rstrip().endswith(f"overall: PASS (sp expected to fail)\nwrote {out}/report.html")
    assert "PASS</span> (sp expected to fail)" in (out / "report.html").read_text()
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
    assert capsys.readouterr().out == f"6 runs of 4 steps, 6 of them done earlier, {usable_cpus()} at a time\n"
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
        ({"AXIS": "heads"}, "AXIS is 'heads': give width or depth"),
        ({"WIDTHS": "64 wide"}, "WIDTHS is '64 wide'"),
        ({"DEPTHS": "0"}, "DEPTHS is '0'"),
        ({"SEEDS": "two"}, "SEEDS is 'two'"),
        ({"JOBS": "-1"}, "JOBS is '-1'"),
        ({"PROGRAM": "./no_such_program"}, "./no_such_program is missing"),
        ({"PROGRAM": "python3 no_such.py"}, "no_such.py is missing"),
        ({"WIDTHS": "abc 96"}, "WIDTHS is 'abc 96': give whole numbers"),
        ({"WIDTHS": "64"}, "WIDTHS is '64': give at least two, because a slope needs two widths"),
        ({"WIDTHS": "64 64"}, "WIDTHS has 64 twice"),
        ({"WIDTHS": "64 100"}, "WIDTHS has 100, which is no multiple of HEAD_DIM=16"),
        ({"WIDTHS": "64 129", "HEADS": "4"}, "no multiple of HEADS=4"),
        ({"WIDTHS": "64 128", "SEEDS": "1"}, "an interval needs a third run, give SEEDS=3"),
        ({"DEPTHS": "2 4"}, "DEPTHS is '2 4': give one, because only the width may differ (AXIS=depth"),
        ({"PARAMETRIZATIONS": "mup ntk"}, "PARAMETRIZATIONS has 'ntk': there are sp, mup,"),
        ({"STEPS": "0"}, "STEPS is '0': give one whole number, at least 4"),
        ({"STEPS": "3"}, "STEPS is '3': give one whole number, at least 4"),
        ({"STEPS": "ten"}, "STEPS is 'ten'"),
        ({"LR": "fast"}, "LR is 'fast'"),
        ({"LR": "1e-3 1e-2"}, "LR is '1e-3 1e-2'"),
        ({"HEADS": "0"}, "HEADS is '0'"),
        ({"THREADS": "0"}, "THREADS is '0'"),
        ({"EXTRA": "--width 32"}, "EXTRA has --width, which llmc check sets itself"),
        ({"EXTRA": "wide"}, "EXTRA begins with 'wide'"),
        ({"EXTRA": "--lrr 1"}, "unknown argument: --lrr; did you mean --lr?"),
        ({"EXTRA": "--beta1 2"}, "--beta1: '2' is out of range"),
        ({"WIDTH": "64 128"}, "WIDTH is set, and it is no variable of llmc check: is it WIDTHS?"),
        ({"SEED": "3"}, "is it SEEDS?"),
        ({"STEP": "3"}, "is it STEPS?"),
        ({"WIDHTS": "64"}, "is it WIDTHS?"),
        ({"widths": "64"}, "is it WIDTHS?"),
        ({"PARAMETRISATIONS": "mup"}, "is it PARAMETRIZATIONS?"),
        ({"PARAMETERIZATION": "mup"}, "is it PARAMETRIZATIONS?"),
        ({"THREAD": "2"}, "is it THREADS?"),
        ({"SCALES": "64 128"}, "SCALES is set, and it is no variable of llmc check: give WIDTHS or DEPTHS"),
        ({"VALUES": "0.1"}, "give LR, the one learning rate of a check"),
        ({"SSHLOGINFILE": "hosts"}, "SSHLOGINFILE is set, and it is no variable of llmc check: unset it"),
    ],
)
def test_wrong_use_is_one_sentence(fake, change, message):
    folder, env = fake
    with pytest.raises(UsageError) as error:
        run_checks([], None, env | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert runs(folder) == []  # refused before anything runs, and nothing is written
    assert not (folder / "out").exists()


def test_a_mistyped_variable_is_refused_by_the_script(fake):
    folder, env = fake
    done = check(env | {"WIDTH": "64 128"}, expect=2)
    assert done.stderr.startswith("error: WIDTH is set, and it is no variable of llmc check: is it WIDTHS?")
    assert done.stderr.count("\n") == 1
    assert runs(folder) == []


def test_help_and_arguments():
    assert "AXIS=depth scripts/mup_coordinate_check.sh" in check({}, "--help").stdout
    assert "--widths" in check({}, "--widths", "64", expect=2).stderr


def test_usual_names_in_an_environment_are_not_mistaken():
    usual = (
        "HOME PATH PWD SHELL TERM USER LANG SHLVL LOGNAME OLDPWD EDITOR DISPLAY HOSTNAME DATE HOST PAGER TMPDIR out "
        "PYTHONPATH VIRTUAL_ENV CUDA_HOME OMP_NUM_THREADS GDK_SCALE SLURM_JOB_ID ProgramFiles PROGRAMDATA TZ LS_COLORS "
        "CI CC CXX JOB_NAME BUILD_NUMBER EXTRAS_PATH XDG_DATA_DIRS DATABASE_URL HEAD_COMMIT"
    ).split()
    for known, others in ((variables.CHECK, variables.NOT_OF_CHECK), (variables.SWEEP, variables.NOT_OF_SWEEP)):
        variables.refuse_mistakes(dict.fromkeys(usual, "1") | {"SEED": ""}, "llmc", known, others)  # no error


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("mup_coordinate_check.sh", variables.CHECK),
        ("mup_sweep.sh", variables.SWEEP),
        ("mup_transfer.sh", [name for name in variables.SWEEP if name != "SCALE"]),
    ],
)
def test_help_lists_every_variable(command, names):
    done = subprocess.run([ROOT / "scripts" / command, "--help"], capture_output=True, text=True, check=True)
    listed = set(re.findall(r"^  ([A-Z_]+(?:, [A-Z_]+)*)  ", done.stdout.partition("Environment variables:")[2], re.M))
    words = set(re.findall(r"\b[A-Z_]{2,}\b", done.stdout.partition("Environment variables:")[2]))
    assert set(names) - {"PYTHON"} <= words
    assert {name for line in listed for name in line.split(", ")} <= {*names, "AXIS"}
    assert all(len(line) <= 120 for line in done.stdout.splitlines())


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "scripts").glob("*.sh")))
def test_help_of_every_script_runs_nothing(script):
    done = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"scripts/{script}" in done.stdout or "usage:" in done.stdout
    text = (ROOT / "scripts" / script).read_text()
    for name in re.findall(r"\$\{([A-Z_]+):", text):  # the variables that it reads itself
        assert name in done.stdout or name in ("PYTHON", "PYTHONPATH"), name


def test_depth_is_compared_with_the_smallest_one(fake):
    folder, env = fake
    env |= {
        "AXIS": "depth",
        "WIDTHS": "",
        "DEPTHS": "2 4 8",
        "PARAMETRIZATIONS": "completep",
        "SEEDS": "1",
        "JOBS": "1",
    }
    run_checks([], None, env)
    assert [option(run, "--depth") for run in runs(folder)] == ["8", "4", "2"]
    assert {(option(run, "--width"), option(run, "--base-depth")) for run in runs(folder)} == {("64", "2")}


@pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")
def test_a_small_check_of_the_trainer(tmp_path):
    from shards import random_text, write_text_shards

    data = write_text_shards(tmp_path / "data", random_text(30_000), shards=1)
    env = {"OUT": f"{tmp_path}/out", "DATA": data, "PROGRAM": str(BINARY), "WIDTHS": "64 128 256", "SEEDS": "2"}
    done = check(env | {"PARAMETRIZATIONS": "mup"})
    assert "mup: PASS (102 slopes)" in done.stdout
    assert done.stderr == ""


@pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")
@pytest.mark.parametrize("widths", ["48 112", "48 80 112"])
def test_a_check_of_the_trainer_with_little_data_is_undecided(tmp_path, widths):
    """Three seeds at narrow widths close together: slopes outside their bands, by no more than noise."""
    from shards import random_text, write_text_shards

    data = write_text_shards(tmp_path / "data", random_text(30_000), shards=1)
    env = {"OUT": f"{tmp_path}/out", "DATA": data, "PROGRAM": str(BINARY), "WIDTHS": widths, "SEEDS": "3"}
    done = check(env | {"PARAMETRIZATIONS": "mup"}, expect=6)
    assert "mup: UNDECIDED (" in done.stdout
    assert "rerun with SEEDS=6 or WIDTHS up to 192 or more" in done.stdout.splitlines()[-2]
