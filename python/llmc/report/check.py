"""A coordinate check: its verdicts, figures and slopes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmc.mup.check_report import (
    KINDS,
    Report,
    cell,
    judge_files,
    overall,
    slopes_by_kind,
    table_heading,
    titles_of,
    verdict_text,
)
from llmc.mup.findings import Finding
from llmc.plot.check import figures
from llmc.report.html import Cell, Node, el, preformatted, table
from llmc.report.parts import LOOKS, NAME, Item, Page, Part, verdict_box
from llmc.report.svg import figure_element

CAPTIONS = {
    "curves": "Activations of the last block against the {axis}",
    "layers": "Activations from the embedding to the logits against the {axis}",
}
READING = (
    ": the mean |x| at each step, averaged over seeds, with a band of one standard deviation. Level lines do not "
    "depend on the {axis}; the slope is that of the last step."
)


def check_item(csvs: list[Path], page: Page) -> Item:
    """csvs: what --coord-check wrote, of one axis. DataError if they are not enough to judge."""
    report = judge_files(csvs, None)
    first = report.verdicts[0]
    names = ", ".join(titles_of(report.verdicts))
    title = f"Coordinate check over {first.axis}"
    summary = f"{names}: {table_heading(first, True)}"
    item = Item(title, csvs[0].resolve().parent.name, summary, check_verdict(report))
    drawn: list[Node] = []
    for name, figure in figures(report.checks, "mean_abs"):
        title = CAPTIONS[name].format(axis=first.axis)
        label = f"{title}, a row for each parametrization. The table of slopes has the numbers."
        drawn.append(figure_element(figure, page.next_figure(), label, title + READING.format(axis=first.axis)))
    item.parts.append(Part("Curves", drawn))
    item.parts.append(Part("Slopes", slopes(report)))
    folder = csvs[0].parent
    beside = [folder / name for name in ("curves.png", "layers.png", "verdict.json", NAME)]
    item.parts.append(Part("Files", page.links([*csvs, *beside])))
    return item


def check_verdict(report: Report) -> list[Node]:
    """All checks together, then each, in the words of the check."""
    word, _, rest = overall(report).partition(" ")
    found: list[Node] = [verdict_box(word.rstrip(":"), LOOKS[word.rstrip(":")], rest)]
    for verdict in report.verdicts:
        expected = verdict.parametrization in report.expected_to_fail
        head, *lines = verdict_text(verdict, expected, report.several_programs).splitlines()
        right = verdict.verdict == "FAIL" if expected else verdict.passed
        look = "good" if right else "open" if verdict.verdict == "UNDECIDED" else "bad"
        box = el("div", el("p", head), class_=f"verdict {look}")
        if lines:
            box.append(preformatted("\n".join(lines)))
        found.append(box)
    return found


def slopes(report: Report) -> list[Node]:
    """The slopes of all tensors, a column for each check."""
    verdicts = report.verdicts
    every = verdicts[0].axis == "depth"
    groups: list[tuple[str, Sequence[Sequence[Cell]]]] = []
    for kind, tensors in slopes_by_kind(verdicts, every).items():
        rows = [[el("code", tensor), *map(slope_cell, findings)] for tensor, findings in tensors.items()]
        groups.append((KINDS[kind], rows))
    title = table_heading(verdicts[0], every)
    legend = "A cell has the slope, its 95% interval and the slope of the theory; x: wrong, ?: undecided."
    return [el("p", legend), table(["tensor", *titles_of(verdicts)], groups, title)]


def slope_cell(finding: Finding | None) -> Cell:
    text = cell(finding).strip()
    if finding is None or finding.passed:
        return text
    return el("span", text, class_=LOOKS[finding.verdict])
