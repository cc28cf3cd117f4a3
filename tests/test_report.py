"""llmc report: the page's markup, and that it says what logs, checks and sweeps say."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import pytest
from report_tools import Page, config_event, events, page_of, train_event, write_check, write_run, write_sweep
from script_tools import ROOT, imported_by_help, run_script

from llmc.errors import DataError, Error
from llmc.log import read_log
from llmc.mup.check_report import cell, judge_files, overall, slopes_by_kind, verdict_text
from llmc.mup.sweep_report import outcome_table
from llmc.mup.sweep_verdict import analyse
from llmc.plot.thinning import thin
from llmc.report.command import after_results, write_report
from llmc.report.theme import PAPER, STYLE

SCRIPT = "dev/report.py"
FIELDS = ("event", "step")


def check_markup(page: Page, folder: Path) -> None:
    """What holds for every page."""
    tags = [tag for tag, _ in page.elements]
    assert page.source.startswith("<!DOCTYPE html>\n")
    assert page.all("html") == [{"lang": "en"}]
    assert [tags.count(tag) for tag in ("h1", "title", "main", "nav", "style")] == [1] * 5
    assert not {"script", "link", "iframe", "image", "img", "object", "base"} & set(tags)
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in page.all("svg"))
    assert tags.count("figcaption") == tags.count("figure") == tags.count("svg") > 0
    assert all("scope" in header for header in page.all("th"))
    assert tags.count("caption") == tags.count("table")
    references = re.findall(r"url\(([^)]*)\)", page.source)
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "data", "onload", "onclick"} & set(attributes), tag
        references += [attributes["href"]] if "href" in attributes else []
    for reference in references:
        if reference.startswith("#"):
            assert reference[1:] in ids
        else:  # a file beside the page
            assert (folder / unquote(reference)).exists() and ".." not in reference
    assert "http" not in page.source and "@import" not in page.source


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind, its folder, and of a run the log's events."""
    folder = tmp_path_factory.mktemp("pages")
    run, wide = write_run(folder / "run", events()), write_run(folder / "wide", events(floor=1.2, width=512))
    check, sweep = write_check(folder / "check"), write_sweep(folder / "sweep")
    paths = {"run": [run], "runs": [run, wide], "check": [check], "sweep": [sweep], "mixed": [run, check, sweep]}
    return {name: (page_of(*paths[name], out=folder / f"{name}.html"), folder) for name in paths}


@pytest.fixture
def no_check_figures(monkeypatch):
    """They take seconds; `pages` has them."""
    monkeypatch.setattr("llmc.report.check.figures", lambda checks, statistic: [])


@pytest.mark.parametrize("kind", ["run", "runs", "check", "sweep", "mixed"])
def test_markup(pages, kind):
    check_markup(*pages[kind])


@pytest.mark.parametrize("kind", ["run", "check", "mixed"])
def test_a_strict_parser_accepts_it(pages, kind):
    html5lib = pytest.importorskip("html5lib", reason="needs html5lib: pip install -r requirements-dev.txt")
    html5lib.HTMLParser(strict=True).parse(pages[kind][0].source)


@pytest.mark.parametrize("kind", ["run", "runs", "sweep"])
def test_pages_are_small(pages, kind):
    assert len(pages[kind][0].source) < 500_000


def test_a_run_says_what_its_log_says(pages):
    page, folder = pages["run"]
    run = read_log(folder / "run")
    last = run.evals[400]
    assert (
        f"Done after 400 steps: validation loss {last['val_loss']:.4f} nats/token, {last['bits_per_byte']:.4f}"
        in page.text
    )
    assert f"Last training loss{run.train[400]['loss']:.4f} nats/token" in page.text
    assert "Steps400 of 400" in page.text and "Tokens819,200" in page.text
    assert "Time3m21s" in page.text and "Median speed4,200 tokens/s" in page.text
    assert "GPT-2 under µP, depth 3, width 256, heads 8, 1,234,567 parameters" in page.text
    rows = page.rows()
    assert ["100", f"{run.evals[100]['val_loss']:.4f}", f"{run.evals[100]['bits_per_byte']:.4f}"] in rows
    assert ["commit", "abc123"] in rows and ["command", "./train_gpt2 --lr 0.01"] in rows
    assert "A step has 2,048 tokens." in page.text


