"""Sweeps by scripts/mup_sweep.sh with a trainer that only pretends, and what they leave."""

from __future__ import annotations

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

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


def fake_sweep(tmp_path):
    """A folder with a fake trainer; environment for a small sweep with it."""
    (tmp_path / "fake.py").write_text(FAKE)
    (tmp_path / "config.toml").write_text(
        "train-data = 'x'\ndepth = 2\nhead-dim = 8\nseq-len = 4 # short\nbatch-size = 2\nsteps = 8\n"
    )
    return tmp_path, {
        "PROGRAM": shlex.join([sys.executable, f"{tmp_path}/fake.py"]),
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


def folder_without_parallel(tmp_path):
    """The programs that the scripts use, for PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder
