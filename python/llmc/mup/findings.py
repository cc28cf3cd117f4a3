"""The results of a coordinate check: a finding for each tensor, and the verdict."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Outcome = Literal["PASS", "FAIL", "UNDECIDED"]


class Band(NamedTuple):
    """Slopes that pass."""

    expected: float
    low: float
    high: float


@dataclass
class Finding:
    """The slope d log2(value) / d log2(size) of one kind of number of one tensor."""

    kind: str  # activation, update, init, gradient
    tensor: str
    role: str
    slope: float  # NaN if there is none: see cause
    low: float  # 95% confidence interval
    high: float
    band: Band | None  # slopes that pass; None: shown, not judged
    verdict: Outcome = "PASS"
    cause: str = ""

    @property
    def passed(self) -> bool:
        return self.verdict == "PASS"

    @property
    def expected(self) -> float | None:
        return self.band.expected if self.band else None

    @property
    def limits(self) -> Band:
        """The band of a finding that is judged, as every one that did not pass is."""
        assert self.band is not None, f"{self.kind} {self.tensor} is not judged"
        return self.band


@dataclass
class Verdict:
    """The findings for one program and one parametrization."""

    program: str
    parametrization: str
    axis: str  # width or depth
    sizes: list[int]
    seeds: list[int]
    steps: int
    lr: float
    head_grows: bool  # the head size, not the number of heads, grows with the width
    findings: list[Finding] = field(default_factory=list)

    @property
    def failures(self) -> list[Finding]:
        """Slopes that are wrong, by more than noise explains."""
        return [finding for finding in self.findings if finding.verdict == "FAIL"]

    @property
    def undecided(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.verdict == "UNDECIDED"]

    @property
    def judged(self) -> int:
        """How many slopes are judged."""
        return sum(finding.band is not None for finding in self.findings)

    @property
    def verdict(self) -> Outcome:
        return "FAIL" if self.failures else "UNDECIDED" if self.undecided else "PASS"

    @property
    def passed(self) -> bool:
        return self.verdict == "PASS"

    @property
    def causes(self) -> dict[str, list[Finding]]:
        """Failures by their cause, in the order of the findings."""
        by_cause = defaultdict(list)
        for failure in self.failures:
            by_cause[failure.cause].append(failure)
        return dict(by_cause)