def test_verdicts_come_first_and_the_contents_link_to_all_parts(pages):
    page, _ = pages["run"]
    order = ["Verdict", "Curves", "Rules", "Configuration", "Provenance", "Samples", "Files"]
    headings = re.findall(r"<h2>(.*?)</h2>", page.source)
    assert headings == order
    assert re.findall(r'<li><a href="#([a-z]+)">', page.source) == [name.lower() for name in order]
    page, _ = pages["mixed"]
    headings = ["Verdicts", "Run run", "Coordinate check over width", "Sweep of the learning rate over width"]
    assert re.findall(r"<h2>(.*?)</h2>", page.source) == headings
    verdicts = page.source[page.source.index("<h2>Verdicts") : page.source.index("<h2>Run run")]
    assert re.findall(r'<h3><a href="#([\w-]+)">', verdicts) == [
        title.lower().replace(" ", "-") for title in headings[1:]
    ]


def test_blocks_with_equal_numbers_are_one_row(tmp_path, pages):
    rows = pages["run"][0].rows()
    names = [row[0] for row in rows]
    rule = next(r for r in config_event()["parametrization"]["tensors"] if r["name"] == "h.1.mlp.c_fc.weight")
    shown = rows[names.index("h.*.mlp.c_fc.weight × 3")]
    assert shown[1:6] == ["hidden", "1024 × 256", f"{rule['init_std']:.4g}", f"{rule['lr']:.4g}", "1"]
    assert "h.1.mlp.c_fc.weight" not in names
    assert "input gradient ×" not in rows[names.index("tensor")]
    lines = events(steps=2)
    tensors = lines[0]["parametrization"]["tensors"]
    next(r for r in tensors if r["name"] == "h.1.mlp.c_fc.weight")["lr"] = 0.125
    tensors[0]["dinp_multiplier"] = 3.0
    lines[0]["parametrization"]["scales"]["residual"][2][1] = 0.25
    rows = page_of(write_run(tmp_path, lines)).rows()
    names = [row[0] for row in rows]
    assert rows[names.index("h.1.mlp.c_fc.weight")][4] == "0.125"
    assert "h.*.mlp.c_fc.weight × 3" not in names and "h.*.mlp.c_proj.weight × 3" in names
    assert rows[names.index("tensor")][6] == "input gradient ×" and rows[names.index("wte.weight")][6] == "3"
    assert ["residual, attention of block 1", "1, 0.25, 1, 1, 1"] in rows


def test_options_that_differ_come_first(pages):
    page, _ = pages["run"]
    first, rest = page.source.split("<summary>Options with the default")
    assert "--lr</code></th><td><code>0.01</code></td><td><code>0.0003</code>" in first
    assert "--weight-decay" not in first and "--weight-decay" in rest
    rows = {row[0]: row for row in page.rows()}
    assert rows["--lr"][3].startswith("peak learning rate")
    rows = {row[0]: row for row in pages["runs"][0].rows()}
    assert rows["option"] == ["option", "run", "wide", "default"]
    assert rows["--width"][1:] == ["256", "512", "768"]


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


def test_several_runs_are_compared(pages):
    page, folder = pages["runs"]
    runs = {name: read_log(folder / name) for name in ("run", "wide")}
    rows = {row[0]: row for row in page.rows() if len(row) > 6}
    assert rows["run"][:3] == ["run", "Done", f"{runs['run'].evals[400]['val_loss']:.4f}"]
    assert rows["wide"][2] == f"{runs['wide'].evals[400]['val_loss']:.4f} (lowest)"
    assert "wide (validation" in page.source and page.text.startswith("2 runs")
    assert page.source.count("<summary>Rules of ") == 2


def test_losses_on_other_data_are_not_compared(tmp_path):
    runs = [write_run(tmp_path / name, events(steps=100, val_data=[name])) for name in "ab"]
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


# --- Text from outside ---


def test_text_from_outside_is_text(tmp_path):
    folder = tmp_path / "a <b>run & more"
    lines = events(steps=5, prompt="<b>p</b> &amp;", train_data=["<b>d</b> & data"])
    lines[-2] |= {"prompt": "<b>p</b> &amp;"}
    page = page_of(write_run(folder, lines))
    check_markup(page, folder)
    assert "b" not in [tag for tag, _ in page.elements]
    assert page.text.startswith("Run a <b>run & more")
    for text in ("<b>d</b> & data", "a <b>host</b> & more", "<b>p</b> &amp;<b>x</b> & 1 < 2 end"):
        assert text in page.text
    page = page_of(folder, out=tmp_path / "page.html")
    assert "a%20%3Cb%3Erun%20%26%20more/log.jsonl" in page.source
    check_markup(page, tmp_path)


