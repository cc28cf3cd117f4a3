"""A data set as windows of tokens, in the order of doc/formats.md: the position in the data is one number."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmc.data.shard_paths import Patterns, find_shards
from llmc.data.shards import content_sha256, read_shard, same_tokens
from llmc.errors import DataError
from llmc.random import SHARD_ORDER, WINDOW_ORDER, random_order
from llmc.wording import plural

TOKENIZERS = {1: "byte", 2: "gpt2"}


class Segment(NamedTuple):
    """`rows` windows of `length` tokens and their targets, the first from token `begin` of a shard on, each next one
    `stride` tokens later. The first `overlap` targets of a window are those of the window before it, so they do not
    count, except in a shard's first window."""

    shard: int
    begin: int
    rows: int
    length: int
    stride: int
    overlap: int

    @property
    def uncounted(self) -> int:
        """Leading targets of the first row that do not count; of the other rows, `overlap`."""
        return self.overlap if self.begin else 0

    @property
    def targets(self) -> int:
        """The targets that count."""
        return self.rows * (self.length - self.overlap) + self.overlap - self.uncounted


class Dataset:
    """All shards that the patterns name, each once, sorted by path, as windows of seq_len tokens and their successors.

    patterns    files, folders or patterns: the value of the option `option`, which error messages name
    shuffle     visit shards and windows in an order that depends on the seed and the epoch
    """

    def __init__(
        self,
        patterns: Patterns,
        seq_len: int,
        option: str = "--train-data",
        seed: int = 0,
        shuffle: bool = True,
    ) -> None:
        self.seq_len, self.seed, self.shuffle = seq_len, seed, shuffle
        self.paths, self.notes = find_shards(patterns, option)  # notes: what was taken of folders
        self.shards = [read_shard(Path(path)) for path in self.paths]
        first = self.shards[0]
        for path, shard in zip(self.paths, self.shards, strict=True):
            if len(shard.tokens) < 2:
                raise DataError(
                    f"{path} holds {plural(len(shard.tokens), 'token')}: too few for an input and its target"
                )
            if (shard.vocab_size, shard.tokenizer) != (first.vocab_size, first.tokenizer):
                raise DataError(f"{option}: {path} was made with another tokenizer or vocabulary than {self.paths[0]}")
        self.vocab_size = first.vocab_size  # 0: unknown
        self.tokenizer = TOKENIZERS.get(first.tokenizer, "unknown")
        self.sha256 = first.sha256 if first.sha256.strip("0") else ""  # of the source text; "": unknown
        self.tokens = sum(len(shard.tokens) for shard in self.shards)
        sizes = [shard.bytes for shard in self.shards]
        self.tokens_per_byte = self.tokens / sum(sizes) if all(sizes) else None
        self.windows_of = [(len(shard.tokens) - 1) // seq_len for shard in self.shards]
        self.windows = sum(self.windows_of)
        if not self.windows:
            files = f"'{self.paths[0]}'" + (", ..." if len(self.paths) > 1 else "")
            raise DataError(
                f"{option} {files} holds {plural(self.tokens, 'token')}, fewer than one sequence of {seq_len} and its "
                "target: shorten --seq-len or use more text"
            )
        self.shard_order = lru_cache(2)(self._shard_order)
        self.window_order = lru_cache(2)(self._window_order)

    @cached_property
    def content(self) -> list[str]:
        """The hash of each shard's content."""
        return [content_sha256(Path(path)) for path in self.paths]

    def _shard_order(self, epoch: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Shards in the order of the epoch, and the sample of the epoch at which each begins."""
        count = len(self.shards)
        order = random_order(count, self.seed, SHARD_ORDER, epoch) if self.shuffle else np.arange(count)
        return order, np.concatenate(([0], np.cumsum(np.array(self.windows_of)[order])))

    def _window_order(self, epoch: int, shard: int) -> NDArray[np.int64]:
        return random_order(self.windows_of[shard], self.seed, WINDOW_ORDER, epoch * 65536 + shard)

    def locate(self, sample: int) -> tuple[int, int]:
        """(shard, window) of sample number 0, 1, 2, ..."""
        epoch, within = divmod(sample, self.windows)
        order, begins = self.shard_order(epoch)
        visit = int(np.searchsorted(begins, within, side="right")) - 1
        shard, window = int(order[visit]), within - int(begins[visit])
        return shard, int(self.window_order(epoch, shard)[window]) if self.shuffle else window

    def first_targets(self, count: int, rows: int, stride: int) -> list[Segment]:
        """The first `count` targets in file order, 0: all (every token but the first of a shard is one), as segments of
        at most `rows` windows, `stride` tokens apart (at most seq_len). What does not fill a window is a segment of one
        shorter row, so that the same targets count for every number of rows, length of a window, and stride."""
        return self._segments([len(shard.tokens) - 1 for shard in self.shards], count, rows, stride)

    def first_windows(self, count: int, rows: int) -> list[Segment]:
        """The first `count` whole windows in file order, 0: all."""
        T = self.seq_len
        return self._segments([windows * T for windows in self.windows_of], count * T, rows, T)

    def _segments(self, targets_of: list[int], count: int, rows: int, stride: int) -> list[Segment]:
        segments: list[Segment] = []
        remaining, overlap = count or sum(targets_of), self.seq_len - stride
        for shard, targets in enumerate(targets_of):
            begin, end = 0, min(targets, remaining)
            remaining -= end
            while end and (begin == 0 or begin + overlap < end):
                length = min(end - begin, self.seq_len)
                whole = (end - begin - length) // stride + 1 if length == self.seq_len else 1
                segments.append(Segment(shard, begin, min(whole, rows), length, stride, overlap))
                begin += segments[-1].rows * stride
        return segments

    def read(self, segment: Segment, vocab_size: int) -> NDArray[np.int64]:
        """(rows, length + 1): the tokens of each window and the token after the last."""
        length, stride = segment.length, segment.stride
        tokens = self._checked(segment.shard, segment.begin, (segment.rows - 1) * stride + length + 1, vocab_size)
        return np.stack([tokens[row * stride : row * stride + length + 1] for row in range(segment.rows)])

    def _checked(self, shard: int, begin: int, count: int, vocab_size: int) -> NDArray[np.int64]:
        """Tokens of a shard. DataError for one that is not below vocab_size."""
        tokens = self.shards[shard].tokens[begin : begin + count].astype(np.int64)
        if tokens.max() >= vocab_size:
            raise DataError(
                f"{self.paths[shard]}: a token in window {begin // self.seq_len} is {tokens.max()}, but the "
                f"vocabulary's size is {vocab_size}: give the --vocab-size that the shard was made with"
            )
        return tokens

    def rows(self, samples: range, vocab_size: int) -> NDArray[np.int64]:
        """(len(samples), seq_len + 1): the tokens of each sample and the token after the last."""
        rows = np.empty((len(samples), self.seq_len + 1), dtype=np.int64)
        for row, sample in zip(rows, samples, strict=True):
            shard, window = self.locate(sample)
            row[:] = self._checked(shard, window * self.seq_len, self.seq_len + 1, vocab_size)
        return rows


def shared_shards(train: Dataset, val: Dataset) -> list[tuple[str, str]]:
    """Validation shards with the tokens of a training shard: the paths of both."""
    shared = []
    for path, shard in zip(val.paths, val.shards, strict=True):
        for other_path, other in zip(train.paths, train.shards, strict=True):
            if path == other_path or same_tokens(shard, other):
                shared.append((path, other_path))
                break
    return shared
