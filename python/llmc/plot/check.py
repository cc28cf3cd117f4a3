"""Judges and draws a coordinate check: do activations keep their size when the width (or the depth) grows?

    scripts/mup_coordinate_check.sh                                          # trains, then calls this
    python dev/mup_coordinate_check_visualize.py CSV [CSV ...] --out FOLDER  # what --coord-check wrote
    llmc plot check CSV [CSV ...] --out FOLDER                               # the same

Writes FOLDER/curves.png (activations against size, standard parametrization and muP) and FOLDER/layers.png (every
parametrization by layer); CSVs of several programs are drawn in the same panels. Prints slopes with 95% intervals and
the expected values, and a verdict: PASS; FAIL, with the likely cause of each slope that is wrong by more than noise
explains; or UNDECIDED. Exit codes: 0 all as expected, 1 a check failed (or one that should fail passed), 2 wrong usage,
3 unusable CSV, 6 undecided: rerun with more seeds or sizes.
"""

from __future__ import annotations

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from llmc.mup.check_csv import Row
from llmc.mup.check_report import add_options, judge_files, print_overall, print_report, signed
from llmc.mup.findings import Finding, Verdict
from llmc.plot.style import BAD, DARK, pyplot, save, scheme_title

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Check = tuple[Verdict, list[Row]]
STATISTICS = {"mean_abs": "mean |x|", "delta": "mean |x − x₁|"}
LINES = ["-", "--", ":", "-."]  # programs
MARKERS = ["o", "s", "^", "D"]


def curves_of(rows: list[Row], tensor: str, statistic: str, axis: str) -> dict[int, list[tuple[int, float, float]]]:
    """Per step: (size, geometric mean over seeds, factor of one standard deviation over seeds)."""
    logs: dict[tuple[int, int], list[float]] = defaultdict(list)
    for row in rows:
        value = getattr(row, statistic)
        if (
            row.kind == "activation"
            and value
            and math.isfinite(value)
            and tensor in (row.tensor, re.sub(rf"^h\.{row.depth - 1}\.", "h.last.", row.tensor))
        ):
            logs[row.step, getattr(row, axis)].append(math.log(value))
    curves: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for (step, size), values in sorted(logs.items()):
        centre = mean(values)
        spread = math.sqrt(sum((v - centre) ** 2 for v in values) / max(1, len(values) - 1))
        curves[step].append((size, math.exp(centre), math.exp(spread)))
    return dict(curves)


def draw_panel(
    panel: Axes, rows: list[Row], tensor: str, statistic: str, axis: str, colours: Callable[[int], Any], program: int
) -> None:
    """One curve per step, with a band of one standard deviation over seeds."""
    for step, points in curves_of(rows, tensor, statistic, axis).items():
        sizes, centres, spreads = zip(*points, strict=True)
        panel.plot(
            sizes,
            centres,
            linewidth=1.2,
            zorder=2 + step / 1e3,
            markeredgewidth=0.7,
            **line_style(program, colours(step), 2.6),
        )
        if max(spreads) > 1.0:
            panel.fill_between(
                sizes,
                [c / s for c, s in zip(centres, spreads, strict=True)],
                [c * s for c, s in zip(centres, spreads, strict=True)],
                color=colours(step),
                alpha=0.15,
                linewidth=0,
            )


def mark_slopes(panel: Axes, found: list[Finding]) -> None:
    """Writes the slope at the last step, one line per program."""
    if not found:
        return
    marks = {"PASS": "", "FAIL": " ✗", "UNDECIDED": " ?"}
    lines = [f"slope {signed(f.slope)}{marks[f.verdict]}" for f in found]
    bad = any(f.verdict == "FAIL" for f in found)
    text = panel.text(
        0.04,
        0.97,
        "\n".join(lines),
        transform=panel.transAxes,
        va="top",
        fontsize=9,
        linespacing=1.1,
        color=BAD if bad else DARK,
        fontweight="bold" if bad else "normal",
        zorder=9,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )
    text.set_in_layout(False)  # it is inside the panel: the layout must not reserve space


