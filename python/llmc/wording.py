"""Words of messages."""

from __future__ import annotations

from collections.abc import Sequence


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs, 1,200 runs."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def one_of(names: Sequence[str]) -> str:
    """a, b or c."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
