"""Moving averages of training losses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def smooth(values: Sequence[float], window: int) -> NDArray[np.float64]:
    """Centred moving average over `window` values. At the start the window is narrower, because the loss is steep; at
    the end it includes only the remaining values."""
    import numpy as np

    array = np.asarray(values, dtype=float)
    sums = np.concatenate([[0.0], np.cumsum(array)])
    index = np.arange(len(array))
    before = np.minimum(window // 2, index)
    after = np.minimum(before, len(array) - 1 - index)
    means: NDArray[np.float64] = (sums[index + after + 1] - sums[index - before]) / (before + after + 1)
    return means
