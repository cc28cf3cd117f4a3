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

import llmc
from llmc.errors import DataError
from llmc.log import flops_per_token, read_events, read_log
from llmc.plot import loss
from llmc.plot.smoothing import smooth
from llmc.plot.style import COLOURS

SCRIPT = "dev/loss_visualize.py"


def write_log(folder: Path, steps: int = 400, floor: float = 1.5, seed: int = 0, evals: bool = True) -> Path:
    noise = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    model = {"num_layers": 2, "channels": 64, "vocab_size": 257}
    lines = [{"event": "config", "step": 0, "config": {"seq_len": 128}, "model": model}]
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


@pytest.mark.parametrize("axis", ["tokens", "time", "elapsed", "flops"])
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


@pytest.fixture(autouse=True)
def close_figures():
    yield
    pytest.importorskip("matplotlib.pyplot").close("all")


def drawn(monkeypatch, paths, *options):
    """The figure that the command draws, before it is saved, and its path."""
    figures = []
    monkeypatch.setattr(loss, "save", lambda figure, out: figures.append((figure, out)))
    loss.main([*map(str, paths), *map(str, options)])
    return figures[0]


def test_the_legend_of_many_runs_is_outside_and_names_the_lowest(tmp_path, monkeypatch):
    logs = [write_log(tmp_path / f"run{i:02d}", steps=40, floor=1.5 + 0.01 * i) for i in range(30)]
    for count, listed in ((4, 4), (12, 12), (30, loss.LISTED)):
        figure, _ = drawn(monkeypatch, logs[:count], "--out", tmp_path / "x.png")
        top = figure.axes[0]
        inside, outside = top.get_legend(), figure.legends
        assert (inside is not None, len(outside)) == ((True, 0) if count == 4 else (False, 1))
        legend = outside[0] if outside else inside
        names = [text.get_text().split()[0] for text in legend.get_texts()]
        assert names == [f"run{i:02d}" for i in range(listed)]  # the lowest are the first here
        if outside:
            figure.canvas.draw()
            panels = [axes.get_window_extent() for axes in figure.axes]
            assert all(legend.get_window_extent().y1 <= box.y0 for box in panels)  # it hides nothing
            assert panels[0].height > 250  # at 100 dpi: not squeezed by the legend
        styles = {(str(line.get_color()), line.get_linestyle()) for line in top.lines if line.get_zorder() == 3}
        assert len(styles) == count  # all can be told apart


def test_the_horizontal_axes(tmp_path, monkeypatch):
    path = write_log(tmp_path / "run", steps=100)
    ends = {}
    for axis in ("step", "tokens", "time", "flops"):
        figure, _ = drawn(monkeypatch, [path], "--x", axis, "--out", tmp_path / "x.png")
        ends[axis] = max(line.get_xdata()[-1] for line in figure.axes[0].lines)
    per_token = 6 * (12 * 2 * 64**2 + 257 * 64) + 12 * 2 * 64 * 128
    assert ends == pytest.approx({"step": 100, "tokens": 409_600, "time": 4.0, "flops": 409_600 * per_token})
    assert loss.time_unit([read_log(path)]) == 1
    path.write_text(path.read_text().replace('"elapsed": 4.0', '"elapsed": 14400'))
    assert loss.time_unit([read_log(path)]) == 3600
    figure, _ = drawn(monkeypatch, [path], "--x", "time", "--out", tmp_path / "x.png")
    assert figure.axes[1].get_xlabel() == "hours"
    assert max(line.get_xdata()[-1] for line in figure.axes[0].lines) == 4


def test_flops_are_those_of_the_program():
    """llmc/ops/cost.cpp, through the benchmark's binding, and by hand for GPT-2 124M."""
    event = {
        "model": {"num_layers": 12, "channels": 768, "vocab_size": 50257},
        "config": {"seq_len": 1024},
    }
    assert flops_per_token(event) == 6 * (12 * 12 * 768**2 + 50257 * 768) + 12 * 12 * 768 * 1024
    assert flops_per_token({"config": {}}) is None
    native = llmc.backend("cpu").flops_per_token(depth=12, width=768, seq_len=1024, vocab_size=50257)
    assert flops_per_token(event) == native


def test_an_axis_that_a_log_does_not_have_is_a_sentence(tmp_path):
    path = write_log(tmp_path / "run", steps=5)
    path.write_text(path.read_text().replace('"model"', '"other"'))
    with pytest.raises(DataError, match="no model to count FLOPs of: use --x tokens"):
        loss.main([str(path), "--x", "flops", "--out", str(tmp_path / "x.png")])


def test_time_adds_up_over_a_resume(tmp_path):
    path = write_log(tmp_path / "run", steps=50)
    with open(path, "a") as file:
        file.write(json.dumps({"event": "config", "step": 50, "resumed_from": "step_00000050"}) + "\n")
        file.write(json.dumps({"event": "train", "step": 51, "loss": 2.0, "lr": 1e-3, "elapsed": 0.5}) + "\n")
    assert read_log(path).train[51]["elapsed"] == pytest.approx(50 * 0.04 + 0.5)


