"""Text from a model, token by token (doc/formats.md has the random numbers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmc.bpe_table import read_table
from llmc.config import Config
from llmc.errors import DataError, Error, ExitCode
from llmc.random import SAMPLING, draw, uniform
from llmc.tokenizer import TextTokenizer, to_bytes


class NotFinite(Error):
    """Logits that are not finite have no likeliest token."""

    code = ExitCode.DIVERGED


def open_tokenizer(kind: str, table: Path | None = None) -> TextTokenizer:
    """kind: byte or gpt2. table: GPT-2's vocabulary beside the data or the weights; None: that of tiktoken, from its
    cache folder or the network. DataError without tiktoken or its table."""
    if kind == "byte":
        return TextTokenizer()
    if table:
        return TextTokenizer(read_table(table).encoding())
    from llmc.data.tokenizers import load_gpt2  # imported here: needs other packages

    return TextTokenizer(load_gpt2())


@dataclass(frozen=True)
class Choice:
    """How a token is chosen from logits. Applied in this order, that of transformers."""

    repetition_penalty: float = 1
    """of tokens in the context (Keskar et al., CTRL): positive logits are divided by it, negative ones multiplied"""
    temperature: float = 0.8
    """probabilities are softmax(logits / temperature); 0: the likeliest token"""
    top_k: int = 0
    """only the top_k likeliest; 0: all"""
    top_p: float = 1
    """only the fewest likeliest whose probabilities, with those of top_k adding up to 1, reach top_p; 1: all"""

    @classmethod
    def of(cls, config: Config) -> Choice:
        return cls(config.repetition_penalty, config.temperature, config.top_k, config.top_p)


def candidates(
    logits: NDArray[np.float32], context: Sequence[int], choice: Choice
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tokens that may be chosen after `context`, and weights that are proportional to their probabilities: by token
    id, or from the likeliest on if top_k or top_p leave some out. Of equal ones the lower id comes first. NotFinite for
    a logit that is not."""
    x = logits.astype(np.float64)
    if choice.repetition_penalty != 1:
        seen = np.unique(np.asarray(context, np.int64))
        x[seen] = np.where(x[seen] > 0, x[seen] / choice.repetition_penalty, x[seen] * choice.repetition_penalty)
    if not np.isfinite(x).all():
        raise NotFinite("the model's logits are not finite")
    if choice.temperature == 0:
        return np.array([x.argmax()]), np.ones(1)
    fewer = 0 < choice.top_k < len(x)
    tokens = np.argsort(-x, kind="stable") if fewer or choice.top_p < 1 else np.arange(len(x))
    if fewer:
        tokens = tokens[: choice.top_k]
    weights = np.exp((x[tokens] - x.max()) / choice.temperature)
    if choice.top_p < 1:
        count = _reaching(weights, choice.top_p) + 1
        tokens, weights = tokens[:count], weights[:count]
    return tokens, weights


def _reaching(weights: NDArray[np.float64], part: float) -> int:
    """The index at which the sum of the weights reaches `part` of the whole."""
    sums = np.cumsum(weights)
    return min(int(np.searchsorted(sums, part * sums[-1])), len(sums) - 1)


def choose_token(logits: NDArray[np.float32], context: Sequence[int], choice: Choice, u: float) -> int:
    """The candidate at which the cumulative probability reaches u, in (0, 1)."""
    tokens, weights = candidates(logits, context, choice)
    return int(tokens[_reaching(weights, u)])


def generate(
    next_logits: Callable[[Sequence[int]], NDArray[np.float32]],
    tokenizer: TextTokenizer,
    vocab_size: int,
    config: Config,
    stream: int = 0,
    number: int = 0,
    go_on: Callable[[int], bool] = lambda done: True,
) -> str | None:
    """The continuation of config.prompt; bytes that are not UTF-8 become U+FFFD.

    next_logits     the tokens so far -> (V,) logits of the next one
    stream          the training step; number: of this sample among several of the prompt
    go_on           called before each token with the number of those generated; None is returned if it says no
    """
    tokens = [tokenizer.end, *tokenizer.encode(config.prompt)]  # in training, documents start after this token
    if max(tokens) >= vocab_size:
        raise DataError(
            f"the tokenizer's token {max(tokens)} is beyond the model's vocabulary of {vocab_size}: give the right "
            "--tokenizer"
        )
    choice, stop, text = Choice.of(config), to_bytes(config.stop), b""
    for done in range(config.sample_tokens):
        if not go_on(done):
            return None
        u = uniform(draw(config.seed, SAMPLING, stream, (number << 32) + len(tokens))[0])
        token = choose_token(next_logits(tokens), tokens, choice, u)
        if token == tokenizer.end:
            break
        tokens.append(token)
        begin = max(0, len(text) - len(stop))  # what is before has no occurrence, so a new one ends in this token
        text += tokenizer.decode([token])
        if stop and (at := text.find(stop, begin)) >= 0:
            text = text[:at]
            break
    return text.decode(errors="replace")
