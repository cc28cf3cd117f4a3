"""What the tests of llmc.data share: text, token shards read back, and the scripts run as a user does."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from llmc.data.dataset import Piece
from llmc.data.shards import read_shard

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "dev" / "data"
SHARED = ROOT.parent / "shared" / "data"
WORDS = ["the", "a", "cat", "sees", "dog", "on", "under", "green", "tree", "and", "sleeps", "été", "naïve", "日本"]


def some_text(seed: int, words: int = 200) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + rng.choice(["  ", " ", "\n", ". "]) for _ in range(words))


def decode_bytes(tokens) -> bytes:
    """The text of byte tokens, without the ends of documents."""
    return bytes(token for token in tokens.tolist() if token != 256)


def tokens_of(out: Path, name: str, split: str) -> np.ndarray:
    return np.concatenate([read_shard(path).tokens for path in sorted(out.glob(f"{name}_{split}_*.bin"))])


def pieces(*documents: str, split: str = "train"):
    return lambda: [Piece(split, document.encode()) for document in documents]


def run_script(name: str, *arguments, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


def documents_of(tokens) -> list[str]:
    starts = [*np.nonzero(tokens == 256)[0].tolist(), len(tokens)]
    assert starts[0] == 0
    return [decode_bytes(tokens[a:b]).decode() for a, b in pairwise(starts)]
