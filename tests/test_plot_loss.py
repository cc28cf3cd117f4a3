"""llmc.log and llmc.plot.loss: reading logs, and a figure of their contents."""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path

import numpy as np
import pytest
from script_tools import imported_by_help, run_script

from llmc.errors import DataError
from llmc.log import read_log
from llmc.plot import loss
from llmc.plot.smoothing import smooth
from llmc.plot.style import COLOURS

SCRIPT = "dev/loss_visualize.py"


def write_log(folder: Path, steps: int = 400, floor: float = 1.5, seed: int = 0, evals: bool = True) -> Path:
    noise = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [{"event": "config", "step": 0, "config": {}}]
    for step in range(1, steps + 1):
        value = floor + (math.log(257) - floor) * (1 + step / 8) ** -0.6
        rate = 3e-3 * min(step / 40, 0.55 + 0.45 * math.cos(math.pi * step / steps))
        lines.append(
            {
                "event": "train",
                "step": step,
                "loss": value + noise.gauss(0, 0.06),
                "lr": rate,
                "grad_norm": 1.0,
                "tokens": step * 4096,
                "tokens_per_second": 1e5,
                "elapsed": step * 0.04,
                "skipped": False,
            }
        )
        if evals and step % 40 == 0:
            lines.append(
                {
                    "event": "eval",
                    "step": step,
                    "val_loss": value + 0.04,
                    "elapsed": step * 0.04,
                    "bits_per_byte": (value + 0.04) / math.log(2),
                }
            )
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def read_image(path: Path):
    return pytest.importorskip("matplotlib.image").imread(path)[..., :3]


def test_figure_of_one_run_has_its_curves(tmp_path):
    out = tmp_path / "new" / "loss.png"
    result = run_script(SCRIPT, write_log(tmp_path / "base"), "--out", out)
    assert result.returncode == 0, result.stderr
    assert "base: 400 steps" in result.stdout
    image = read_image(out)
    assert image.shape[0] > 800
    assert image.shape[1] > 1200
    assert (image.min(axis=2) > 0.99).mean() > 0.6  # mostly white
    blue = np.abs(image - np.array([0x00, 0x72, 0xB2]) / 255).max(axis=2) < 0.05
    columns = blue.any(axis=0).mean()
    assert columns > 0.75  # the curve covers the figure
    rows = np.nonzero(blue.any(axis=1))[0]
    assert rows[-1] - rows[0] > 0.6 * image.shape[0]  # in both panels


@pytest.mark.parametrize("axis", ["tokens", "elapsed"])
def test_several_runs_over_each_other(tmp_path, axis):
    logs = [write_log(tmp_path / name, floor=floor, seed=i) for i, (name, floor) in enumerate([("a", 1.5), ("b", 1.9)])]
    out = tmp_path / "loss.svg"
    loss.main([*map(str, logs), "--out", str(out), "--x", axis])
    text = out.read_text()
    assert "a (validation 1." in text
    assert "b (validation 2." in text
    assert "bits/byte" in text
    assert COLOURS[0].lower() in text
    assert COLOURS[1].lower() in text


def test_bits_per_byte_axis_only_where_it_holds_for_all(tmp_path):
    known = read_log(write_log(tmp_path / "known"))
    unknown = read_log(write_log(tmp_path / "unknown", evals=False))
    assert loss.bits_per_nat([known]) == pytest.approx(1 / math.log(2))
    assert loss.bits_per_nat([known, unknown]) is None


def test_truncated_last_line_is_left_out_quietly(tmp_path, capsys):
    path = write_log(tmp_path / "run", steps=50)
    text = path.read_text()
    path.write_text(text[:-30])
    assert max(read_log(path).train) == 49
    assert capsys.readouterr().out == ""
    path.write_text(text.replace('"step": 7,', '"step": 7,,'))
    assert 7 not in read_log(path).train
    assert "left out 1 lines" in capsys.readouterr().out


def test_resumed_run_replaces_what_it_repeats(tmp_path):
    path = write_log(tmp_path / "run", steps=50)
    with open(path, "a") as file:
        file.write(json.dumps({"event": "config", "step": 20, "resumed_from": "step_00000020"}) + "\n")
        file.write(json.dumps({"event": "train", "step": 21, "loss": 9.0, "lr": 1e-3}) + "\n")
    run = read_log(path)
    assert max(run.train) == 21
    assert run.train[21]["loss"] == 9.0


def test_diverged_run_is_drawn_as_far_as_it_went(tmp_path):
    path = write_log(tmp_path / "run", steps=50)
    with open(path, "a") as file:
        file.write('{"event": "train", "step": 51, "loss": NaN, "lr": 0.1}\n')
        file.write('{"event": "train", "step": 52, "loss": null}\n')
    loss.main([str(path), "--out", str(tmp_path / "loss.pdf")])
    assert (tmp_path / "loss.pdf").read_bytes().startswith(b"%PDF")


def test_one_step_is_enough(tmp_path):
    loss.main([str(write_log(tmp_path / "run", steps=1).parent), "--out", str(tmp_path / "loss.png")])
    assert (tmp_path / "loss.png").stat().st_size > 5000


def test_smoothing_does_not_lag_and_is_calm_at_the_end():
    line = np.arange(101.0)
    assert np.allclose(smooth(line, 20)[:91], line[:91])
    assert smooth([0, 0, 9, 0, 0], 3).tolist() == [0, 3, 3, 3, 0]
    assert smooth([1, 1, 1, 1, 5], 5)[-1] == pytest.approx(7 / 3)


def test_names_tell_runs_apart(tmp_path):
    paths = [write_log(tmp_path / parent / "seed0", steps=2) for parent in ("small", "large")]
    runs = [read_log(path) for path in paths]
    loss.name_runs(runs)
    assert [run.name for run in runs] == ["small/seed0", "large/seed0"]


@pytest.mark.parametrize("content", ["", '{"event": "config", "step": 0}\n', "not a log\n"])
def test_log_without_train_events_is_an_error(tmp_path, content):
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(DataError, match="no train events"):
        loss.main([str(tmp_path), "--out", str(tmp_path / "loss.png")])
    assert not (tmp_path / "loss.png").exists()


def test_exit_codes_and_a_quick_start(tmp_path):
    missing = run_script(SCRIPT, tmp_path / "none.jsonl")
    assert missing.returncode == 3
    assert "none.jsonl" in missing.stderr
    assert "Traceback" not in missing.stderr
    assert run_script(SCRIPT, write_log(tmp_path / "run", steps=2), "--out", "loss.xyz").returncode == 2
    start = time.monotonic()
    imported = imported_by_help(SCRIPT)
    assert time.monotonic() - start < 5
    assert not imported & {"matplotlib", "numpy"}
