"""--profile of train_gpt2.py: PyTorch's profiler."""

from __future__ import annotations

from typing import Any

import torch


class StepProfiler:
    """Covers all steps of a run except the first, which includes first accesses to memory."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self.profile: Any = None

    def before_step(self, done: int) -> None:
        """done: steps that this process has run."""
        if self.enabled and done == 1:
            self.profile = torch.profiler.profile()
            self.profile.start()

    def table(self, device: torch.device) -> str:
        """The operations that took the most time; "" if no step was profiled."""
        if self.profile is None:
            return ""
        self.profile.stop()
        return str(self.profile.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=20))
