"""Numbers as texts: on the command line, in TOML, in messages. The same as llmc/train/options/numbers.cpp."""

from __future__ import annotations

import math
import re

INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
_DIGITS = "[0-9](?:_?[0-9])*"  # 1_000
_NUMBER = re.compile(rf"([+-]?)({_DIGITS})?(?:\.({_DIGITS})?)?(?:[eE]([+-]?{_DIGITS}))?")


def real(text: str) -> float | None:
    """1e-3, .5, 1_000: no hexadecimal numbers, inf or nan. None for other texts; infinity if it is too large."""
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    return float(text.replace("_", ""))


def whole(text: str) -> int | None:
    """The exact value of a whole number, which may have a point or an exponent: 1e6. None for other texts.

    Numbers beyond int64 become 2^63 or -2^63 - 1."""
    match = _NUMBER.fullmatch(text)
    if match is None or not (match[2] or match[3]):
        return None
    sign, before, after, exponent = (part.replace("_", "") for part in match.groups(""))
    digits = (before + after).lstrip("0")
    shift = int(exponent.lstrip("+-").lstrip("0")[:9] or 0) * (-1 if exponent.startswith("-") else 1) - len(after)
    if not digits:
        return 0
    zeros = len(digits) - len(digits.rstrip("0"))
    if shift < -zeros:
        return None
    if len(digits) + shift > 19:
        return INT64_MIN - 1 if sign == "-" else INT64_MAX + 1
    number = int(digits[:shift] if shift < 0 else digits + "0" * shift)
    return -number if sign == "-" else number


def short_number(value: float) -> str:
    """4096, 0.5, 1e-08: the shortest text that gives the same number."""
    is_whole = math.isfinite(value) and value == math.floor(value) and abs(value) < 1e15
    return str(int(value)) if is_whole else repr(float(value))
