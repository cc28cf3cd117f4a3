"""Draws the loss of runs from their logs: training (thin), smoothed, validation (points); below, the learning rate.

    python dev/loss_visualize.py OUT/log.jsonl [MORE/log.jsonl ...] --out loss.png      (or: llmc plot loss ...)

A log is an `OUT/log.jsonl` (doc/formats.md), or the folder that contains it. Several logs are drawn in one figure and
named by their folders. The ending of --out chooses the format: .png, .svg or .pdf. Exit codes: 2 wrong usage,
3 unusable log.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import DataError, ExitCode
from llmc.log import Run, finite, read_log
from llmc.plot.smoothing import smooth
from llmc.plot.style import COLOURS, ENDINGS, pyplot, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

X_AXES = {"step": "optimizer steps", "tokens": "tokens", "elapsed": "seconds"}


def name_runs(runs: list[Run]) -> None:
    """Names each run by the folder of its log, with as many parent folders as needed to make the names different."""
    parts = [Path(run.name).resolve().parent.parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            break
    else:  # the same folder twice
        names = [f"{name} ({Path(run.name).name})" for name, run in zip(names, runs, strict=True)]
    for run, name in zip(runs, names, strict=True):
        run.name = name


def positions(run: Run, steps: list[int], axis: str) -> list[float]:
    """Positions of steps on the horizontal axis. Interpolated between train events: eval events have no tokens."""
    if axis == "step":
        return [float(step) for step in steps]
    import numpy as np

    known = [step for step in sorted(run.train) if finite(run.train[step].get(axis)) is not None]
    if not known:
        raise DataError(f"{run.name}: its train events have no {axis!r}: use --x step")
    return [float(x) for x in np.interp(steps, known, [run.train[step][axis] for step in known])]


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


def draw(runs: list[Run], out: Path, axis: str = "step", window: int = 0) -> None:
    plt = pyplot()
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(6.3, 4.4), layout="constrained", gridspec_kw={"height_ratios": [4.2, 1]}
    )
    factor = bits_per_nat(runs)
    shown = []  # values that must be visible on the loss axis
    for index, run in enumerate(runs):
        colour, line = COLOURS[index % len(COLOURS)], "-" if index < len(COLOURS) else "--"
        shown += draw_run(top, run, colour, line, axis, window, alone=len(runs) == 1)
        draw_rate(bottom, run, colour, axis, width=1.1 + 0.8 * min(3, len(runs) - 1 - index))
    frame(top, bottom, axis, min(shown), max(shown))
    if factor is not None:
        right = top.secondary_yaxis("right", functions=(lambda nats: nats * factor, lambda bits: bits / factor))
        right.set_ylabel("bits/byte")
        top.spines["right"].set_visible(True)
    top.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="upper right", handlelength=1.6, borderaxespad=0.2)
    figure.align_ylabels([top, bottom])
    save(figure, out)


def frame(top: Axes, bottom: Axes, axis: str, low: float, high: float) -> None:
    """Sets limits, ticks and labels of both panels; the losses from `low` to `high` must be visible."""
    from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    top.set_ylim(low - margin, high + margin)
    top.set_ylabel("loss (nats/token)")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel(X_AXES[axis])
    bottom.set_ylim(bottom=0)
    bottom.yaxis.set_major_locator(MaxNLocator(3))
    bottom.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3), useMathText=True)
    bottom.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 2.5, 5, 10]))
    bottom.xaxis.set_major_formatter(EngFormatter(sep="") if axis == "tokens" else StrMethodFormatter("{x:,.0f}"))
    end = max(line.get_xdata()[-1] for line in top.lines)
    bottom.set_xlim(-0.015 * end, 1.02 * end or 1)
    for panel in (top, bottom):
        panel.grid(True)


def draw_run(top: Axes, run: Run, colour: str, line: str, axis: str, window: int, alone: bool) -> list[float]:
    """Draws one run in the upper panel. Returns the losses that must be visible: all but the noise in training."""
    known = {step: finite(event.get("loss")) for step, event in sorted(run.train.items())}
    losses = {step: loss for step, loss in known.items() if loss is not None}
    smoothed = [float(x) for x in smooth(list(losses.values()), window or max(1, len(losses) // 40))]
    x = positions(run, list(losses), axis)
    evals = {step: finite(event.get("val_loss")) for step, event in sorted(run.evals.items())}
    val = {step: loss for step, loss in evals.items() if loss is not None}
    last = list(val.values())[-1:]
    top.plot(
        x,
        list(losses.values()),
        color=colour,
        linewidth=0.5,
        alpha=0.35 if alone else 0.22,
        rasterized=len(x) > 20_000,
        label="training, each step" if alone else None,
    )
    ending = f" (validation {last[0]:.3f})" if last else ""
    top.plot(
        x,
        smoothed,
        color=colour,
        linewidth=1.5,
        linestyle=line,
        zorder=3,
        marker="." if len(x) == 1 else None,
        label="training, smoothed" if alone else run.name + ending,
    )
    if last:
        top.plot(
            positions(run, list(val), axis),
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
        top.set_title(run.name, loc="left")
    return [*smoothed, *val.values(), min(losses.values())]


def draw_rate(bottom: Axes, run: Run, colour: str, axis: str, width: float) -> None:
    """Draws the learning rate; the first runs have wider lines, so that equal curves remain visible."""
    steps = [step for step in sorted(run.train) if finite(run.train[step].get("lr")) is not None]
    bottom.plot(
        positions(run, steps, axis),
        [run.train[step]["lr"] for step in steps],
        color=colour,
        linewidth=width,
        marker="." if len(steps) == 1 else None,
    )


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="log.jsonl of a run, or its folder")
    parser.add_argument("--out", type=Path, default=Path("loss.png"), help="figure to write [%(default)s]")
    parser.add_argument("--x", choices=list(X_AXES), default="step", help="horizontal axis [%(default)s]")
    parser.add_argument(
        "--smooth",
        type=int,
        default=0,
        metavar="EVENTS",
        help="width of the moving average; 0: a fortieth of the run, 1: none [%(default)s]",
    )
    args = parser.parse_args(argv)
    if args.out.suffix not in ENDINGS:
        parser.error(f"argument --out: {args.out} does not end in .png, .svg or .pdf")
    if args.smooth < 0:
        parser.error(f"argument --smooth: {args.smooth} is negative")
    runs = [read_log(path) for path in args.logs]
    name_runs(runs)
    draw(runs, args.out, args.x, args.smooth)
    for run in runs:
        last = max(run.train)
        loss = finite(run.train[last].get("loss"))
        val = finite(run.evals[max(run.evals)].get("val_loss")) if run.evals else None
        print(
            f"{run.name}: {last:,} steps, last loss {'not finite' if loss is None else f'{loss:.4f}'}"
            + (f", last validation {val:.4f}" if val is not None else "")
        )
    print(f"wrote {args.out}")
    return ExitCode.DONE
