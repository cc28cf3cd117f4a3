"""Tiny Shakespeare: 1,115,394 bytes of Shakespeare's plays, as in llm.c.

Source: https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt, or --file.
Licence: the text is in the public domain.
Format: token shards (doc/formats.md) in data/tinyshakespeare. Each paragraph (a speech) is a document; the first 32,768
tokens are for validation. With gpt2: 305,260 tokens for training, the same as llm.c's.
"""

from __future__ import annotations

from pathlib import Path

from llmc.data.dataset import Piece, report, write_dataset
from llmc.data.download import download
from llmc.data.files import scan
from llmc.data.options import options
from llmc.errors import DataError, ExitCode
from llmc.wording import plural

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
VAL_TOKENS = 32_768


def paragraphs(text: bytes) -> list[Piece]:
    """Documents that end after each empty line."""
    parts = text.split(b"\n\n")
    parts = [part + b"\n\n" for part in parts[:-1]] + parts[-1:]
    return [Piece("train", part) for part in parts if part]


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = options(__doc__, "tinyshakespeare", prog, tokenizer="gpt2")
    parser.add_argument("--file", type=Path, help="a copy of input.txt on this machine, instead of the download")
    args = parser.parse_args(argv)
    path = args.file or download(URL, args.out / "download" / "input.txt", "give a copy with --file, or ")
    if not path.is_file():
        raise DataError(f"{path} does not exist: give --file a copy of {URL}")
    problem = scan(path).problem
    if problem:
        raise DataError(f"{path} is {problem}: give --file a copy of {URL}")
    documents = paragraphs(path.read_bytes())
    manifest, there = write_dataset(
        args.out,
        "tinyshakespeare",
        args.tokenizer,
        lambda: documents,
        {"corpus": "Tiny Shakespeare", "url": URL},
        shard_tokens=args.shard_tokens,
        val_tokens=VAL_TOKENS,
    )
    if not any(shard["split"] == "train" for shard in manifest["shards"]):
        print(f"note: {path} is too short: all its tokens are among the first {VAL_TOKENS:,}, which are for validation")
    report(args.out, manifest, there, f"Tiny Shakespeare: {plural(len(documents), 'document')}")
    return ExitCode.DONE
