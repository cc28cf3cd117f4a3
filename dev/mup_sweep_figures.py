"""The figures of dev/mup_sweep_visualize.py: the loss against the swept axis, and training at the transferred value."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import fmean

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from loss_visualize import smooth
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator
from mup_sweep_visualize import NAMES, ordered, show

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
# of schemes, after Okabe and Ito
SCHEME_COLOURS = {
    "sp": "#D55E00",
    "mup": "#0072B2",
    "mup-table3": "#56B4E9",
    "mup-table9": "#009E73",
    "completep": "#CC79A7",
    "u-mup": "#E69F00",
}
MARKERS = "osD^vP*X"  # scales differ in shape too
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
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


def colours(scales: list[float]) -> dict[float, tuple]:
    """From light to dark as the scale grows: an order that every reader sees, in print too."""
    last = max(1, len(scales) - 1)
    return {scale: plt.get_cmap("viridis")(0.82 - 0.78 * i / last) for i, scale in enumerate(scales)}


def positions(sweep) -> dict:
    """Where each value lies on the axis: log2 of it; 0 two octaves below the least; names in a row."""
    values = ordered(dict.fromkeys(v for scales in sweep.points.values() for grid in scales.values() for v in grid))
    if sweep.categorical:
        return {value: float(i) for i, value in enumerate(values)}
    least = min((v for v in values if v > 0), default=1.0)
    return {value: math.log2(value if value > 0 else least / 4) for value in values}


def label(value) -> str:
    text = show(value)
    return f"$2^{{{text[2:].replace('-', '−')}}}$" if text.startswith("2^") else text


def grid_of_panels(count: int, width: float = 3.0):
    columns = min(3, count)
    rows = -(-count // columns)
    plt.rcParams.update(STYLE)
    figure, panels = plt.subplots(
        rows, columns, figsize=(width * columns + 0.6, 3.1 * rows + 0.5), squeeze=False, layout="constrained"
    )
    flat = list(panels.flat)
    for panel in flat[count:]:
        panel.remove()
    return figure, flat[:count]


def limits(sweep, results) -> tuple[float, float]:
    """Of the loss: the optima and what transfer costs fill the panel; what lies far above is marked at the top."""
    outs = [out for scheme in results.values() for out in scheme if out.best_loss is not None]
    low = min(out.best_loss for out in outs)
    costs = [out.transferred_loss for out in outs if out.transferred_loss is not None]
    top = max(loss for loss in [*costs, *(out.best_loss for out in outs)] if math.isfinite(loss))
    span = max(2.2 * (top - low), 0.08)
    highest = max(
        loss
        for scales in sweep.points.values()
        for grid in scales.values()
        for point in grid.values()
        for loss in point.losses.values()
    )
    return low - 0.07 * span, min(low + span, highest + 0.05 * span)


def draw_sweep(sweep, results: dict, out: Path, threshold: float) -> None:
    """A panel for each scheme, and one of the regret."""
    several = len(sweep.scales) > 1
    figure, panels = grid_of_panels(len(results) + several)
    x, tint = positions(sweep), colours(sweep.scales)
    low, high = limits(sweep, results)
    seen = [
        draw_scheme(panel, sweep, scheme, results[scheme], x, tint, low, high)
        for panel, scheme in zip(panels, results, strict=False)
    ]
    panels[0].set_ylabel(LOSS[sweep.loss])
    handles = [
        Line2D(
            [],
            [],
            color=tint[scale],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4.5,
            label=f"{SCALES[sweep.scale_axis]} {scale:,.0f}",
        )
        for i, scale in enumerate(sweep.scales)
    ]
    dark = "#404040"
    handles.append(
        Line2D([], [], color=dark, marker="o", markersize=9, markerfacecolor="none", linestyle="none", label="optimum")
    )
    if several and not sweep.categorical:
        handles.append(
            Line2D(
                [],
                [],
                color=dark,
                linewidth=1,
                linestyle="--",
                label=f"optimum of {SCALES[sweep.scale_axis]} {sweep.scales[0]:g}",
            )
        )
    if any(above for above, _ in seen):
        handles.append(
            Line2D(
                [],
                [],
                color=dark,
                marker="^",
                markersize=6,
                markerfacecolor="white",
                linestyle="none",
                label="above the panel",
            )
        )
    if any(diverged for _, diverged in seen):
        handles.append(
            Line2D(
                [], [], color=dark, marker="x", markersize=6, markeredgewidth=1.6, linestyle="none", label="diverged"
            )
        )
    if several:
        draw_regret(panels[len(results)], sweep, results, threshold)
    seeds = len(sweep.seeds)
    caption = f"mean over {seeds} seeds, band from least to largest" if seeds > 1 else "one seed"
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), 4 if len(panels) < 3 else 8),
        frameon=False,
        title=caption,
        title_fontsize=8,
        fontsize=8.5,
        handlelength=1.8,
        columnspacing=1.4,
    )
    save(figure, out)


def draw_scheme(panel, sweep, scheme: str, outs: list, x: dict, tint: dict, low: float, high: float):
    """Returns whether there are marks for points above the panel, and for diverged ones."""
    marks = []
    best = {out.scale: out for out in outs if out.best is not None}
    for i, scale in enumerate(sweep.scales):
        beside = 0.09 * (2 * i / max(1, len(sweep.scales) - 1) - 1)  # so that marks of several scales can be told apart
        at = {value: place + beside * sweep.categorical for value, place in x.items()}
        grid = sweep.points[scheme].get(scale, {})
        draw_curve(panel, grid, at, tint[scale], MARKERS[i % len(MARKERS)], sweep.categorical)
        marks += [draw_mark(panel, point, x[value] + beside, tint[scale], high) for value, point in grid.items()]
        if scale in best:
            panel.plot(
                at[best[scale].best],
                best[scale].best_loss,
                marker="o",
                color=tint[scale],
                markersize=10,
                markerfacecolor="none",
                markeredgewidth=1.3,
                zorder=5,
            )
    if len(outs) > 1 and outs[0].best is not None and not sweep.categorical:
        panel.axvline(x[outs[0].best], color="#404040", linewidth=1, linestyle="--", zorder=1)
    panel.set_ylim(low, high)
    panel.set_title(NAMES.get(scheme, scheme), loc="left", fontweight="bold")
    panel.set_xlabel(AXES.get(sweep.axis, sweep.axis))
    panel.grid(True)
    if sweep.categorical:
        panel.set_xlim(-0.4, len(x) - 0.6)
    ticks = list(x)[:: 1 if sweep.categorical else math.ceil(len(x) / 7)]
    panel.set_xticks([x[v] for v in ticks], [label(v) for v in ticks])
    return "above" in marks, "diverged" in marks


def draw_curve(panel, grid: dict, at: dict, colour, marker: str, categorical: bool) -> None:
    """Means and the band of the seeds, with a gap where a point has no loss."""
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


def draw_mark(panel, point, x: float, colour, high: float) -> str:
    """A mark at the top for what lies above it, and for what has diverged."""
    if point.diverged:
        panel.plot(x, high, marker="x", color=colour, markersize=6, markeredgewidth=1.6, clip_on=False, zorder=6)
        return "diverged"
    if point.losses and point.mean > high:
        panel.plot(x, high, marker="^", color=colour, markersize=5, markerfacecolor="white", clip_on=False, zorder=5)
        return "above"
    return ""


def draw_regret(panel, sweep, results: dict, threshold: float) -> None:
    diverged = []
    for i, (scheme, outs) in enumerate(results.items()):
        known = [out for out in outs if out.regret is not None and math.isfinite(out.regret)]
        colour = SCHEME_COLOURS.get(scheme, "#595959")
        panel.errorbar(
            [math.log2(out.scale) for out in known],
            [out.regret for out in known],
            yerr=[out.regret_error or 0 for out in known],
            color=colour,
            marker="sovD^P"[i % 6],
            markersize=5,
            linewidth=1.5,
            elinewidth=1,
            label=NAMES.get(scheme, scheme),
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


def scale_ticks(panel, sweep) -> None:
    panel.set_xlabel(SCALES[sweep.scale_axis])
    panel.set_xticks([math.log2(scale) for scale in sweep.scales], [show(scale) for scale in sweep.scales])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.margins(x=0.06)


def draw_wider(sweep, results: dict, curves: dict, out: Path) -> None:
    """Training curves by scale, a panel for each scheme, and the loss of the last window."""
    figure, panels = grid_of_panels(len(curves) + 1)
    tint = colours(sweep.scales)
    smoothed = {
        scheme: {scale: smooth(losses, max(1, min(50, len(losses) // 8))) for scale, losses in w.curves.items()}
        for scheme, w in curves.items()
    }
    shown = [line for lines in smoothed.values() for line in lines.values()]
    low = min(min(line) for line in shown)
    high = max(max(line[len(line) // 4 :]) for line in shown)  # the first steps fall out of the panel
    for panel, (scheme, w) in zip(panels, curves.items(), strict=False):
        for scale in sweep.scales:
            if scale in w.curves:
                panel.plot(w.steps, smoothed[scheme][scale], color=tint[scale], linewidth=1.5)
            elif any(o.scale == scale for o in results[scheme]):
                panel.plot(0.5, 0.93, marker="x", color=tint[scale], transform=panel.transAxes, markersize=7)
                panel.annotate(
                    f"{SCALES[sweep.scale_axis]} {scale:g} diverged",
                    (0.53, 0.93),
                    xycoords="axes fraction",
                    va="center",
                    fontsize=8,
                )
        name = AXES.get(sweep.axis, sweep.axis)
        panel.set_title(NAMES.get(scheme, scheme), loc="left", fontweight="bold")
        panel.set_title(f"{name} {label(results[scheme][0].best)}", loc="right", fontsize=9)
        panel.set_ylim(low - 0.04 * (high - low), high)
        panel.set_xlabel("optimizer steps")
        panel.grid(True)
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
    save(figure, out)


def draw_last(panel, sweep, curves: dict) -> None:
    for i, (scheme, w) in enumerate(curves.items()):
        panel.plot(
            [math.log2(scale) for scale in w.curves],
            [fmean(line[-w.window :]) for line in w.curves.values()],
            color=SCHEME_COLOURS.get(scheme, "#595959"),
            marker="sovD^P"[i % 6],
            markersize=5,
            linewidth=1.5,
            label=NAMES.get(scheme, scheme),
        )
    window = next(iter(curves.values())).window
    panel.set_title(f"Last {window} steps", loc="left", fontweight="bold")
    panel.set_ylabel("training loss (nats/token)")
    scale_ticks(panel, sweep)
    panel.grid(True)
    panel.legend(frameon=False, loc="best")


def save(figure, out: Path) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=220)
    plt.close(figure)
