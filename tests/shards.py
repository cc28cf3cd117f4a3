"""Token shards for tests, written according to doc/formats.md."""

import hashlib
from pathlib import Path

import numpy as np

TOKENIZERS = {"unknown": 0, "byte": 1, "gpt2": 2}


def write_shard(path, tokens, vocab_size=257, tokenizer="byte", source_bytes=None, version=None):
    """Writes one shard, returns its path. source_bytes: the text (its length and SHA-256 are stored), or its length."""
    tokens = np.asarray(tokens)
    version = version or (1 if vocab_size <= 65536 else 2)
    header = np.zeros(256, dtype="<i4")
    header[:5] = 20240520, version, len(tokens), vocab_size, TOKENIZERS[tokenizer]
    length = len(source_bytes) if isinstance(source_bytes, bytes) else source_bytes or 0
    header[5:7] = np.array([length & 0xFFFFFFFF, length >> 32], dtype="<u4").view("<i4")
    if isinstance(source_bytes, bytes):
        header[8:16] = np.frombuffer(hashlib.sha256(source_bytes).digest(), dtype="<i4")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header.tobytes() + tokens.astype("<u2" if version == 1 else "<u4").tobytes())
    return path


def write_text_shards(folder, text, shards=2, prefix="text"):
    """Byte-tokenized text, split evenly: each shard one document. Returns the glob pattern."""
    data = text.encode() if isinstance(text, str) else text
    step = -(-len(data) // shards)
    for i in range(shards):
        part = data[i * step : (i + 1) * step]
        write_shard(Path(folder) / f"{prefix}_{i:03d}.bin", [256, *part], 257, "byte", len(part))
    return str(Path(folder) / f"{prefix}_*.bin")


def random_text(count, seed=0):
    """Text that can be learned: words of a small vocabulary, some more frequent than others."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghij"), size=rng.integers(2, 7))) for _ in range(50)]
    weights = 1 / np.arange(1, 51)
    return " ".join(rng.choice(words, size=count // 3, p=weights / weights.sum()))[:count]
