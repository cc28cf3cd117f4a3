"""Whether the best value of a hyperparameter stays where it is when the model grows: tables, figures and a verdict.

    python dev/mup_sweep_visualize.py OUT/sweep.csv --out sweep.png --wider wider.png --json sweep.json [--verdict]

scripts/mup_sweep.sh writes the CSV. A point is the mean over its seeds, and counts as diverged if one of them did. The
*optimum* of a scale is the value of the grid with the least loss; *drift* is how many octaves (factors of two) it lies
from the optimum of the smallest scale; *regret* is what it costs to use that one instead: the loss at the transferred
optimum less the least loss at this scale, both over the same seeds. The verdict is PASS if at the largest scale the
regret is at most --threshold, and sp's is above it and at least --ratio times as much. The second table is 'wider is
always better': in no window of training may the next scale be more than --tolerance worse, at the transferred value.
Exit codes: 1 with --verdict, if it is not PASS; 2 wrong usage; 3 unusable CSV or log.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import fmean, stdev

from loss_visualize import LogError, number, read_log

NAMES = {
    "sp": "SP",
    "mup": "µP",
    "mup-table3": "µP (Table 3)",
    "mup-table9": "µP (Table 9)",
    "completep": "CompleteP",
    "u-mup": "u-µP",
}
LARGER_IS_BETTER = ("width", "depth")  # of the same run; of other scales the losses are not comparable
LOSSES = {"val": "val_loss", "train": "train_loss"}


@dataclass
class Point:
    """The runs of one scheme, scale and value."""

    losses: dict[str, float] = field(default_factory=dict)  # by seed
    logs: dict[str, Path] = field(default_factory=dict)
    diverged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)  # failed or not run to the end

    @property
    def mean(self) -> float:
        return math.inf if self.diverged or not self.losses else fmean(self.losses.values())


@dataclass
class Sweep:
    axis: str
    scale_axis: str
    loss: str  # val or train
    points: dict[str, dict[float, dict]] = field(default_factory=dict)  # scheme -> scale -> value -> Point
    warnings: list[str] = field(default_factory=list)

    @property
    def categorical(self) -> bool:
        return any(
            isinstance(value, str) for scales in self.points.values() for grid in scales.values() for value in grid
        )

    @property
    def scales(self) -> list[float]:
        return sorted({scale for scales in self.points.values() for scale in scales})

    @property
    def seeds(self) -> list[str]:
        return sorted(
            {
                seed
                for scales in self.points.values()
                for grid in scales.values()
                for point in grid.values()
                for seed in [*point.losses, *point.diverged, *point.missing]
            }
        )


@dataclass
class Outcome:
    """What the sweep says about one scheme at one scale. None: cannot be said."""

    scale: float
    best: float | str | None = None
    best_loss: float | None = None
    transferred: float | str | None = None  # the optimum of the smallest scale
    transferred_loss: float | None = None  # inf: it diverges here
    regret: float | None = None
    regret_error: float | None = None  # standard error over seeds of the difference
    drift: float | None = None
    edge: bool = False  # the optimum is the first or last value of the grid
    diverged: list = field(default_factory=list)


def read_sweep(path: Path, loss: str = "auto") -> Sweep:
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise LogError(f"{path}: {error.strerror}: give the sweep.csv of scripts/mup_sweep.sh") from None
    needed = {"parametrization", "scale_axis", "scale", "axis", "value", "seed", "status"}
    if not rows or needed - set(rows[0]):
        raise LogError(f"{path} is no table of a sweep: it needs rows with the columns {', '.join(sorted(needed))}")
    if len({(row["axis"], row["scale_axis"]) for row in rows}) > 1:
        raise LogError(f"{path} has several axes: give a table with one")
    if loss == "auto":
        loss = "val" if any(row.get("val_loss") for row in rows) else "train"
    sweep = Sweep(rows[0]["axis"], rows[0]["scale_axis"], loss)
    for line, row in enumerate(rows, start=2):
        try:
            value, scale = value_of(row["value"]), float(row["scale"])
            result = float(row[LOSSES[loss]]) if row["status"] == "done" else None
        except (KeyError, ValueError):
            raise LogError(f"{path}, line {line}: no number in one of scale, {LOSSES[loss]}") from None
        point = sweep.points.setdefault(row["parametrization"], {}).setdefault(scale, {}).setdefault(value, Point())
        if row["status"] == "diverged" or (result is not None and not math.isfinite(result)):
            point.diverged.append(row["seed"])
        elif row["status"] == "done":
            point.losses[row["seed"]] = result
            if row.get("log"):
                point.logs[row["seed"]] = path.parent / row["log"]
        else:
            point.missing.append(row["seed"])
    missing = sum(row["status"] not in ("done", "diverged") for row in rows)
    if missing:
        sweep.warnings.append(f"{missing} of {len(rows)} runs failed or were not run to the end: they are left out")
    if not any(p.losses for scales in sweep.points.values() for grid in scales.values() for p in grid.values()):
        raise LogError(f"{path} has no run that is done: there is nothing to compare")
    return sweep


def value_of(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def ordered(values) -> list:
    """Numbers by size; names as they come."""
    return list(values) if any(isinstance(v, str) for v in values) else sorted(values)


def show(value: float | str | None) -> str:
    """2^-7, 2^-7.5 or the number itself."""
    if value is None or isinstance(value, str):
        return value or "-"
    if value > 0 and abs(2 * math.log2(value) - round(2 * math.log2(value))) < 1e-9 and (value < 1 or value >= 2048):
        return f"2^{math.log2(value):g}"
    return f"{value:g}"


# ---- arithmetic


def outcomes(sweep: Sweep, scheme: str) -> list[Outcome]:
    """One per scale, from the smallest on. Adds warnings about what limits them."""
    result: list[Outcome] = []
    for scale, grid in sorted(sweep.points[scheme].items()):
        where = f"{NAMES.get(scheme, scheme)}, {sweep.scale_axis} {scale:g}"
        values = ordered(grid)
        out = Outcome(scale, diverged=[value for value in values if grid[value].diverged])
        result.append(out)
        finite = [value for value in values if math.isfinite(grid[value].mean)]
        if not finite:
            sweep.warnings.append(f"{where}: no value has a loss")
            continue
        out.best = min(finite, key=lambda value: grid[value].mean)
        out.best_loss = grid[out.best].mean
        if not sweep.categorical and out.best in (values[0], values[-1]) and out.best != 0:
            out.edge = True
            sweep.warnings.append(
                f"{where}: the optimum {show(out.best)} is at the edge of the grid, the true one may "
                f"lie beyond: extend VALUES"
            )
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
        set_regret(out, grid)
        if out.best == out.transferred and not sweep.categorical:
            out.drift = 0.0
        elif not sweep.categorical and out.best > 0 and out.transferred > 0:
            out.drift = math.log2(out.best / out.transferred)
    return result


def set_regret(out: Outcome, grid: dict) -> None:
    """Over the seeds that both points have: seeds share the order of their data, so most of the noise cancels."""
    if math.isinf(out.transferred_loss):
        out.regret = math.inf
        return
    here, best = grid[out.transferred].losses, grid[out.best].losses
    differences = [here[seed] - best[seed] for seed in here if seed in best]
    if differences:
        out.regret = fmean(differences)
        out.regret_error = stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else None


def judge(results: dict[str, list[Outcome]], threshold: float, ratio: float) -> tuple[str, list[str]]:
    """PASS, FAIL or UNDECIDED, and a sentence for each scheme that is judged."""
    sentences, verdicts = [], []
    sp = results["sp"][-1] if "sp" in results else None
    judged = [scheme for scheme in results if scheme != "sp"] or ["sp"]
    for scheme in judged:
        last, first, name = results[scheme][-1], results[scheme][0], NAMES.get(scheme, scheme)
        against = sp if scheme != "sp" else None
        if len(results[scheme]) < 2:
            verdicts.append("UNDECIDED")
            sentences.append(f"{name}: there is one scale only")
        elif last.regret is None or (against is not None and against.regret is None):
            verdicts.append("UNDECIDED")
            sentences.append(f"{name}: the regret at the largest scale is not known")
        elif first.edge or last.edge or (against is not None and results["sp"][0].edge):
            verdicts.append("UNDECIDED")
            sentences.append(f"{name}: an optimum that this needs is at the edge of the grid: extend VALUES")
        else:
            good = last.regret <= threshold
            text = f"{name}: regret {amount(last.regret)} at {last.scale:g} ({'<=' if good else '>'} {threshold:g})"
            if against is not None:
                beaten = against.regret > threshold and against.regret >= ratio * last.regret
                good = good and beaten
                text += (
                    f", SP {amount(against.regret)} ({'' if beaten else 'not '}above that and {ratio:g} times as much)"
                )
            verdicts.append("PASS" if good else "FAIL")
            sentences.append(text)
    return next(v for v in ("FAIL", "UNDECIDED", "PASS") if v in verdicts), sentences


def amount(value: float | None) -> str:
    return "-" if value is None else "diverged" if math.isinf(value) else f"{value:.4f}"


@dataclass
class Wider:
    """Training at the transferred value: mean curves over seeds, and the worst rise from a scale to the next."""

    steps: list[int]
    curves: dict[float, list[float]]  # by scale; diverged scales are missing
    rises: list[tuple[float, float, float]]  # smaller scale, larger scale, worst rise in a window (inf: diverged)
    window: int


def wider(sweep: Sweep, results: list[Outcome], scheme: str) -> Wider | None:
    """None where a scale has no finished run with a log at the transferred value, or the runs differ in length."""
    value = results[0].best
    curves: dict[float, list[float]] = {}
    steps: list[int] = []
    for out in results:
        point = sweep.points[scheme][out.scale].get(value)
        if point is None or (not point.diverged and not point.logs):
            return None
        if point.diverged:
            continue
        runs = [
            {step: number(event.get("loss")) for step, event in read_log(log).train.items()}
            for log in point.logs.values()
        ]
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
            worst = max(fmean(b[i : i + window]) - fmean(a[i : i + window]) for i in starts)
        else:
            worst = math.inf
        rises.append((small.scale, large.scale, worst))
    return Wider(steps, curves, rises, window) if len(results) > 1 and steps else None


# ---- tables


def print_tables(sweep: Sweep, results: dict[str, list[Outcome]]) -> None:
    kind = {"val": "validation loss", "train": "training loss at the end"}[sweep.loss]
    seeds = f"mean over {len(sweep.seeds)} seeds" if len(sweep.seeds) > 1 else "one seed"
    print(
        f"{sweep.axis} over {sweep.scale_axis}: {kind}, {seeds}, nats/token; the optimum "
        f"of {sweep.scale_axis} {sweep.scales[0]:g} is transferred\n"
    )
    head = ("scheme", sweep.scale_axis, "optimum", "its loss", "drift", "transferred", "its loss", "regret", "diverged")
    table = [head]
    for scheme, outs in results.items():
        for out in outs:
            error = f" ± {out.regret_error:.4f}" if out.regret_error is not None and out.regret else ""
            drift = "-" if out.drift is None else f"{out.drift:+g}" if out.drift else "0"
            if sweep.categorical:
                drift = "same" if out.best == out.transferred else "other"
            table.append(
                (
                    NAMES.get(scheme, scheme),
                    f"{out.scale:g}",
                    show(out.best) + ("*" if out.edge else ""),
                    amount(out.best_loss),
                    drift,
                    show(out.transferred),
                    amount(out.transferred_loss),
                    amount(out.regret) + error,
                    f"{len(out.diverged)}/{len(sweep.points[scheme][out.scale])}",
                )
            )
    print_columns(table)
    if any(out.edge for outs in results.values() for out in outs):
        print("* at the edge of the grid")


def print_columns(table: list[tuple]) -> None:
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    for row in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_wider(sweep: Sweep, curves: dict[str, Wider], tolerance: float) -> None:
    window = max(w.window for w in curves.values())
    print(
        f"\nwider is always better, at the transferred {sweep.axis}: worst rise of the training loss to the next "
        f"{sweep.scale_axis}, over windows of {window} steps (allowed: {tolerance:g})"
    )
    table = [("scheme", "step up", "worst rise", "")]
    for scheme, w in curves.items():
        for small, large, rise in w.rises:
            table.append(
                (
                    NAMES.get(scheme, scheme),
                    f"{small:g} -> {large:g}",
                    "diverged" if math.isinf(rise) else f"{rise:+.4f}",
                    "ok" if rise <= tolerance else "worse",
                )
            )
    print_columns(table)


def as_json(sweep, results, curves, verdict, sentences, args) -> dict:
    """Everything the tables say. Infinite: null, with "diverged" true."""

    def finite(value):
        return None if value is None or (isinstance(value, float) and math.isinf(value)) else value

    return {
        "axis": sweep.axis,
        "scale_axis": sweep.scale_axis,
        "loss": sweep.loss,
        "seeds": sweep.seeds,
        "transfer_from": sweep.scales[0],
        "schemes": {
            scheme: [
                {
                    "scale": out.scale,
                    "optimum": out.best,
                    "loss": out.best_loss,
                    "drift_octaves": out.drift,
                    "transferred": out.transferred,
                    "transferred_loss": finite(out.transferred_loss),
                    "transferred_diverged": out.regret == math.inf,
                    "regret": finite(out.regret),
                    "regret_standard_error": out.regret_error,
                    "optimum_at_edge": out.edge,
                    "diverged_values": out.diverged,
                }
                for out in outs
            ]
            for scheme, outs in results.items()
        },
        "wider": {
            scheme: [
                {"from": small, "to": large, "worst_rise": finite(rise), "ok": rise <= args.tolerance}
                for small, large, rise in w.rises
            ]
            for scheme, w in curves.items()
        },
        "threshold": args.threshold,
        "ratio": args.ratio,
        "tolerance": args.tolerance,
        "verdict": verdict,
        "reasons": sentences,
        "warnings": sweep.warnings,
    }


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", type=Path, metavar="CSV", help="sweep.csv as scripts/mup_sweep.sh writes it")
    parser.add_argument("--out", type=Path, metavar="FILE", help="figure of loss against the axis (.png, .svg, .pdf)")
    parser.add_argument("--wider", type=Path, metavar="FILE", help="figure of training at the transferred value")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables and the verdict here")
    parser.add_argument(
        "--loss",
        choices=["auto", *LOSSES],
        default="auto",
        help="validation, or the mean over the end of training; auto: validation if it is there [auto]",
    )
    parser.add_argument(
        "--threshold",
        type=float,
        default=0.02,
        metavar="NATS",
        help="largest regret of an optimum that transfers [%(default)s]",
    )
    parser.add_argument(
        "--ratio", type=float, default=3.0, metavar="FACTOR", help="how many times as much sp has to lose [%(default)s]"
    )
    parser.add_argument(
        "--tolerance",
        type=float,
        default=0.005,
        metavar="NATS",
        help="rise that 'wider is better' forgives [%(default)s]",
    )
    parser.add_argument("--verdict", action="store_true", help="exit with status 1 unless the verdict is PASS")
    return parser


def main(argv: list[str] | None = None) -> int:
    parser = options()
    args = parser.parse_args(argv)
    for name in ("out", "wider"):
        path = getattr(args, name)
        if path is not None and path.suffix not in (".png", ".svg", ".pdf"):
            parser.error(f"argument --{name}: {path} does not end in .png, .svg or .pdf")
    sweep = read_sweep(args.csv, args.loss)
    order = [*NAMES, *sweep.points]
    results = {scheme: outcomes(sweep, scheme) for scheme in sorted(sweep.points, key=order.index)}
    curves = {}
    if sweep.scale_axis in LARGER_IS_BETTER:
        found = {scheme: wider(sweep, outs, scheme) for scheme, outs in results.items()}
        curves = {scheme: w for scheme, w in found.items() if w is not None}
    verdict, sentences = judge(results, args.threshold, args.ratio)
    print_tables(sweep, results)
    if curves:
        print_wider(sweep, curves, args.tolerance)
    print()
    for warning in sweep.warnings:
        print(f"warning: {warning}")
    if args.json is not None:
        content = json.dumps(as_json(sweep, results, curves, verdict, sentences, args), indent=1, ensure_ascii=False)
        args.json.write_text(content + "\n", encoding="utf-8")
    draw(sweep, results, curves, args)
    for sentence in sentences:
        print(sentence)
    print(f"verdict: {verdict}")
    return 1 if args.verdict and verdict != "PASS" else 0


def draw(sweep: Sweep, results: dict, curves: dict, args) -> None:
    if args.out is None and (args.wider is None or not curves):
        return
    import mup_sweep_figures as figures

    if args.out is not None:
        figures.draw_sweep(sweep, results, args.out, args.threshold)
        print(f"wrote {args.out}")
    if args.wider is not None and curves:
        figures.draw_wider(sweep, results, curves, args.wider)
        print(f"wrote {args.wider}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LogError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except ImportError as error:
        print(f"error: {error}: the figures need it, pip install matplotlib", file=sys.stderr)
        sys.exit(1)
