"""Token shards (doc/formats.md): reading, checking, and a writer that leaves either a complete data set or nothing.

The header of a shard is defined only here in Python.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llmc.atomic import write_atomically
from llmc.errors import DataError
from llmc.wording import plural

if TYPE_CHECKING:  # readers of shards, such as train_gpt2.py, do not need the packages of the tokenizers
    from llmc.data.tokenizers import Tokenizer

MAGIC, HEADER_BYTES = 20240520, 1024
MAX_SHARD_TOKENS = 2_000_000_000  # the count in the header is an int32

COMPARED = 1 << 16  # tokens compared at a time
HASHED_BLOCK, HASHED_BLOCKS = 65536, 16  # of a shard's content


@dataclass
class Shard:
    """A shard being written, and its entry in NAME.json."""

    file: str
    split: str  # train or val
    tokens: int = 0
    bytes: int = 0  # of text


class ShardContent(NamedTuple):
    tokens: NDArray[Any]  # uint16 or uint32, mapped
    vocab_size: int  # 0: unknown
    tokenizer: int  # 0 unknown, 1 byte, 2 gpt2
    bytes: int  # of text; 0: unknown
    sha256: str  # of the whole data set's text


# --- One shard ---


def shard_header(
    tokens: int, vocab_size: int, tokenizer: int = 0, text_bytes: int = 0, sha256: bytes = bytes(32), version: int = 1
) -> bytes:
    header = np.zeros(256, dtype="<u4")
    header[:7] = MAGIC, version, tokens, vocab_size, tokenizer, text_bytes & 0xFFFFFFFF, text_bytes >> 32
    header[8:16] = np.frombuffer(sha256, dtype="<u4")
    return header.tobytes()


def write_shard(path: Path, tokens: NDArray[Any], vocab_size: int) -> None:
    """Writes tokens as a shard without its text's size and hash: for benchmarks."""
    version, dtype = (1, "<u2") if vocab_size <= 65_536 else (2, "<u4")
    path.write_bytes(shard_header(len(tokens), vocab_size, version=version) + tokens.astype(dtype).tobytes())


def read_shard(path: Path) -> ShardContent:
    """Reads and checks a shard; the tokens are mapped, not loaded."""
    try:
        size = os.path.getsize(path)
        if size < HEADER_BYTES:
            raise DataError(
                f"{path} is not a token shard: {plural(size, 'byte')}, but the header alone has {HEADER_BYTES:,}"
            )
        header = np.fromfile(path, dtype="<u4", count=256)
    except OSError as error:
        raise DataError(f"cannot open the token shard {path}: {error.strerror}") from None
    if header[0] != MAGIC:
        raise DataError(
            f"{path} is not a token shard: its magic number is {header[0]}, not {MAGIC}; make one with dev/data/text.py"
        )
    if header[1] not in (1, 2):
        raise DataError(f"{path} has shard version {header[1]}; this program reads 1 (uint16) and 2 (uint32)")
    dtype = np.dtype("<u2" if header[1] == 1 else "<u4")
    count = int(header[2])
    needed = HEADER_BYTES + dtype.itemsize * count
    if size != needed:
        raise DataError(
            f"{path} is truncated or damaged: with {plural(count, 'token')} it should have {plural(needed, 'byte')}, "
            f"it has {size:,}; make it again"
        )
    tokens = np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES) if count else np.zeros(0, dtype)
    text_bytes = int(header[5]) | int(header[6]) << 32
    return ShardContent(tokens, int(header[3]), int(header[4]), text_bytes, header[8:16].tobytes().hex())


def same_tokens(a: ShardContent, b: ShardContent) -> bool:
    """Shards with other tokens usually differ in the first ones."""
    if (len(a.tokens), a.tokens.dtype) != (len(b.tokens), b.tokens.dtype):
        return False
    starts = range(0, len(a.tokens), COMPARED)
    return all(np.array_equal(a.tokens[i : i + COMPARED], b.tokens[i : i + COMPARED]) for i in starts)


def content_sha256(path: Path) -> str:
    """The hash of a shard's content (doc/formats.md, "content"): of the whole file if it is small, otherwise of parts
    of it, because all of a large data set would take minutes to read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= HASHED_BLOCK * HASHED_BLOCKS:
            digest.update(file.read())
        else:
            last = size - HASHED_BLOCK  # where the last block begins
            for block in range(HASHED_BLOCKS):
                file.seek(block * last // (HASHED_BLOCKS - 1))
                digest.update(file.read(HASHED_BLOCK))
    return digest.hexdigest()


# --- A data set ---


class ShardWriter:
    """Appends tokens to NAME_SPLIT_000001.bin, ...000002.bin in the folder OUT/.NAME.partial. `commit` moves them to
    OUT. If the `with` block ends without `commit`, they are removed; a resumable writer keeps its complete shards."""

    def __init__(
        self,
        out: Path,
        name: str,
        tokenizer: Tokenizer,
        shard_tokens: int,
        resume_options: dict[str, Any] | None = None,
    ):
        self.out, self.name, self.tokenizer, self.shard_tokens = out, name, tokenizer, shard_tokens
        self.folder = out / f".{name}.partial"
        self.resume_options = resume_options  # None: not resumable
        self.shards: list[Shard] = []
        self.open: dict[str, tuple[Shard, BinaryIO]] = {}
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
        """Restores the shards that an interrupted run with the same options completed."""
        try:
            progress = json.loads((self.folder / "progress.json").read_text(encoding="utf-8"))
            shards = [Shard(**shard) for shard in progress["shards"]]
            whole = all((self.folder / s.file).stat().st_size == HEADER_BYTES + 2 * s.tokens for s in shards)
        except (OSError, ValueError, KeyError, TypeError):
            return
        if whole and progress["options"] == self.resume_options:
            self.shards, self.position = shards, progress["position"]
            self.total = sum(shard.tokens for shard in shards)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for shard, file in self.open.values():
            file.close()
            (self.folder / shard.file).unlink(missing_ok=True)
        if self.committed or self.resume_options is None or not self.shards:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(
                f"kept in {self.folder}: {plural(len(self.shards), 'complete shard')}; the same command continues there"
            )

    def write(self, split: str, tokens: NDArray[np.uint16], piece: int = 0, before: int = 0) -> None:
        """Appends tokens. For resuming: `piece`, its number in the source, and `before`, the total at its start."""
        while len(tokens):
            if split not in self.open:
                index = 1 + sum(shard.split == split for shard in self.shards)
                shard = Shard(f"{self.name}_{split}_{index:06d}.bin", split)
                new = open(self.folder / shard.file, "wb")  # noqa: SIM115 (open until the shard is full)
                self.open[split] = shard, new
                new.write(bytes(HEADER_BYTES))
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
        file.close()  # fails if the disk is full
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
        """Writes the headers and moves the data set to OUT, where it replaces an older one of the same name."""
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
        """Adds a last shard below 1% of the size to the shard before: it could be too short for a window."""
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
