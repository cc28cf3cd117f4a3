"""Tools for the tests of llmc.data: text, and token shards read back."""

from __future__ import annotations

import random
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from script_tools import ROOT
from shards import write_shard

from llmc.bpe_table import BpeTable
from llmc.data.dataset import Piece
from llmc.data.shards import read_shard
from llmc.data.windows import Dataset

SHARED = ROOT.parent / "shared" / "data"
WORDS = ["the", "a", "cat", "sees", "dog", "on", "under", "green", "tree", "and", "sleeps", "été", "naïve", "日本"]


def some_text(seed: int, words: int = 200) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + rng.choice(["  ", " ", "\n", ". "]) for _ in range(words))


def characters() -> dict[int, str]:
    """GPT-2's alphabet of bytes, written down as its code has it, not as the package does: printable bytes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(others)}


def write_gpt2_table(folder: Path) -> Path:
    """tokenizer.bin with GPT-2's vocabulary. Skips the test where it is not there."""
    source = SHARED / "gpt2.tiktoken"
    if not source.exists():
        pytest.skip("../shared/data/gpt2.tiktoken is not there")
    tiktoken = pytest.importorskip("tiktoken.load")
    ranks = tiktoken.load_tiktoken_bpe(str(shutil.copy(source, folder)))
    BpeTable([*sorted(ranks, key=ranks.get), b"<|endoftext|>"], 50256).save(folder / "tokenizer.bin")
    return folder / "tokenizer.bin"


def decode_bytes(tokens) -> bytes:
    """The text of byte tokens, without end-of-document tokens."""
    return bytes(token for token in tokens.tolist() if token != 256)


def tokens_of(out: Path, name: str, split: str) -> np.ndarray:
    return np.concatenate([read_shard(path).tokens for path in sorted(out.glob(f"{name}_{split}_*.bin"))])


def pieces(*documents: str, split: str = "train"):
    return lambda: [Piece(split, document.encode()) for document in documents]


def windows_of(folder: Path, tokens: int, length: int, stride: int) -> list[tuple[int, int]]:
    """[(context of the first target that counts, targets that count), ...] of the windows of a shard."""
    path = write_shard(folder / "shard.bin", np.zeros(tokens, np.uint16))
    return [(s.uncounted + 1, s.targets) for s in Dataset(str(path), length).first_targets(0, 1, stride)]


def documents_of(tokens) -> list[str]:
    starts = [*np.nonzero(tokens == 256)[0].tolist(), len(tokens)]
    assert starts[0] == 0
    return [decode_bytes(tokens[a:b]).decode() for a, b in pairwise(starts)]
