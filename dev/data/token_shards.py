"""Token shards (doc/formats.md): a streaming writer that leaves whole data sets or nothing, and a reader."""

from __future__ import annotations

import json
import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from errors import DataError

MAGIC, HEADER_BYTES = 20240520, 1024
MAX_SHARD_TOKENS = 2_000_000_000  # the count in the header is an int32


@dataclass
class Shard:
    file: str
    split: str
    tokens: int = 0
    bytes: int = 0


class ShardContent(NamedTuple):
    tokens: np.ndarray
    vocab_size: int
    tokenizer: int
    bytes: int
    sha256: str


def shard_header(tokens: int, vocab_size: int, tokenizer: int, text_bytes: int, sha256: bytes) -> bytes:
    header = np.zeros(256, dtype="<u4")
    header[:7] = MAGIC, 1, tokens, vocab_size, tokenizer, text_bytes & 0xFFFFFFFF, text_bytes >> 32
    header[8:16] = np.frombuffer(sha256, dtype="<u4")
    return header.tobytes()


def read_shard(path: Path) -> ShardContent:
    """Reads and checks a shard; the tokens are mapped, not loaded."""
    size = os.path.getsize(path)
    header = np.fromfile(path, dtype="<u4", count=256)
    if len(header) < 256 or header[0] != MAGIC or header[1] not in (1, 2):
        raise DataError(f"{path} is not a token shard: make it anew with the scripts in dev/data")
    dtype = np.dtype("<u2" if header[1] == 1 else "<u4")
    count = int(header[2])
    if size != HEADER_BYTES + dtype.itemsize * count:
        raise DataError(
            f"{path} has {size:,} bytes and its header says {count:,} tokens of {dtype.itemsize} bytes: "
            f"it is cut off or overwritten, make it anew"
        )
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES) if count else np.zeros(0, dtype)
    text_bytes = int(header[5]) | int(header[6]) << 32
    return ShardContent(tokens, int(header[3]), int(header[4]), text_bytes, header[8:16].tobytes().hex())


@contextmanager
def locked(folder: Path):
    """Two runs that make the same data set take turns, so that the second finds the work done."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def write_atomically(path: Path, content: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        temporary.write_text(content, encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


class ShardWriter:
    """Appends tokens to NAME_SPLIT_000001.bin, ...000002.bin in the folder OUT/.NAME.partial. `commit` moves them to
    OUT; whatever else ends the `with` block removes them, except that a resumable writer keeps its complete shards."""

    def __init__(self, out: Path, name: str, tokenizer, shard_tokens: int, resume_options: dict | None = None):
        self.out, self.name, self.tokenizer, self.shard_tokens = out, name, tokenizer, shard_tokens
        self.folder = out / f".{name}.partial"
        self.resume_options = resume_options  # None: not resumable
        self.shards: list[Shard] = []
        self.open: dict[str, tuple[Shard, object]] = {}
        self.total = 0
        self.position = {"piece": 0, "skip": 0}
        self.committed = False
        if resume_options is not None:
            self._restore()
        known = {shard.file for shard in self.shards} | ({"progress.json"} if self.shards else set())
        self.folder.mkdir(exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in known:
                path.unlink()

    def _restore(self) -> None:
        """Takes up the shards that an interrupted run with the same options completed."""
        try:
            progress = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
            shards = [Shard(**shard) for shard in progress["shards"]]
            whole = all((self.folder / s.file).stat().st_size == HEADER_BYTES + 2 * s.tokens for s in shards)
        except (OSError, ValueError, KeyError, TypeError):
            return
        if whole and progress["options"] == self.resume_options:
            self.shards, self.position = shards, progress["position"]
            self.total = sum(shard.tokens for shard in shards)

    def __enter__(self):
        return self

    def __exit__(self, *_) -> None:
        for shard, file in self.open.values():
            file.close()
            (self.folder / shard.file).unlink(missing_ok=True)
        if self.committed or self.resume_options is None or not self.shards:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"{len(self.shards)} complete shards are kept in {self.folder}; the same command continues there")

    def write(self, split: str, tokens: np.ndarray, piece: int = 0, before: int = 0) -> None:
        """Appends tokens. `piece` is their number in the source and `before` the total when it began, for resuming."""
        while len(tokens):
            if split not in self.open:
                index = 1 + sum(shard.split == split for shard in self.shards)
                shard = Shard(f"{self.name}_{split}_{index:06d}.bin", split)
                file = open(self.folder / shard.file, "wb")  # noqa: SIM115 (open until the shard is full)
                self.open[split] = shard, file
                file.write(bytes(HEADER_BYTES))
            shard, file = self.open[split]
            room = self.shard_tokens - shard.tokens
            part, tokens = tokens[:room], tokens[room:]
            file.write(part.astype("<u2").tobytes())
            shard.tokens += len(part)
            self.total += len(part)
            if self.tokenizer.byte_lengths is not None:
                shard.bytes += int(self.tokenizer.byte_lengths[part].sum())
            if shard.tokens == self.shard_tokens:
                self._complete(split)
                self.position = {"piece": piece, "skip": self.total - before}
                self._save_progress()

    def _complete(self, split: str) -> None:
        shard, file = self.open[split]
        file.close()
        del self.open[split]
        self.shards.append(shard)

    def _save_progress(self) -> None:
        if self.resume_options is not None:
            progress = {
                "options": self.resume_options,
                "position": self.position,
                "shards": [asdict(shard) for shard in self.shards],
            }
            write_atomically(self.folder / "progress.json", json.dumps(progress))

    def commit(self, sha256: bytes) -> list[Shard]:
        """Writes the headers and moves the data set into place, in the stead of an older one of the same name."""
        for split in list(self.open):
            self._complete(split)
            self._join_small_last_shard(split)
        vocab_size, tokenizer = self.tokenizer.vocab_size, self.tokenizer.id
        for shard in self.shards:
            with open(self.folder / shard.file, "r+b") as file:
                file.write(shard_header(shard.tokens, vocab_size, tokenizer, shard.bytes, sha256))
                file.flush()
                os.fsync(file.fileno())
        for split in ("train", "val"):
            for old in self.out.glob(f"{self.name}_{split}_[0-9][0-9][0-9][0-9][0-9][0-9].bin"):
                old.unlink()
        for shard in self.shards:
            (self.folder / shard.file).replace(self.out / shard.file)
        self.committed = True
        return sorted(self.shards, key=lambda shard: shard.file)

    def _join_small_last_shard(self, split: str) -> None:
        """A last shard below a hundredth of the size goes into the one before: it could be too short for any window."""
        mine = [shard for shard in self.shards if shard.split == split]
        if len(mine) < 2 or mine[-1].tokens * 100 >= self.shard_tokens:
            return
        last, path = mine[-1], self.folder / mine[-1].file
        with open(self.folder / mine[-2].file, "ab") as file:
            file.write(path.read_bytes()[HEADER_BYTES:])
        mine[-2].tokens += last.tokens
        mine[-2].bytes += last.bytes
        self.shards.remove(last)
        path.unlink()
