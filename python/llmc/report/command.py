"""Writes one HTML page about runs, coordinate checks and sweeps: verdicts, curves, rules, configuration, samples.

    python dev/report.py runs/first                                 # into runs/first/report.html (or: llmc report ...)
    python dev/report.py runs/first runs/wide --out compare.html    # several runs on the same axes
    python dev/report.py runs/coordinate_check runs/mup_transfer runs/first

A PATH is the folder of a run, of a coordinate check or of a sweep, or its log.jsonl or CSV; what it is, its content
says. CSVs of --coord-check that lie in one folder are one check. The page needs no network and no script, follows the
browser's light or dark theme, and links to the files of its runs that lie in its folder or below. It is written beside
the files of a PATH, in the folder that several have in common, or to --out. Of several PATHs, those with none of these
are left out, with a note.
Exit codes: 2 wrong usage, 3 unusable log or CSV.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path
from typing import Literal, NamedTuple

from llmc.atomic import write_atomically
from llmc.errors import DataError, Error, ExitCode
from llmc.log import of_runs
from llmc.mup import check_csv
from llmc.paths import shown_path
from llmc.report.check import check_item
from llmc.report.page import MARK, page_text
from llmc.report.parts import NAME, Item, Page
from llmc.report.record import read_records
from llmc.report.runs import runs_item
from llmc.report.sweep import sweep_item
from llmc.wording import one_of

Kind = Literal["run", "check", "sweep"]
FILES: dict[str, Kind] = {"log.jsonl": "run", "coordinate_check.csv": "check", "sweep.csv": "sweep"}


class Source(NamedTuple):
    kind: Kind
    file: Path


def recognise(path: Path) -> list[Source]:
    """What a PATH has: a folder may have several. DataError if it has nothing for a page."""
    if path.is_dir():
        found = [Source(kind, path / name) for name, kind in FILES.items() if (path / name).is_file()]
        if found:
            return found
        raise DataError(f"{path} has no {one_of(list(FILES))}: give a folder or file that has one")
    try:
        with open(path, newline="", encoding="utf-8", errors="replace") as file:
            header = next(csv.reader([file.readline()]), [])
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}: give a run, a coordinate check or a sweep") from None
    except csv.Error:  # a field that is too long
        header = []
    if header == check_csv.COLUMNS:
        return [Source("check", path)]
    if {"parametrization", "scale_axis", "axis"} <= set(header):
        return [Source("sweep", path)]
    return [Source("run", path)]


def items_of(sources: list[Source], page: Page) -> list[Item]:
    """The runs together, then checks and sweeps in the order they are given."""
    found: list[Item] = []
    runs = [source.file for source in sources if source.kind == "run"]
    if runs:
        found.append(runs_item(read_records(runs), page))
    checks: dict[Path, list[Path]] = {}
    for source in sources:
        if source.kind == "check":
            checks.setdefault(source.file.parent.resolve(), []).append(source.file)
    for source in sources:
        csvs = checks.pop(source.file.parent.resolve(), []) if source.kind == "check" else []
        if csvs:
            found.append(check_item(csvs, page))
        elif source.kind == "sweep":
            found.append(sweep_item(source.file, page))
    return found


def write_report(paths: list[Path], out: Path | None = None) -> Path:
    """Writes the page and returns its path. Error if `out` is a file that is no page of this command."""
    sources = list(dict.fromkeys(source for path in paths for source in recognise(path)))
    if out is None or out.is_dir():
        common = os.path.commonpath([source.file.resolve().parent for source in sources])
        out = (out or Path(common)) / NAME
    refuse_others(out)
    text = page_text(items_of(sources, Page(out)))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, text)
    return out


def refuse_others(out: Path) -> None:
    """Error if a file that somebody else wrote would be lost."""
    if not out.exists():
        return
    if not out.is_file():  # reading a pipe would wait for a writer
        raise Error(f"{out} exists and is no file: give another --out")
    with open(out, encoding="utf-8", errors="replace") as file:
        if MARK not in file.read(1000):
            raise Error(f"{out} exists and was not written by llmc report: give another --out")


def after_results(folder: Path) -> None:
    """The page of a check or sweep that has just been judged, whose verdict is the command's exit code in any case."""
    try:
        print(f"wrote {shown_path(write_report([folder]))}")
    except Exception as error:
        print(f"warning: no page was written: {error}", file=sys.stderr)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run, coordinate check or sweep")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help=f"page to write, or an existing folder for {NAME} [beside the PATH]"
    )
    args = parser.parse_args(argv)
    if args.out and args.out.suffix not in (".html", ".htm") and not args.out.is_dir():
        parser.error(f"argument --out: {args.out} is no folder and does not end in .html")
    print(f"wrote {shown_path(write_report(of_runs(args.paths, list(FILES)), args.out))}")
    return ExitCode.DONE
