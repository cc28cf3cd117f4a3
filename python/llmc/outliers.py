"""--skip-loss-zscore, --skip-grad-zscore: which steps are outliers against those before."""

from __future__ import annotations

import numpy as np


class Outliers:
    """z-scores against the last 128 values. Outliers are not added: one spike must not hide the next."""

    def __init__(self, threshold: float, window: list[float]) -> None:
        self.threshold, self.window = threshold, window

    def observe(self, value: float) -> bool:
        """Whether the value is an outlier; adds it to the window if not."""
        if self.threshold > 0 and len(self.window) == 128:
            mean, deviation = np.mean(self.window), np.std(self.window)
            if deviation > 0 and (value - mean) / deviation > self.threshold:
                return True
        self.window = [*self.window, value][-128:]
        return False
