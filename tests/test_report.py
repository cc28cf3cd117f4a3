"""llmc report: the page's markup, and that it says what logs, checks and sweeps say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from report_tools import check_markup, config_event, events, page_of, write_check, write_run, write_sweep
from script_tools import ROOT, imported_by_help, run_script

from llmc.errors import DataError, Error
from llmc.log import read_log
from llmc.mup.check_report import cell, judge_files, overall, slopes_by_kind, verdict_text
from llmc.mup.sweep_report import outcome_table
from llmc.mup.sweep_verdict import analyse
from llmc.report.command import after_results, write_report
from llmc.report.theme import PAPER, STYLE

SCRIPT = "dev/report.py"


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind, and the folder that they are in."""
    folder = tmp_path_factory.mktemp("pages")
    run, wide = write_run(folder / "run", events()), write_run(folder / "wide", events(floor=1.2, width=512))
    check, sweep = write_check(folder / "check"), write_sweep(folder / "sweep")
    paths = {"run": [run], "runs": [run, wide], "check": [check], "sweep": [sweep], "mixed": [run, check, sweep]}
    found = {}
    for name, sources in paths.items():
        with pytest.MonkeyPatch.context() as patch:
            if name == "mixed":
                without_check_figures(patch)
            found[name] = (page_of(*sources, out=folder / f"{name}.html"), folder)
    return found


def without_check_figures(patch):
    """They take seconds; the page of a check has them."""
    patch.setattr("llmc.report.check.figures", lambda checks, statistic: [])


@pytest.fixture
def no_check_figures(monkeypatch):
    without_check_figures(monkeypatch)


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


def test_several_runs_are_compared(pages):
    page, folder = pages["runs"]
    runs = {name: read_log(folder / name) for name in ("run", "wide")}
    rows = {row[0]: row for row in page.rows() if len(row) > 6}
    assert rows["run"][:3] == ["run", "Done", f"{runs['run'].evals[400]['val_loss']:.4f}"]
    assert rows["wide"][2] == f"{runs['wide'].evals[400]['val_loss']:.4f} (lowest)"
    assert "wide (validation" in page.source and page.text.startswith("2 runs")
    assert page.source.count("<summary>Rules of ") == 2


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


# --- Checks and sweeps ---


@pytest.mark.parametrize("what", ["right", "wrong", "noisy", "depth"])
@pytest.mark.usefixtures("no_check_figures")
def test_a_check_has_the_words_of_the_check(tmp_path, what):
    options = {
        "wrong": {"rules": {"hidden": (0, -0.5, 0)}},
        "noisy": {"noise": 0.4, "seeds": (1,)},
        "depth": {"axis": "depth", "sizes": (2, 4, 8), "slopes": {"resid_mlp": 0.5}},
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


@pytest.mark.parametrize("kind", ["run", "check"])
def test_the_same_input_gives_the_same_bytes(pages, kind):
    """Also in another process, where sets have another order."""
    page, folder = pages[kind]
    out = folder / f"{kind}.html"
    command = [sys.executable, ROOT / SCRIPT, folder / kind, "--out", out]
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


def one_line(path):
    """Of more characters than Python's csv takes in a field."""
    path.write_text("a" * 200_000)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "none: No such file or directory: give a run, a coordinate check or a sweep"),
        (lambda folder: folder, "has no log.jsonl, coordinate_check.csv or sweep.csv: give a folder or file that has"),
        (lambda folder: write_run(folder / "empty", []), "log.jsonl has no train events with a loss (0 lines)"),
        (lambda folder: write_run(folder / "begun", [config_event()]), "has no train events with a loss (1 line)"),
        (lambda folder: Path(sys.executable), "has no train events with a loss ("),
        (lambda folder: one_line(folder / "long"), "has no train events with a loss (1 line)"),
    ],
)
def test_what_is_no_source_of_a_page(tmp_path, make, message):
    done = run_script(SCRIPT, make(tmp_path))
    assert done.returncode == 3
    assert done.stderr.startswith("error: ") and message in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.rglob("*.html"))


def test_what_lies_beside_the_runs_is_left_out(tmp_path):
    run = write_run(tmp_path / "a", events(steps=3))
    (tmp_path / "csv").mkdir()
    (tmp_path / "loss.png").write_bytes(b"\x89PNG\r\n")
    done = run_script(SCRIPT, run, tmp_path / "csv", tmp_path / "loss.png")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "note: left out, without a log.jsonl, coordinate_check.csv or sweep.csv: "
        f"{tmp_path}/csv, {tmp_path}/loss.png\nwrote {run}/report.html\n"
    )


def test_folders_whose_names_are_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    runs = [write_run(folder / name, events(steps=3)) for name in ("a", os.fsdecode(b"b\xe9"))]
    text = write_report(runs).read_text()
    assert 'href="b%E9/log.jsonl"' in text
    assert ">b\\xe9</th>" in text


def test_names_that_matplotlib_would_read_otherwise(tmp_path):
    """As mathematics, which may be no valid one, and as a label that is not shown."""
    names = [r"$\q$", "a$b$c", "_d"]
    text = write_report([write_run(tmp_path / name, events(steps=3)) for name in names]).read_text()
    labels = re.findall(r"<text[^>]*>([^<]*)</text>", text)
    for name in names:
        assert [label.split()[0] for label in labels].count(name) == 1
    text = write_report([tmp_path / names[0]]).read_text()
    assert rf">{names[0]}</text>" in text


def test_what_is_no_file_is_not_replaced(tmp_path):
    run = write_run(tmp_path / "run", events(steps=3))
    os.mkfifo(tmp_path / "pipe.html")
    with pytest.raises(Error, match=r"pipe\.html exists and is no file: give another --out"):
        write_report([run], tmp_path / "pipe.html")


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
