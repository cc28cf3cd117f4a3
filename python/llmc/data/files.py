"""Text files of any size: checks, reading in blocks, and the split into training and validation."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmc.data.dataset import Piece

BLOCK_BYTES = 4 << 20
END_OF_TEXT = re.compile(rb"^<\|endoftext\|>\r?$", re.MULTILINE)  # a line, usual in files with many documents


class Scan(NamedTuple):
    problem: str  # why the file is not usable; "": it is
    sha256: str = ""
    marked: bool = False  # has END_OF_TEXT


def scan(path: Path) -> Scan:
    """Reads a text file."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    sha256 = hashlib.sha256()
    size, marked = 0, False
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                if b"\0" in block:
                    return Scan("binary")
                decoder.decode(block)
                marked = marked or END_OF_TEXT.search(block) is not None
                sha256.update(block)
                size += len(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return Scan("not UTF-8")
    except OSError:
        return Scan("unreadable")
    return Scan("", sha256.hexdigest(), marked) if size else Scan("empty")


def sha256_of(path: Path) -> Scan:
    """As scan, of a file of any kind."""
    sha256 = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(BLOCK_BYTES):
                sha256.update(block)
        return Scan("", sha256.hexdigest()) if path.stat().st_size else Scan("empty")
    except OSError:
        return Scan("unreadable")


def cut_before(data: bytes) -> int:
    """Where `data`, which continues, can be cut: after its last line, or at least between characters. Never 0."""
    newline = data.rfind(b"\n") + 1
    if newline:
        return newline
    end = len(data)
    for back in range(1, min(4, end)):  # a character has at most 4 bytes; its first one is not 10xxxxxx
        if data[end - back] & 0xC0 != 0x80:
            return end - back
    return end


def cut(text: bytes) -> Iterator[bytes]:
    """A text in memory in blocks of a few megabytes, cut between lines if possible."""
    while len(text) > BLOCK_BYTES:
        end = cut_before(text[:BLOCK_BYTES])
        yield text[:end]
        text = text[end:]
    yield text


def blocks(path: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """The bytes from start to end in blocks of a few megabytes, cut between lines if possible."""
    end = path.stat().st_size if end is None else end
    with open(path, "rb") as file:
        while start < end:
            file.seek(start)
            data = file.read(min(BLOCK_BYTES, end - start))
            if not data:
                return
            if start + len(data) < end:
                data = data[: cut_before(data)]
            start += len(data)
            yield data


def pieces_of(path: Path, split: str, start: int = 0, end: int | None = None) -> Iterator[Piece]:
    """A file, or a part of it, as one document."""
    for number, block in enumerate(blocks(path, start, end)):
        yield Piece(split, block, starts_document=number == 0)


def tail_start(path: Path, val_fraction: float) -> int:
    """Where the last val_fraction of a file begins, moved to the next line, or to the next character."""
    size = path.stat().st_size
    start = size - round(size * val_fraction)
    with open(path, "rb") as file:
        file.seek(start)
        ahead = file.read(1 << 16)
    newline = ahead.find(b"\n") + 1
    if 0 < newline < len(ahead):
        return start + newline
    while ahead and ahead[0] & 0xC0 == 0x80:
        start, ahead = start + 1, ahead[1:]
    return start


def split_by_name(sizes: dict[str, int], val_fraction: float) -> dict[str, str]:
    """The split of each file, "train" or "val". sizes: bytes by name.

    In the order of a hash of their names, files go to validation until it has its share of the bytes; a file with more
    than half of that share stays in training. So adding or removing files changes the split of few others. With few or
    large files, each side gets at least one.
    """
    splits = dict.fromkeys(sizes, "train")
    rank = sorted(sizes, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest())
    target = missing = val_fraction * sum(sizes.values())
    for name in rank:
        if missing > 0 and sizes[name] <= target / 2:
            splits[name] = "val"
            missing -= sizes[name]
    if val_fraction > 0 and len(rank) > 1:
        if "val" not in splits.values():
            splits[min(rank, key=sizes.__getitem__)] = "val"
        elif "train" not in splits.values():
            splits[rank[-1]] = "train"
    return splits
