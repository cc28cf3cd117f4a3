""" "did you mean": options that an unknown name resembles. The same as llmc/train/options/suggest.cpp."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llmc.options import OTHER_NAMES, Option, Table

# How a message writes the name of an option: --base-width, base-width, base_width.
Style = Literal["command_line", "toml", "python"]


def nearest_option(given: str, table: Table, scope: str = "run", style: Style = "command_line") -> str:
    """The end of a message about an unknown name: "; did you mean --warmup-steps?", or a hint to --help."""
    word = given.lstrip("-").split("=")[0].replace("_", "-")
    word = "".join(chr(ord(c) + 32) if "A" <= c <= "Z" else c for c in word)
    if word.startswith("no-"):  # --no-shufle; no-shuffle = true in a file
        option = _nearest(word.removeprefix("no-"), table, scope)
        if option and not option.takes_value:
            off = {"command_line": f"--no-{option.name}", "toml": f"{option.name} = false"}
            return f"; did you mean {off.get(style, f'{option.key}=False')}?"
    option = _nearest(word, table, scope)
    if option is None:
        return "" if style == "python" else "; --help lists the options"
    name = {"command_line": f"--{option.name}", "toml": option.name, "python": option.key}[style]
    return f"; did you mean {name}?"


def nearest_argument(given: str, commands: Sequence[str], table: Table, scope: str) -> str:
    """The same for a word of the command line, which may also be meant as a command: "smaple"."""
    for command in commands:
        if len(given.encode(errors="surrogateescape")) > 3 and _edit_distance(given, command) <= 2:
            return f"; did you mean {command}?"
    return nearest_option(given, table, scope)


def _nearest(word: str, table: Table, scope: str) -> Option | None:
    """The option whose name, or name in another program, is nearest; None if none is near."""
    names = [(name, option) for name, option in table.items()]
    names += [(other, table[name]) for name, others in OTHER_NAMES.items() if name in table for other in others]
    length = len(word.encode(errors="surrogateescape"))
    best, best_distance = None, min(4, (length + 1) // 2)  # short words resemble everything
    for name, option in names:
        if scope in option.scope and (distance := _edit_distance(word, name)) < best_distance:
            best, best_distance = option, distance
    return best


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein distance of the UTF-8 texts: insertions, deletions and replacements."""
    x_bytes, y_bytes = a.encode(errors="surrogateescape"), b.encode(errors="surrogateescape")
    row = list(range(len(y_bytes) + 1))
    for i, x in enumerate(x_bytes, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(y_bytes, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
