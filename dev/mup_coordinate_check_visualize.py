"""Judges and draws a coordinate check: does every activation keep its size as the model widens (or deepens)?

    scripts/mup_coordinate_check.sh                                          # trains, then calls this
    python dev/mup_coordinate_check_visualize.py CSV [CSV ...] --out FOLDER  # what --coord-check wrote

Writes FOLDER/curves.png (activations against size, standard parametrization beside muP) and FOLDER/layers.png (every
parametrization by layer); CSVs of several programs are drawn over each other. Prints slopes with 95% intervals beside
the theory's, and a verdict with the likely cause of each failure. Exit codes: 0 all as expected, 1 a check failed (or
one that should fail passed), 2 wrong usage, 3 unusable CSV.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections import defaultdict
from pathlib import Path
from statistics import mean

sys.path.insert(0, str(Path(__file__).resolve().parent))

from coordinate_check import CheckError, Finding, Row, Verdict, check, groups, order_of, read_csv
from coordinate_theory import EXPECTED_TO_FAIL, SCHEMES

TITLES = {
    "sp": "SP",
    "mup": "µP",
    "mup-table3": "µP, Table 3",
    "mup-table9": "µP, Table 9",
    "completep": "CompleteP",
    "u-mup": "u-µP",
}
STATISTICS = {"mean_abs": "mean |x|", "delta": "mean |x − x₁|"}
LINES = ["-", "--", ":", "-."]  # programs
MARKERS = ["o", "s", "^", "D"]
GOOD, BAD = "#333333", "#D55E00"
KINDS = {
    "activation": "activations: mean |x| at the last step",
    "update": "updates: multiplier × mean |w − w₁| at the last step",
    "init": "inits: multiplier × std at step 1 (gains: mean)",
    "gradient": "gradients: mean |g| / multiplier at step 4 (u-µP: mean |g| at step 2)",
}


# --- Text ---


def number(value: float, sign: bool = True) -> str:
    if value is None or math.isnan(value):
        return "-"
    text = f"{value:+.2f}" if sign else f"{value:.2f}"
    return text.replace("-0.00", "+0.00")


def families(verdict: Verdict) -> dict[tuple[str, str], Finding]:
    """One finding for all blocks: the one that is farthest from what is expected."""
    worst = {}
    for finding in verdict.findings:
        key = (finding.kind, re.sub(r"^h\.\d+\.", "h.N.", finding.tensor))
        if key not in worst or distance(finding) > distance(worst[key]):
            worst[key] = finding
    return worst


def distance(finding: Finding) -> float:
    if math.isnan(finding.slope):
        return math.inf
    return abs(finding.slope - (finding.expected or 0.0)) + 1e3 * (not finding.passed)


def label_of(verdict: Verdict, several_programs: bool) -> str:
    return f"{verdict.parametrization} {verdict.program}" if several_programs else verdict.parametrization


def slope_table(verdicts: list[Verdict], all_blocks: bool) -> str:
    """Rows: tensors; columns: checks. A failure has a cross, what is not judged has brackets."""
    tables = [{(f.kind, f.tensor): f for f in v.findings} if all_blocks else families(v) for v in verdicts]
    several = len({verdict.program for verdict in verdicts}) > 1
    titles = [label_of(verdict, several) for verdict in verdicts]
    widths = [max(len(title), 22) for title in titles]
    keys = sorted(
        {key for table in tables for key in table}, key=lambda key: order_of(key[0], key[1].replace("h.N.", "h.0."))
    )
    lines = []
    for kind, heading in KINDS.items():
        lines += ["", f"{heading:<28}" if len(heading) < 28 else heading]
        lines.append(
            f"  {'slope [95% interval] theory':<27} "
            + " ".join(f"{title:<{width}}" for title, width in zip(titles, widths, strict=True))
        )
        for key in (key for key in keys if key[0] == kind):
            cells = [cell(table.get(key)).ljust(width) for table, width in zip(tables, widths, strict=True)]
            lines.append(f"  {key[1]:<27} " + " ".join(cells).rstrip())
    return "\n".join(lines[1:])


def cell(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    if math.isnan(finding.slope):
        return "x " + finding.cause[:20]
    mark = " " if finding.passed else "x"
    theory = "" if finding.expected is None else f"{finding.expected:+.1f}"
    return f"{mark}{number(finding.slope)} [{number(finding.low)},{number(finding.high)}] {theory}"


def verdict_text(verdict: Verdict, expected_to_fail: bool, several: bool) -> str:
    name = label_of(verdict, several)
    judged = [finding for finding in verdict.findings if finding.band]
    if verdict.passed:
        if expected_to_fail:
            return (
                f"{name}: PASS, and it should FAIL: the check is suspicious, widen the range of {verdict.axis}s or "
                f"raise the learning rate"
            )
        return f"{name}: PASS ({len(judged)} slopes)"
    lines = [
        f"{name}: FAIL{', as it should' if expected_to_fail else ''} ({len(verdict.failures)} of {len(judged)} slopes)"
    ]
    for cause, failures in verdict.causes.items():
        lines.append(f"  {cause}")
        order = ("update", "init", "gradient", "activation")
        ranked = sorted(failures, key=lambda f: (order.index(f.kind), -distance(f)))
        for finding in ranked[:3]:
            slope = (
                "no slope"
                if math.isnan(finding.slope)
                else (
                    f"slope {number(finding.slope)} [{number(finding.low)},{number(finding.high)}], expected "
                    f"{finding.expected:+.1f} ({number(finding.band.low)} to {number(finding.band.high)})"
                )
            )
            lines.append(f"    {finding.kind} {finding.tensor}: {slope}")
        if len(failures) > 3:
            lines.append(f"    and {len(failures) - 3} more slopes")
    return "\n".join(lines)


def as_json(verdicts: list[Verdict], expected_to_fail: set[str], status: int) -> dict:
    def plain(value):
        return None if value is None or math.isnan(value) else value

    return {
        "exit_status": status,
        "checks": [
            {
                "program": v.program,
                "parametrization": v.parametrization,
                "axis": v.axis,
                "sizes": v.sizes,
                "seeds": v.seeds,
                "steps": v.steps,
                "lr": v.lr,
                "head_grows": v.head_grows,
                "verdict": "PASS" if v.passed else "FAIL",
                "expected_to_fail": v.parametrization in expected_to_fail,
                "causes": list(v.causes),
                "findings": [
                    {
                        "kind": f.kind,
                        "tensor": f.tensor,
                        "role": f.role,
                        "slope": plain(f.slope),
                        "interval": [plain(f.low), plain(f.high)],
                        "expected": f.expected,
                        "passes": [f.band.low, f.band.high] if f.band else None,
                        "judged": f.band is not None,
                        "verdict": "PASS" if f.passed else "FAIL",
                        "cause": f.cause,
                    }
                    for f in v.findings
                ],
            }
            for v in verdicts
        ],
    }


# --- Figures ---


def curves_of(rows: list[Row], tensor: str, statistic: str, axis: str) -> dict[int, list[tuple[int, float, float]]]:
    """Per step: (size, geometric mean over seeds, the factor of one standard deviation between them)."""
    logs = defaultdict(list)
    for row in rows:
        value = getattr(row, statistic)
        if (
            row.kind == "activation"
            and value
            and math.isfinite(value)
            and tensor in (row.tensor, re.sub(rf"^h\.{row.depth - 1}\.", "h.last.", row.tensor))
        ):
            logs[row.step, getattr(row, axis)].append(math.log(value))
    curves = defaultdict(list)
    for (step, size), values in sorted(logs.items()):
        centre = mean(values)
        spread = math.sqrt(sum((v - centre) ** 2 for v in values) / max(1, len(values) - 1))
        curves[step].append((size, math.exp(centre), math.exp(spread)))
    return dict(curves)


def style() -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update(
        {
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "axes.linewidth": 0.7,
            "axes.spines.top": False,
            "axes.spines.right": False,
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


def draw_panel(panel, rows: list[Row], tensor: str, statistic: str, axis: str, colours, line: int) -> None:
    """A curve a step, with a band of one standard deviation between seeds."""
    for step, points in curves_of(rows, tensor, statistic, axis).items():
        sizes, centres, spreads = zip(*points, strict=True)
        panel.plot(
            sizes,
            centres,
            color=colours(step),
            linestyle=LINES[line % 4],
            linewidth=1.2,
            zorder=2 + step / 1e3,
            marker=MARKERS[line % 4],
            markersize=2.6,
            markerfacecolor=colours(step) if line == 0 else "white",
            markeredgewidth=0.7,
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


def mark_slope(panel, found: list[Finding], statistic: str) -> None:
    """The slope at the last step, a line for each program."""
    if statistic != "mean_abs" or not found:
        return
    lines = [f"slope {number(f.slope)}" + ("" if f.passed else " ✗") for f in found]
    bad = any(not f.passed for f in found)
    text = panel.text(
        0.04,
        0.97,
        "\n".join(lines),
        transform=panel.transAxes,
        va="top",
        fontsize=9,
        linespacing=1.1,
        color=BAD if bad else GOOD,
        fontweight="bold" if bad else "normal",
        zorder=9,
        bbox={"facecolor": "white", "alpha": 0.8, "edgecolor": "none", "pad": 1},
    )
    text.set_in_layout(False)  # it lies inside the panel, and must not make room for itself


def draw(
    checks: list[tuple[Verdict, list[Row]]],
    schemes: list[str],
    tensors: list[tuple[str, str]],
    out: Path,
    statistic: str,
) -> None:
    """A grid: a row for each parametrization, a column for each tensor (name in the CSV, title)."""
    style()
    import matplotlib.pyplot as plt
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm
    from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator

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
        for (tensor, title), panel in zip(tensors, line, strict=True):
            found = []
            for verdict, rows in checks:
                if verdict.parametrization == scheme:
                    draw_panel(panel, rows, tensor, statistic, axis, mapping.to_rgba, programs.index(verdict.program))
                    last = f"h.{max(row.depth for row in rows) - 1}."  # findings on the depth axis are already named so
                    names = (tensor, tensor.replace("h.last.", last)) if axis == "width" else (tensor,)
                    found += [f for f in verdict.findings if f.kind == "activation" and f.tensor in names]
            panel.set_xscale("log", base=2)
            panel.set_yscale("log")
            mark_slope(panel, found, statistic)
            panel.xaxis.set_major_locator(FixedLocator(sizes if len(sizes) <= 4 else sizes[::2]))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.xaxis.set_major_formatter("{x:.0f}")
            panel.yaxis.set_minor_formatter(NullFormatter())
            panel.grid(True)
            if panel in panels[0]:
                panel.set_title(title)
        line[0].set_ylabel(f"{TITLES.get(scheme, scheme)}\n{STATISTICS[statistic]}")
    own_scale = [scheme == "u-mup" for scheme in schemes]
    for column in panels.T:
        frame_column(column, own_scale, 1.0 + 0.5 * len(programs), LogLocator)
    for panel in panels[-1]:
        panel.set_xlabel(axis)
    bar = figure.colorbar(mapping, ax=panels, label="step", aspect=18 * len(schemes), pad=0.01, fraction=0.03)
    bar.set_ticks(sorted({1, steps, *range(0, steps + 1, max(1, steps // 5))} - {0}))
    bar.minorticks_off()
    if len(programs) > 1:
        handles = [
            plt.Line2D(
                [],
                [],
                color=GOOD,
                linestyle=LINES[i % 4],
                marker=MARKERS[i % 4],
                markersize=3.5,
                markerfacecolor=GOOD if i == 0 else "white",
                label=name,
            )
            for i, name in enumerate(programs)
        ]
        figure.legend(handles=handles, loc="outside upper center", ncols=len(programs), frameon=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=200)
    plt.close(figure)


def frame_column(column, own_scale: list[bool], top: float, locator) -> None:
    """The panels of a column have the same vertical axis, at least a decade, and room for the slopes at the top. u-µP's
    weights are of size 1: its panels start elsewhere and span as much."""
    parts = [[panel for panel, own in zip(column, own_scale, strict=True) if own is wanted] for wanted in (False, True)]
    limits = [(min(p.get_ylim()[0] for p in part), max(p.get_ylim()[1] for p in part)) for part in parts if part]
    half = max(1.0, *(math.log10(high / low) for low, high in limits)) / 2
    for part, (low, high) in zip(filter(None, parts), limits, strict=True):
        middle = math.sqrt(low * high)
        for panel in part:
            panel.set_ylim(middle * 10**-half, middle * 10 ** (top * half))
            if half < 0.8:  # two decades have one power of ten, or two
                panel.yaxis.set_major_locator(locator(subs=(1.0, 3.0)))
                panel.yaxis.set_major_formatter("{x:g}")
            else:
                panel.yaxis.set_major_locator(locator(base=10 ** max(1, round((1 + top) * half / 4)), numticks=12))


def curve_tensors() -> list[tuple[str, str]]:
    """A readable selection of the last block's activations."""
    names = ["embedding", "h.last.attn.logits", "h.last.attn.c_proj", "h.last.mlp.c_fc", "h.last.resid_mlp", "logits"]
    titles = ["embedding", "attention logits", "attn.c_proj", "mlp.c_fc", "last residual", "logits"]
    return list(zip(names, titles, strict=True))


