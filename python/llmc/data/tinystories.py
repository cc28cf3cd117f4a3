"""TinyStories: short stories in simple English, written by GPT-3.5 and GPT-4 (Eldan and Li 2023, arXiv:2305.07759).

Source: https://huggingface.co/datasets/roneneldan/TinyStories, TinyStories_all_data.tar.gz (1.6 GB: 50 JSON files of
{"story": ...}), or --file. Licence: CDLA-Sharing-1.0.
Format: token shards (doc/formats.md) in data/tinystories. A story is a document; the stories of the first JSON file are
for validation, as in llm.c.
"""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.download import download, require_network
from llmc.data.options import options
from llmc.errors import DataError, ExitCode
from llmc.wording import plural

URL = "https://huggingface.co/datasets/roneneldan/TinyStories/resolve/main/TinyStories_all_data.tar.gz"
HINT = "give a copy with --file, or "


def json_files(path: Path) -> Iterator[list[dict[str, str]]]:
    """The contents of the JSON files in a folder or a tar archive, by name."""
    if path.is_dir():
        for file in sorted(path.glob("*.json")):
            yield json.loads(file.read_text(encoding="utf-8"))
        return
    with tarfile.open(path) as archive:
        for member in sorted((m for m in archive if m.isfile() and m.name.endswith(".json")), key=lambda m: m.name):
            if content := archive.extractfile(member):
                yield json.load(content)


def stories(path: Path) -> Iterator[Piece]:
    if not path.exists():
        download(URL, path, HINT)
    number = 0
    try:
        for number, items in enumerate(json_files(path), start=1):
            for item in items:
                if story := item["story"].strip():
                    yield Piece("val" if number == 1 else "train", story.encode("utf-8", "replace"))
    except (tarfile.TarError, EOFError, zlib.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path} is not the TinyStories archive or a folder of its JSON files ({error!r} after "
            f"{plural(number, 'file')}): remove it and download it again, or give another --file"
        ) from None
    if number < 2:
        raise DataError(
            f"{path} has {plural(number, 'JSON file')}: at least two are needed, the first is for validation"
        )


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "tinystories", prog, tokenizer="gpt2", workers=True)
    parser.add_argument("--file", type=Path, help="the archive, or a folder of its JSON files, instead of the download")
    args = parser.parse_args(argv)
    path = args.file or args.out / "download" / Path(URL).name
    if args.file and not args.file.exists():
        raise DataError(f"{args.file} does not exist: give --file a copy of {URL}")

    def pieces() -> Iterator[Piece]:
        if not path.exists():
            require_network(URL, HINT)
        return stories(path)

    source = {"corpus": "TinyStories", "url": URL, "file": str(args.file.resolve()) if args.file else None}
    manifest, there = write_dataset(
        args.out,
        "tinystories",
        args.tokenizer,
        pieces,
        source,
        named=not args.file,
        shard_tokens=args.shard_tokens,
        workers=args.workers,
    )
    report(args.out, manifest, there, f"TinyStories: {manifest['documents']:,} stories")
    return ExitCode.DONE
