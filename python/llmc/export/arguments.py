"""Arguments of the commands that write models."""

from __future__ import annotations

import re

from llmc.errors import UsageError
from llmc.numbers import real

DTYPES = ("fp32", "bf16", "fp16")
SHARD_SIZE = "5GB"  # as of transformers before version 5
UNITS = {"": 1, **{f"{letter}B": 1000**i for i, letter in enumerate("KMGT", 1)}} | {
    f"{letter}IB": 1024**i for i, letter in enumerate("KMGT", 1)
}


def parse_size(text: str) -> int:
    """Bytes: 5GB, 500 MB, 1.5GiB, 1000. UsageError for other texts."""
    match = re.fullmatch(r"([0-9._eE+]+) *([A-Za-z]*)", text.strip())
    number, unit = (real(match[1]), UNITS.get(match[2].upper())) if match else (None, None)
    if number is None or unit is None or not 1 <= number * unit < 2**63:
        raise UsageError(f"--max-shard-size is '{text}': give bytes, or a number with KB, MB, GB or GiB, such as 5GB")
    return int(number * unit)
