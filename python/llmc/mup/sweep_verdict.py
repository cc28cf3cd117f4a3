"""Whether the best value of a hyperparameter stays the same when the model grows: optimum, drift, regret, verdict.

A point is the mean over its seeds, and is diverged if one of them diverged. The *optimum* of a scale is the value of
the grid with the lowest loss. *Drift* is its distance from the optimum of the smallest scale in octaves (factors of
two). *Regret* is the cost of using the optimum of the smallest scale: the loss there minus the lowest loss at this
scale, both over the same seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev
from typing import NamedTuple

from llmc.log import finite, read_log
from llmc.mup.sweep_table import Grid, Point, Sweep, Value, ordered, read_sweep, show
from llmc.plot.style import SCHEMES, scheme_title

THRESHOLD, RATIO, TOLERANCE = 0.02, 3.0, 0.005  # defaults of llmc plot sweep
LARGER_IS_BETTER = ("width", "depth")  # losses at other kinds of scales are not comparable
Results = dict[str, list["Outcome"]]  # by scheme, sorted by scale


@dataclass
class Outcome:
    """The result for one scheme at one scale. None: unknown."""

    scale: float
    best: Value | None = None
    best_loss: float | None = None
    transferred: Value | None = None  # the optimum of the smallest scale
    transferred_loss: float | None = None  # inf: it diverges here
    regret: float | None = None
    regret_error: float | None = None  # standard error over seeds of the difference
    drift: float | None = None
    edge: bool = False  # the optimum is the first or last value of the grid
    diverged: list[Value] = field(default_factory=list)


def outcomes(sweep: Sweep, scheme: str) -> list[Outcome]:
    """One per scale, sorted by scale. Adds warnings about their limits."""
    result: list[Outcome] = []
    for scale, grid in sorted(sweep.points[scheme].items()):
        where = f"{scheme_title(scheme)}, {sweep.scale_axis} {scale:g}"
        out = Outcome(scale, diverged=[value for value in ordered(grid) if grid[value].diverged])
        result.append(out)
        set_optimum(out, grid, sweep, where)
        if out.best is None:
            continue
        out.transferred = result[0].best
        if out.transferred is None:
            continue
        if out.transferred not in grid:
            sweep.warnings.append(
                f"{where}: the transferred optimum {show(out.transferred)} is not in its grid: add it to VALUES"
            )
            continue
        if not grid[out.transferred].diverged and not grid[out.transferred].losses:
            continue  # it was not run to the end
        out.transferred_loss = grid[out.transferred].mean
        set_regret(out, grid[out.transferred], grid[out.best])
        out.drift = None if sweep.categorical else octaves(out.best, out.transferred)
    return result


def octaves(value: Value, reference: Value) -> float | None:
    """log2(value / reference); None if one of them is 0 or a name."""
    if value == reference:
        return 0.0
    if isinstance(value, str) or isinstance(reference, str) or min(value, reference) <= 0:
        return None
    return math.log2(value / reference)


def set_optimum(out: Outcome, grid: Grid, sweep: Sweep, where: str) -> None:
    """Sets the best value of the grid, and whether it is at its edge."""
    values = ordered(grid)
    has_loss = [value for value in values if math.isfinite(grid[value].mean)]
    if not has_loss:
        sweep.warnings.append(f"{where}: no value has a loss")
        return
    out.best = min(has_loss, key=lambda value: grid[value].mean)
    out.best_loss = grid[out.best].mean
    if not sweep.categorical and out.best in (values[0], values[-1]) and out.best != 0:
        out.edge = True
        sweep.warnings.append(
            f"{where}: the optimum {show(out.best)} is at the edge of the grid, the true one may "
            f"lie beyond: extend VALUES"
        )


def set_regret(out: Outcome, transferred: Point, best: Point) -> None:
    """Uses the seeds that both points have: a seed has the same order of data, so most of the noise cancels."""
    if transferred.diverged:
        out.regret = math.inf
        return
    differences = [loss - best.losses[seed] for seed, loss in transferred.losses.items() if seed in best.losses]
    if differences:
        out.regret = fmean(differences)
        out.regret_error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None


def judge(results: Results, threshold: float, ratio: float) -> tuple[str, list[str]]:
    """PASS, FAIL or UNDECIDED, and one sentence for each scheme that is judged."""
    judged = [scheme for scheme in results if scheme != "sp"] or ["sp"]
    verdicts = [judge_scheme(results, scheme, threshold, ratio) for scheme in judged]
    overall = next(v for v in ("FAIL", "UNDECIDED", "PASS") if any(verdict == v for verdict, _ in verdicts))
    return overall, [sentence for _, sentence in verdicts]


def judge_scheme(results: Results, scheme: str, threshold: float, ratio: float) -> tuple[str, str]:
    first, last, name = results[scheme][0], results[scheme][-1], scheme_title(scheme)
    sp = results["sp"] if scheme != "sp" and "sp" in results else None
    if len(results[scheme]) < 2:
        return "UNDECIDED", f"{name}: there is only one scale"
    if last.regret is None or (sp and sp[-1].regret is None):
        return "UNDECIDED", f"{name}: the regret at the largest scale is not known"
    if first.edge or last.edge or (sp and sp[0].edge):
        return "UNDECIDED", f"{name}: an optimum needed for the verdict is at the edge of the grid: extend VALUES"
    good = last.regret <= threshold
    text = f"{name}: regret {amount(last.regret)} at {last.scale:g} ({'<=' if good else '>'} {threshold:g})"
    if sp and sp[-1].regret is not None:
        regret = sp[-1].regret
        beaten = regret > threshold and regret >= ratio * last.regret
        good = good and beaten
        text += f", SP {amount(regret)} ({'' if beaten else 'not '}above that and {ratio:g} times as much)"
    return "PASS" if good else "FAIL", text


def amount(value: float | None) -> str:
    return "-" if value is None else "diverged" if math.isinf(value) else f"{value:.4f}"


class Rise(NamedTuple):
    """How much higher the training loss is at the next scale, in the window of training where that is worst."""

    small: float
    large: float
    worst: float  # inf: one of the two diverged
    first: int  # steps of that window; 0: diverged
    last: int
    means: list[float]  # of every window


@dataclass
class Wider:
    """Training at the transferred value: mean curves over seeds, and the worst rise from a scale to the next."""

    steps: list[int]
    curves: dict[float, list[float]]  # by scale; diverged scales are missing
    rises: list[Rise]
    window: int


def wider(sweep: Sweep, results: list[Outcome], scheme: str) -> Wider | None:
    """None if a scale has no finished run with a log at the transferred value, or the runs differ in length."""
    value = results[0].best
    if value is None:
        return None
    curves: dict[float, list[float]] = {}
    steps: list[int] = []
    for out in results:
        point = sweep.points[scheme][out.scale].get(value)
        if point is None or (not point.diverged and not point.logs):
            return None
        if point.diverged:
            continue
        runs = [losses_by_step(log) for log in point.logs.values()]
        mine = sorted(set.intersection(*map(set, runs)))
        if steps and mine != steps:
            return None
        steps = mine
        curves[out.scale] = [fmean(run[step] for run in runs) for step in steps]
    window = max(1, min(50, len(steps) // 2))
    starts = range(0, len(steps) - window + 1, window)
    rises = []
    for small, large in pairwise(results):
        if small.scale in curves and large.scale in curves:
            a, b = curves[small.scale], curves[large.scale]
            means = [fmean(b[i : i + window]) - fmean(a[i : i + window]) for i in starts]
            at = starts[means.index(max(means))]
            rises.append(Rise(small.scale, large.scale, max(means), steps[at], steps[at + window - 1], means))
        else:
            rises.append(Rise(small.scale, large.scale, math.inf, 0, 0, []))
    return Wider(steps, curves, rises, window) if len(results) > 1 and steps else None


def losses_by_step(log: Path) -> dict[int, float]:
    """The training losses of a finished run."""
    losses = {step: finite(event.get("loss")) for step, event in read_log(log).train.items()}
    return {step: loss for step, loss in losses.items() if loss is not None}


@dataclass
class Analysis:
    """The results of a sweep."""

    sweep: Sweep
    results: Results
    curves: dict[str, Wider]  # by scheme, where training curves can be compared
    verdict: str  # PASS, FAIL or UNDECIDED
    sentences: list[str]


def analyse(path: Path, loss: str = "auto", threshold: float = THRESHOLD, ratio: float = RATIO) -> Analysis:
    """The verdict is PASS if at the largest scale the regret is at most `threshold`, and sp's is above it and at least
    `ratio` times as large. loss: val, train or auto, as in read_sweep."""
    sweep = read_sweep(path, loss)
    order = [*SCHEMES, *sweep.points]
    results = {scheme: outcomes(sweep, scheme) for scheme in sorted(sweep.points, key=order.index)}
    found = {scheme: wider(sweep, outs, scheme) for scheme, outs in results.items()} if comparable(sweep) else {}
    curves = {scheme: w for scheme, w in found.items() if w is not None}
    verdict, sentences = judge(results, threshold, ratio)
    return Analysis(sweep, results, curves, verdict, sentences)


def comparable(sweep: Sweep) -> bool:
    return sweep.scale_axis in LARGER_IS_BETTER
