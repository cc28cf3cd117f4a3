"""`make gpu-check`: its steps on the emulated backend, and the message without a GPU."""

import json
import shutil
import subprocess
import sys

import pytest
from program import ROOT

import llmc


def test_without_a_gpu_it_says_so(tmp_path):
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU here")
    done = subprocess.run([ROOT / "scripts/gpu_check.sh", "--out", tmp_path], capture_output=True, text=True)
    assert done.returncode == 5 and "no NVIDIA GPU" in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
def test_every_step_runs_and_is_reported(tmp_path):
    command = [sys.executable, ROOT / "dev/cuda/gpu_check.py", "--backend", "emulated", "--quick", "--out", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    (path,) = tmp_path.glob("gpu-emulated-*.json")
    report = json.loads(path.read_text())
    outcomes = {step["step"]: step["outcome"] for step in report["checks"]}
    assert outcomes == dict.fromkeys(["build", "conformance", "ops", "parity", "program", "benchmark"], "passed")
    ops = report["benchmark"]["ops"]["tiny"]
    assert len(ops) > 20 and all(row["seconds"] > 0 and row["pytorch"] > 0 for row in ops)
    (step,) = report["benchmark"]["steps"]
    assert step["train_gpt2"] > 0 and step["pytorch"] > 0 and not step["errors"]
    table = path.with_suffix(".txt").read_text()
    assert "passed  parity" in table and "attention backward" in table
