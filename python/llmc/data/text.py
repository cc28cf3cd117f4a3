"""Token shards from your own text files, JSON lines and Parquet files.

Source: files and folders (read recursively, without hidden ones): all UTF-8 text files, or those that match --pattern.
Licence: that of your text. Format: token shards (doc/formats.md) in data/text. Several files: each is a document, and a
hash of its name decides whether it is for training or validation. One file: its last part is the validation text.
Several documents in a file: --separator, a line that stands between them, such as '<|endoftext|>'; --field, the text of
each record of .jsonl, .ndjson, .json (JSON lines, also .gz and .zst) and .parquet files. Then a hash of each document
decides.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.documents import Reader, check_separator, split_documents
from llmc.data.files import pieces_of, scan, sha256_of, split_by_name, tail_start
from llmc.data.options import options
from llmc.data.records import has_records
from llmc.errors import DataError, ExitCode
from llmc.wording import plural

NOTES = 5  # number of files named in notes; the others are counted


def find_files(paths: list[Path], patterns: list[str]) -> dict[str, Path]:
    """{name relative to its argument: file}, sorted by name; a file found twice counts once."""
    found: dict[str, Path] = {}
    seen = set()

    def add(name: str, path: Path) -> None:
        real = path.resolve()
        if real in seen or not any(fnmatch(path.name, pattern) for pattern in patterns):
            return
        seen.add(real)
        found[name if name not in found else str(real)] = path

    for argument in paths:
        if not argument.exists():
            raise DataError(f"{argument} does not exist: give files or folders with text")
        if not (argument.is_dir() or argument.is_file()):
            raise DataError(f"{argument} is a pipe or device: text is read more than once, so write it to a file first")
        if not argument.is_dir():
            add(argument.name, argument)
        for folder, subfolders, files in os.walk(argument):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for file in sorted(files):
                path = Path(folder, file)
                if not file.startswith(".") and path.is_file():
                    add(path.relative_to(argument).as_posix(), path)
    return dict(sorted(found.items()))


def usable(files: dict[str, Path], reader: Reader) -> tuple[dict[str, Path], list[str], list[Path]]:
    """The files with text or records, without duplicates; a note about each of the others; those with <|endoftext|>."""
    good: dict[str, Path] = {}
    notes = []
    first: dict[str, str] = {}
    marked = []
    for name, path in files.items():
        problem, sha256, mark = sha256_of(path) if reader.takes_records(path) else scan(path)
        if problem == "binary" and has_records(path):
            problem = "binary: --field takes a text field of its records"
        if not problem and sha256 in first:
            problem = f"same text as {first[sha256]}"
        if problem:
            notes.append(f"{path}: {problem}")
        else:
            first[sha256] = name
            good[name] = path
            marked += [path] if mark else []
    return good, notes, marked


def pieces(files: dict[str, Path], val_fraction: float) -> Iterator[Piece]:
    if len(files) == 1 and val_fraction > 0:
        (path,) = files.values()
        start = tail_start(path, val_fraction)
        if not 0 < start < path.stat().st_size:
            raise DataError(
                f"{path} with {plural(path.stat().st_size, 'byte')} is too short to keep {val_fraction} of it "
                f"for validation: give more text, or --val-fraction 0"
            )
        yield from pieces_of(path, "train", 0, start)
        yield from pieces_of(path, "val", start)
        return
    splits = split_by_name({name: path.stat().st_size for name, path in files.items()}, val_fraction)
    for name, path in files.items():
        yield from pieces_of(path, splits[name])


def documents(files: dict[str, Path], reader: Reader, val_fraction: float) -> tuple[str, Callable[[], Iterator[Piece]]]:
    """What was found, and a function that reads it."""
    taken = plural(len(files), "file")
    if reader.separator is None and not any(map(reader.takes_records, files.values())):
        return taken, lambda: pieces(files, val_fraction)
    if reader.separator is not None:
        check_separator([path for path in files.values() if not reader.takes_records(path)], reader.separator)
    count, read = split_documents(list(files.values()), reader, val_fraction)
    if not count:
        raise DataError(f"no text in {taken}: every document is empty")
    return f"{plural(count, 'document')} in {taken}", read


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "text", prog, val_fraction=0.05, workers=True)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--pattern", default="*", metavar="PATTERNS", help="file names to use, like '*.txt,*.md' [any text]"
    )
    parser.add_argument(
        "--separator",
        metavar="LINE",
        help="line between documents, such as '<|endoftext|>', or with '=': --separator=---; '': blank lines [none]",
    )
    parser.add_argument("--field", metavar="NAME", help="field of JSON lines, column of Parquet files [none]")
    parser.add_argument("--name", default="text", help="beginning of the shards' names [%(default)s]")
    parser.set_defaults(workers=1)
    args = parser.parse_args(argv)
    if not args.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or args.name.startswith("."):
        parser.error(f"argument --name: {args.name!r} is not of letters, digits, '-', '_' and '.'")
    if args.separator is not None and set(args.separator) & {"\n", "\r"}:
        parser.error(f"argument --separator: {args.separator!r} is more than one line")
    reader = Reader(None if args.separator is None else os.fsencode(args.separator), args.field)
    files = find_files(args.paths, args.pattern.split(","))
    where = ", ".join(map(str, args.paths))
    if args.field is not None and not any(map(has_records, files.values())):
        raise DataError(
            f"--field {args.field}: no file of {where} has records: they are in .jsonl, .ndjson, .json (also .gz, "
            ".zst) and .parquet files"
        )
    good, notes, marked = usable(files, reader)
    for note in notes[:NOTES]:
        print(f"left out {note}")
    if len(notes) > NOTES:
        print(f"left out {plural(len(notes) - NOTES, 'more file')}")
    if not good:
        raise DataError(
            f"no text in {where}: {plural(len(files), 'file')} for the pattern {args.pattern!r}, {len(notes)} of them "
            f"empty or not UTF-8 text; give other paths or another --pattern"
        )
    plain = [] if args.field is not None else [name for name in good if has_records(good[name])]
    if plain:
        more = f" and {plural(len(plain) - 1, 'more file')}" if len(plain) > 1 else ""
        print(f"note: {plain[0]}{more}: the lines are taken as they are; --field takes a text field of each")
    if marked and args.separator is None:
        print(f"note: {marked[0]}: <|endoftext|> is taken as text; --separator '<|endoftext|>' divides documents there")
    found, read = documents(good, reader, args.val_fraction)
    source = {"corpus": "files", "val_fraction": args.val_fraction, "files": list(good)}
    given = {name: getattr(args, name) for name in ("separator", "field") if getattr(args, name) is not None}
    manifest, there = write_dataset(
        args.out,
        args.name,
        args.tokenizer,
        read,
        source | given,
        shard_tokens=args.shard_tokens,
        workers=args.workers,
    )
    report(args.out, manifest, there, f"{where}: {found} ({len(notes)} left out)")
    return ExitCode.DONE
