"""Draws the loss of runs from their logs: training (thin), smoothed, validation (points); below, the learning rate.

    python dev/loss_visualize.py OUT [MORE ...]            # a run's folder or its log.jsonl; (or: llmc plot loss ...)
    python dev/loss_visualize.py runs/* --x time --last 20% --ylim 1.1 1.4 --out figure.svg

Several logs (doc/formats.md) are drawn in one figure and named by their folders. The figure is written beside the log,
in the folder that several logs have in common, or to --out, whose ending chooses the format: .png, .svg or .pdf.
Of several paths, those without a log are left out, with a note.
Exit codes: 2 wrong usage, 3 unusable log.
"""

from __future__ import annotations

import argparse
import math
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmc.errors import DataError, ExitCode
from llmc.log import Run, finite, of_runs, read_log, run_names
from llmc.paths import shown_path
from llmc.plot.smoothing import smooth
from llmc.plot.style import COLOURS, ENDINGS, literal, pyplot, save
from llmc.plot.thinning import thin
from llmc.wording import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X_AXES = {"step": "optimizer steps", "tokens": "tokens", "time": "seconds", "flops": "FLOPs"}
INSIDE = 4  # runs whose legend is inside the panel: more would hide the curves
LISTED = 24  # runs in a legend: of more, those with the lowest losses


def name_runs(runs: list[Run]) -> None:
    """Names each run by the folder of its log."""
    for run, name in zip(runs, run_names([Path(run.name) for run in runs]), strict=True):
        run.name = name


def positions(run: Run, steps: list[int], axis: str, unit: float = 1.0) -> list[float]:
    """Positions of steps on the horizontal axis, in `unit`; interpolated: eval events have no tokens."""
    if axis == "step":
        return [float(step) for step in steps]
    import numpy as np

    field = {"time": "elapsed", "flops": "tokens"}.get(axis, axis)
    known = [step for step in sorted(run.train) if finite(run.train[step].get(field)) is not None]
    if not known:
        raise DataError(f"{run.name}: its train events have no {field!r}: use --x step")
    factor = 1 / unit
    if axis == "flops":
        if run.flops_per_token is None:
            raise DataError(f"{run.name}: its config event has no model to count FLOPs of: use --x tokens")
        factor *= run.flops_per_token
    return [float(x) * factor for x in np.interp(steps, known, [run.train[step][field] for step in known])]


def bits_per_nat(runs: list[Run]) -> float | None:
    """bits/byte divided by nats/token, if it is known and the same for all runs."""
    ratios = []
    for run in runs:
        pairs = [(finite(e.get("bits_per_byte")), finite(e.get("val_loss"))) for e in run.evals.values()]
        found = [bits / nats for bits, nats in pairs if bits and nats]
        if not found:
            return None
        ratios.append(found[-1])
    return ratios[0] if max(ratios) - min(ratios) < 1e-3 * ratios[0] else None


@dataclass(frozen=True)
class View:
    """What of the runs is drawn."""

    axis: str = "step"
    window: int = 0  # of the moving average; 0: a fortieth of the run
    ylim: tuple[float, float] | None = None
    last: str = ""  # a number of steps, or a share such as 20%
    unit: float = 1.0  # seconds of the unit of a time axis
    norms: bool = False  # the gradient norm, too, in a third panel
    points: int = 0  # at most so many of each curve, see thin(); 0: all

    def first_step(self, run: Run) -> int:
        """The first step that is drawn; at least the last one is."""
        first, end = min(run.train), max(run.train)
        if not self.last:
            return first
        count = float(self.last[:-1]) / 100 * (end - first + 1) if self.last.endswith("%") else float(self.last)
        return max(first, min(end, end + 1 - math.ceil(count)))


def draw(runs: list[Run], out: Path, view: View = View()) -> None:
    save(loss_figure(runs, view), out)


