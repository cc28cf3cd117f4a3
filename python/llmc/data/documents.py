"""Several documents in a file: between separator lines, or records with a text field (records.py).

A hash of a document's beginning decides whether it is for training or validation: equal documents are on the same side,
and adding or removing documents does not move others.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from llmc.data import files
from llmc.data.dataset import Piece
from llmc.data.records import has_records, texts
from llmc.errors import DataError

HASHED_BYTES = 1 << 16
Part = tuple[bool, bytes]  # whether it begins a document; a part of at most files.BLOCK_BYTES


@dataclass(frozen=True)
class Reader:
    """How files are divided. separator: a line without its end; field: of JSON lines and Parquet files."""

    separator: bytes | None = None
    field: str | None = None

    def takes_records(self, path: Path) -> bool:
        return self.field is not None and has_records(path)

    def parts(self, path: Path) -> Iterator[Part]:
        if self.field is not None and has_records(path):
            return (
                (number == 0, part) for text in texts(path, self.field) for number, part in enumerate(files.cut(text))
            )
        if self.separator is not None:
            return separated(path, self.separator)
        return ((number == 0, block) for number, block in enumerate(files.blocks(path)))


def separated(path: Path, separator: bytes) -> Iterator[Part]:
    """The documents between the lines that are the separator; blank ones are left out."""
    held, begins, at_line_start = bytearray(), True, True
    with open(path, "rb") as file:
        while line := file.readline(files.BLOCK_BYTES):
            whole = at_line_start and (line.endswith(b"\n") or len(line) < files.BLOCK_BYTES)
            if whole and line.rstrip(b"\r\n") == separator:
                if held.strip():
                    yield begins, bytes(held)
                held, begins = bytearray(), True
            else:
                held += line
                if len(held) >= files.BLOCK_BYTES:
                    cut = files.cut_before(bytes(held))
                    if not begins or held[:cut].strip():
                        yield begins, bytes(held[:cut])
                        begins = False
                    del held[:cut]
            at_line_start = line.endswith(b"\n")
    if held.strip():
        yield begins, bytes(held)


def has_separator(path: Path, separator: bytes) -> bool:
    """Whether a line of the file is the separator."""
    at_line_start = True
    with open(path, "rb") as file:
        while line := file.readline(files.BLOCK_BYTES):
            if at_line_start and line.rstrip(b"\r\n") == separator:
                return True
            at_line_start = line.endswith(b"\n")
    return False


def rank(beginning: bytes) -> int:
    """A number below 2^64 by which documents are divided."""
    return int.from_bytes(hashlib.sha256(beginning[:HASHED_BYTES]).digest()[:8], "little")


def all_parts(paths: Iterable[Path], reader: Reader) -> Iterator[Part]:
    for path in paths:
        yield from reader.parts(path)


def split_documents(
    paths: list[Path], reader: Reader, val_fraction: float
) -> tuple[int, Callable[[], Iterator[Piece]]]:
    """Reads everything once: DataError for what cannot be read, before anything is written. Returns the number of
    documents, and a function that reads them again, about val_fraction of them for validation. With val_fraction above
    0, each side gets at least one; DataError if all documents are equal."""
    count, lowest, highest = 0, 1 << 64, -1
    for begins, text in all_parts(paths, reader):
        if begins:
            count += 1
            lowest, highest = min(lowest, rank(text)), max(highest, rank(text))
    limit = round(val_fraction * (1 << 64))
    if val_fraction > 0 and count:
        if lowest == highest:
            raise DataError(
                f"{paths[0]}: a single document cannot be for training and for validation: give more documents, or "
                "--val-fraction 0"
            )
        limit = min(max(limit, lowest + 1), highest)

    def pieces() -> Iterator[Piece]:
        split = "train"
        for begins, text in all_parts(paths, reader):
            if begins:
                split = "val" if rank(text) < limit else "train"
            yield Piece(split, text, begins)

    return count, pieces


def check_separator(paths: Iterable[Path], separator: bytes) -> None:
    """DataError if no line of any file is the separator."""
    paths = list(paths)
    if any(has_separator(path, separator) for path in paths):
        return
    text = separator.decode("utf-8", "replace")
    where = str(paths[0]) if len(paths) == 1 else f"the {len(paths)} files"
    raise DataError(f"no line of {where} is '{text}': give --separator a line that stands between documents")
