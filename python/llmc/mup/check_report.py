"""Judges a coordinate check: do activations keep their size when the width (or the depth) grows?

    llmc verdict CSV [CSV ...]      # from --coord-check, or the joined CSV of scripts/mup_coordinate_check.sh

Prints slopes with 95% intervals and the expected values, and a verdict: PASS; FAIL, with the likely cause of each slope
that is wrong by more than noise explains; or UNDECIDED, if noise may explain what is wrong. `llmc plot check` prints
the same and draws figures. Exit codes: 0 all as expected, 1 a check failed (or one that should fail passed), 2 wrong
usage, 3 unusable CSV, 6 undecided: rerun with more seeds or sizes.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from pathlib import Path
from typing import Any, NamedTuple

from llmc.errors import DataError, ExitCode
from llmc.mup.check import check, order_of
from llmc.mup.check_csv import Row, groups, read_csv
from llmc.mup.findings import Finding, Verdict
from llmc.mup.theory import EXPECTED_TO_FAIL, SCHEMES
from llmc.wording import plural

KINDS = {
    "activation": "activations: mean |x| at the last step",
    "update": "updates: multiplier × mean |w − w₁| at the last step",
    "init": "inits: multiplier × std at step 1 (gains: mean)",
    "gradient": "gradients: mean |g| / multiplier at step 4 (u-µP: mean |g| at step 2)",
}


MARKS = {"PASS": " ", "FAIL": "x", "UNDECIDED": "?"}
MOST_SEEDS = 12  # that a message suggests: beyond, a wider range of sizes is cheaper


# --- Text ---


def signed(value: float) -> str:
    """A slope as text for the tables."""
    return "-" if math.isnan(value) else f"{value:+.2f}".replace("-0.00", "+0.00")


def families(verdict: Verdict) -> dict[tuple[str, str], Finding]:
    """One finding for all blocks: the one farthest from the expected slope."""
    worst: dict[tuple[str, str], Finding] = {}
    for finding in verdict.findings:
        key = (finding.kind, re.sub(r"^h\.\d+\.", "h.N.", finding.tensor))
        if key not in worst or distance(finding) > distance(worst[key]):
            worst[key] = finding
    return worst


def distance(finding: Finding) -> float:
    if math.isnan(finding.slope):
        return math.inf
    rank = {"PASS": 0, "UNDECIDED": 1, "FAIL": 2}[finding.verdict]
    return abs(finding.slope - (finding.expected or 0.0)) + 1e3 * rank


def label_of(verdict: Verdict, several_programs: bool) -> str:
    return f"{verdict.parametrization} {verdict.program}" if several_programs else verdict.parametrization


Cells = dict[str, list[Finding | None]]  # a finding for each check, by tensor


def slopes_by_kind(verdicts: list[Verdict], all_blocks: bool) -> dict[str, Cells]:
    """The rows of the table of slopes, by kind of number, in the order of the forward pass."""
    tables = [{(f.kind, f.tensor): f for f in v.findings} if all_blocks else families(v) for v in verdicts]
    keys = sorted(
        {key for table in tables for key in table}, key=lambda key: order_of(key[0], key[1].replace("h.N.", "h.0."))
    )
    rows: dict[str, Cells] = {kind: {} for kind in KINDS}
    for kind, tensor in keys:
        rows[kind][tensor] = [table.get((kind, tensor)) for table in tables]
    return rows


def titles_of(verdicts: list[Verdict]) -> list[str]:
    several = len({verdict.program for verdict in verdicts}) > 1
    return [label_of(verdict, several) for verdict in verdicts]


def slope_table(verdicts: list[Verdict], all_blocks: bool) -> str:
    """Rows: tensors; columns: checks. Failures have an x, undecided slopes a ?; those not judged have no theory."""
    titles = titles_of(verdicts)
    widths = [max(len(title), 22) for title in titles]
    lines = []
    for kind, rows in slopes_by_kind(verdicts, all_blocks).items():
        heading = KINDS[kind]
        lines += ["", f"{heading:<28}" if len(heading) < 28 else heading]
        lines.append(
            f"  {'slope [95% interval] theory':<27} "
            + " ".join(f"{title:<{width}}" for title, width in zip(titles, widths, strict=True))
        )
        for tensor, findings in rows.items():
            cells = [cell(finding).ljust(width) for finding, width in zip(findings, widths, strict=True)]
            lines.append(f"  {tensor:<27} " + " ".join(cells).rstrip())
    return "\n".join(lines[1:])


def cell(finding: Finding | None) -> str:
    if finding is None:
        return "-"
    if math.isnan(finding.slope):
        return "x " + finding.cause[:20]
    mark = MARKS[finding.verdict]
    theory = "" if finding.expected is None else f"{finding.expected:+.1f}"
    return f"{mark}{signed(finding.slope)} [{signed(finding.low)},{signed(finding.high)}] {theory}"


def verdict_text(verdict: Verdict, expected_to_fail: bool, several: bool) -> str:
    """One line, then the likely causes of failures, or what is undecided, with three slopes each."""
    name, judged = label_of(verdict, several), plural(verdict.judged, "slope")
    if verdict.verdict == "PASS":
        if expected_to_fail:
            return (
                f"{name}: PASS, and it should FAIL: the check is suspicious, use a wider range of {verdict.axis}s or "
                f"a larger learning rate"
            )
        return f"{name}: PASS ({judged})"
    if verdict.verdict == "UNDECIDED":
        wrong, should = verdict.undecided, ", and it should FAIL" if expected_to_fail else ""
        lines = [f"{name}: UNDECIDED{should} ({len(wrong)} of {judged}): {remedy(verdict)}"]
        return "\n".join(lines + listed(wrong, with_cause=True))
    should = ", as it should" if expected_to_fail else ""
    lines = [f"{name}: FAIL{should} ({len(verdict.failures)} of {judged})"]
    for cause, failures in verdict.causes.items():
        lines += [f"  {cause}", *listed(failures)]
    return "\n".join(lines)


def listed(findings: list[Finding], with_cause: bool = False) -> list[str]:
    """The three most telling slopes, a line each."""
    order = ("update", "init", "gradient", "activation")
    ranked = sorted(findings, key=lambda f: (order.index(f.kind), -distance(f)))
    lines = [f"    {f.kind} {f.tensor}: {slope_text(f)}" + (f": {f.cause}" if with_cause else "") for f in ranked[:3]]
    more = len(findings) - len(lines)
    return [*lines, f"    and {plural(more, 'more slope')}"] if more else lines


def remedy(verdict: Verdict) -> str:
    """What to run to decide: more seeds, and sizes farther apart if they are close."""
    more = 2 * len(verdict.seeds)
    seeds = f"SEEDS={more}" if more <= MOST_SEEDS else ""
    close = verdict.sizes[-1] < 4 * verdict.sizes[0]
    name = f"{verdict.axis.upper()}S"
    sizes = f"{name} up to {4 * verdict.sizes[0]} or more" if close else f"more {name}" if not seeds else ""
    return "rerun with " + " or ".join(filter(None, (seeds, sizes)))


def slope_text(finding: Finding) -> str:
    if math.isnan(finding.slope):
        return "no slope"
    limits = finding.limits
    return (
        f"slope {signed(finding.slope)} [{signed(finding.low)},{signed(finding.high)}], expected "
        f"{limits.expected:+.1f} ({signed(limits.low)} to {signed(limits.high)})"
    )


def as_json(verdicts: list[Verdict], expected_to_fail: set[str], status: int) -> dict[str, Any]:
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
                "verdict": v.verdict,
                "expected_to_fail": v.parametrization in expected_to_fail,
                "causes": list(v.causes),
                "findings": [finding_json(finding) for finding in v.findings],
            }
            for v in verdicts
        ],
    }


def finding_json(f: Finding) -> dict[str, Any]:
    def plain(value: float) -> float | None:
        return None if math.isnan(value) else value

    return {
        "kind": f.kind,
        "tensor": f.tensor,
        "role": f.role,
        "slope": plain(f.slope),
        "interval": [plain(f.low), plain(f.high)],
        "expected": f.expected,
        "passes": [f.band.low, f.band.high] if f.band else None,
        "judged": f.band is not None,
        "verdict": f.verdict,
        "cause": f.cause,
    }


# --- The command ---


class Report(NamedTuple):
    """All checks of the given CSVs, those that did not end as expected, and those that are undecided."""

    checks: list[tuple[Verdict, list[Row]]]
    expected_to_fail: set[str]
    wrong: list[Verdict]
    undecided: list[Verdict]

    @property
    def verdicts(self) -> list[Verdict]:
        return [verdict for verdict, _ in self.checks]

    @property
    def status(self) -> int:
        return ExitCode.FAILED if self.wrong else ExitCode.UNDECIDED if self.undecided else ExitCode.DONE

    @property
    def several_programs(self) -> bool:
        return len({verdict.program for verdict in self.verdicts}) > 1


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("csv", nargs="+", type=Path, metavar="CSV", help="written by --coord-check, or several joined")
    parser.add_argument("--all-blocks", action="store_true", help="one row of the table for every block")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write slopes, intervals and verdicts as JSON")
    parser.add_argument(
        "--expect-fail",
        nargs="*",
        choices=SCHEMES,
        metavar="SCHEME",
        help="parametrizations that must fail, because they have no rule for the axis [width: sp; "
        "depth: sp, mup, mup-table3, mup-table9]",
    )


def judge_files(paths: list[Path], expect_fail: list[str] | None) -> Report:
    checks = [(check(rows), rows) for rows in groups(read_csv(paths)).values()]
    axes = {verdict.axis for verdict, _ in checks}
    if len(axes) > 1:
        raise DataError("some runs differ in width and others in depth: give them one at a time")
    to_fail = set(EXPECTED_TO_FAIL[axes.pop()] if expect_fail is None else expect_fail)
    undecided = [verdict for verdict, _ in checks if verdict.verdict == "UNDECIDED"]
    wrong = [
        verdict
        for verdict, _ in checks
        if verdict not in undecided and verdict.passed == (verdict.parametrization in to_fail)
    ]
    return Report(checks, to_fail, wrong, undecided)


def print_report(report: Report, all_blocks: bool, json_path: Path | None) -> None:
    """Prints the table and the verdicts; print_overall prints the last line."""
    verdicts = report.verdicts
    every = all_blocks or verdicts[0].axis == "depth"
    print(table_heading(verdicts[0], every))
    print(slope_table(verdicts, every), end="\n\n")
    for verdict in verdicts:
        print(verdict_text(verdict, verdict.parametrization in report.expected_to_fail, report.several_programs))
    if json_path:
        json_path.parent.mkdir(parents=True, exist_ok=True)
        content = as_json(verdicts, report.expected_to_fail, report.status)
        json_path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def table_heading(verdict: Verdict, every_block: bool) -> str:
    return (
        f"slopes against {verdict.axis} ({', '.join(map(str, verdict.sizes))}; "
        f"{plural(len(verdict.seeds), 'seed')}, {plural(verdict.steps, 'step')})"
        + ("" if every_block else "; h.N: of all blocks, the one farthest from the theory")
    )


def overall(report: Report) -> str:
    """PASS, or FAIL or UNDECIDED with the names of the checks, and what was expected."""

    def names(verdicts: list[Verdict]) -> str:
        return ", ".join(label_of(verdict, report.several_programs) for verdict in verdicts)

    text = "PASS"
    if report.wrong:
        text = f"FAIL: {names(report.wrong)}"
    elif report.undecided:
        text = f"UNDECIDED: {names(report.undecided)}; {remedy(report.undecided[0])}"
    expected = sorted(report.expected_to_fail & {verdict.parametrization for verdict in report.verdicts})
    return f"{text} ({', '.join(expected) or 'none'} expected to fail)"


def print_overall(report: Report) -> None:
    print(f"overall: {overall(report)}")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser)
    args = parser.parse_args(argv)
    report = judge_files(args.csv, args.expect_fail)
    print_report(report, args.all_blocks, args.json)
    print_overall(report)
    return report.status
