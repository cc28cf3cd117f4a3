"""FineWeb: cleaned English web pages; classic, or the educational ones (Penedo et al. 2024, arXiv:2406.17557).

Source: https://huggingface.co/datasets/HuggingFaceFW/fineweb and .../fineweb-edu, folders sample/10BT and sample/100BT
(parquet files of about 2 GB), or --file. Licence: ODC-By 1.0; the texts come from Common Crawl, see its terms of use.
Format: token shards (doc/formats.md) of 100 million tokens in data/fineweb_TYPE_VERSION; the first is for validation.
Complete shards of an interrupted run are kept, and the same command continues after them: it reads the files in
OUT/download again for their SHA-256, but does not tokenize them again. Remove OUT/download at the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.download import download, fetch_json, require_network
from llmc.data.options import count, options
from llmc.data.records import has_records, import_pyarrow, texts
from llmc.errors import DataError, ExitCode
from llmc.wording import plural

HOST = "https://huggingface.co"
REPOSITORIES = {"classic": "HuggingFaceFW/fineweb", "edu": "HuggingFaceFW/fineweb-edu"}
HINT = "give parquet or .jsonl files on this machine with --file, or "


def parquet_urls(kind: str, version: str) -> list[str]:
    """The files of a sample, in order."""
    repository = REPOSITORIES[kind]
    listing = f"{HOST}/api/datasets/{repository}/tree/main/sample/{version}T"
    require_network(listing, HINT)
    names = sorted(entry["path"] for entry in fetch_json(listing) if entry["path"].endswith(".parquet"))
    if not names:
        raise DataError(f"{listing} names no parquet files: {HINT}see whether {HOST}/datasets/{repository} has moved")
    return [f"{HOST}/datasets/{repository}/resolve/main/{name}" for name in names]


def documents(files: Iterator[Path]) -> Iterator[Piece]:
    for path in files:
        for text in texts(path, "text"):
            yield Piece("train", text)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "fineweb", prog, tokenizer="gpt2", workers=True)
    parser.set_defaults(out=None)
    parser.add_argument("--type", choices=["classic", "edu"], default="classic", help="[%(default)s]")
    parser.add_argument(
        "--version", choices=["10B", "100B"], default="10B", help="approximate number of tokens [%(default)s]"
    )
    parser.add_argument(
        "--max-shards",
        type=count(1, 100_000),
        metavar="SHARDS",
        help="number of training shards after which to stop [all]",
    )
    parser.add_argument("--file", nargs="+", type=Path, help="parquet or .jsonl files, instead of the download")
    args = parser.parse_args(argv)
    out = args.out or Path("data", f"fineweb_{args.type}_{args.version}")
    for path in args.file or []:
        if not path.is_file():
            raise DataError(f"{path} does not exist: give --file parquet or .jsonl files")
        if not has_records(path):
            raise DataError(f"{path} is neither a parquet nor a .jsonl file: for other files, use dev/data/text.py")

    def pieces() -> Iterator[Piece]:
        if args.file:
            return documents(iter(args.file))
        urls = parquet_urls(args.type, args.version)
        import_pyarrow("pyarrow.parquet")  # fails before 2 GB are downloaded
        return documents(download(url, out / "download" / Path(url).name, HINT) for url in urls)

    source = {
        "corpus": f"FineWeb {args.type} {args.version}",
        "max_shards": args.max_shards,
        "files": [str(path.resolve()) for path in args.file] if args.file else None,
    }
    max_tokens = (1 + args.max_shards) * args.shard_tokens if args.max_shards else None
    manifest, there = write_dataset(
        out,
        "fineweb",
        args.tokenizer,
        pieces,
        source,
        shard_tokens=args.shard_tokens,
        val_tokens=args.shard_tokens,
        max_tokens=max_tokens,
        workers=args.workers,
        named=not args.file,
        resumable=True,
    )
    if not any(shard["split"] == "train" for shard in manifest["shards"]):
        print("note: all the text is in the first shard, which is for validation: give a smaller --shard-tokens")
    report(out, manifest, there, f"{source['corpus']}: {plural(manifest['documents'], 'document')}")
    return ExitCode.DONE
