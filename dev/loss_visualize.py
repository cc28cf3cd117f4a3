"""Draws the loss of runs from their logs: training (thin), smoothed, validation (points); below, the learning rate.

    python dev/loss_visualize.py OUT/log.jsonl [MORE/log.jsonl ...] --out loss.png

A log is `OUT/log.jsonl` as doc/formats.md describes it, or the folder that holds it. Several are drawn over each other
and named by their folders. The ending of --out chooses the format: .png, .svg or .pdf. Exit codes: 2 wrong usage,
3 unusable log.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

# after Okabe and Ito: told apart by colour-blind readers too
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D31", "#595959"]
X_AXES = {"step": "optimizer steps", "tokens": "tokens", "elapsed": "seconds"}


class LogError(Exception):
    """A log that cannot be drawn. The message names it and says what to do."""


@dataclass
class Run:
    name: str
    train: dict[int, dict] = field(default_factory=dict)  # step -> event; a repeated step counts as it was last logged
    evals: dict[int, dict] = field(default_factory=dict)

    def x(self, steps: list[int], axis: str) -> list[float]:
        """Steps on the axis that is drawn. Between train events it is interpolated: eval events have no tokens."""
        if axis == "step":
            return [float(step) for step in steps]
        import numpy as np

        known = [step for step in sorted(self.train) if number(self.train[step].get(axis)) is not None]
        if not known:
            raise LogError(f"{self.name}: its train events have no {axis!r}: use --x step")
        return list(np.interp(steps, known, [self.train[step][axis] for step in known]))


def number(value) -> float | None:
    """A finite number, or None: a diverged run logs null, NaN or infinity."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if ok else None


def read_log(path: Path) -> Run:
    """Reads the events; a line that is no JSON object (the last one of a run that is going on) is left out."""
    file = path / "log.jsonl" if path.is_dir() else path
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise LogError(f"{file}: {error.strerror}: give the log.jsonl of a run, or its folder") from None
    run = Run(str(file))
    broken = []
    for position, line in enumerate(lines, start=1):
        try:
            event = json.loads(line)
            kind, step = event["event"], int(event["step"])
        except (ValueError, KeyError, TypeError):
            if line.strip():
                broken.append(position)
            continue
        if kind == "config" and event.get("resumed_from") is not None:  # what lies behind the checkpoint was repeated
            run.train = {s: e for s, e in run.train.items() if s <= step}
            run.evals = {s: e for s, e in run.evals.items() if s <= step}
        elif kind == "train":
            run.train[step] = event
        elif kind == "eval":
            run.evals[step] = event
    if [position for position in broken if position != len(lines)]:
        print(f"note: {file}: left out {len(broken)} lines that are no events, the first is line {broken[0]}")
    if not any(number(event.get("loss")) is not None for event in run.train.values()):
        raise LogError(
            f"{file} has no train events with a loss ({len(lines)} lines): "
            f"is it the log.jsonl of a run that has done a step?"
        )
    return run


