"""Documents from files with a text field: JSON lines, plain or compressed, and Parquet. One record is in memory at a
time, or one batch of a Parquet file."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from llmc.errors import DataError

LINES = (".jsonl", ".ndjson", ".json")
COMPRESSED = (".gz", ".zst")
LONGEST_LINE = 256 << 20
BATCH_ROWS = 256  # of a Parquet file


def has_records(path: Path) -> bool:
    """By the end of its name: .jsonl, .ndjson, .json, also with .gz or .zst; .parquet."""
    name = path.name.lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name.endswith(LINES) or path.name.lower().endswith(".parquet")


def texts(path: Path, field: str) -> Iterator[bytes]:
    """The field of every record as UTF-8; empty texts and nulls are left out. DataError with the number of the line or
    row for a record without it."""
    rows = _parquet_rows(path, field) if path.name.lower().endswith(".parquet") else _json_rows(path, field)
    for where, value in rows:
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise DataError(f"{where}: '{field}' holds {type(value).__name__}, not text: name another field")
        try:
            yield value.encode("utf-8")
        except UnicodeEncodeError:  # half of a surrogate pair, as "\ud83d"
            raise DataError(f"{where}: '{field}' is not Unicode text: half of a surrogate pair") from None


def import_pyarrow(module: str) -> Any:
    """A module of pyarrow. DataError if the package is not installed."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError:
        kind = "parquet" if module.endswith("parquet") else ".zst"
        raise DataError(f"{kind} files need the package pyarrow: pip install pyarrow") from None


def _json_rows(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    number = 0
    try:
        with _open(path) as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                if line.strip():
                    where = f"{path}, line {number}"
                    yield where, _value(line, field, where, first=number == 1)
    except (OSError, EOFError, zlib.error) as error:  # ArrowException is none of these; its IO errors are OSErrors
        raise DataError(f"{path}: cannot be read after line {number} ({error}): make or download it again") from None


def _value(line: bytes, field: str, where: str, first: bool) -> Any:
    if len(line) > LONGEST_LINE:
        raise DataError(f"{where}: longer than {LONGEST_LINE:,} bytes: give JSON lines, one record a line")
    try:
        record = json.loads(line.strip().decode("utf-8-sig" if first else "utf-8"))
    except UnicodeDecodeError:
        raise DataError(f"{where}: not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON ({error}): give JSON lines, one record a line") from None
    if not isinstance(record, dict):
        raise DataError(f"{where}: {type(record).__name__}, not an object with a field '{field}'")
    if field not in record:
        raise DataError(f"{where}: no field '{field}': it has {_some(list(record))}")
    return record[field]


def _open(path: Path) -> IO[bytes]:
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if suffix == ".zst":
        import io

        stream: IO[bytes] = io.BufferedReader(import_pyarrow("pyarrow").CompressedInputStream(str(path), "zstd"))
        return stream
    return open(path, "rb")


def _parquet_rows(path: Path, field: str) -> Iterator[tuple[str, Any]]:
    parquet = import_pyarrow("pyarrow.parquet")
    row = 0
    try:
        with parquet.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise DataError(f"{path}: no column '{field}': it has {_some(names)}")
            for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield f"{path}, row {row}", value
    except (ValueError, OSError) as error:  # ArrowInvalid is a ValueError; UnicodeDecodeError too
        raise DataError(
            f"{path}: cannot be read as Parquet after row {row} ({error}): make or download it again"
        ) from None


def _some(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names[:8]) + (", ..." if len(names) > 8 else "") if names else "none"
