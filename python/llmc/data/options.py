"""The options that data scripts share."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from llmc.cpus import usable_cpus
from llmc.data.shards import MAX_SHARD_TOKENS
from llmc.numbers import whole


def fraction(text: str) -> float:
    """A number in [0, 1)."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def count(low: int, high: int) -> Callable[[str], int]:
    """A parser of whole numbers from `low` to `high`, also as 1e6, 1_000 or 1,000."""

    def parse(text: str) -> int:
        value = whole(text.replace(",", ""))
        if value is None:
            raise ValueError
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text} is not in [{low:,}, {high:,}]")
        return value

    parse.__name__ = "whole number"
    return parse


def options(
    doc: str | None,
    name: str,
    prog: str | None = None,
    *,
    tokenizer: str | None = "byte",
    val_fraction: float | None = None,
    workers: bool = False,
) -> argparse.ArgumentParser:
    """A parser with --out and --shard-tokens, and with the other options if they have a default here.

    doc    the script's docstring
    name   of the data set
    prog   the command's name in the usage line [that of the script]
    """
    parser = argparse.ArgumentParser(prog=prog, description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("data", name), metavar="FOLDER", help="[%(default)s]")
    parser.add_argument(
        "--shard-tokens",
        type=count(2, MAX_SHARD_TOKENS),
        default=100_000_000,
        metavar="TOKENS",
        help="size of a shard; a small remainder is added to the last one [%(default)s]",
    )
    if tokenizer:
        parser.add_argument("--tokenizer", choices=["byte", "gpt2"], default=tokenizer, help="[%(default)s]")
    if val_fraction is not None:
        parser.add_argument(
            "--val-fraction",
            type=fraction,
            default=val_fraction,
            metavar="FRACTION",
            help="share of the text kept for validation; 0: none [%(default)s]",
        )
    if workers:
        parser.add_argument(
            "--workers",
            type=count(1, 1024),
            default=usable_cpus(),
            metavar="PROCESSES",
            help="number of processes that tokenize [%(default)s]",
        )
    return parser