def name_runs(runs: list[Run]) -> None:
    """Each run gets the name of its log's folder, with as many folders above as tell it from the others."""
    parts = [Path(run.name).resolve().parent.parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            break
    else:  # the same folder twice
        names = [f"{name} ({Path(run.name).name})" for name, run in zip(names, runs, strict=True)]
    for run, name in zip(runs, names, strict=True):
        run.name = name


def smooth(values, window: int):
    """Centred moving average over `window` values. At the beginning it narrows, as the loss is steep there; at the end
    it goes on over the values that are left."""
    import numpy as np

    values = np.asarray(values, dtype=float)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    before = np.minimum(window // 2, index)
    after = np.minimum(before, len(values) - 1 - index)
    return (sums[index + after + 1] - sums[index - before]) / (before + after + 1)


def bits_per_nat(runs: list[Run]) -> float | None:
    """bits/byte divided by nats/token, if it is known and the same for all runs."""
    ratios = []
    for run in runs:
        pairs = [(number(e.get("bits_per_byte")), number(e.get("val_loss"))) for e in run.evals.values()]
        found = [bits / nats for bits, nats in pairs if bits and nats]
        if not found:
            return None
        ratios.append(found[-1])
    return ratios[0] if max(ratios) - min(ratios) < 1e-3 * ratios[0] else None


def draw(runs: list[Run], out: Path, axis: str = "step", window: int = 0) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import EngFormatter, MaxNLocator, StrMethodFormatter

    plt.rcParams.update(
        {
            "font.size": 9,
            "axes.titlesize": 9,
            "axes.spines.top": False,
            "axes.linewidth": 0.7,
            "axes.axisbelow": True,
            "xtick.major.width": 0.7,
            "ytick.major.width": 0.7,
            "xtick.major.size": 3,
            "ytick.major.size": 3,
            "grid.color": "#e6e6e6",
            "grid.linewidth": 0.6,
            "svg.fonttype": "none",
            "pdf.fonttype": 42,
        }
    )
    figure, (top, bottom) = plt.subplots(
        2, 1, sharex=True, figsize=(6.3, 4.4), layout="constrained", gridspec_kw={"height_ratios": [4.2, 1]}
    )
    factor = bits_per_nat(runs)
    shown = []  # values that the loss axis has to show
    for index, run in enumerate(runs):
        shown += draw_run(
            top,
            run,
            COLOURS[index % len(COLOURS)],
            "-" if index < len(COLOURS) else "--",
            axis,
            window,
            alone=len(runs) == 1,
        )
        draw_rate(bottom, run, COLOURS[index % len(COLOURS)], axis, width=1.1 + 0.8 * min(3, len(runs) - 1 - index))
    low, high = min(shown), max(shown)
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
        panel.spines["right"].set_visible(panel is top and factor is not None)
    if factor is not None:
        right = top.secondary_yaxis("right", functions=(lambda nats: nats * factor, lambda bits: bits / factor))
        right.set_ylabel("bits/byte")
    top.legend(frameon=True, framealpha=0.9, edgecolor="none", loc="upper right", handlelength=1.6, borderaxespad=0.2)
    figure.align_ylabels([top, bottom])
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=220)
    plt.close(figure)


def draw_run(top, run: Run, colour: str, line: str, axis: str, window: int, alone: bool) -> list[float]:
    """One run in the upper panel. Returns the losses that have to be in view: all but the noise in training."""
    steps = [step for step in sorted(run.train) if number(run.train[step].get("loss")) is not None]
    losses = [number(run.train[step]["loss"]) for step in steps]
    smoothed = smooth(losses, window or max(1, len(losses) // 40))
    x = run.x(steps, axis)
    evals = [step for step in sorted(run.evals) if number(run.evals[step].get("val_loss")) is not None]
    val = [number(run.evals[step]["val_loss"]) for step in evals]
    top.plot(
        x,
        losses,
        color=colour,
        linewidth=0.5,
        alpha=0.35 if alone else 0.22,
        rasterized=len(x) > 20_000,
        label="training, each step" if alone else None,
    )
    ending = f" (validation {val[-1]:.3f})" if val else ""
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
    if val:
        top.plot(
            run.x(evals, axis),
            val,
            color="black" if alone else colour,
            linestyle="none",
            marker="o",
            zorder=4,
            markersize=4 if len(val) <= 60 else 2.5,
            markerfacecolor="white",
            markeredgewidth=1.1,
            label="validation" + (f" (last {val[-1]:.3f})" if val else "") if alone else None,
        )
    if alone:
        top.set_title(run.name, loc="left")
    return [*smoothed, *val, min(losses)]


def draw_rate(bottom, run: Run, colour: str, axis: str, width: float) -> None:
    """The learning rate; the first runs have wider lines, so that equal ones can be seen under each other."""
    steps = [step for step in sorted(run.train) if number(run.train[step].get("lr")) is not None]
    bottom.plot(
        run.x(steps, axis),
        [run.train[step]["lr"] for step in steps],
        color=colour,
        linewidth=width,
        marker="." if len(steps) == 1 else None,
    )


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
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
    if args.out.suffix not in (".png", ".svg", ".pdf"):
        parser.error(f"argument --out: {args.out} does not end in .png, .svg or .pdf")
    if args.smooth < 0:
        parser.error(f"argument --smooth: {args.smooth} is negative")
    runs = [read_log(path) for path in args.logs]
    name_runs(runs)
    draw(runs, args.out, args.x, args.smooth)
    for run in runs:
        last, val = max(run.train), run.evals.get(max(run.evals, default=0), {}).get("val_loss")
        loss = number(run.train[last].get("loss"))
        print(
            f"{run.name}: {last:,} steps, last loss {'not finite' if loss is None else f'{loss:.4f}'}"
            + (f", last validation {val:.4f}" if number(val) is not None else "")
        )
    print(f"wrote {args.out}")


if __name__ == "__main__":
    try:
        main()
    except LogError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except ImportError as error:
        print(f"error: {error}: the figure needs it, pip install matplotlib", file=sys.stderr)
        sys.exit(1)
