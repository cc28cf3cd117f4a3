"""Whether the best value of a hyperparameter stays the same when the model grows: tables, figures and a verdict.

    python dev/mup_sweep_visualize.py OUT/sweep.csv --out sweep.png --wider wider.png --json sweep.json [--verdict]
    llmc plot sweep OUT/sweep.csv ...                                                              # the same

scripts/mup_sweep.sh writes the CSV. A point is the mean over its seeds, and is diverged if one of them diverged. The
*optimum* of a scale is the value of the grid with the lowest loss. *Drift* is its distance from the optimum of the
smallest scale in octaves (factors of two). *Regret* is the cost of using the optimum of the smallest scale: the loss
there minus the lowest loss at this scale, both over the same seeds. The verdict is PASS if at the largest scale the
regret is at most --threshold, and sp's regret is above it and at least --ratio times as large. The second table tests
'wider is always better': in no window of training may the next scale be more than --tolerance worse, at the transferred
value. Exit codes: with --verdict 1 if it is FAIL and 6 if it is UNDECIDED; 2 wrong usage; 3 unusable CSV or log.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from llmc.errors import ExitCode
from llmc.mup.sweep_report import as_json, print_tables, print_wider
from llmc.mup.sweep_table import LOSSES, Grid, Point, Sweep, Value, ordered, show
from llmc.mup.sweep_verdict import RATIO, THRESHOLD, TOLERANCE, Analysis, Outcome, Results, Wider, analyse
from llmc.plot.smoothing import smooth
from llmc.plot.style import DARK, ENDINGS, pyplot, save, scheme_colour, scheme_title
from llmc.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AXES = {
    "lr": "learning rate",
    "attn_mult": "attention multiplier",
    "output_mult": "output multiplier",
    "embed_mult": "embedding multiplier",
    "init_std": "init standard deviation",
    "weight_decay": "weight decay",
    "schedule": "schedule",
}
SCALES = {
    "width": "width",
    "depth": "depth",
    "batch_size": "batch size",
    "seq_len": "sequence length",
    "tokens": "tokens",
}
LOSS = {"val": "validation loss (nats/token)", "train": "training loss at the end (nats/token)"}
SCALE_MARKERS = "osD^vP*X"  # one marker per scale
SCHEME_MARKERS = "sovD^P"


def marker_of(scale_index: int) -> str:
    return SCALE_MARKERS[scale_index % len(SCALE_MARKERS)]


def colours(scales: list[float]) -> dict[float, Any]:
    """From light to dark as the scale grows, also in black and white."""
    from matplotlib import colormaps

    last = max(1, len(scales) - 1)
    return {scale: colormaps["viridis"](0.82 - 0.78 * i / last) for i, scale in enumerate(scales)}


def positions(sweep: Sweep) -> dict[Value, float]:
    """The position of each value on the axis: its log2; 0 two octaves below the smallest; names at equal distances."""
    values = ordered(dict.fromkeys(v for scales in sweep.points.values() for grid in scales.values() for v in grid))
    if sweep.categorical:
        return {value: float(i) for i, value in enumerate(values)}
    numbers = [value for value in values if isinstance(value, float)]
    least = min((value for value in numbers if value > 0), default=1.0)
    return {value: math.log2(value if value > 0 else least / 4) for value in numbers}


def label(value: Value | None) -> str:
    """Like `show`, with powers as superscripts."""
    text = show(value)
    return f"$2^{{{text[2:].replace('-', '−')}}}$" if text.startswith("2^") else text


def grid_of_panels(count: int, width: float = 3.0) -> tuple[Figure, list[Axes]]:
    plt = pyplot()
    columns = min(3, count)
    rows = -(-count // columns)
    figure, panels = plt.subplots(
        rows, columns, figsize=(width * columns + 0.6, 3.1 * rows + 0.5), squeeze=False, layout="constrained"
    )
    flat = list(panels.flat)
    for panel in flat[count:]:
        panel.remove()
    return figure, flat[:count]


def limits(sweep: Sweep, results: Results) -> tuple[float, float]:
    """Limits of the loss axis: the panel shows the optima and the transferred losses; points far above are marked."""
    outs = [out for scheme in results.values() for out in scheme]
    best = [out.best_loss for out in outs if out.best_loss is not None]
    costs = [out.transferred_loss for out in outs if out.transferred_loss is not None]
    low, top = min(best), max(loss for loss in [*costs, *best] if math.isfinite(loss))
    span = max(2.2 * (top - low), 0.08)
    highest = max(
        loss
        for scales in sweep.points.values()
        for grid in scales.values()
        for point in grid.values()
        for loss in point.losses.values()
    )
    return low - 0.07 * span, min(low + span, highest + 0.05 * span)


def sweep_figure(analysis: Analysis, threshold: float) -> Figure:
    """One panel per scheme, and one with the regret."""
    sweep, results = analysis.sweep, analysis.results
    several = len(sweep.scales) > 1
    figure, panels = grid_of_panels(len(results) + several)
    x, tint = positions(sweep), colours(sweep.scales)
    low, high = limits(sweep, results)
    marks: set[str] = set()
    for panel, scheme in zip(panels, results, strict=False):
        marks |= draw_scheme(panel, sweep, scheme, results[scheme], x, tint, low, high)
    panels[0].set_ylabel(LOSS[sweep.loss])
    if several:
        draw_regret(panels[len(results)], sweep, results, threshold)
    handles = legend_handles(sweep, tint, marks)
    seeds = len(sweep.seeds)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4 if len(panels) < 3 else 8),
        frameon=False,
        title=f"mean over {seeds} seeds, band from least to largest" if seeds > 1 else "one seed",
        title_fontsize=8,
        fontsize=8.5,
        handlelength=1.8,
        columnspacing=1.4,
    )
    return figure


def legend_handles(sweep: Sweep, tint: dict[float, Any], marks: set[str]) -> list[Any]:
    """One line per scale, and the marks used in the figure."""
    from matplotlib.lines import Line2D

    def mark(label: str, **style: Any) -> Any:
        return Line2D([], [], **{"color": DARK, "linestyle": "none", "label": label} | style)

    scale_name = SCALES[sweep.scale_axis]
    handles = [
        mark(f"{scale_name} {scale:,.0f}", color=tint[scale], linestyle="-", marker=marker_of(i), markersize=4.5)
        for i, scale in enumerate(sweep.scales)
    ]
    handles.append(mark("optimum", marker="o", markersize=9, markerfacecolor="none"))
    if len(sweep.scales) > 1 and not sweep.categorical:
        handles.append(mark(f"optimum of {scale_name} {sweep.scales[0]:g}", linestyle="--", linewidth=1))
    if "above" in marks:
        handles.append(mark("above the panel", marker="^", markersize=6, markerfacecolor="white"))
    if "diverged" in marks:
        handles.append(mark("diverged", marker="x", markersize=6, markeredgewidth=1.6))
    return handles


def draw_scheme(
    panel: Axes,
    sweep: Sweep,
    scheme: str,
    outs: list[Outcome],
    x: dict[Value, float],
    tint: dict[float, Any],
    low: float,
    high: float,
) -> set[str]:
    """Returns the marks used in the panel: above, for points above it, and diverged."""
    marks = set()
    best = {out.scale: out for out in outs}
    for i, scale in enumerate(sweep.scales):
        beside = 0.09 * (2 * i / max(1, len(sweep.scales) - 1) - 1)  # separates the marks of several scales
        at = {value: place + beside * sweep.categorical for value, place in x.items()}
        grid = sweep.points[scheme].get(scale, {})
        draw_curve(panel, grid, at, tint[scale], marker_of(i), sweep.categorical)
        marks |= {draw_mark(panel, point, x[value] + beside, tint[scale], high) for value, point in grid.items()}
        out = best.get(scale)
        if out is not None and out.best is not None:
            panel.plot(
                at[out.best],
                out.best_loss,
                marker="o",
                color=tint[scale],
                markersize=10,
                markerfacecolor="none",
                markeredgewidth=1.3,
                zorder=5,
            )
    if len(outs) > 1 and outs[0].best is not None and not sweep.categorical:
        panel.axvline(x[outs[0].best], color=DARK, linewidth=1, linestyle="--", zorder=1)
    panel.set_ylim(low, high)
    panel.set_title(scheme_title(scheme), loc="left", fontweight="bold")
    panel.set_xlabel(AXES.get(sweep.axis, sweep.axis))
    panel.grid(True)
    if sweep.categorical:
        panel.set_xlim(-0.4, len(x) - 0.6)
    ticks = list(x)[:: 1 if sweep.categorical else math.ceil(len(x) / 7)]
    panel.set_xticks([x[v] for v in ticks], [label(v) for v in ticks])
    return marks


def draw_curve(panel: Axes, grid: Grid, at: dict[Value, float], colour: Any, marker: str, categorical: bool) -> None:
    """Means and the range over seeds, with a gap at points without a loss."""
    values = ordered(grid)
    x = [at[value] for value in values]
    mean, least, most = [], [], []
    for value in values:
        point = grid[value]
        there = math.isfinite(point.mean)
        mean.append(point.mean if there else math.nan)
        least.append(min(point.losses.values()) if there else math.nan)
        most.append(max(point.losses.values()) if there else math.nan)
    panel.plot(
        x,
        mean,
        linewidth=1.4,
        markersize=4,
        zorder=3,
        color=colour,
        marker=marker,
        linestyle="none" if categorical else "-",
    )
    if categorical:
        panel.vlines(x, least, most, color=colour, linewidth=1.2, alpha=0.5)
    else:
        panel.fill_between(x, least, most, color=colour, alpha=0.18, linewidth=0)


def draw_mark(panel: Axes, point: Point, x: float, colour: Any, high: float) -> str:
    """A mark at the top of the panel for a point that is above it or has diverged. Returns its name."""
    if point.diverged:
        panel.plot(x, high, marker="x", color=colour, markersize=6, markeredgewidth=1.6, clip_on=False, zorder=6)
        return "diverged"
    if point.losses and point.mean > high:
        panel.plot(x, high, marker="^", color=colour, markersize=5, markerfacecolor="white", clip_on=False, zorder=5)
        return "above"
    return ""


def draw_regret(panel: Axes, sweep: Sweep, results: Results, threshold: float) -> None:
    """The regret of each scheme by scale, with its standard error, and the threshold."""
    diverged = []
    for i, (scheme, outs) in enumerate(results.items()):
        known = [out for out in outs if out.regret is not None and math.isfinite(out.regret)]
        colour = scheme_colour(scheme)
        panel.errorbar(
            [math.log2(out.scale) for out in known],
            [out.regret for out in known],
            yerr=[out.regret_error or 0 for out in known],
            color=colour,
            marker=SCHEME_MARKERS[i % 6],
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            label=scheme_title(scheme),
            zorder=3,
            clip_on=False,
        )
        diverged += [(math.log2(out.scale), colour) for out in outs if out.regret == math.inf]
    panel.axhline(threshold, color="#606060", linewidth=1.2, linestyle=":", zorder=1, label=f"{threshold:g}: transfers")
    top = max(1.08 * panel.get_ylim()[1], 3 * threshold)
    panel.set_ylim(0, top)
    for x, colour in diverged:
        panel.plot(x, top, marker="x", color=colour, markersize=6, markeredgewidth=1.6, clip_on=False, zorder=5)
    panel.set_title("Regret", loc="left", fontweight="bold")
    panel.set_ylabel(
        f"loss at the optimum of {SCALES[sweep.scale_axis]} {show(sweep.scales[0])},\nabove the least (nats/token)"
    )
    scale_ticks(panel, sweep)
    panel.grid(True)
    panel.legend(frameon=False, loc="upper left")


def scale_ticks(panel: Axes, sweep: Sweep) -> None:
    from matplotlib.ticker import NullLocator

    panel.set_xlabel(SCALES[sweep.scale_axis])
    panel.set_xticks([math.log2(scale) for scale in sweep.scales], [show(scale) for scale in sweep.scales])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.margins(x=0.06)


def wider_figure(analysis: Analysis) -> Figure:
    """Training curves by scale, one panel per scheme, and the loss of the last window."""
    from matplotlib.lines import Line2D

    sweep, results, curves = analysis.sweep, analysis.results, analysis.curves
    figure, panels = grid_of_panels(len(curves) + 1)
    tint = colours(sweep.scales)
    smoothed = {
        scheme: {scale: smooth(losses, max(1, min(50, len(losses) // 8))) for scale, losses in w.curves.items()}
        for scheme, w in curves.items()
    }
    shown = [line for lines in smoothed.values() for line in lines.values()]
    low = min(min(line) for line in shown)
    high = max(max(line[len(line) // 4 :]) for line in shown)  # the first steps are above the panel
    for panel, (scheme, w) in zip(panels, curves.items(), strict=False):
        scales = {out.scale: tint[out.scale] for out in results[scheme]}
        draw_training(panel, sweep.scale_axis, w.steps, smoothed[scheme], scales)
        panel.set_title(scheme_title(scheme), loc="left", fontweight="bold")
        panel.set_title(f"{AXES.get(sweep.axis, sweep.axis)} {label(results[scheme][0].best)}", loc="right", fontsize=9)
        panel.set_ylim(low - 0.04 * (high - low), high)
    panels[0].set_ylabel("training loss (nats/token)")
    draw_last(panels[-1], sweep, curves)
    handles = [
        Line2D([], [], color=tint[scale], linewidth=2, label=f"{SCALES[sweep.scale_axis]} {scale:,.0f}")
        for scale in sweep.scales
    ]
    seeds = len(sweep.seeds)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=8.5,
        title="moving average" + (f", mean over {seeds} seeds" if seeds > 1 else ""),
        title_fontsize=8,
    )
    return figure


def draw_training(
    panel: Axes, scale_axis: str, steps: list[int], curves: dict[float, Any], scales: dict[float, Any]
) -> None:
    """One curve per scale, or a mark if it diverged."""
    for scale, colour in scales.items():
        if scale in curves:
            panel.plot(steps, curves[scale], color=colour, linewidth=1.5)
        else:
            panel.plot(0.5, 0.93, marker="x", color=colour, transform=panel.transAxes, markersize=7)
            panel.annotate(
                f"{SCALES[scale_axis]} {scale:g} diverged",
                (0.53, 0.93),
                xycoords="axes fraction",
                va="center",
                fontsize=8,
            )
    panel.set_xlabel("optimizer steps")
    panel.grid(True)


def draw_last(panel: Axes, sweep: Sweep, curves: dict[str, Wider]) -> None:
    """The mean training loss of the last window by scale."""
    for i, (scheme, w) in enumerate(curves.items()):
        panel.plot(
            [math.log2(scale) for scale in w.curves],
            [fmean(line[-w.window :]) for line in w.curves.values()],
            color=scheme_colour(scheme),
            marker=SCHEME_MARKERS[i % 6],
            markersize=5,
            linewidth=1.5,
            label=scheme_title(scheme),
        )
    window = next(iter(curves.values())).window
    panel.set_title(f"Last {plural(window, 'step')}", loc="left", fontweight="bold")
    panel.set_ylabel("training loss (nats/token)")
    scale_ticks(panel, sweep)
    panel.grid(True)
    panel.legend(frameon=False, loc="best")


def options(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("csv", type=Path, metavar="CSV", help="sweep.csv as scripts/mup_sweep.sh writes it")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="figure of the loss against the axis (.png, .svg, .pdf)"
    )
    parser.add_argument("--wider", type=Path, metavar="FILE", help="figure of training at the transferred value")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables and the verdict here")
    parser.add_argument(
        "--loss",
        choices=["auto", *LOSSES],
        default="auto",
        help="validation, or the mean over the end of training; auto: validation if available [auto]",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=THRESHOLD,
        metavar="NATS",
        help="largest regret that counts as transfer [%(default)s]",
    )
    parser.add_argument(
        "--ratio",
        type=float,
        default=RATIO,
        metavar="FACTOR",
        help="minimum ratio of sp's regret to the scheme's [%(default)s]",
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=TOLERANCE,
        metavar="NATS",
        help="rise of the loss that 'wider is better' allows [%(default)s]",
    )
    parser.add_argument(
        "--verdict", action="store_true", help="exit with status 1 (FAIL) or 6 (UNDECIDED) unless it is PASS"
    )
    return parser


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(prog)
    args = parser.parse_args(argv)
    for name in ("out", "wider"):
        path = getattr(args, name)
        if path is not None and path.suffix not in ENDINGS:
            parser.error(f"argument --{name}: {path} does not end in .png, .svg or .pdf")
    analysis = analyse(args.csv, args.loss, args.threshold, args.ratio)
    print_tables(analysis.sweep, analysis.results)
    if analysis.curves:
        print_wider(analysis.sweep, analysis.curves, args.tolerance)
    print()
    for warning in analysis.sweep.warnings:
        print(f"warning: {warning}")
    if args.json is not None:
        content = as_json(analysis, args.threshold, args.ratio, args.tolerance)
        args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if args.out is not None:
        save(sweep_figure(analysis, args.threshold), args.out)
        print(f"wrote {args.out}")
    if args.wider is not None and analysis.curves:
        save(wider_figure(analysis), args.wider)
        print(f"wrote {args.wider}")
    for sentence in analysis.sentences:
        print(sentence)
    print(f"verdict: {analysis.verdict}")
    codes = {"PASS": ExitCode.DONE, "FAIL": ExitCode.FAILED, "UNDECIDED": ExitCode.UNDECIDED}
    return codes[analysis.verdict] if args.verdict else ExitCode.DONE
