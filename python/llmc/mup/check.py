"""Coordinate check: from the statistics that `--coord-check FILE` writes to a verdict, tensor by tensor.

    verdict = check(read_csv([Path("coordinate_check.csv")]))     # rows of one program and one parametrization
    verdict.verdict                                               # PASS, FAIL or UNDECIDED
    verdict.failures, verdict.undecided                           # each: tensor, kind, slope, expected, cause

A slope is d log2(value) / d log2(width): the size of a tensor grows like this power of the width. theory.py has the
expected slopes, and the band of slopes that pass.

A slope FAILs if it is outside its band by more than noise explains: its confidence interval does not touch the band. A
check judges about a hundred slopes, so with 95% intervals a correct parametrization would fail every few checks.
Therefore the interval that decides is wider (Bonferroni): 5% for all slopes together, divided evenly among
activations, attention logits, updates, inits and gradients, and then among the slopes of a group. Attention logits are
a group of their own because they are few, vary most between seeds, and alone show a wrong attention scale. The chance
that any correct slope fails is at most 5%, and far smaller if its true value is not at the edge of its band. A slope
outside the band whose interval touches it is UNDECIDED, and so is one inside whose standard error is larger than half
the band: it may be inside by chance.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from typing import NamedTuple

from llmc.errors import DataError
from llmc.mup.causes import explain
from llmc.mup.check_csv import BLOCK_ACTIVATIONS, BLOCK_LAYERS, Row, groups, survey
from llmc.mup.findings import Band, Finding, Outcome, Verdict
from llmc.mup.theory import GRADIENT_STEP, U_MUP_GRADIENT_STEP, band


class Slope(NamedTuple):
    value: float
    low: float  # 95% confidence interval
    high: float
    error: float  # standard error


def t_quantile(freedom: int, doubt: float = 0.05) -> float:
    """Half the width of an interval in standard errors (Student's t); doubt: the chance to be outside, 0.05 for 95%."""
    from scipy.stats import t

    return float(t.isf(doubt / 2, freedom))


def fit(points: list[tuple[float, float]]) -> Slope:
    """Least squares of log2(value) on log2(size), over all seeds; at least three points."""
    from scipy.stats import linregress

    ys = [math.log2(y) for _, y in points]
    line = linregress([math.log2(x) for x, _ in points], ys)
    value = float(line.slope)
    error = float(line.stderr) if max(ys) > min(ys) else 0.0  # SciPy 1.17 gives NaN for equal values
    half = t_quantile(len(points) - 2) * error
    return Slope(value, value - half, value + half, error)


def measured(row: Row, last: int) -> tuple[str, float] | None:
    """The kind of finding of a row, and its value for W = multiplier * w, which is the same in all forms."""
    if row.kind == "activation":
        return ("activation", row.mean_abs) if row.step == last else None
    if row.kind == "parameter" and row.step == 1:  # gains start at a constant: their deviation is 0
        return "init", row.multiplier * (row.mean_abs if row.role == "vector" else row.std)
    if row.kind == "parameter" and row.step == last:
        return "update", row.multiplier * (row.delta or 0.0)
    if row.kind == "gradient" and row.parametrization == "u-mup":  # scaled to be the same at every width
        return ("gradient", row.mean_abs) if row.step == U_MUP_GRADIENT_STEP else None
    if row.kind == "gradient" and row.step == GRADIENT_STEP:
        return "gradient", row.mean_abs / abs(row.multiplier) if row.multiplier else math.inf
    return None


def names_on(axis: str, row: Row) -> list[str]:
    """A tensor's names in the table. Models of different depths have a first and a last block in common."""
    block = re.match(r"h\.(\d+)\.(.+)", row.tensor)
    if axis == "width" or not block:
        return [row.tensor]
    number = int(block[1])
    return ["h.first." + block[2]] * (number == 0) + ["h.last." + block[2]] * (number == row.depth - 1)


def order_of(kind: str, tensor: str) -> tuple[int, float, int, str]:
    """Sort key: the order of the forward pass."""
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


DOUBT = 0.05  # the largest chance that a check of a correct parametrization fails
NOISE = "may be noise"
NOISY = "too noisy to judge"


def doubts(bands: dict[tuple[str, str], Band | None]) -> dict[tuple[str, str], float]:
    """The share of DOUBT of each slope that is judged, by kind and tensor."""

    def group(kind: str, tensor: str) -> str:
        return "attention logits" if kind == "activation" and tensor.endswith(".attn.logits") else kind

    sizes = Counter(group(*key) for key, limits in bands.items() if limits)
    return {key: DOUBT / len(sizes) / sizes[group(*key)] for key, limits in bands.items() if limits}


def judge(
    kind: str, tensor: str, role: str, points: list[tuple[int, float]], limits: Band | None, doubt: float
) -> Finding | None:
    """One finding; None if there is nothing to measure (an init of zero at every size). doubt: see doubts()"""
    values = [value for _, value in points]
    finding = Finding(kind, tensor, role, math.nan, math.nan, math.nan, limits)
    wrong: Outcome = "FAIL" if limits else "PASS"
    infinite = sorted({size for size, value in points if not math.isfinite(value)})
    if infinite:
        finding.verdict, finding.cause = wrong, f"not finite at size {infinite[0]}: the run diverged"
    elif not any(values):
        if kind == "init":
            return None
        finding.verdict = wrong
        finding.cause = "never moves" if kind == "update" else "zero at every size"
    elif not all(value > 0 for value in values):
        smallest = min(size for size, value in points if value == 0)
        finding.verdict, finding.cause = wrong, f"zero at size {smallest}, not at all sizes"
    else:
        slope = fit([(float(size), value) for size, value in points])
        finding.slope, finding.low, finding.high = slope.value, slope.low, slope.high
        if limits:
            outside = max(limits.low - slope.value, slope.value - limits.high)
            if outside > t_quantile(len(points) - 2, doubt) * slope.error:
                finding.verdict = "FAIL"
            elif outside > 0:
                finding.verdict, finding.cause = "UNDECIDED", NOISE
            elif slope.error > (limits.high - limits.low) / 2:
                finding.verdict, finding.cause = "UNDECIDED", NOISY
    return finding


def check(rows: list[Row]) -> Verdict:
    """Judges the runs of one program and one parametrization. DataError if they are not enough."""
    found = groups(rows)
    if len(found) != 1:
        raise DataError(
            f"{len(found)} pairs of program and parametrization, not one: give the rows of one, see groups()"
        )
    (program, scheme), group = next(iter(found.items()))
    verdict = survey(group, f"{scheme} of {program}")
    points: dict[tuple[str, str], list[tuple[int, float]]] = defaultdict(list)
    roles: dict[str, str] = {}
    multipliers: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for row in group:
        found_in = measured(row, verdict.steps)
        if found_in is None:
            continue
        measured_kind, value = found_in
        size = row.depth if verdict.axis == "depth" else row.width
        for tensor in names_on(verdict.axis, row):
            points[measured_kind, tensor].append((size, value))
            roles[tensor] = row.role or roles.get(tensor, "")
            if measured_kind == "update":
                multipliers[tensor].append((float(size), abs(row.multiplier)))
    bands = {
        (kind, tensor): band(scheme, verdict.axis, kind, tensor, roles[tensor], verdict.head_grows)
        for kind, tensor in sorted(points, key=lambda key: order_of(*key))
    }
    doubt = doubts(bands)
    for (kind, tensor), limits in bands.items():
        finding = judge(kind, tensor, roles[tensor], points[kind, tensor], limits, doubt.get((kind, tensor), DOUBT))
        if finding:
            verdict.findings.append(finding)
    explain(verdict, {tensor: fit(pairs).value for tensor, pairs in multipliers.items() if all(y for _, y in pairs)})
    return verdict
