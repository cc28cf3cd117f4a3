"""A sweep or transfer: its verdict, figures and tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmc.json_file import read_json
from llmc.log import finite
from llmc.mup.sweep_report import EDGE, Table, outcome_heading, outcome_table, wider_heading, wider_table
from llmc.mup.sweep_table import LOSSES, show
from llmc.mup.sweep_verdict import RATIO, THRESHOLD, TOLERANCE, Analysis, analyse
from llmc.plot.style import scheme_title
from llmc.plot.sweep import AXES, SCALES, sweep_figure, wider_figure
from llmc.report.html import Node, el, table
from llmc.report.parts import LOOKS, NAME, Item, Page, Part, verdict_box
from llmc.report.svg import figure_element


@dataclass(frozen=True)
class Limits:
    """How a sweep is judged: as its sweep.json says, which `llmc sweep` and `llmc plot sweep --json` write."""

    loss: str = "auto"
    threshold: float = THRESHOLD
    ratio: float = RATIO
    tolerance: float = TOLERANCE

    @classmethod
    def beside(cls, csv: Path) -> Limits:
        said = read_json(csv.with_suffix(".json"))
        if not isinstance(said, dict):
            return cls()
        numbers = {name: finite(said.get(name)) for name in ("threshold", "ratio", "tolerance")}
        loss = said["loss"] if said.get("loss") in LOSSES else "auto"
        return cls(loss, **{name: value for name, value in numbers.items() if value is not None})


def sweep_item(csv: Path, page: Page) -> Item:
    """csv: the table of a sweep. DataError if it is none, or has no finished run."""
    limits = Limits.beside(csv)
    analysis = analyse(csv, limits.loss, limits.threshold, limits.ratio)
    sweep = analysis.sweep
    axis, scale = AXES.get(sweep.axis, sweep.axis), SCALES[sweep.scale_axis]
    summary = f"{', '.join(map(scheme_title, analysis.results))}; {scale} {', '.join(map(show, sweep.scales))}"
    item = Item(f"Sweep of the {axis} over {scale}", csv.resolve().parent.name, summary, verdict(analysis))
    item.parts.append(Part("Curves", drawings(analysis, limits, page)))
    tables: list[Node] = [as_table(outcome_heading(sweep), outcome_table(sweep, analysis.results))]
    if any(out.edge for outs in analysis.results.values() for out in outs):
        tables.append(el("p", EDGE))
    if analysis.curves:
        heading = wider_heading(sweep, analysis.curves, limits.tolerance)
        tables.append(as_table(heading, wider_table(analysis.curves, limits.tolerance)))
    item.parts.append(Part("Results", tables))
    beside = [csv.with_suffix(ending) for ending in (".json", ".png")]
    beside += [csv.with_name(name) for name in ("wider.png", "jobs.txt", NAME)]
    item.parts.append(Part("Files", page.links([csv, *beside])))
    return item


def verdict(analysis: Analysis) -> list[Node]:
    """The words of the sweep's own verdict, and its warnings."""
    sentences = [el("p", sentence) for sentence in analysis.sentences]
    warnings = [el("p", f"warning: {warning}") for warning in analysis.sweep.warnings]
    return [verdict_box(analysis.verdict, LOOKS[analysis.verdict], "", *sentences, *warnings)]


def drawings(analysis: Analysis, limits: Limits, page: Page) -> list[Node]:
    sweep = analysis.sweep
    axis, scale = AXES.get(sweep.axis, sweep.axis), SCALES[sweep.scale_axis]
    schemes = " and ".join(map(scheme_title, analysis.results))
    text = f"Loss against {axis} at each {scale} under {schemes}"
    tail = ", and the regret of using the optimum of the smallest" if len(sweep.scales) > 1 else ""
    label = f"{text}{tail}. The table of results has the numbers."
    found: list[Node] = [
        figure_element(sweep_figure(analysis, limits.threshold), page.next_figure(), label, f"{text}{tail}.")
    ]
    if analysis.curves:
        text = f"Training at the transferred {axis}, a curve for each {scale}, and the training loss at the end."
        found.append(figure_element(wider_figure(analysis), page.next_figure(), text, text))
    return found


def as_table(heading: str, rows: Table) -> Node:
    head, *body = rows
    return table(list(head), [("", [list(row) for row in body])], heading)
