"""Coordinate check: from the statistics that `--coord-check FILE` writes to a verdict, tensor by tensor.

    verdict = check(read_csv([Path("coordinate_check.csv")]))     # rows of one program and one parametrization
    verdict.passed, verdict.failures                              # each failure: tensor, kind, slope, expected, cause

A slope is d log2(value) / d log2(width): the power of the width that a tensor's size follows. What it has to be is in
coordinate_theory.py. Needs no packages; the figures are mup_coordinate_check_visualize.py's.
"""

from __future__ import annotations

import csv
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from coordinate_theory import GRADIENT_STEP, SCHEMES, U_MUP_GRADIENT_STEP, Band, band, explain

COLUMNS = (
    "program,parametrization,base_width,width,base_depth,depth,heads,seed,lr,step,kind,tensor,role,multiplier,"
    "mean_abs,std,delta"
).split(",")
INTEGERS = {"base_width", "width", "base_depth", "depth", "heads", "seed", "step"}
NUMBERS = {"lr", "multiplier", "mean_abs", "std", "delta"}
LEAST_STEPS = GRADIENT_STEP  # zero head and query: step 1 moves the head, 2 the query too, 3 the key; in 4 all differ
BLOCK_ACTIVATIONS = (
    "ln_1 attn.q attn.k attn.v attn.logits attn attn.c_proj resid_attn ln_2 mlp.c_fc mlp.gelu mlp.c_proj resid_mlp"
).split()
BLOCK_LAYERS = "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj".split()


class CheckError(Exception):
    """A CSV that cannot be judged. The message says which one, what is wrong with it and what to do."""


class Row(NamedTuple):
    program: str
    parametrization: str
    base_width: int
    width: int
    base_depth: int
    depth: int
    heads: int
    seed: int
    lr: float
    step: int
    kind: str
    tensor: str
    role: str
    multiplier: float
    mean_abs: float
    std: float
    delta: float | None


class Slope(NamedTuple):
    value: float
    low: float  # 95% confidence interval
    high: float
    error: float  # standard error


@dataclass
class Finding:
    kind: str  # activation, update, init, gradient
    tensor: str
    role: str
    slope: float  # NaN where there is none: see cause
    low: float
    high: float
    band: Band | None  # what passes; None: shown, not judged
    passed: bool = True
    cause: str = ""

    @property
    def expected(self) -> float | None:
        return self.band.expected if self.band else None


@dataclass
class Verdict:
    program: str
    parametrization: str
    axis: str  # width or depth
    sizes: list[int]
    seeds: list[int]
    steps: int
    lr: float
    head_grows: bool
    findings: list[Finding] = field(default_factory=list)

    @property
    def failures(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.passed]

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def causes(self) -> dict[str, list[Finding]]:
        """Failures by their cause, in the order of the findings."""
        by_cause = defaultdict(list)
        for failure in self.failures:
            by_cause[failure.cause].append(failure)
        return dict(by_cause)


# --- Reading ---


def read_csv(paths: list[Path]) -> list[Row]:
    """The rows of one or several CSVs, as they stand; check_all() and check() judge whether they are enough."""
    rows = []
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows += read_rows(csv.reader(file), path)
        except OSError as error:
            raise CheckError(f"{path}: {error.strerror}: give the file that --coord-check wrote") from None
        except (UnicodeDecodeError, csv.Error):
            raise CheckError(f"{path} is not text: give the file that --coord-check wrote") from None
    return rows


def read_rows(lines, path: Path) -> list[Row]:
    header = next(lines, None)
    if header != COLUMNS:
        raise CheckError(f"{path}: its first line is not {','.join(COLUMNS)!r}: is it a file that --coord-check wrote?")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(COLUMNS):
            raise CheckError(f"{path}, line {number}: {len(line)} columns, not {len(COLUMNS)}: was the run cut off?")
        try:
            rows.append(Row(*map(convert, COLUMNS, line)))
        except ValueError as error:
            raise CheckError(f"{path}, line {number}: {error}: the file is damaged, repeat the run") from None
    if not rows:
        raise CheckError(f"{path} has no rows: repeat the run")
    return rows


def convert(column: str, text: str):
    if column in INTEGERS:
        return int(text)
    if column in NUMBERS:
        return None if column == "delta" and not text else float(text)
    return text


