"""From pieces of text to a data set.

A data set is a folder with NAME_train_000001.bin, ..., NAME_val_000001.bin, ... (token shards, doc/formats.md),
NAME.json (its source and options) and, with the gpt2 tokenizer, tokenizer.bin. Its SHA-256 is that of the text of all
pieces in the order in which they were read, training and validation together.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmc.atomic import locked, write_atomically
from llmc.data.shards import HEADER_BYTES, ShardWriter
from llmc.data.tokenizers import Gpt2Tokenizer, Tokenizer, make_tokenizer, write_tokenizer_bin
from llmc.errors import DataError
from llmc.wording import plural

Json = dict[str, Any]
BATCH_BYTES = 4 << 20  # of text for a process


class Piece(NamedTuple):
    """A document, or a part of one that is too large for memory."""

    split: str  # "train" or "val"
    text: bytes
    starts_document: bool = True


def write_dataset(
    out: Path,
    name: str,
    tokenizer: str | Tokenizer,
    pieces: Callable[[], Iterable[Piece]],
    source: Json,
    *,
    shard_tokens: int,
    val_tokens: int = 0,
    max_tokens: int | None = None,
    workers: int = 1,
    named: bool = False,
    resumable: bool = False,
    extra: dict[str, Json] | None = None,
) -> tuple[Json, bool]:
    """Tokenizes `pieces()` into OUT. Returns the contents of NAME.json and whether the data set existed already.

    tokenizer     a name, or a tokenizer
    source        describes the source and the options that matter; it is part of NAME.json
    val_tokens    the first tokens go to validation, the others to training; the splits of the pieces are not used
    max_tokens    stop after that many
    named         the same `source` means the same text, so the text need not be read to find an existing data set
    resumable     keep complete shards of an interrupted run (for pieces in one sequence)
    extra         more JSON files to write into OUT
    """
    tokenizer_name = tokenizer if isinstance(tokenizer, str) else tokenizer.name
    request = {"tokenizer": tokenizer_name, "shard_tokens": shard_tokens, "source": source}
    extra = extra or {}
    with locked(out):
        manifest_path = out / f"{name}.json"
        manifest = _complete_manifest(out, manifest_path, request, list(extra))
        if manifest and (named or _digests_of(pieces()).equal(manifest)):
            return manifest, True
        replaces = manifest_path.exists()
        stream = pieces()  # first, because it fails if there is no network
        if isinstance(tokenizer, str):
            tokenizer = make_tokenizer(tokenizer)
        resume = request | {"val_tokens": val_tokens, "max_tokens": max_tokens} if resumable else None
        with ShardWriter(out, name, tokenizer, shard_tokens, resume) as writer:
            digests = _write_pieces(writer, stream, val_tokens, max_tokens, workers)
            if not writer.total:
                raise DataError(f"no text for {out}/{name}: the source is empty")
            manifest_path.unlink(missing_ok=True)
            shards = writer.commit(digests.text.digest())
        if replaces:
            print(f"{out}: replaced its data set {name}, whose text or options were others")
        _write_tokenizer(out, tokenizer)
        manifest = request | {
            "name": name,
            **digests.entries(),
            "documents": digests.documents,
            "vocab_size": tokenizer.vocab_size,
            "shards": [asdict(shard) for shard in shards],
        }
        for file, content in extra.items():
            write_atomically(out / file, json.dumps(content, indent=1) + "\n")
        write_atomically(manifest_path, json.dumps(manifest, indent=1) + "\n")
    return manifest, False


def _complete_manifest(out: Path, path: Path, request: Json, extra: list[str]) -> Json | None:
    """NAME.json, if it was made for the same request and all its files exist with their full size."""
    try:
        manifest: Json = json.loads(path.read_text(encoding="utf-8"))
        same = all(manifest[key] == value for key, value in request.items())
        whole = all((out / s["file"]).stat().st_size == HEADER_BYTES + 2 * s["tokens"] for s in manifest["shards"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    beside = extra + (["tokenizer.bin"] if request["tokenizer"] == "gpt2" else [])
    return manifest if same and whole and all((out / file).exists() for file in beside) else None


class _Digests:
    """SHA-256 of the text, and of where documents begin in it and on which side of the split they are."""

    def __init__(self) -> None:
        self.text, self.layout = hashlib.sha256(), hashlib.sha256()
        self.bytes = self.documents = 0

    def add(self, piece: Piece) -> None:
        self.text.update(piece.text)
        if piece.starts_document:
            self.layout.update(f"{self.bytes} {piece.split}\n".encode())
            self.documents += 1
        self.bytes += len(piece.text)

    def entries(self) -> Json:
        return {"sha256": self.text.hexdigest(), "layout_sha256": self.layout.hexdigest()}

    def equal(self, manifest: Json) -> bool:
        return all(manifest.get(key) == value for key, value in self.entries().items())


def _digests_of(pieces: Iterable[Piece]) -> _Digests:
    digests = _Digests()
    for piece in pieces:
        digests.add(piece)
    return digests


def _write_pieces(
    writer: ShardWriter, pieces: Iterable[Piece], val_tokens: int, max_tokens: int | None, workers: int
) -> _Digests:
    digests = _Digests()
    stream = iter(pieces)
    first, skip = writer.position["piece"], writer.position["skip"]
    for piece in islice(stream, first):  # these are in complete shards
        digests.add(piece)
    for number, (piece, tokens) in enumerate(_encode_all(writer.tokenizer, stream, workers), start=first):
        digests.add(piece)
        before, tokens, skip = writer.total - skip, tokens[skip:], 0
        if max_tokens is not None:
            tokens = tokens[: max_tokens - writer.total]
        if val_tokens:
            to_val = max(0, val_tokens - writer.total)
            writer.write("val", tokens[:to_val], number, before)
            writer.write("train", tokens[to_val:], number, before)
        else:
            writer.write(piece.split, tokens, number, before)
        if max_tokens is not None and writer.total >= max_tokens:
            break
    return digests


def _encode(tokenizer: Tokenizer, piece: Piece) -> NDArray[np.uint16]:
    tokens = tokenizer.encode(piece.text)
    if piece.starts_document and tokenizer.eot is not None:
        tokens = np.concatenate([np.array([tokenizer.eot], dtype=np.uint16), tokens])
    return tokens


def _encode_all(
    tokenizer: Tokenizer, pieces: Iterator[Piece], workers: int
) -> Iterator[tuple[Piece, NDArray[np.uint16]]]:
    """Each piece and its tokens, in order. Processes work on batches; only a few batches are in memory at a time."""
    if workers == 1:
        for piece in pieces:
            yield piece, _encode(tokenizer, piece)
        return
    pool = ProcessPoolExecutor(workers, initializer=_start_worker, initargs=(tokenizer.name,))
    try:
        waiting: deque[tuple[list[Piece], Future[list[NDArray[np.uint16]]]]] = deque()
        while True:
            while len(waiting) < 3 * workers and (batch := _next_batch(pieces)):
                waiting.append((batch, pool.submit(_encode_batch, batch)))
            if not waiting:
                return
            batch, future = waiting.popleft()
            yield from zip(batch, future.result(), strict=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _next_batch(pieces: Iterator[Piece]) -> list[Piece]:
    """Up to 128 pieces, or fewer with a few megabytes."""
    batch: list[Piece] = []
    size = 0
    while len(batch) < 128 and size < BATCH_BYTES and (piece := next(pieces, None)):
        batch.append(piece)
        size += len(piece.text)
    return batch


_worker_tokenizer: Tokenizer


def _start_worker(tokenizer_name: str) -> None:
    global _worker_tokenizer
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _worker_tokenizer = make_tokenizer(tokenizer_name)


def _encode_batch(batch: list[Piece]) -> list[NDArray[np.uint16]]:
    return [_encode(_worker_tokenizer, piece) for piece in batch]


def _write_tokenizer(out: Path, tokenizer: Tokenizer) -> None:
    """Writes tokenizer.bin for gpt2 shards, and removes an old one if the folder has no gpt2 shards."""
    path = out / "tokenizer.bin"
    if isinstance(tokenizer, Gpt2Tokenizer):
        temporary = out / ".tokenizer.bin.tmp"
        write_tokenizer_bin(tokenizer, temporary)
        temporary.replace(path)
    elif path.exists() and not any(
        '"tokenizer": "gpt2"' in file.read_text(errors="replace") for file in out.glob("*.json")
    ):
        path.unlink()


def report(out: Path, manifest: Json, there_already: bool, about: str = "") -> None:
    """Prints the last lines of a data script."""
    name, shards = manifest["name"], manifest["shards"]
    if there_already:
        print(f"{out}: already there, made from the same text (nothing written)")
    tokenizer = {"unknown": "own symbols"}.get(manifest["tokenizer"], manifest["tokenizer"])
    print(about or name)
    print(f"tokenizer {tokenizer}, vocabulary {manifest['vocab_size']:,}; SHA-256 of the text {manifest['sha256']}")
    flags = []
    for split in ("train", "val"):
        mine = [shard for shard in shards if shard["split"] == split]
        if mine:
            files = mine[0]["file"] if len(mine) == 1 else f"{name}_{split}_*.bin ({plural(len(mine), 'shard')})"
            text_bytes = sum(shard["bytes"] for shard in mine)
            print(
                f"{split:<5} {sum(shard['tokens'] for shard in mine):>15,} tokens"
                + (f"{text_bytes:>17,} bytes" if text_bytes else "")
                + f"  {out / files}"
            )
            flags.append(f"--{split}-data {shlex.quote(f'{out}/{name}_{split}_*.bin')}")
    print("train with:", *flags)
