"""llmc.mup.sweep_verdict, llmc.plot.sweep: optimum, drift, regret and verdict of tables with known answers; figures."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from script_tools import run_script
from sweep_tables import BEND, OPTIMA, table

from llmc.mup.sweep_table import show

SCRIPT = "dev/mup_sweep_visualize.py"


def analyse(path: Path, *arguments) -> tuple[dict, str]:
    out = path.parent / "sweep.json"
    done = run_script(SCRIPT, path, "--json", out, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(out.read_text()), done.stdout


def at(result: dict, scheme: str, scale: int) -> dict:
    return next(row for row in result["schemes"][scheme] if row["scale"] == scale)


def test_drift_and_regret_of_known_parabolas(tmp_path):
    result, text = analyse(table(tmp_path))
    for scheme, scales in OPTIMA.items():
        for scale, best in scales.items():
            row = at(result, scheme, scale)
            assert row["optimum"] == 2.0**best
            assert row["drift_octaves"] == best + 7
            assert row["regret"] == pytest.approx(BEND * (best + 7) ** 2, abs=1e-12)
            assert row["loss"] == pytest.approx(2.502 - 0.02 * math.log2(scale / 32))
            assert row["transferred"] == 2.0**-7
            assert not row["optimum_at_edge"]
    assert result["verdict"] == "PASS"
    assert result["warnings"] == []
    line = next(line for line in text.splitlines() if line.startswith("SP") and " 256 " in line).split()
    assert line[1:8] == ["256", "2^-10", "2.4420", "-3", "2^-7", "2.6040", "0.1620"]
    assert text.rstrip().endswith("verdict: PASS")


def test_regret_is_over_the_same_seeds(tmp_path):
    """A seed with higher losses at all rates changes the loss, not the regret; its error is that of the differences."""

    def change(row):
        extra = 5.0 if row["seed"] == 3 else 0
        wobble = 0.004 * (row["seed"] - 2) if (row["scale"], row["value"]) == (256, 2.0**-7) else 0
        return row | {"val_loss": row["val_loss"] + extra + wobble}

    result, _ = analyse(table(tmp_path, change=change))
    row = at(result, "sp", 256)
    assert row["regret"] == pytest.approx(0.162)
    assert row["regret_standard_error"] == pytest.approx(0.004 / math.sqrt(3))


@pytest.mark.parametrize(
    ("sp", "mup", "verdict"),
    [
        (-10, -7, "PASS"),
        (-10, -8, "PASS"),
        (-7, -7, "FAIL"),  # no regret for sp either: no evidence
        (-8, -7, "FAIL"),  # 0.018 is not above the threshold
        (-10, -9, "FAIL"),  # 0.072 of mup's own
    ],
)
def test_verdict_both_ways(tmp_path, sp, mup, verdict):
    path = table(tmp_path, {"sp": {32: -7, 256: sp}, "mup": {32: -7, 256: mup}})
    result, text = analyse(path)
    assert result["verdict"] == verdict
    assert f"verdict: {verdict}" in text
    assert run_script(SCRIPT, path, "--verdict").returncode == (0 if verdict == "PASS" else 1)


def test_sp_has_to_lose_three_times_as_much(tmp_path):
    path = table(tmp_path, {"sp": {32: -7, 256: -9}, "mup": {32: -7, 256: -8}})  # 0.072 and 0.018
    assert analyse(path)[0]["verdict"] == "PASS"
    assert analyse(path, "--ratio", 5)[0]["verdict"] == "FAIL"


def test_the_worst_of_several_schemes_counts(tmp_path):
    path = table(tmp_path, OPTIMA | {"u-mup": {32: -7, 256: -10}})
    result, text = analyse(path)
    assert result["verdict"] == "FAIL"
    assert "µP: regret 0.0180 at 256 (<= 0.02)" in text
    assert "u-µP: regret 0.1620 at 256 (> 0.02)" in text


def test_optimum_at_the_edge_is_a_warning_and_no_pass(tmp_path):
    result, text = analyse(table(tmp_path, exponents=range(-8, -3)))
    assert at(result, "mup", 256)["optimum_at_edge"]
    assert at(result, "sp", 256)["optimum_at_edge"]
    assert not at(result, "mup", 128)["optimum_at_edge"]
    assert "warning: µP, width 256: the optimum 2^-8 is at the edge of the grid" in text
    assert "extend VALUES" in text
    assert "2^-8*" in text
    assert result["verdict"] == "UNDECIDED"
    # at the edge, sp's true regret can only be larger: it may still pass
    result, text = analyse(table(tmp_path, exponents=range(-9, -3)))
    assert at(result, "sp", 256)["optimum_at_edge"]
    assert result["verdict"] == "PASS"


def test_diverged_runs_count_and_are_reported(tmp_path):
    def change(row):
        broken = (row["parametrization"], row["scale"], row["seed"]) == ("sp", 256, 2) and row["value"] >= 2.0**-7
        return row | ({"status": "diverged", "val_loss": "", "train_loss": ""} if broken else {})

    result, text = analyse(table(tmp_path, change=change), "--out", tmp_path / "sweep.svg")
    row = at(result, "sp", 256)
    assert row["transferred_diverged"]
    assert row["regret"] is None
    assert row["diverged_values"] == [2.0**e for e in range(-7, -3)]
    assert result["verdict"] == "PASS"  # a diverged run counts as the worst loss
    assert "4/10" in text
    assert "SP diverged" in text
    assert "diverged" in (tmp_path / "sweep.svg").read_text()  # in the legend


def test_a_mup_that_diverges_fails(tmp_path):
    def change(row):
        broken = row["parametrization"] == "mup" and row["scale"] == 256 and row["value"] == 2.0**-7
        return row | ({"status": "diverged", "val_loss": ""} if broken else {})

    assert analyse(table(tmp_path, change=change))[0]["verdict"] == "FAIL"


def test_failed_runs_are_left_out_with_a_warning(tmp_path):
    def change(row):
        return row | ({"status": "failed", "val_loss": "", "train_loss": ""} if row["seed"] == 3 else {})

    result, text = analyse(table(tmp_path, change=change))
    assert "80 of 240 runs failed or were not run to the end" in text
    assert at(result, "sp", 256)["regret"] == pytest.approx(0.162)

    def change_more(row):
        return row | ({"status": "missing", "val_loss": ""} if row["scale"] == 256 else {})

    path = table(tmp_path, change=change_more)
    assert analyse(path)[0]["verdict"] == "UNDECIDED"


def test_transferred_value_outside_the_grid_cannot_be_judged(tmp_path):
    path = table(tmp_path, change=lambda row: None if row["scale"] == 256 and row["value"] == 2.0**-7 else row)
    result, text = analyse(path)
    assert "the transferred optimum 2^-7 is not in its grid" in text
    assert result["verdict"] == "UNDECIDED"


def test_training_loss_can_be_judged_instead(tmp_path):
    result, _ = analyse(table(tmp_path, val_loss=""))
    assert result["loss"] == "train"
    assert at(result, "sp", 32)["loss"] == pytest.approx(3.002)
    assert analyse(table(tmp_path))[0]["loss"] == "val"
    assert analyse(table(tmp_path), "--loss", "train")[0]["loss"] == "train"


def test_names_have_a_regret_and_no_drift(tmp_path):
    names = {-9: "constant", -8: "linear", -7: "cosine"}

    def change(row):
        return row | {"axis": "schedule", "value": names[round(math.log2(row["value"]))]}

    result, text = analyse(
        table(tmp_path, {"mup": {32: -9, 64: -7}}, exponents=names, change=change), "--out", tmp_path / "sweep.svg"
    )
    row = at(result, "mup", 64)
    assert (row["optimum"], row["transferred"], row["drift_octaves"]) == ("cosine", "constant", None)
    assert row["regret"] == pytest.approx(4 * BEND)
    assert "at the edge" not in text
    figure = (tmp_path / "sweep.svg").read_text()
    assert all(name in figure for name in names.values())


def test_zero_is_no_edge_and_has_its_place(tmp_path):
    def change(row):
        zero = row["value"] == 2.0**-13
        return row | {"axis": "weight_decay"} | ({"value": 0, "val_loss": 1.0} if zero else {})

    result, text = analyse(table(tmp_path, change=change), "--out", tmp_path / "sweep.png")
    assert at(result, "mup", 256)["optimum"] == 0
    assert at(result, "mup", 256)["drift_octaves"] == 0
    assert "at the edge" not in text


def test_wider_is_better_is_checked_in_every_window(tmp_path):
    result, text = analyse(table(tmp_path, logs=True, seeds=(1, 2)), "--wider", tmp_path / "wider.svg")
    rises = {scheme: [step["worst_rise"] for step in steps] for scheme, steps in result["wider"].items()}
    assert rises["sp"] == pytest.approx([BEND - 0.02, 3 * BEND - 0.02, 5 * BEND - 0.02])
    assert rises["mup"] == pytest.approx([-0.02, -0.02, BEND - 0.02])
    assert [step["ok"] for step in result["wider"]["sp"]] == [True, False, False]
    assert all(step["ok"] for step in result["wider"]["mup"])
    assert "over windows of 50 steps" in text
    figure = (tmp_path / "wider.svg").read_text()
    assert "Last 50 steps" in figure
    early = next((tmp_path / "mup/64").rglob("-7/1/log.jsonl"))  # worse in the first window only
    early.write_text(early.read_text().replace('"step": 9, "loss": ', '"step": 9, "loss": 9'))
    result, text = analyse(tmp_path / "sweep.csv")
    assert not result["wider"]["mup"][0]["ok"]
    assert result["wider"]["mup"][0]["at_steps"] == [1, 50]  # the window that is worse is named
    assert (result["wider"]["mup"][0]["windows_worse"], result["wider"]["mup"][0]["windows"]) == (1, 4)
    [line] = [line for line in text.splitlines() if line.startswith("µP") and "32 -> 64 " in line]
    assert " 1-50 " in line and line.endswith("worse in 1 of 4 windows")
    assert result["wider"]["sp"][1]["windows_worse"] == 4


def test_figures_are_written_and_show_their_points(tmp_path):
    np = pytest.importorskip("numpy")
    image = pytest.importorskip("matplotlib.image")
    path = table(tmp_path, logs=True)
    _, text = analyse(path, "--out", tmp_path / "new/sweep.png", "--wider", tmp_path / "wider.png")
    assert "wrote" in text
    pixels = image.imread(tmp_path / "new/sweep.png")[..., :3]
    assert pixels.shape[1] > 1500
    assert (pixels.min(axis=2) > 0.99).mean() > 0.5  # mostly white
    dark = np.abs(pixels - np.array([0.27, 0.01, 0.34])).max(axis=2) < 0.06  # the largest width
    assert dark[:, : pixels.shape[1] // 3].any()
    assert dark[:, pixels.shape[1] // 3 : 2 * pixels.shape[1] // 3].any()
    assert (tmp_path / "wider.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        ("", "no table of a sweep"),
        ("a,b\n1,2\n", "no table of a sweep"),
        ("parametrization,scale_axis,scale,axis,value,seed,status,val_loss\nsp,width,32,lr,1,1,done,low\n", "line 2"),
        (
            "parametrization,scale_axis,scale,axis,value,seed,status,val_loss\nsp,width,32,lr,1,1,failed,\n",
            "no run that",
        ),
    ],
)
def test_unusable_tables_are_one_sentence(tmp_path, content, message):
    path = tmp_path / "sweep.csv"
    if content is not None:
        path.write_text(content)
    done = run_script(SCRIPT, path)
    assert done.returncode == 3
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert run_script(SCRIPT, path, "--out", "x.gif").returncode == 2


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2.0**-7, "2^-7"),
        (2.0**-7.5, "2^-7.5"),
        (0.003, "0.003"),
        (64.0, "64"),
        (0.0, "0"),
        ("cosine", "cosine"),
        (2.0**18, "2^18"),
    ],
)
def test_values_are_shown_as_powers_where_they_are(value, text):
    assert show(value) == text
