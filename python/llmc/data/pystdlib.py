"""The default corpus: the source text of this Python's standard library. It needs no network.

Source: the .py files of the standard library of the Python that runs this script (about 12 MB of code and English
documentation), without tests, site-packages, vendored wheels and duplicates.
Licence: PSF-2.0, with some modules under further permissive licences; see LICENSE.txt of the Python installation.
Format: token shards (doc/formats.md) in data/pystdlib. A file is a document; a hash of its name decides whether it
belongs to training or validation. The text depends on the version of Python: compare losses only for equal SHA-256.
"""

from __future__ import annotations

import hashlib
import io
import os
import platform
import sysconfig
import tokenize
from collections import Counter
from pathlib import Path

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.files import split_by_name
from llmc.data.options import options
from llmc.errors import DataError, ExitCode
from llmc.wording import plural

EXCLUDED_FOLDERS = {
    "test",
    "tests",
    "idle_test",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "__pycache__",
    "_bundled",
    "lib-dynload",
    "ensurepip",
}
EXCLUDED_FILES = ("_sysconfigdata", "sitecustomize", "usercustomize")  # they describe the machine
LEAST_BYTES = 2_000_000  # a Python without the sources of its library has less


def source_files(stdlib: Path) -> list[Path]:
    """The .py files to use, in the order of their names relative to the library's folder."""
    found = []
    for folder, subfolders, files in os.walk(stdlib):
        subfolders[:] = [name for name in subfolders if name not in EXCLUDED_FOLDERS and not name.startswith("config-")]
        found += [Path(folder, name) for name in files if name.endswith(".py") and not name.startswith(EXCLUDED_FILES)]
    return sorted(found, key=lambda path: path.relative_to(stdlib).as_posix())


def read_source(path: Path) -> bytes:
    """A Python file as UTF-8 with \\n line ends, read in the encoding that it declares."""
    data = path.read_bytes()
    encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    return data.decode(encoding).replace("\r\n", "\n").encode("utf-8")


def read_library(stdlib: Path) -> tuple[dict[str, bytes], Counter[str]]:
    """{relative name: text} without duplicates, and the number of files left out for each reason."""
    texts: dict[str, bytes] = {}
    left_out: Counter[str] = Counter()
    seen = set()
    for path in source_files(stdlib):
        try:
            text = read_source(path)
        except (OSError, SyntaxError, UnicodeError, LookupError):
            left_out["unreadable"] += 1
            continue
        digest = hashlib.sha256(text).digest()
        if not text.strip():
            left_out["empty"] += 1
        elif digest in seen:
            left_out["duplicate"] += 1
        else:
            seen.add(digest)
            texts[path.relative_to(stdlib).as_posix()] = text
    size = sum(map(len, texts.values()))
    if size < LEAST_BYTES:
        raise DataError(
            f"{stdlib} has {plural(len(texts), 'usable .py file')} with {size:,} bytes, which is no whole standard "
            f"library: install it (Debian: apt install python3), run another Python, or give --stdlib "
            f"FOLDER; python dev/data/text.py makes a data set of any other text"
        )
    return texts, left_out


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "pystdlib", prog, val_fraction=0.05)
    parser.add_argument(
        "--stdlib",
        type=Path,
        metavar="FOLDER",
        default=Path(sysconfig.get_path("stdlib")),
        help="library to read [the one of the Python that runs this: %(default)s]",
    )
    args = parser.parse_args(argv)
    texts, left_out = read_library(args.stdlib)
    splits = split_by_name({name: len(text) for name, text in texts.items()}, args.val_fraction)
    own = args.stdlib == parser.get_default("stdlib")
    library = f"Python {platform.python_version()}" if own else str(args.stdlib)
    manifest, there = write_dataset(
        args.out,
        "pystdlib",
        args.tokenizer,
        lambda: (Piece(splits[name], text) for name, text in texts.items()),
        {"corpus": "Python standard library", "val_fraction": args.val_fraction, "library": library},
        shard_tokens=args.shard_tokens,
    )
    skipped = ", ".join(f"{number} {reason}" for reason, number in sorted(left_out.items()))
    report(
        args.out,
        manifest,
        there,
        f"standard library of {library}: {plural(len(texts), 'file')}, {sum(map(len, texts.values())):,} bytes"
        + (f" (left out: {skipped})" if skipped else ""),
    )
    return ExitCode.DONE