def test_characters_that_html_does_not_have(tmp_path):
    lines = events(steps=5)
    lines[-2]["text"] = "\n\0one\x1b\u2028two\x85\r\ud800\uffff"
    run = write_run(tmp_path, lines)
    run.joinpath("log.jsonl").write_text(
        "".join(
            json.dumps(line, ensure_ascii="text" not in line).replace("\ud800", "\\ud800") + "\n" for line in lines
        ),
        encoding="utf-8",
    )
    page = page_of(run)
    sample = page.source[page.source.index("<pre>") : page.source.index("</pre>")]
    assert sample == "<pre>\n<strong>def </strong>\n␀one␛\u2028two\ufffd␍\ufffd\ufffd"


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
    assert "A curve has at most 1,500 of its 20,000 points: of each of 375 equal parts" in page.text
    curve = re.findall(r'<path d="(M [^"]*)"[^>]*opacity:0.35', page.source)  # and its line in the legend
    heights = [float(pair.split()[1]) for pair in re.split("[ML] ", curve[0])[1:]]
    outlier = [i for i in range(len(heights) // 2, len(heights)) if heights[i] < heights[-1] - 100]  # up is less
    assert len(outlier) == 1


# --- Checks and sweeps ---


@pytest.mark.parametrize("what", ["right", "wrong", "noisy", "depth"])
@pytest.mark.usefixtures("no_check_figures")
def test_a_check_has_the_words_of_the_check(tmp_path, what):
    options = {
        "wrong": {"rules": {"hidden": (0, -0.5, 0)}},
        "noisy": {"noise": 0.4, "seeds": (1,)},
        "depth": {"axis": "depth", "slopes": {"resid_mlp": 0.5}},
    }
    folder = write_check(tmp_path, **options.get(what, {}))
    page = page_of(folder)
    report = judge_files([folder / "coordinate_check.csv"], None)
    word, _, rest = overall(report).partition(" ")
    assert word.rstrip(":") == {"right": "PASS", "wrong": "FAIL", "noisy": "UNDECIDED", "depth": "PASS"}[what]
    assert f"{word.rstrip(':')} {rest}" in page.text
    for verdict in report.verdicts:
        text = verdict_text(verdict, verdict.parametrization in report.expected_to_fail, False)
        assert " ".join(text.split()) in page.text
    rows = {}
    for row in page.rows():
        rows.setdefault(row[0], []).append(row[1:])
    for tensors in slopes_by_kind(report.verdicts, what == "depth").values():
        for tensor, findings in tensors.items():
            assert [cell(finding).strip() for finding in findings] in rows[tensor]


@pytest.mark.usefixtures("no_check_figures")
def test_csvs_of_one_folder_are_one_check(tmp_path):
    whole = write_check(tmp_path / "whole")
    lines = (whole / "coordinate_check.csv").read_text().splitlines(keepends=True)
    parts = tmp_path / "parts"
    parts.mkdir()
    for width in ("64", "128", "256"):
        rows = [line for line in lines[1:] if line.split(",")[3] == width]
        (parts / f"{width}.csv").write_text(lines[0] + "".join(rows))
    page = page_of(*sorted(parts.glob("*.csv")))
    assert page.text.count("Coordinate check over width") == 2  # title and heading
    assert "PASS (sp expected to fail)" in page.text


def test_a_sweep_has_the_words_of_the_sweep(pages):
    page, folder = pages["sweep"]
    analysis = analyse(folder / "sweep" / "sweep.csv")
    assert f"{analysis.verdict} {' '.join(analysis.sentences)}" in page.text
    rows = page.rows()
    for row in outcome_table(analysis.sweep, analysis.results):
        assert list(row) in rows
    assert len(page.all("svg")) == 2  # there are logs: training at the transferred value, too


def test_a_sweep_is_judged_as_its_json_says(tmp_path):
    write_sweep(tmp_path)
    (tmp_path / "sweep.json").write_text('{"loss": "train", "threshold": 0.001, "ratio": 3, "tolerance": 0.5}')
    page = page_of(tmp_path)
    assert "FAIL µP: regret 0.0180 at 256 (> 0.001)" in page.text
    assert "training loss at the end, mean over 2 seeds" in page.text and "(allowed: 0.5)" in page.text


@pytest.mark.usefixtures("no_check_figures")
def test_two_checks_have_titles_of_their_own(tmp_path):
    page = page_of(*(write_check(tmp_path / name) for name in ("a", "b")))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    titles = ["Verdicts", "Coordinate check over width, a", "Coordinate check over width, b"]
    assert re.findall(r"<h2>(.*?)</h2>", page.source) == titles


# --- Colours ---


def contrast(a: str, b: str) -> float:
    """WCAG's, written a second time."""

    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [((part + 0.055) / 1.055) ** 2.4 if part > 0.04045 else part / 12.92 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)) + 0.05

    return max(light(a) / light(b), light(b) / light(a))


@pytest.mark.parametrize("kind", ["runs", "check", "sweep"])
def test_colours_of_figures_have_contrast_in_both_themes(pages, kind):
    source = pages[kind][0].source
    used = set(re.findall(r"var\(--([lt]-[0-9a-f]{6})\)", source))
    assert used
    sides = source[: source.index("</style>")].split("@media screen and (prefers-color-scheme:dark)")
    for paper, side in zip(PAPER.values(), sides, strict=True):
        colours = dict(re.findall(r"--([lt]-[0-9a-f]{6}):(#[0-9a-f]{6})", side))
        assert set(colours) == used
        for name, colour in colours.items():
            assert contrast(colour, paper) >= (3.0 if name[0] == "l" else 4.5), (paper, name, colour)


def test_colours_of_text_have_contrast_in_both_themes():
    light, dark = re.split(r"@media screen and \(prefers-color-scheme: dark\)", STYLE)[:2]
    for name, side in (("light", light), ("dark", dark)):
        colours = dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", side))
        assert colours["paper"] == PAPER[name]
        for ground in ("paper", "panel"):
            for text in ("ink", "soft", "link", "good", "bad", "open"):
                assert contrast(colours[text], colours[ground]) >= 4.5, (name, text, ground)


# --- The command ---


def test_the_same_input_gives_the_same_bytes(pages):
    """Also in another process, where sets have another order."""
    page, folder = pages["mixed"]
    out = folder / "mixed.html"
    command = [sys.executable, ROOT / SCRIPT, *(folder / name for name in ("run", "check", "sweep")), "--out", out]
    subprocess.run(command, env=os.environ | {"PYTHONHASHSEED": "12345"}, check=True, capture_output=True)
    assert out.read_text() == page.source


def test_the_page_lies_beside_the_run_or_where_out_says(tmp_path):
    a, b = (write_run(tmp_path / "runs" / name, events(steps=3)) for name in "ab")
    done = run_script(SCRIPT, a)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote {a}/report.html\n"
    assert write_report([a / "log.jsonl"]) == a.resolve() / "report.html"
    assert write_report([a, b]) == (tmp_path / "runs/report.html").resolve()
    assert 'href="a/report.html"' in (tmp_path / "runs/report.html").read_text()
    assert write_report([a], tmp_path) == tmp_path / "report.html"
    assert write_report([a], tmp_path / "new/x.html").exists()
    assert "<code>" + str(a / "log.jsonl") in (tmp_path / "new/x.html").read_text()  # no link out of its folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "none: No such file or directory: give a run, a coordinate check or a sweep"),
        (lambda folder: folder, "has no log.jsonl, coordinate_check.csv or sweep.csv: give a folder or file that has"),
        (lambda folder: write_run(folder / "empty", []), "log.jsonl has no train events with a loss (0 lines)"),
        (lambda folder: write_run(folder / "begun", [config_event()]), "has no train events with a loss (1 line)"),
        (lambda folder: Path(sys.executable), "has no train events with a loss ("),
    ],
)
def test_what_is_no_source_of_a_page(tmp_path, make, message):
    done = run_script(SCRIPT, make(tmp_path))
    assert done.returncode == 3
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def test_a_file_of_others_is_not_replaced(tmp_path, capsys):
    run, other = write_run(tmp_path, events(steps=3)), tmp_path / "report.html"
    other.write_text("<p>mine</p>")
    with pytest.raises(Error, match=r"report\.html exists and was not written by llmc report: give another --out"):
        write_report([run])
    after_results(run)  # of a check or a sweep: their exit code is that of the verdict
    assert capsys.readouterr().err.startswith("warning: no page was written: ")
    assert other.read_text() == "<p>mine</p>"
    other.unlink()
    for _ in range(2):  # a page of this command is
        assert write_report([run]) == other.resolve()


def test_wrong_usage(tmp_path):
    run = write_run(tmp_path, events(steps=3))
    done = run_script(SCRIPT, run, "--out", tmp_path / "page.pdf")
    assert done.returncode == 2
    assert done.stderr.rstrip().endswith("page.pdf is no folder and does not end in .html")
    assert run_script(SCRIPT).returncode == 2
    with pytest.raises(DataError):
        write_report([tmp_path / "none"])


def test_help_is_quick():
    assert not {"matplotlib", "numpy", "scipy", "torch"} & imported_by_help(SCRIPT)
