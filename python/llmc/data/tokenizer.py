"""GPT-2's vocabulary as tokenizer.bin, for samples of weights that have none beside them.

Written to FOLDER, that of the weights. Source: tiktoken, from its cache folder or the network, or --file: vocab.json or
tokenizer.json of transformers, or another tokenizer.bin. Data scripts with --tokenizer gpt2 write the same file beside
their shards.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmc.bpe_table import read_table
from llmc.data.tokenizers import Gpt2Tokenizer, write_tokenizer_bin
from llmc.errors import DataError, ExitCode


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="of the weights")
    parser.add_argument("--file", type=Path, help="vocab.json, tokenizer.json or tokenizer.bin")
    args = parser.parse_args(argv)
    if not args.folder.is_dir():
        raise DataError(f"there is no folder {args.folder}: name that of the weights")
    if args.file and not args.file.is_file():
        raise DataError(f"there is no file {args.file}")
    path, temporary = args.folder / "tokenizer.bin", args.folder / ".tokenizer.bin.tmp"
    if args.file:
        read_table(args.file).save(temporary)
    else:
        write_tokenizer_bin(Gpt2Tokenizer(), temporary)
    temporary.replace(path)
    print(f"{path}: GPT-2's vocabulary, from {args.file or 'tiktoken'}")
    return ExitCode.DONE
