"""Pages of llmc report about runs: how they ended, several in one page, long ones, samples."""

from __future__ import annotations

import math
import re

import pytest
from report_tools import Page, check_markup, config_event, events, page_of, train_event, write_run

from llmc.log import read_log
from llmc.plot.thinning import thin
from llmc.report.command import write_report

# --- How runs end ---


@pytest.mark.parametrize(
    ("end", "more", "words"),
    [
        ("done", {}, "Done after 60 steps: training loss 2."),
        ("early_stop", {"early_stop": 3}, "Stopped early at step 60 of 400, after 3 evaluations without a lower"),
        ("signal", {}, "Stopped by a signal after step 60 of 400: training loss 2."),
        ("diverged", {}, "Diverged at step 60 of 400: a loss or a gradient norm became infinite or NaN."),
        (None, {}, "Unfinished: the log ends at step 60 of 400; training loss 2."),
    ],
)
def test_how_a_run_ended(tmp_path, end, more, words):
    lines = events(steps=60, end=end)
    lines[-1] |= more
    page = page_of(write_run(tmp_path / "run", lines))
    assert words in page.text
    check_markup(page, tmp_path / "run")


@pytest.mark.parametrize("steps", [1, 5])
def test_a_run_that_diverged(tmp_path, steps):
    lines = [config_event(), *(train_event(i, 6.0 * 50**i) for i in range(1, steps))]
    lines += [train_event(steps, None, None), {"event": "final", "step": steps, "loss": None, "reason": "diverged"}]
    page = Page(write_report([write_run(tmp_path, lines)]))
    assert f"Diverged at step {steps} of 400: the loss became infinite or NaN." in page.text
    if steps == 1:
        assert "No step has a finite loss" in page.text and not page.all("svg")
    else:
        assert "Losses above 450, half above the first ones, are outside of the axis." in page.text


def test_accuracies_on_multiple_choice(tmp_path):
    *lines, final = events(steps=200)
    scores = [{"acc": acc, "acc_norm_tokens": acc / 2} for acc in (0.25, 0.375)]
    lines += [{"event": "hellaswag", "step": 100 * (i + 1), **scores[i]} for i in range(2)]
    page = page_of(write_run(tmp_path / "run", [*lines, final]), out=tmp_path / "run.html")
    assert "HellaSwag accuracy0.3750" in page.text and "HellaSwag by tokens0.1875" in page.text
    assert [[row[0], row[-1]] for row in page.rows() if row[0] in ("step", "100", "200")] == [
        ["step", "HellaSwag accuracy"], ["100", "0.2500"], ["200", "0.3750"],
    ]  # fmt: skip
    page = page_of(write_run(tmp_path / "other", events(steps=100)), out=tmp_path / "other.html")
    assert "HellaSwag accuracy" not in page.text


def test_a_gradient_norm_that_diverged(tmp_path):
    lines = [config_event(), train_event(1, 5.0), train_event(2, 5.0, None)]
    page = page_of(write_run(tmp_path, [*lines, {"event": "final", "step": 2, "reason": "diverged"}]))
    assert "Diverged at step 2 of 400: the gradient norm became infinite or NaN." in page.text


def test_a_resumed_run(tmp_path):
    """What was repeated counts once, the time of both programs counts, and the first one's end is not the run's."""
    first, again = events(steps=40, end="signal"), config_event() | {"step": 40, "resumed_from": "run/step_40"}
    second = [train_event(step, 2.0, elapsed=0.5 * (step - 40), tokens=2048 * step) for step in range(41, 51)]
    run = write_run(tmp_path, [*first, again, *second])
    page = page_of(run)
    assert "Unfinished: the log ends at step 50 of 400" in page.text
    assert "Time26s" in page.text  # 40 steps of half a second and one second to the end, then 10 steps
    assert "Resumed1 time" in page.text and ["resumed from", "run/step_40"] in page.rows()
    page = page_of(write_run(tmp_path, [*first, again, *second, {"event": "final", "step": 50, "reason": "done"}]))
    assert "Done after 50 steps" in page.text