def grid(checks: list[Check], schemes: list[str], tensors: list[tuple[str, str]], statistic: str) -> Figure:
    """A grid with one row per parametrization and one column per tensor (name in the CSV, title)."""
    plt = pyplot(font_size=10)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm

    axis, steps = checks[0][0].axis, max(verdict.steps for verdict, _ in checks)
    sizes = sorted({size for verdict, _ in checks for size in verdict.sizes})
    programs = list(dict.fromkeys(verdict.program for verdict, _ in checks))
    norm = BoundaryNorm([step - 0.5 for step in range(1, steps + 2)], 256)
    mapping = ScalarMappable(norm, plt.get_cmap("viridis_r"))
    figure, panels = plt.subplots(
        len(schemes),
        len(tensors),
        sharex=True,
        squeeze=False,
        layout="constrained",
        figsize=(1.5 * len(tensors) + 1.4, 1.75 * len(schemes) + 0.75),
    )
    for scheme, line in zip(schemes, panels, strict=True):
        mine = [(verdict, rows) for verdict, rows in checks if verdict.parametrization == scheme]
        for (tensor, _), panel in zip(tensors, line, strict=True):
            for verdict, rows in mine:
                draw_panel(panel, rows, tensor, statistic, axis, mapping.to_rgba, programs.index(verdict.program))
            set_scales(panel, sizes)
            if statistic == "mean_abs":
                mark_slopes(panel, [f for check in mine for f in activations_of(check, tensor)])
        line[0].set_ylabel(f"{scheme_title(scheme)}\n{STATISTICS[statistic]}")
    for (_, title), column in zip(tensors, panels.T, strict=True):
        column[0].set_title(title)
        column[-1].set_xlabel(axis)
        frame_column(column, [scheme == "u-mup" for scheme in schemes], 1.0 + 0.5 * len(programs))
    bar = figure.colorbar(mapping, ax=panels, label="step", aspect=18 * len(schemes), pad=0.01, fraction=0.03)
    bar.set_ticks(sorted({1, steps, *range(0, steps + 1, max(1, steps // 5))} - {0}))
    bar.minorticks_off()
    if len(programs) > 1:
        handles = [plt.Line2D([], [], label=name, **line_style(i, DARK, 3.5)) for i, name in enumerate(programs)]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(programs), frameon=False)
    return figure


def activations_of(check: Check, tensor: str) -> list[Finding]:
    """The findings for the panel of `tensor`, which may be named h.last."""
    verdict, rows = check
    names = {tensor}
    if verdict.axis == "width":  # on the depth axis findings already have this name
        names.add(tensor.replace("h.last.", f"h.{max(row.depth for row in rows) - 1}."))
    return [f for f in verdict.findings if f.kind == "activation" and f.tensor in names]


def set_scales(panel: Axes, sizes: list[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.xaxis.set_major_locator(FixedLocator(sizes if len(sizes) <= 4 else sizes[::2]))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter("{x:.0f}")
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(True)


def line_style(program: int, colour: Any, size: float) -> dict[str, Any]:
    """Programs differ in line and marker."""
    return {
        "color": colour,
        "linestyle": LINES[program % 4],
        "marker": MARKERS[program % 4],
        "markersize": size,
        "markerfacecolor": colour if program == 0 else "white",
    }


def frame_column(column: Sequence[Axes], own_scale: list[bool], top: float) -> None:
    """Gives the panels of a column the same vertical axis of at least one decade, with space for the slopes at the top.
    u-µP's weights are of size 1: its panels have other limits with the same span."""
    from matplotlib.ticker import LogLocator

    parts = [[panel for panel, own in zip(column, own_scale, strict=True) if own is wanted] for wanted in (False, True)]
    limits = [(min(p.get_ylim()[0] for p in part), max(p.get_ylim()[1] for p in part)) for part in parts if part]
    half = max(1.0, *(math.log10(high / low) for low, high in limits)) / 2
    for part, (low, high) in zip(filter(None, parts), limits, strict=True):
        middle = math.sqrt(low * high)
        for panel in part:
            panel.set_ylim(middle * 10**-half, middle * 10 ** (top * half))
            if half < 0.8:  # two decades contain one or two powers of ten
                panel.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
                panel.yaxis.set_major_formatter("{x:g}")
            else:
                panel.yaxis.set_major_locator(LogLocator(base=10 ** max(1, round((1 + top) * half / 4)), numticks=12))


def curve_tensors() -> list[tuple[str, str]]:
    """A readable selection of the last block's activations."""
    names = ["embedding", "h.last.attn.logits", "h.last.attn.c_proj", "h.last.mlp.c_fc", "h.last.resid_mlp", "logits"]
    titles = ["embedding", "attention logits", "attn.c_proj", "mlp.c_fc", "last residual", "logits"]
    return list(zip(names, titles, strict=True))


def layer_tensors(axis: str, depth: int) -> list[tuple[str, str]]:
    """From the embedding to the logits; in deep models the first, the middle and the last block."""
    if axis == "depth":
        blocks = [("h.0.", "first "), ("h.last.", "last ")]
    else:
        numbers = range(depth) if depth <= 3 else [0, depth // 2, depth - 1]
        blocks = [(f"h.{number}.", f"h.{number}.") for number in numbers]
    parts = ["attn.c_proj", "mlp.c_proj", "resid_mlp"]
    middle = [(prefix + part, title + part) for prefix, title in blocks for part in parts]
    return [("embedding", "embedding"), *middle, ("ln_f", "ln_f"), ("logits", "logits")]


def figures(checks: list[Check], statistic: str) -> Iterator[tuple[str, Figure]]:
    """Activations against size, "curves", and by layer, "layers"."""
    schemes = list(dict.fromkeys(verdict.parametrization for verdict, _ in checks))
    axis, depth = checks[0][0].axis, max(row.depth for row in checks[0][1])
    pair: list[str] = [scheme for scheme in ("sp", "mup") if scheme in schemes]
    if axis == "depth" or len(pair) < 2:  # nothing to compare: not both SP and muP
        pair = schemes
    yield "curves", grid(checks, pair, curve_tensors(), statistic)
    yield "layers", grid(checks, schemes, layer_tensors(axis, depth), statistic)


def draw_all(checks: list[Check], folder: Path, ending: str, statistic: str) -> None:
    suffix = "" if statistic == "mean_abs" else "_change"
    for name, figure in figures(checks, statistic):
        path = folder / f"{name}{suffix}.{ending}"
        save(figure, path, dpi=200)
        print(f"wrote {path}")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the figures [that of the first CSV]")
    parser.add_argument("--format", choices=["png", "svg", "pdf"], default="png", help="of the figures [%(default)s]")
    parser.add_argument("--no-figures", action="store_true", help="only the table and the verdict, without matplotlib")
    parser.add_argument(
        "--statistic",
        choices=list(STATISTICS),
        default="mean_abs",
        help="what the figures show: size, or change since step 1 [%(default)s]",
    )
    args = parser.parse_args(argv)
    report = judge_files(args.csv, args.expect_fail)
    print_report(report, args.all_blocks, args.json)
    if not args.no_figures:
        draw_all(report.checks, args.out or args.csv[0].parent, args.format, args.statistic)
    print_overall(report)
    return report.status
