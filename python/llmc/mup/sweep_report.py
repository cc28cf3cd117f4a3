"""The tables of a sweep as text and as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmc.mup.sweep_table import Sweep, show
from llmc.mup.sweep_verdict import Analysis, Outcome, Results, Rise, Wider, amount
from llmc.plot.style import scheme_title
from llmc.wording import plural

Table = list[Sequence[str]]  # the first row has the titles


def print_tables(sweep: Sweep, results: Results) -> None:
    print(f"{outcome_heading(sweep)}\n")
    print_columns(outcome_table(sweep, results))
    if any(out.edge for outs in results.values() for out in outs):
        print(EDGE)


EDGE = "* at the edge of the grid"


def outcome_heading(sweep: Sweep) -> str:
    kind = {"val": "validation loss", "train": "training loss at the end"}[sweep.loss]
    seeds = f"mean over {len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else "one seed"
    return (
        f"{sweep.axis} over {sweep.scale_axis}: {kind}, {seeds}, nats/token; the optimum "
        f"of {sweep.scale_axis} {sweep.scales[0]:g} is transferred"
    )


def outcome_table(sweep: Sweep, results: Results) -> Table:
    head = ("scheme", sweep.scale_axis, "optimum", "its loss", "drift", "transferred", "its loss", "regret", "diverged")
    return [head, *(table_row(sweep, scheme, out) for scheme, outs in results.items() for out in outs)]


def table_row(sweep: Sweep, scheme: str, out: Outcome) -> Sequence[str]:
    error = f" ± {out.regret_error:.4f}" if out.regret_error is not None and out.regret else ""
    drift = "-" if out.drift is None else f"{out.drift:+g}" if out.drift else "0"
    if sweep.categorical:
        drift = "same" if out.best == out.transferred else "other"
    return (
        scheme_title(scheme),
        f"{out.scale:g}",
        show(out.best) + ("*" if out.edge else ""),
        amount(out.best_loss),
        drift,
        show(out.transferred),
        amount(out.transferred_loss),
        amount(out.regret) + error,
        f"{len(out.diverged)}/{len(sweep.points[scheme][out.scale])}",
    )


def print_columns(table: Table) -> None:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_wider(sweep: Sweep, curves: dict[str, Wider], tolerance: float) -> None:
    print(f"\n{wider_heading(sweep, curves, tolerance)}")
    print_columns(wider_table(curves, tolerance))


def wider_heading(sweep: Sweep, curves: dict[str, Wider], tolerance: float) -> str:
    window = max(w.window for w in curves.values())
    return (
        f"wider is always better, at the transferred {sweep.axis}: worst rise of the training loss to the next "
        f"{sweep.scale_axis}, over windows of {plural(window, 'step')} (allowed: {tolerance:g})"
    )


def wider_table(curves: dict[str, Wider], tolerance: float) -> Table:
    table: Table = [("scheme", "step up", "worst rise", "at steps", "")]
    for scheme, w in curves.items():
        for rise in w.rises:
            table.append(
                (
                    scheme_title(scheme),
                    f"{rise.small:g} -> {rise.large:g}",
                    "diverged" if math.isinf(rise.worst) else f"{rise.worst:+.4f}",
                    f"{rise.first}-{rise.last}" if rise.last else "",
                    wider_text(rise, tolerance),
                )
            )
    return table


def wider_text(rise: Rise, tolerance: float) -> str:
    if rise.worst <= tolerance:
        return "ok"
    if not rise.means:
        return "worse"
    above = sum(mean > tolerance for mean in rise.means)
    return f"worse in {above} of {plural(len(rise.means), 'window')}"


def as_json(analysis: Analysis, threshold: float, ratio: float, tolerance: float) -> dict[str, Any]:
    """The contents of the tables. Infinite values become null, with "diverged" true."""
    sweep = analysis.sweep
    return {
        "axis": sweep.axis,
        "scale_axis": sweep.scale_axis,
        "loss": sweep.loss,
        "seeds": sweep.seeds,
        "transfer_from": sweep.scales[0],
        "schemes": {scheme: [outcome_json(out) for out in outs] for scheme, outs in analysis.results.items()},
        "wider": {
            scheme: [
                {
                    "from": rise.small,
                    "to": rise.large,
                    "worst_rise": finite_or_none(rise.worst),
                    "at_steps": [rise.first, rise.last] if rise.last else None,
                    "windows_worse": sum(mean > tolerance for mean in rise.means),
                    "windows": len(rise.means),
                    "ok": rise.worst <= tolerance,
                }
                for rise in w.rises
            ]
            for scheme, w in analysis.curves.items()
        },
        "threshold": threshold,
        "ratio": ratio,
        "tolerance": tolerance,
        "verdict": analysis.verdict,
        "reasons": analysis.sentences,
        "warnings": sweep.warnings,
    }


def finite_or_none(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def outcome_json(out: Outcome) -> dict[str, Any]:
    return {
        "scale": out.scale,
        "optimum": out.best,
        "loss": out.best_loss,
        "drift_octaves": out.drift,
        "transferred": out.transferred,
        "transferred_loss": finite_or_none(out.transferred_loss),
        "transferred_diverged": out.regret == math.inf,
        "regret": finite_or_none(out.regret),
        "regret_standard_error": out.regret_error,
        "optimum_at_edge": out.edge,
        "diverged_values": out.diverged,
    }
