"""The micro-batches of one rank of train_gpt2.py, as tensors on its device."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from llmc.choice_evaluation import NO_TARGET
from llmc.config import Config
from llmc.data.windows import Dataset, Segment
from llmc.ranks import rank
from llmc.run_setup import Setup

Batch = tuple[torch.Tensor, torch.Tensor]  # tokens and targets, (B, T) each


def evaluation_segments(data: Dataset, config: Config) -> list[Segment]:
    """What --eval-tokens or --eval-batches choose of the validation data."""
    B = config.batch_size
    if config.eval_batches is not None:
        return data.first_windows(config.eval_batches * B, B)
    return data.first_targets(config.eval_tokens or 0, B, config.eval_stride or config.seq_len)


def evaluation_batch(data: Dataset, segment: Segment, vocab_size: int, device: torch.device) -> Batch:
    """NO_TARGET for targets that do not count."""
    tokens, targets = on_device(data.read(segment, vocab_size), device)
    if segment.overlap:
        targets = targets.clone()
        targets[0, : segment.uncounted] = NO_TARGET
        targets[1:, : segment.overlap] = NO_TARGET
    return tokens, targets


def on_device(tokens: NDArray[np.int64], device: torch.device) -> Batch:
    """From (B, T + 1) tokens."""
    rows = torch.from_numpy(tokens)
    if device.type == "cuda":
        rows = rows.pin_memory().to(device, non_blocking=True)
    return rows[:, :-1], rows[:, 1:]


class Batches:
    def __init__(self, setup: Setup, device: torch.device) -> None:
        self.setup, self.device = setup, device

    def training(self, step: int, samples: int) -> Iterator[Batch]:
        """All micro-batches from a step on: of R * B samples for R ranks, rank r has the r-th B."""
        setup, B = self.setup, self.setup.config.batch_size
        for i in range((setup.steps - step) * setup.micro_steps):
            begin = 0 if setup.config.overfit_single_batch else samples + (i * setup.ranks + rank()) * B
            assert setup.train
            yield on_device(setup.train.rows(range(begin, begin + B), setup.shape.vocab_size), self.device)

    def validation(self) -> Iterator[tuple[int, int, Iterator[tuple[float, Batch]]]]:
        """The validation data that --eval-tokens or --eval-batches choose, in rounds: the number of this one, that of
        all, and this rank's batch (none in the last round of some ranks) with its part of all targets."""
        data, ranks = self.setup.val, self.setup.ranks
        assert data
        segments = evaluation_segments(data, self.setup.config)
        targets, rounds = sum(segment.targets for segment in segments), -(-len(segments) // ranks)
        for i in range(rounds):
            own = segments[i * ranks : (i + 1) * ranks][rank() : rank() + 1]
            vocab_size = self.setup.shape.vocab_size
            yield i, rounds, ((s.targets / targets, evaluation_batch(data, s, vocab_size, self.device)) for s in own)