def layer_tensors(axis: str, depth: int) -> list[tuple[str, str]]:
    """From the embedding to the logits; of deep models the first block, the middle one and the last."""
    if axis == "depth":
        blocks = [("h.0.", "first "), ("h.last.", "last ")]
    else:
        numbers = range(depth) if depth <= 3 else [0, depth // 2, depth - 1]
        blocks = [(f"h.{number}.", f"h.{number}.") for number in numbers]
    parts = ["attn.c_proj", "mlp.c_proj", "resid_mlp"]
    middle = [(prefix + part, title + part) for prefix, title in blocks for part in parts]
    return [("embedding", "embedding"), *middle, ("ln_f", "ln_f"), ("logits", "logits")]


# --- The program ---


def parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv", nargs="+", type=Path, metavar="CSV", help="what --coord-check wrote, or several joined")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="folder for the figures [that of the first CSV]")
    parser.add_argument("--format", choices=["png", "svg", "pdf"], default="png", help="of the figures [%(default)s]")
    parser.add_argument("--no-figures", action="store_true", help="only the table and the verdict; needs no matplotlib")
    parser.add_argument(
        "--statistic",
        choices=list(STATISTICS),
        default="mean_abs",
        help="what the figures show: size, or change since step 1 [%(default)s]",
    )
    parser.add_argument("--all-blocks", action="store_true", help="a line of the table for every block")
    parser.add_argument("--json", type=Path, metavar="FILE", help="slopes, intervals and verdicts for machines")
    parser.add_argument(
        "--expect-fail",
        nargs="*",
        choices=SCHEMES,
        metavar="SCHEME",
        help="parametrizations that have to fail, as they have no rule for it [width: sp; depth: sp, "
        "mup, mup-table3, mup-table9]",
    )
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    checks = [(check(rows), rows) for rows in groups(read_csv(args.csv)).values()]
    verdicts = [verdict for verdict, _ in checks]
    if len({verdict.axis for verdict in verdicts}) > 1:
        raise CheckError("some runs differ in width and others in depth: give them one at a time")
    axis = verdicts[0].axis
    to_fail = set(EXPECTED_TO_FAIL[axis] if args.expect_fail is None else args.expect_fail)
    wrong = [verdict for verdict in verdicts if verdict.passed == (verdict.parametrization in to_fail)]
    status = 1 if wrong else 0
    several = len({verdict.program for verdict in verdicts}) > 1
    first = verdicts[0]
    print(
        f"slopes against {axis} ({', '.join(map(str, first.sizes))}; {len(first.seeds)} seeds, {first.steps} steps)"
        + ("" if args.all_blocks or axis == "depth" else "; h.N: of all blocks, the one farthest from the theory")
    )
    print(slope_table(verdicts, args.all_blocks or axis == "depth"), end="\n\n")
    for verdict in verdicts:
        print(verdict_text(verdict, verdict.parametrization in to_fail, several))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(as_json(verdicts, to_fail, status), indent=1) + "\n", encoding="utf-8")
    if not args.no_figures:
        draw_all(checks, args.out or args.csv[0].parent, args.format, args.statistic)
    print(
        f"overall: {'FAIL: ' + ', '.join(label_of(v, several) for v in wrong) if wrong else 'PASS'}"
        f" ({', '.join(sorted(to_fail & {v.parametrization for v in verdicts})) or 'none'} expected to fail)"
    )
    return status


def draw_all(checks: list[tuple[Verdict, list[Row]]], folder: Path, ending: str, statistic: str) -> None:
    schemes = list(dict.fromkeys(verdict.parametrization for verdict, _ in checks))
    axis, depth = checks[0][0].axis, max(row.depth for row in checks[0][1])
    pair = [scheme for scheme in ("sp", "mup") if scheme in schemes]
    if axis == "depth" or len(pair) < 2:  # nothing to set side by side, or three stories
        pair = schemes
    suffix = "" if statistic == "mean_abs" else "_change"
    for name, rows, tensors in (("curves", pair, curve_tensors()), ("layers", schemes, layer_tensors(axis, depth))):
        path = folder / f"{name}{suffix}.{ending}"
        draw(checks, rows, tensors, path, statistic)
        print(f"wrote {path}")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CheckError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except ImportError as error:
        print(f"error: {error}: the figures need it, pip install matplotlib (or --no-figures)", file=sys.stderr)
        sys.exit(1)