def test_events_after_the_checkpoint_of_a_resume_do_not_count(tmp_path):
    first, again = events(steps=40), config_event() | {"step": 20, "resumed_from": "run/step_20"}
    run = read_log(write_run(tmp_path, [*first, again, train_event(21, 2.0)]))
    assert [event["event"] for event in run.others] == ["config", "config"]
    assert max(run.train) == 21


# --- Several runs ---


@pytest.mark.parametrize("option", [{"val_data": ["other"]}, {"eval_stride": 64}])
def test_losses_on_other_data_are_not_compared(tmp_path, option):
    runs = [write_run(tmp_path / name, events(steps=100, **more)) for name, more in (("a", {}), ("b", option))]
    assert "(lowest)" not in page_of(*runs).source


def test_equal_rules_are_shown_once(tmp_path):
    page = page_of(*(write_run(tmp_path / name, events(steps=10, lr=lr)) for name, lr in (("a", 0.01), ("b", 0.02))))
    assert page.source.count("Rules by tensor of a, b") == 2  # caption and name of the box
    assert "<summary>Rules of" not in page.source


def test_steps_of_different_sizes_are_drawn_over_tokens(tmp_path):
    small, large = events(steps=20), events(steps=20)
    for event in large:
        event |= {"tokens": 2 * event["tokens"]} if "tokens" in event else {}
    page = page_of(write_run(tmp_path / "a", small), write_run(tmp_path / "b", large))
    assert "Over tokens, because the runs have steps of different sizes." in page.text
    assert page.all("svg")[0]["aria-label"].endswith("of a, b over tokens.")


def test_runs_with_the_same_folder_name_have_other_names(tmp_path):
    page = page_of(*(write_run(tmp_path / name / "run", events(steps=5)) for name in "ab"))
    rows = [row[0] for row in page.rows()]
    assert "a/run" in rows and "b/run" in rows


# --- Samples ---


def test_earlier_samples_can_be_opened(tmp_path):
    lines = events(steps=30)
    lines[-2:-2] = [{"event": "sample", "step": step, "prompt": "", "text": f"text {step}."} for step in range(1, 26)]
    page = page_of(write_run(tmp_path, lines))
    assert "Earlier samples, the last 20 of 25 (20)" in page.text
    assert "text 6." in page.text and "text 5." not in page.text
    assert page.source.index("&lt;b&gt;x") < page.source.index("text 25.") < page.source.index("text 24.")


# --- Long runs ---


@pytest.mark.parametrize("most", [4, 7, 100, 1000])
def test_thinning_keeps_first_least_greatest_and_last(most):
    values = [math.sin(i * i) for i in range(997)]
    values[500], values[501] = 9.0, -9.0
    kept = thin(values, most)
    assert kept == sorted(set(kept)) and kept[0] == 0 and kept[-1] == 996
    assert {500, 501} <= set(kept)
    assert len(kept) == 997 if most == 1000 else len(kept) <= most
    assert thin(values, 0) == list(range(997)) and thin([], 8) == []


def test_a_long_run_is_thinned_and_says_so(tmp_path):
    steps = 20_000
    losses = [2.0 + 4.0 * (1 + step / 100) ** -0.6 + 0.1 * math.sin(step * step) for step in range(steps)]
    losses[12_345] = 5.0
    lines = [config_event(), *(train_event(i, loss, tokens=i) for i, loss in enumerate(losses, 1))]
    page = page_of(write_run(tmp_path, lines))
    assert len(page.source) < 500_000
    assert "A curve has at most 2,400 of its 20,000 points: of each of 600 equal parts" in page.text
    curve = re.findall(r'<path d="(M [^"]*)"[^>]*opacity:0.35', page.source)  # and its line in the legend
    heights = [float(pair.split()[1]) for pair in re.split("[ML] ", curve[0])[1:]]
    outlier = [i for i in range(len(heights) // 2, len(heights)) if heights[i] < heights[-1] - 100]  # up is less
    assert len(outlier) == 1
