"""Fewer points of long curves, so that a figure stays small."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def thin(values: Sequence[float], most: int) -> list[int]:
    """Indices of at most `most` values (at least 4): of equal parts the first, the least, the greatest and the last.
    All indices if there are no more values, or if `most` is 0."""
    import numpy as np

    count = len(values)
    if not most or count <= most:
        return list(range(count))
    array = np.asarray(values, dtype=float)
    edges = np.linspace(0, count, most // 4 + 1).astype(int)
    kept = {
        index
        for begin, end in pairwise(edges)
        for index in (begin, begin + array[begin:end].argmin(), begin + array[begin:end].argmax(), end - 1)
    }
    return sorted(map(int, kept))
