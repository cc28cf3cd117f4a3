"""Words of messages that depend on a number."""

from __future__ import annotations


def plural(count: int, noun: str) -> str:
    """1 run, 2 runs, 1,200 runs."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
