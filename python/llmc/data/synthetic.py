"""Symbols from a random source whose entropy is known: the loss that no model can beat, for tests.

Source: a first-order Markov chain over --vocab-size symbols. Each symbol has --successors possible successors (a symbol
drawn twice counts once), with probabilities that are multiples of 1/256, so the entropy rate is exact. All is drawn
from --seed. Licence: none needed. Format: token shards (doc/formats.md) in data/synthetic, tokenizer 0, without
documents; entropy.json in the same folder has nats/token of the chain, and of single symbols (the loss of a model
without context).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.options import count, options
from llmc.data.tokenizers import SymbolTokenizer
from llmc.errors import ExitCode

BLOCK_TOKENS = 1 << 20


@dataclass
class Chain:
    table: np.ndarray  # (V, 256): the next symbol, for each value of a random byte
    stationary: np.ndarray  # (V,)

    @property
    def nats_per_token(self) -> float:
        """sum over s of stationary(s) * entropy of the successors of s"""
        rows = [np.unique(row, return_counts=True)[1] / 256 for row in self.table]
        return math.fsum(p * -float((q * np.log(q)).sum()) for p, q in zip(self.stationary, rows, strict=True))

    @property
    def unigram_nats_per_token(self) -> float:
        p = self.stationary[self.stationary > 0]
        return -float((p * np.log(p)).sum())


def make_chain(vocab_size: int, successors: int, random: np.random.RandomState) -> Chain:
    """The first successor of each symbol is the next one on a cycle of all symbols, so every symbol is reached."""
    targets = random.randint(0, vocab_size, size=(vocab_size, successors))
    cycle = random.permutation(vocab_size)
    targets[cycle, 0] = np.roll(cycle, -1)
    cuts = [np.sort(random.permutation(255)[: successors - 1]) + 1 for _ in range(vocab_size)]
    counts = np.diff(np.array([[0, *row, 256] for row in cuts]), axis=1)  # at least 1 each, 256 together
    table = np.array([np.repeat(t, c) for t, c in zip(targets, counts, strict=True)], dtype=np.uint16)
    p = np.full(vocab_size, 1 / vocab_size)
    for _ in range(100_000):  # p = p P, damped so that a periodic chain converges too
        q = (p + np.bincount(targets.ravel(), weights=(p[:, None] * counts / 256).ravel(), minlength=vocab_size)) / 2
        done = np.abs(q - p).max() <= 1e-17
        p = q
        if done:
            break
    return Chain(table, p / p.sum())


def symbols(chain: Chain, tokens: int, random: np.random.RandomState) -> Iterator[np.ndarray]:
    """A sequence of the chain, in blocks; its first symbol is drawn from the stationary distribution."""
    rows = chain.table.tolist()
    state = min(int(np.searchsorted(np.cumsum(chain.stationary), random.random_sample())), len(rows) - 1)
    for start in range(0, tokens, BLOCK_TOKENS):
        block = []
        for byte in random.randint(0, 256, size=min(BLOCK_TOKENS, tokens - start)).tolist():
            block.append(state)
            state = rows[state][byte]
        yield np.array(block, dtype="<u2")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "synthetic", prog, tokenizer=None)
    parser.add_argument("--vocab-size", type=count(2, 65_536), default=64, metavar="SYMBOLS", help="[%(default)s]")
    parser.add_argument("--successors", type=count(1, 256), default=8, help="of each symbol [%(default)s]")
    parser.add_argument("--tokens", type=count(1, 10**11), default=1_000_000, help="for training [%(default)s]")
    parser.add_argument(
        "--val-tokens",
        type=count(1, 10**9),
        default=65_536,
        metavar="TOKENS",
        help="for validation; the first ones of the sequence [%(default)s]",
    )
    parser.add_argument("--seed", type=count(0, 2**32 - 1), default=0, help="[%(default)s]")
    args = parser.parse_args(argv)
    random = np.random.RandomState(args.seed)  # the NumPy generator whose numbers never change
    chain = make_chain(args.vocab_size, args.successors, random)
    source = {
        "corpus": "Markov chain",
        "vocab_size": args.vocab_size,
        "successors": args.successors,
        "tokens": args.tokens,
        "val_tokens": args.val_tokens,
        "seed": args.seed,
    }
    entropy = chain.nats_per_token
    facts = {
        "nats_per_token": entropy,
        "bits_per_token": entropy / math.log(2),
        "unigram_nats_per_token": chain.unigram_nats_per_token,
    } | source
    manifest, there = write_dataset(
        args.out,
        "synthetic",
        SymbolTokenizer(args.vocab_size),
        lambda: (Piece("train", b.tobytes()) for b in symbols(chain, args.val_tokens + args.tokens, random)),
        source,
        shard_tokens=args.shard_tokens,
        val_tokens=args.val_tokens,
        named=True,
        extra={"entropy.json": facts},
    )
    report(
        args.out,
        manifest,
        there,
        f"Markov chain over {args.vocab_size:,} symbols, seed {args.seed}: entropy "
        f"{entropy:.6f} nats/token (of single symbols {chain.unigram_nats_per_token:.6f})",
    )
    return ExitCode.DONE