def groups(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by program and parametrization: each is one check."""
    found = defaultdict(list)
    for row in rows:
        found[row.program, row.parametrization].append(row)
    order = {scheme: position for position, scheme in enumerate(SCHEMES)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0][1], len(order)), item[0])))


def parameter_names(depth: int) -> set[str]:
    layers = [f"h.{block}.{layer}" for block in range(depth) for layer in BLOCK_LAYERS] + ["ln_f"]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")} | {
        "wte.weight",
        "wpe.weight",
        "lm_head.weight",
    }


def activation_names(depth: int) -> set[str]:
    return {f"h.{block}.{name}" for block in range(depth) for name in BLOCK_ACTIVATIONS} | {
        "embedding",
        "ln_f",
        "logits",
    }


# --- Is it enough to judge? ---


def require_one(group: list[Row], column: str, name: str) -> None:
    values = sorted({getattr(row, column) for row in group})
    if len(values) > 1:
        raise CheckError(
            f"{name} has runs of several {column} ({', '.join(map(str, values[:4]))}): "
            f"give the runs of one, as nothing but the width (or the depth) may differ"
        )


def survey(group: list[Row], name: str) -> Verdict:
    """Finds the axis; a missing run, step or tensor is an error, because a check must not pass for lack of data."""
    program, scheme, lr = group[0].program, group[0].parametrization, group[0].lr
    if scheme not in SCHEMES:
        raise CheckError(f"{name}: the parametrization is unknown: {', '.join(SCHEMES)}")
    require_one(group, "lr", name)
    widths, depths = sorted({row.width for row in group}), sorted({row.depth for row in group})
    if len(widths) > 1 and len(depths) > 1:
        raise CheckError(
            f"{name} has runs of {len(widths)} widths and {len(depths)} depths: give the runs of one "
            f"depth, or of one width"
        )
    axis, sizes = ("depth", depths) if len(depths) > 1 else ("width", widths)
    if len(sizes) < 2:
        raise CheckError(
            f"{name} has runs of one width ({widths[0]}) and one depth ({depths[0]}): a slope needs at "
            f"least two widths or depths"
        )
    seeds = sorted({row.seed for row in group})
    if len(sizes) * len(seeds) < 3:
        raise CheckError(f"{name} has runs of two {axis}s and one seed: an interval needs a third run")
    require_complete(group, name, axis, sizes, seeds)
    if axis == "width" and scheme not in ("sp", "u-mup"):  # these two have no base
        require_one(group, "base_width", name)
    if scheme == "completep":
        require_one(group, "base_depth", name)
    grows = len({row.width / row.heads for row in group}) > 1
    if grows and len({row.heads for row in group}) > 1:
        raise CheckError(f"{name}: neither the number of heads nor their size is the same at all widths: fix one")
    return Verdict(program, scheme, axis, sizes, seeds, max(row.step for row in group), lr, grows)


def require_complete(group: list[Row], name: str, axis: str, sizes: list[int], seeds: list[int]) -> None:
    runs = defaultdict(set)
    for row in group:
        key = (row.step, row.kind, row.tensor)
        run = runs[getattr(row, axis), row.seed]
        if key in run:
            raise CheckError(
                f"{name}: {row.kind} {row.tensor} at {axis} {getattr(row, axis)}, seed {row.seed}, step "
                f"{row.step} is there twice: give each run once"
            )
        run.add(key)
    steps = max(row.step for row in group)
    if steps < LEAST_STEPS:
        raise CheckError(
            f"{name} has {steps} steps: with a head and queries that start at zero it takes {LEAST_STEPS} "
            f"until everything moves; run at least that many"
        )
    for size in sizes:
        depth = size if axis == "depth" else group[0].depth
        needed = {("activation", tensor) for tensor in activation_names(depth)} | {
            (kind, tensor) for kind in ("parameter", "gradient") for tensor in parameter_names(depth)
        }
        for seed in seeds:
            if (size, seed) not in runs:
                raise CheckError(f"{name} lacks the run of {axis} {size}, seed {seed}: every {axis} needs every seed")
            absent = [
                (step, kind, tensor)
                for step in range(1, steps + 1)
                for kind, tensor in sorted(needed)
                if (step, kind, tensor) not in runs[size, seed]
            ]
            if absent:
                step, kind, tensor = absent[0]
                hint = "give it an untied head, --no-tie-embeddings" if tensor == "lm_head.weight" else "repeat it"
                raise CheckError(
                    f"{name}: the run of {axis} {size}, seed {seed} lacks {kind} {tensor} at step {step} "
                    f"(and {len(absent) - 1} more rows): {hint}"
                )


# --- Slopes ---


def t_quantile(freedom: int) -> float:
    """Student's t, 97.5%: exact for 1 and 2 degrees of freedom, else the expansion around the normal quantile."""
    if freedom <= 2:
        return (12.7062, 4.30265)[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def fit(points: list[tuple[float, float]]) -> Slope:
    """Least squares of log2(value) on log2(size), over all seeds; at least three points."""
    xs, ys = [math.log2(x) for x, _ in points], [math.log2(y) for _, y in points]
    count, mean_x, mean_y = len(points), sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    value = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread
    rest = sum((y - mean_y - value * (x - mean_x)) ** 2 for x, y in zip(xs, ys, strict=True))
    error = math.sqrt(rest / (count - 2) / spread)
    half = t_quantile(count - 2) * error
    return Slope(value, value - half, value + half, error)


def measured(row: Row, last: int) -> tuple[str, float] | None:
    """Which finding a row belongs to, and the effective value: that of W = multiplier * w, on which forms agree."""
    if row.kind == "activation":
        return ("activation", row.mean_abs) if row.step == last else None
    if row.kind == "parameter" and row.step == 1:  # gains start at a constant: they have a mean, and no deviation
        return "init", row.multiplier * (row.mean_abs if row.role == "vector" else row.std)
    if row.kind == "parameter" and row.step == last:
        return "update", row.multiplier * (row.delta or 0.0)
    if row.kind == "gradient" and row.parametrization == "u-mup":  # in units of their own, which are to be the same
        return ("gradient", row.mean_abs) if row.step == U_MUP_GRADIENT_STEP else None
    if row.kind == "gradient" and row.step == GRADIENT_STEP:
        return "gradient", row.mean_abs / abs(row.multiplier) if row.multiplier else math.inf
    return None


def names_on(axis: str, row: Row) -> list[str]:
    """A tensor's names in the table. Models of several depths share their first block and their last."""
    block = re.match(r"h\.(\d+)\.(.+)", row.tensor)
    if axis == "width" or not block:
        return [row.tensor]
    number = int(block[1])
    return ["h.first." + block[2]] * (number == 0) + ["h.last." + block[2]] * (number == row.depth - 1)


def order_of(kind: str, tensor: str) -> tuple:
    """The order of the forward pass."""
    place = re.match(r"h\.(\w+)\.(.+)", tensor)
    block, name = (place[1], place[2]) if place else ("", tensor)
    names = [
        "embedding",
        "wte.weight",
        "wpe.weight",
        *BLOCK_ACTIVATIONS,
        *(f"{layer}.{part}" for layer in BLOCK_LAYERS for part in ("weight", "bias")),
    ]
    depth = {"": 0 if name in names else 1e9, "first": 1, "last": 2}.get(block)
    kinds = ["activation", "update", "init", "gradient"]
    position = names.index(name) if name in names else len(names)
    return kinds.index(kind), int(block) + 1 if depth is None else depth, position, name


def judge(kind: str, tensor: str, role: str, points: list[tuple[int, float]], limits: Band | None) -> Finding | None:
    """One finding; None where there is nothing to measure: an init of zero at every size."""
    values = [value for _, value in points]
    finding = Finding(kind, tensor, role, math.nan, math.nan, math.nan, limits)
    infinite = sorted({size for size, value in points if not math.isfinite(value)})
    if infinite:
        finding.passed, finding.cause = limits is None, f"not finite at size {infinite[0]}: the run diverged"
    elif not any(values):
        if kind == "init":
            return None
        finding.passed = limits is None
        finding.cause = "never moves" if kind == "update" else "zero at every size"
    elif not all(value > 0 for value in values):
        smallest = min(size for size, value in points if value == 0)
        finding.passed, finding.cause = limits is None, f"zero at size {smallest}, not at all sizes"
    else:
        slope = fit([(float(size), value) for size, value in points])
        finding.slope, finding.low, finding.high = slope.value, slope.low, slope.high
        if limits and not limits.low <= slope.value <= limits.high:
            finding.passed = False
        elif limits and slope.error > (limits.high - limits.low) / 2:  # it may have landed inside by chance
            finding.passed, finding.cause = False, "too noisy to judge: add seeds or sizes"
    return finding


def check(rows: list[Row]) -> Verdict:
    """Judges the runs of one program and one parametrization. CheckError where they are not enough to judge."""
    found = groups(rows)
    if len(found) != 1:
        raise CheckError(f"{len(found)} pairs of program and parametrization, not one: use check_all")
    (program, scheme), group = next(iter(found.items()))
    verdict = survey(group, f"{scheme} of {program}")
    points, roles, multipliers = defaultdict(list), {}, defaultdict(list)
    for row in group:
        place = measured(row, verdict.steps)
        for tensor in names_on(verdict.axis, row) if place else ():
            size = getattr(row, verdict.axis)
            points[place[0], tensor].append((size, place[1]))
            roles[tensor] = row.role or roles.get(tensor, "")
            if place[0] == "update":
                multipliers[tensor].append((float(size), abs(row.multiplier)))
    for kind, tensor in sorted(points, key=lambda key: order_of(*key)):
        limits = band(scheme, verdict.axis, kind, tensor, roles[tensor], verdict.head_grows)
        finding = judge(kind, tensor, roles[tensor], points[kind, tensor], limits)
        if finding:
            verdict.findings.append(finding)
    explain(verdict, {tensor: fit(pairs).value for tensor, pairs in multipliers.items() if all(y for _, y in pairs)})
    return verdict


def check_all(rows: list[Row]) -> list[Verdict]:
    """One verdict for every program and parametrization in the rows."""
    return [check(group) for group in groups(rows).values()]