def loss_figure(runs: list[Run], view: View = View()) -> Figure:
    """Losses above the learning rates, all runs in the same panels."""
    plt = pyplot()
    if view.axis == "time":
        view = replace(view, unit=time_unit(runs))
    outside = len(runs) > INSIDE or bool(view.last or view.ylim)  # a curve that does not fall leaves no free corner
    names = [run.name for run in runs]
    columns = legend_columns(names) if outside else 1
    rows = -(-min(len(runs), LISTED + 1) // columns) if outside else 0
    ratios = [4.2, 1, 1] if view.norms else [4.2, 1]
    figure, (top, *others) = plt.subplots(
        len(ratios),
        1,
        sharex=True,
        figsize=(6.3, 3.55 + 0.85 * (len(ratios) - 1) + 0.165 * rows + 0.1 * outside),
        layout="constrained",
        gridspec_kw={"height_ratios": ratios},
    )
    factor = bits_per_nat(runs)
    shown = []  # values that must be visible on the loss axis
    for index, run in enumerate(runs):
        colour, line = run_style(index, len(runs))
        shown += draw_run(top, run, colour, line, view, alone=len(runs) == 1)
        # the first runs have wider lines, so that equal curves remain visible
        width = 1.1 + 0.8 * min(3, len(runs) - 1 - index)
        for panel, field in zip(others, ("lr", "grad_norm"), strict=False):
            draw_field(panel, run, field, colour, view, width if field == "lr" else 0.7)
    low, high = min(shown), max(shown)
    frame([top, *others], view, low, highest(runs) if low < highest(runs) < high else high)
    if factor is not None:
        right = top.secondary_yaxis("right", functions=(lambda nats: nats * factor, lambda bits: bits / factor))
        right.set_ylabel("bits/byte")
        top.spines["right"].set_visible(True)
    draw_legend(figure, top, runs, columns if outside else 0)
    figure.align_ylabels([top, *others])
    return figure


def highest(runs: list[Run]) -> float:
    """The loss at which the axis ends at the latest, half above the first ones: a run that diverges would hide what
    happened before, and all other runs."""
    losses = [finite(run.train[min(run.train)].get("loss")) for run in runs]
    return 1.5 * max((loss for loss in losses if loss is not None), default=math.inf)


def run_style(index: int, count: int) -> tuple[Any, str]:
    """Colour and line of a run: eight colours, then dashed; of very many, a scale from first to last."""
    if count > 2 * len(COLOURS):
        from matplotlib import colormaps

        return colormaps["viridis"](0.95 * index / (count - 1)), "-"
    return COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--"


def legend_columns(names: list[str]) -> int:
    """As many as fit beside each other below the figure."""
    return max(1, min(4, 100 // (max(map(len, names)) + 26)))


def last_loss(run: Run) -> float:
    """The last validation loss, or the last training loss; infinite if there is neither."""
    values = [finite(run.evals[step].get("val_loss")) for step in sorted(run.evals)]
    values = values or [finite(run.train[step].get("loss")) for step in sorted(run.train)]
    known = [value for value in values if value is not None]
    return known[-1] if known else math.inf


def draw_legend(figure: Figure, top: Axes, runs: list[Run], columns: int) -> None:
    """columns: of a legend below the panels, 0: inside. Of many runs it names those with the lowest losses."""
    handles, labels = top.get_legend_handles_labels()
    if not columns:
        top.legend(
            frameon=True, framealpha=0.9, edgecolor="none", loc="upper right", handlelength=1.6, borderaxespad=0.2
        )
        return
    title = None
    if len(runs) > LISTED:
        best = sorted(sorted(range(len(runs)), key=lambda index: last_loss(runs[index]))[:LISTED])
        title = f"the {LISTED} lowest of {len(runs)} runs"
        handles, labels = [handles[i] for i in best], [labels[i] for i in best]
    figure.legend(
        handles=handles,
        labels=labels,
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        fontsize=8,
        handlelength=1.8,
        columnspacing=1.2,
        labelspacing=0.25,
        title=title,
        title_fontsize=8,
    )


TIME_UNITS = {1.0: "seconds", 60.0: "minutes", 3600.0: "hours"}


def time_unit(runs: list[Run]) -> float:
    """Seconds of the unit for a time axis."""
    times = [finite(event.get("elapsed")) or 0.0 for run in runs for event in run.train.values()]
    return 3600.0 if max(times) >= 3 * 3600 else 60.0 if max(times) >= 300 else 1.0


def frame(panels: list[Axes], view: View, low: float, high: float) -> None:
    """Sets limits, ticks and labels of all panels; the losses from `low` to `high` must be visible."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    top, rates, *norms = panels
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    top.set_ylim(view.ylim or (low - margin, high + margin))
    top.set_ylabel("loss (nats/token)")
    rates.set_ylabel("learning rate")
    rates.set_ylim(bottom=0)
    rates.yaxis.set_major_locator(MaxNLocator(3))
    rates.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    for panel in norms:
        panel.set_ylabel("grad. norm")
        panel.set_yscale("log")
        first = max((line.get_ydata()[0] for line in panel.lines if len(line.get_ydata())), default=1.0)
        panel.set_ylim(top=min(panel.get_ylim()[1], 1e3 * first))  # as the losses: see highest()
        panel.yaxis.set_major_locator(LogLocator(numticks=4))
        panel.yaxis.set_minor_formatter(NullFormatter())
    bottom = panels[-1]
    bottom.set_xlabel(X_AXES[view.axis])
    bottom.xaxis.set_major_locator(MaxNLocator("auto", integer=view.axis == "step", steps=[1, 2, 2.5, 5, 10]))
    begin = min(line.get_xdata()[0] for line in top.lines) if view.last else 0.0
    end = max(line.get_xdata()[-1] for line in top.lines)
    if view.axis == "time":
        bottom.set_xlabel(TIME_UNITS[view.unit])
        bottom.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    elif view.axis == "flops":
        bottom.ticklabel_format(axis="x", style="sci", scilimits=(0, 0), useMathText=True)
    else:
        engineering = view.axis == "tokens"
        bottom.xaxis.set_major_formatter(EngFormatter(sep="") if engineering else StrMethodFormatter("{x:,.0f}"))
    span = end - begin or 1
    bottom.set_xlim(begin - 0.015 * span, end + 0.02 * span)
    for panel in panels:
        panel.grid(True)


def draw_run(top: Axes, run: Run, colour: Any, line: str, view: View, alone: bool) -> list[float]:
    """Draws one run in the upper panel. Returns the losses that must be visible: all but the noise in training."""
    first = view.first_step(run)
    known = {step: finite(event.get("loss")) for step, event in sorted(run.train.items())}
    losses = {step: loss for step, loss in known.items() if loss is not None}
    # over all steps, so that a narrower view has the same curve
    means = [float(x) for x in smooth(list(losses.values()), view.window or max(1, len(losses) // 40))]
    smoothed = [mean for step, mean in zip(losses, means, strict=True) if step >= first]
    losses = {step: loss for step, loss in losses.items() if step >= first}
    if not losses:  # it diverged before
        return []
    x, values = positions(run, list(losses), view.axis, view.unit), list(losses.values())
    evals = {step: finite(event.get("val_loss")) for step, event in sorted(run.evals.items()) if step >= first}
    val = {step: loss for step, loss in evals.items() if loss is not None}
    last = list(val.values())[-1:]
    draw_thinned(
        top,
        x,
        values,
        view,
        color=colour,
        linewidth=0.5,
        alpha=0.35 if alone else 0.22,
        label="training, each step" if alone else None,
    )
    ending = f" (validation {last[0]:.3f})" if last else ""
    draw_thinned(
        top,
        x,
        smoothed,
        view,
        color=colour,
        linewidth=1.5,
        linestyle=line,
        zorder=3,
        label="training, smoothed" if alone else literal(run.name + ending),
    )
    if last:
        top.plot(
            positions(run, list(val), view.axis, view.unit),
            list(val.values()),
            color="black" if alone else colour,
            linestyle="none",
            marker="o",
            zorder=4,
            markersize=4 if len(val) <= 60 else 2.5,
            markerfacecolor="white",
            markeredgewidth=1.1,
            label=f"validation (last {last[0]:.3f})" if alone else None,
        )
    if alone:
        top.set_title(literal(run.name), loc="left")
    return [*smoothed, *val.values(), min(values)]


def draw_field(panel: Axes, run: Run, field: str, colour: Any, view: View, width: float) -> None:
    """Draws a number that the train events have: the learning rate, the gradient norm."""
    first = view.first_step(run)
    known = {step: finite(run.train[step].get(field)) for step in sorted(run.train) if step >= first}
    steps = [step for step, value in known.items() if value is not None]
    values = [value for value in known.values() if value is not None]
    draw_thinned(panel, positions(run, steps, view.axis, view.unit), values, view, color=colour, linewidth=width)


def draw_thinned(panel: Axes, x: list[float], y: list[float], view: View, **style: Any) -> None:
    """Draws a curve with at most view.points points; a dot if it has only one."""
    kept = thin(y, view.points)
    panel.plot(
        [x[i] for i in kept],
        [y[i] for i in kept],
        marker="." if len(x) == 1 else None,
        rasterized=len(kept) > 20_000,
        **style,
    )


def options(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="log.jsonl of a run, or its folder")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="figure to write, or an existing folder for loss.png [loss.png beside the log; of several logs, in the "
        "folder that they have in common]",
    )
    parser.add_argument("--x", choices=[*X_AXES, "elapsed"], default="step", help="horizontal axis [%(default)s]")
    parser.add_argument("--ylim", nargs=2, type=float, metavar=("LOW", "HIGH"), help="limits of the loss axis")
    parser.add_argument(
        "--last", default="", metavar="STEPS", help="draw only so many steps at the end of each run, or a share: 20%%"
    )
    parser.add_argument(
        "--smooth",
        type=int,
        default=0,
        metavar="EVENTS",
        help="width of the moving average; 0: a fortieth of the run, 1: none [%(default)s]",
    )
    return parser


def default_out(runs: list[Run]) -> Path:
    """Beside the log; of several, in the folder that they have in common."""
    return Path(os.path.commonpath([Path(run.name).resolve().parent for run in runs])) / "loss.png"


def view_of(parser: argparse.ArgumentParser, args: argparse.Namespace) -> View:
    if args.smooth < 0:
        parser.error(f"argument --smooth: {args.smooth} is negative")
    if args.ylim and not (math.isfinite(sum(args.ylim)) and args.ylim[0] < args.ylim[1]):
        parser.error(f"argument --ylim: {args.ylim[0]:g} {args.ylim[1]:g}: give the lower limit, then the upper one")
    if args.last and not (re.fullmatch(r"\d+(\.\d+)?%|\d+", args.last) and float(args.last.rstrip("%")) > 0):
        parser.error(f"argument --last: {args.last}: give a number of steps, or a share such as 20%")
    axis = "time" if args.x == "elapsed" else args.x
    return View(axis, args.smooth, tuple(args.ylim) if args.ylim else None, args.last)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(prog)
    args = parser.parse_args(argv)
    view = view_of(parser, args)
    out = args.out / "loss.png" if args.out and args.out.is_dir() else args.out
    if out and out.suffix not in ENDINGS:
        parser.error(f"argument --out: {out} is no folder and does not end in .png, .svg or .pdf")
    runs = [read_log(path) for path in of_runs(args.logs)]
    out = out or default_out(runs)
    name_runs(runs)
    draw(runs, out, view)
    for run in runs:
        last = max(run.train)
        loss = finite(run.train[last].get("loss"))
        val = finite(run.evals[max(run.evals)].get("val_loss")) if run.evals else None
        print(
            f"{run.name}: {plural(last, 'step')}, last loss {'not finite' if loss is None else f'{loss:.4f}'}"
            + (f", last validation {val:.4f}" if val is not None else "")
        )
    print(f"wrote {shown_path(out)}")
    return ExitCode.DONE