@pytest.mark.parametrize(("last", "first"), [("30", 71), ("25%", 76), ("1000", 1), ("1", 100), ("0.1%", 100)])
def test_only_the_last_steps(tmp_path, monkeypatch, last, first):
    path = write_log(tmp_path / "run", steps=100)
    whole, _ = drawn(monkeypatch, [path], "--out", tmp_path / "x.png")
    figure, _ = drawn(monkeypatch, [path], "--last", last, "--out", tmp_path / "x.png")
    top, bottom = figure.axes[:2]
    assert {line.get_xdata()[0] for line in top.lines[:2]} == {first}
    assert bottom.lines[0].get_xdata()[0] == first
    smoothed = [figure.axes[0].lines[1].get_ydata() for figure in (whole, figure)]
    assert list(smoothed[0][first - 1 :]) == list(smoothed[1])  # the same curve, cut
    assert top.get_xlim()[0] >= first - 3


def test_limits_of_the_loss_axis(tmp_path, monkeypatch):
    figure, _ = drawn(monkeypatch, [write_log(tmp_path / "run")], "--ylim", 1.5, 2.5, "--out", tmp_path / "x.png")
    assert figure.axes[0].get_ylim() == (1.5, 2.5)


@pytest.mark.parametrize(
    "options", [["--ylim", 2, 1], ["--ylim", "nan", 1], ["--last", "0"], ["--last", "x"], ["--last", "-5"]]
)
def test_wrong_views_are_refused(tmp_path, options, capsys):
    with pytest.raises(SystemExit) as stopped:
        loss.main([str(write_log(tmp_path / "run", steps=5)), *map(str, options)])
    assert stopped.value.code == 2
    assert options[0] in capsys.readouterr().err


def test_the_figure_is_written_beside_the_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    logs = [write_log(tmp_path / "runs" / name, steps=5) for name in ("a", "b/1", "b/2")]
    loss.main([str(logs[0])])
    assert capsys.readouterr().out.endswith("wrote runs/a/loss.png\n")
    loss.main([str(logs[1].parent), str(logs[2])])
    assert capsys.readouterr().out.endswith("wrote runs/b/loss.png\n")
    loss.main([*map(str, logs), "--out", str(tmp_path / "runs" / "a")])  # an existing folder
    assert capsys.readouterr().out.endswith("wrote runs/a/loss.png\n")
    assert not (tmp_path / "loss.png").exists()
    assert {path.relative_to(tmp_path) for path in tmp_path.rglob("*.png")} == {
        Path("runs/a/loss.png"), Path("runs/b/loss.png"),
    }  # fmt: skip


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
    assert "left out 1 line without an event" in capsys.readouterr().out


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


def test_what_lies_beside_the_runs_is_left_out(tmp_path, monkeypatch, capsys):
    """runs/* with the figure, the tables and the page of an earlier call"""
    monkeypatch.chdir(tmp_path)
    for name in "ac":
        write_log(Path("runs") / name, steps=5)
    (Path("runs") / "b").mkdir()
    for _ in range(2):
        loss.main(sorted(map(str, Path("runs").iterdir())))
        others = "runs/b, runs/loss.png" if _ else "runs/b"
        assert capsys.readouterr().out.startswith(f"note: left out, without a log.jsonl: {others}\na: 5 steps, ")
    Path("runs/a/log.jsonl").rename("runs/kept.txt")  # a log by its content
    loss.main(["runs/kept.txt", "runs/b", "runs/c"])
    assert "left out, without a log.jsonl: runs/b\n" in capsys.readouterr().out
    for paths, problem in (["runs/b", "runs/loss.png"], "runs/b/log.jsonl"), (["runs/c", "runs/none"], "runs/none"):
        with pytest.raises(DataError, match=f"^{problem}: No such file or directory: give the log.jsonl of a run"):
            loss.main(paths)


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


def test_a_run_that_diverges_does_not_hide_the_others(tmp_path):
    """The axes end at half above the highest first loss, and at a thousand times the highest first gradient norm."""
    base, wild = write_log(tmp_path / "base"), write_log(tmp_path / "wild")
    lines = [json.loads(line) for line in wild.read_text().splitlines()]
    for event in lines:
        if event["event"] == "train" and event["step"] > 10:
            event |= {"loss": 1e4, "grad_norm": 1e20}
    wild.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = [read_log(path) for path in (base, wild)]
    figure = loss.loss_figure(runs, loss.View(norms=True))
    top, rates, norms = figure.axes
    first = max(run.train[1]["loss"] for run in runs)
    assert first < top.get_ylim()[1] < 1.7 * first
    assert norms.get_ylim()[1] == pytest.approx(1e3) and norms.get_yscale() == "log"
    assert [len(line.get_xdata()) for line in norms.lines] == [400, 400]
    assert rates.get_ylabel() == "learning rate" and norms.get_xlabel() == "optimizer steps"


def test_a_text_with_line_separators_is_one_line(tmp_path):
    path = write_log(tmp_path / "base", steps=3)
    event = {"event": "sample", "step": 3, "text": "a\u2028b\x85c\x0bd"}
    path.write_text(path.read_text() + json.dumps(event, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_log(path).others[-1] == event
    assert read_events(path)[-1] == event
