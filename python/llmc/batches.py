"""The micro-batches of one rank of train_gpt2.py, as tensors on its device."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llmc.data.windows import Dataset
from llmc.ranks import rank
from llmc.run_setup import Setup

Batch = tuple[torch.Tensor, torch.Tensor]  # tokens and targets, (B, T) each


class Batches:
    def __init__(self, setup: Setup, device: torch.device) -> None:
        self.setup, self.device = setup, device

    def training(self, step: int, samples: int) -> Iterator[Batch]:
        """All micro-batches from a step on: of R * B samples for R ranks, rank r has the r-th B."""
        setup, B = self.setup, self.setup.config.batch_size
        for i in range((setup.steps - step) * setup.micro_steps):
            begin = 0 if setup.config.overfit_single_batch else samples + (i * setup.ranks + rank()) * B
            assert setup.train
            yield self._read(setup.train, range(begin, begin + B))

    def validation(self, windows: int) -> Iterator[tuple[int, Batch]]:
        """The number of sequences and the batch, of this rank's part of the first windows."""
        data, B = self.setup.val, self.setup.config.batch_size
        assert data
        for first in list(range(0, windows, B))[rank() :: self.setup.ranks]:
            samples = range(first, min(first + B, windows))
            yield len(samples), self._read(data, samples)

    def _read(self, data: Dataset, samples: range) -> Batch:
        rows = torch.from_numpy(data.rows(samples, self.setup.shape.vocab_size))  # (B, T + 1)
        if self.device.type == "cuda":
            rows = rows.pin_memory().to(self.device, non_blocking=True)
        return rows[:, :-1], rows[:, 1:]
