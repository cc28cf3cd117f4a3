"""JSON that others wrote. Both programs read the same: UTF-8, with or without a byte order mark, no NaN. Python's json
also reads UTF-16, NaN, numbers beyond float64, and halves of surrogate pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any


def read_json(path: Path) -> Any:
    """None if the file cannot be read or is not JSON."""
    try:
        return parse_json(path.read_bytes())
    except OSError:
        return None


def parse_json(content: bytes) -> Any:
    """None if it is not JSON."""
    try:
        text = content.decode("utf-8-sig")
        value = json.loads(text, parse_constant=_refuse, parse_float=_finite(float), parse_int=_finite(int))
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return None
    return value


def _refuse(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _finite(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    def number(text: str) -> Any:
        if math.isinf(float(text)):
            raise ValueError(f"{text} is out of range")
        return kind(text)

    return number
