"""scripts/first_run.sh and scripts/figures.sh with programs that only pretend: arguments, variables, signals."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from program import ROOT

# Records how it was called; while there is a file SLOW it runs for a minute, and notes how it was stopped.
STUB = """#!/bin/bash
echo "$(basename "$0") $*" >>CALLS
[[ -e SLOW ]] || exit 0
trap 'echo INT >STOPPED; kill %1; exit 130' INT
trap 'echo TERM >STOPPED; kill %1; exit 143' TERM
sleep 60 & echo $$ >RUNNING
wait
"""
PYTHON = f"""#!/bin/bash
if [[ $1 = -m ]]; then exec '{sys.executable}' "$@"; fi
echo "python $*" >>CALLS
"""


@pytest.fixture
def clone(tmp_path):
    """A clone with stubs in place of what the scripts run."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "python").symlink_to(ROOT / "python")
    files = {".venv/bin/python": PYTHON, "train_gpt2": STUB}
    for name in ("mup_coordinate_check.sh", "mup_transfer.sh"):
        files[f"scripts/{name}"] = STUB + 'echo "results of $OUT"\n'
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def environment(**extra):
    names = "STEPS STEP WIDTH WIDTHS LR SEED THREADS JOBS PROGRAM PYTHON OUT CONFIG".split()
    return {key: value for key, value in os.environ.items() if key not in names} | extra


def call(clone, script, *words, expect=0, **extra):
    done = subprocess.run(
        [clone / "scripts" / script, *words], capture_output=True, text=True, check=False, env=environment(**extra)
    )
    assert done.returncode == expect, done.stdout + done.stderr
    calls = clone / "CALLS"
    return done, calls.read_text().splitlines() if calls.exists() else []


def test_arguments_of_the_first_run_go_to_the_program(clone):
    done, calls = call(clone, "first_run.sh", "--lr", "0.01", STEPS="5", JOBS="2")
    assert calls == [
        "python dev/data/pystdlib.py",
        "train_gpt2 --config scripts/first_run.toml --steps 5 --lr 0.01 --out runs/first --overwrite",
        "python dev/loss_visualize.py runs/first/log.jsonl --out runs/first/loss.png",
        "python dev/report.py runs/first --out runs/first/report.html",
    ]
    assert "The loss curve is runs/first/loss.png, a page about the run runs/first/report.html" in done.stdout
    done, calls = call(clone, "first_run.sh", "--steps", "5", "--dry-run")
    assert len(calls) == 6
    assert calls[-1].startswith("train_gpt2 --config scripts/first_run.toml --steps 5 --dry-run ")
    assert "loss curve" not in done.stdout


@pytest.mark.parametrize(
    ("script", "words", "extra", "message"),
    [
        ("first_run.sh", [], {"STEP": "3"}, "STEP is set, and it is no variable of scripts/first_run.sh: is it STEPS?"),
        (
            "first_run.sh",
            [],
            {"WIDTH": "3"},
            "WIDTH is set, and it is no variable of scripts/first_run.sh: give --width",
        ),
        ("first_run.sh", [], {"THREAD": "3"}, "is it --threads as an option?"),
        ("figures.sh", [], {"THREAD": "3"}, "is it THREADS?"),
        ("figures.sh", [], {"STEPS": "3"}, "STEPS is set, and it is no variable of scripts/figures.sh: unset it"),
        ("figures.sh", [], {"WIDTHS": "3"}, "WIDTHS is set, and it is no variable of scripts/figures.sh: unset it"),
        ("figures.sh", ["--steps"], {}, "scripts/figures.sh takes no arguments, and got --steps: see --help"),
    ],
)
def test_what_would_be_ignored_is_refused(clone, script, words, extra, message):
    done, calls = call(clone, script, *words, expect=2, **extra)
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
    assert calls == []


@pytest.mark.parametrize("script", ["first_run.sh", "figures.sh"])
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "TERM"), (signal.SIGINT, "INT")])
def test_a_signal_to_the_script_ends_what_it_runs(clone, script, number, name):
    (clone / "SLOW").touch()
    process = subprocess.Popen(
        [clone / "scripts" / script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (clone / "RUNNING").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    begin = time.monotonic()
    process.communicate(timeout=30)  # ends when no process holds its output any more
    assert time.monotonic() - begin < 10
    assert process.returncode == 128 + number
    assert (clone / "STOPPED").read_text() == name + "\n"
    assert not any("loss_visualize" in line for line in (clone / "CALLS").read_text().splitlines())


def test_figures_ends_with_the_code_of_what_failed_and_keeps_its_output(clone):
    script = clone / "scripts/mup_coordinate_check.sh"
    script.write_text(script.read_text() + "exit 6\n")
    script.write_text(script.read_text().replace("[[ -e SLOW ]] || exit 0", "").replace("sleep 60 &", "sleep 0 &"))
    done, calls = call(clone, "figures.sh", expect=6)
    assert calls == ["mup_coordinate_check.sh "]
    assert "results of runs/figures/coordinate_check\n" in done.stdout
    assert (clone / "runs/figures/coordinate_check.txt").read_text() == "results of runs/figures/coordinate_check\n"
