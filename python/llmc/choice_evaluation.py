"""The accuracy of a model on multiple-choice examples: an example is right if its right ending is the likeliest. The
same as llmc/train/choice_evaluation.cpp."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from llmc.config import Config
from llmc.data.multiple_choice import Example, ModelTokens, read_examples
from llmc.errors import DataError
from llmc.ranks import place_in_group, sum_of_ranks
from llmc.sampling import open_tokenizer
from llmc.tokenizer import UNKNOWN, TextTokenizer
from llmc.wording import plural

NO_TARGET = -100  # cross_entropy's ignore_index


class Row(NamedTuple):
    """Tokens of an example that are in one window, the last `scored` of which are of an ending and count."""

    tokens: list[int]
    scored: int
    ending: int  # its number among those of all examples


class ChoiceScores(NamedTuple):
    examples: int
    acc: float  # by the log-likelihood of the whole ending
    acc_norm_tokens: float  # divided by the ending's tokens, as llm.c
    acc_norm_bytes: float | None  # divided by the bytes of its text; None: the text is not known
    loss: float  # of the right endings: nats per token of each, mean over the examples; NaN if a score is not finite

    def to_json(self) -> dict[str, float]:
        """The fields of the log."""
        return {key: value for key, value in self._asdict().items() if value is not None}

    def report(self, path: str) -> str:
        """Two lines."""
        by_bytes = "" if self.acc_norm_bytes is None else f", by bytes {self.acc_norm_bytes:.4f}"
        return (
            f"choices {plural(self.examples, 'example')} of {path}\n"
            f"acc     {self.acc:.4f}; normalised by tokens {self.acc_norm_tokens:.4f}{by_bytes}; right endings "
            f"{self.loss:.4f} nats/token"
        )


def open_choices(config: Config, tokenizer: str, table: Path | None, vocab_size: int) -> list[Example]:
    """The examples of --hellaswag; none without it. tokenizer, table: the model's."""
    path = config.hellaswag
    if not path:
        return []

    def opened() -> TextTokenizer:
        if tokenizer == "unknown":
            raise DataError(f"--hellaswag {path} is text, which needs the model's tokenizer: {UNKNOWN}")
        return open_tokenizer(tokenizer, table)

    return read_examples(Path(path), config.hellaswag_limit, ModelTokens(tokenizer, vocab_size, opened))


class ChoiceEvaluation:
    """seq_len, batch_size: of the model's batches. The ranks of a process group share them."""

    def __init__(self, examples: Sequence[Example], seq_len: int, batch_size: int) -> None:
        self.examples, self.batch_size = examples, batch_size
        self.endings = [(example.context, ending) for example in examples for ending in example.endings]
        rows = [row for i, (context, ending) in enumerate(self.endings) for row in _rows(context, ending, i, seq_len)]
        # the longest first, so that the rows of a batch have similar lengths
        self.rows = sorted(rows, key=lambda row: -len(row.tokens))
        self.batches = -(-len(rows) // batch_size)

    def run(self, model: Any, device: torch.device, go_on: Callable[[int], bool]) -> ChoiceScores | None:
        """model: (tokens, targets, "none") -> the loss of every target. go_on: called before each batch of this rank
        with the number of those that are done; nothing is returned if it says no."""
        losses = self.losses(model, device, go_on)
        return None if losses is None else self.judge(losses)

    def losses(
        self, model: Any, device: torch.device, go_on: Callable[[int], bool] = lambda done: True
    ) -> NDArray[np.float64] | None:
        """The loss of every ending, in nats: the sum over its tokens."""
        losses = torch.zeros(len(self.endings), dtype=torch.float64, device=device)
        rank, ranks = place_in_group()
        for first in range(0, self.batches, ranks):  # equally often on all ranks
            if not go_on(first):
                return None
            begin = (first + rank) * self.batch_size
            if rows := self.rows[begin : begin + self.batch_size]:
                tokens, targets = (torch.from_numpy(array).to(device) for array in _batch(rows))
                of_rows = model(tokens, targets, "none").view(tokens.shape).double().sum(1)
                losses.index_add_(0, torch.tensor([row.ending for row in rows], device=device), of_rows)
        result: NDArray[np.float64] = sum_of_ranks(losses).cpu().numpy()
        return result

    def judge(self, losses: NDArray[np.float64]) -> ChoiceScores:
        """losses: of every ending."""
        right, right_by_tokens, right_by_bytes, begin, own = 0, 0, 0, 0, []
        for example in self.examples:
            count = len(example.endings)
            mine = losses[begin : begin + count]
            by_tokens = mine / np.array([len(ending) for ending in example.endings])
            right += int(np.argmin(mine)) == example.label  # of equal ones the first counts
            right_by_tokens += int(np.argmin(by_tokens)) == example.label
            if example.bytes is not None:
                right_by_bytes += int(np.argmin(mine / np.array(example.bytes))) == example.label
            own.append(float(by_tokens[example.label]))
            begin += count
        count, text_known = len(self.examples), all(example.bytes is not None for example in self.examples)
        loss = sum(own) / count if np.isfinite(losses).all() else math.nan
        by_bytes = right_by_bytes / count if text_known else None
        return ChoiceScores(count, right / count, right_by_tokens / count, by_bytes, loss)


def _rows(context: list[int], ending: list[int], number: int, seq_len: int) -> list[Row]:
    """A window of seq_len tokens and the target after its last one: the end of context and ending. What an ending has
    before the last seq_len targets is scored in windows before that."""
    rows, tokens = [], context + ending
    for end in range(len(tokens), len(context), -seq_len):
        rows.append(Row(tokens[max(0, end - seq_len - 1) : end], min(end - len(context), seq_len), number))
    return rows


def _batch(rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Tokens and targets, (rows, length of the longest)."""
    tokens = np.zeros((len(rows), len(rows[0].tokens) - 1), dtype=np.int64)
    targets = np.full_like(tokens, NO_TARGET)
    for i, row in enumerate(rows):
        length = len(row.tokens) - 1
        tokens[i, :length] = row.tokens[:-1]
        targets[i, length - row.scored : length] = row.tokens[-row.scored :]
    return tokens, targets
