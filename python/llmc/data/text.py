"""Token shards from your own text files.

Source: files and folders (read recursively, without hidden ones): all UTF-8 text files, or those that match --pattern.
Licence: that of your text. Format: token shards (doc/formats.md) in data/text. Several files: each is a document, and a
hash of its name decides whether it is for training or validation. One file: its last part is the validation text.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.files import pieces_of, scan, split_by_name, tail_start
from llmc.data.options import options
from llmc.errors import DataError, ExitCode

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
        if not argument.is_dir():
            add(argument.name, argument)
        for folder, subfolders, files in os.walk(argument):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for file in sorted(files):
                path = Path(folder, file)
                if not file.startswith(".") and path.is_file():
                    add(path.relative_to(argument).as_posix(), path)
    return dict(sorted(found.items()))


def usable(files: dict[str, Path]) -> tuple[dict[str, Path], list[str]]:
    """The files with text, without duplicates, and a note about each of the others."""
    good: dict[str, Path] = {}
    notes = []
    first: dict[str, str] = {}
    for name, path in files.items():
        problem, sha256 = scan(path)
        if not problem and sha256 in first:
            problem = f"same text as {first[sha256]}"
        if problem:
            notes.append(f"{path}: {problem}")
        else:
            first[sha256] = name
            good[name] = path
    return good, notes


def pieces(files: dict[str, Path], val_fraction: float) -> Iterator[Piece]:
    if len(files) == 1 and val_fraction > 0:
        (path,) = files.values()
        start = tail_start(path, val_fraction)
        if not 0 < start < path.stat().st_size:
            raise DataError(
                f"{path} with {path.stat().st_size:,} bytes is too short to keep {val_fraction} of it "
                f"for validation: give more text, or --val-fraction 0"
            )
        yield from pieces_of(path, "train", 0, start)
        yield from pieces_of(path, "val", start)
        return
    splits = split_by_name({name: path.stat().st_size for name, path in files.items()}, val_fraction)
    for name, path in files.items():
        yield from pieces_of(path, splits[name])


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "text", prog, val_fraction=0.05)
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="file or folder")
    parser.add_argument(
        "--pattern", default="*", metavar="PATTERNS", help="file names to use, like '*.txt,*.md' [any text]"
    )
    parser.add_argument("--name", default="text", help="beginning of the shards' names [%(default)s]")
    args = parser.parse_args(argv)
    if not args.name.replace("-", "").replace("_", "").replace(".", "").isalnum() or args.name.startswith("."):
        parser.error(f"argument --name: {args.name!r} is not of letters, digits, '-', '_' and '.'")
    files = find_files(args.paths, args.pattern.split(","))
    good, notes = usable(files)
    for note in notes[:NOTES]:
        print(f"left out {note}")
    if len(notes) > NOTES:
        print(f"left out {len(notes) - NOTES} more files")
    where = ", ".join(map(str, args.paths))
    if not good:
        raise DataError(
            f"no text in {where}: {len(files)} files match {args.pattern!r}, {len(notes)} of them are "
            f"empty or not UTF-8 text; give other paths or another --pattern"
        )
    manifest, there = write_dataset(
        args.out,
        args.name,
        args.tokenizer,
        lambda: pieces(good, args.val_fraction),
        {"corpus": "files", "val_fraction": args.val_fraction, "files": list(good)},
        shard_tokens=args.shard_tokens,
    )
    report(args.out, manifest, there, f"{where}: {len(good)} files ({len(notes)} left out)")
    return ExitCode.DONE
