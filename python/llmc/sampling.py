"""Text from a model, token by token (doc/formats.md has the random numbers)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llmc.bpe_table import read_table
from llmc.config import Config
from llmc.errors import DataError, Error, ExitCode
from llmc.random import SAMPLING, draw, uniform
from llmc.tokenizer import TextTokenizer


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


def choose_token(logits: NDArray[np.float32], temperature: float, top_k: int, u: float) -> int:
    """Index drawn from softmax(logits / temperature) among the top_k largest, by a uniform u. Ties: lower first.
    NotFinite if a logit is not."""
    if not np.isfinite(logits).all():
        raise NotFinite("the model's logits are not finite")
    x = logits.astype(np.float64)
    if temperature == 0:
        return int(np.argmax(x))
    order = np.argsort(-x, kind="stable")[:top_k] if 0 < top_k < len(x) else np.arange(len(x))
    cumulative = np.cumsum(np.exp((x[order] - x.max()) / temperature))
    return int(order[min(np.searchsorted(cumulative, u * cumulative[-1]), len(order) - 1)])


def generate(
    next_logits: Callable[[Sequence[int]], NDArray[np.float32]],
    tokenizer: TextTokenizer,
    vocab_size: int,
    config: Config,
    stream: int = 0,
    go_on: Callable[[int], bool] = lambda done: True,
) -> str | None:
    """The continuation of config.prompt. next_logits: the tokens so far -> (V,) logits of the next one. go_on: called
    before each token with the number of those generated; None is returned if it says no."""
    tokens = [tokenizer.end, *tokenizer.encode(config.prompt)]  # in training, documents start after this token
    begin = len(tokens)
    if max(tokens) >= vocab_size:
        raise DataError(
            f"the tokenizer's token {max(tokens)} is beyond the model's vocabulary of {vocab_size}: give the right "
            "--tokenizer"
        )
    for done in range(config.sample_tokens):
        if not go_on(done):
            return None
        u = uniform(draw(config.seed, SAMPLING, stream, len(tokens))[0])
        token = choose_token(next_logits(tokens), config.temperature, config.top_k, u)
        if token == tokenizer.end:
            break
        tokens.append(token)
    return tokenizer.decode(tokens[begin:])
