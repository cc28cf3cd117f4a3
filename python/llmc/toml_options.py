"""--config FILE.toml and --print-config. The checks and messages are those of llmc/train/options/toml.cpp."""

from __future__ import annotations

import datetime
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmc.config import Config
from llmc.errors import UsageError
from llmc.numbers import INT64_MAX, INT64_MIN
from llmc.options import OPTIONS, Option, Setting, Table, Value, shown
from llmc.suggest import nearest_option

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_OUTSIDE_TABLES = "options stand at the top of the file, outside of any [section]"
_NOT_FLAGS = ("True", "False", "TRUE", "FALSE", "yes", "no", "on", "off", "None")


def read_toml(path: str, table: Table) -> list[Setting]:
    """The settings of a TOML file. UsageError for a file that cannot be read, is not TOML, or has an unknown key."""
    try:
        text = Path(path).read_bytes().decode("utf-8").removeprefix("\ufeff")
    except OSError:
        raise UsageError(f"--config {path} cannot be read: give a TOML file") from None
    except UnicodeDecodeError:
        raise UsageError(f"--config {path} is not UTF-8: save it as UTF-8 text") from None
    try:
        content = _parse(text)
    except ValueError as error:
        lines = [line.removesuffix("\r") for line in text.removesuffix("\n").split("\n")]
        line = _line_of_error(lines, error)
        where = f"--config {path}, line {line + 1}: {_quoted_line(lines[line])} is not TOML"
        raise UsageError(f"{where}: {_advice(lines, line)}") from None
    settings: dict[str, Setting] = {}
    for key in sorted(content):
        option, value = table.get(key.replace("_", "-")), content[key]
        if option is None or "run" not in option.scope:
            if isinstance(value, dict) or (isinstance(value, list) and value and isinstance(value[0], dict)):
                raise UsageError(f"--config {path}: [{key}] is a table: {_OUTSIDE_TABLES}")
            raise UsageError(f"--config {path}: unknown key '{key}'{nearest_option(key, table, style='toml')}")
        where = f"--config {path}: --{option.name}"
        _check_type(option, value, where)
        if before := settings.get(option.name):  # base-width and base_width
            raise UsageError(
                f"{where} is given twice, as {option.name} = {shown(before.value)} and {key} = {shown(value)}: "
                "leave one out"
            )
        settings[option.name] = Setting(option, value, where)
    return list(settings.values())


def _parse(text: str) -> dict[str, Any]:
    """ValueError for what is not TOML. Also for what this parser takes and toml++ does not: numbers that do not fit,
    and deep nesting, on which it ends with a RecursionError."""
    try:
        content: dict[str, Any] = tomllib.loads(text, parse_float=_finite)
    except RecursionError:
        raise ValueError("nested too deeply (at line 1, column 1)") from None
    _check_integers(content)
    return content


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value) and "inf" not in text:
        raise ValueError(f"{text} does not fit")
    return value


def _check_integers(value: object) -> None:
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise ValueError(f"{value} does not fit")
    if isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            _check_integers(item)


def _line_of_error(lines: Sequence[str], error: ValueError, tries: int = 100) -> int:
    """The line, from 0, at which the statement with the error begins: the lines before it are valid. The parser itself
    names the last line for an unclosed text or list. Each try parses the file again."""
    found = re.search(r"at line (\d+), column \d+\)$", str(error))
    reported = min(int(found[1]), len(lines)) - 1 if found else len(lines) - 1
    for line in range(reported, max(reported - tries, -1), -1):
        try:
            _parse("".join(f"{text}\n" for text in lines[:line]))
        except ValueError:
            continue
        return line
    return reported


def _quoted_line(line: str) -> str:
    """A line in quotes, its first 60 characters."""
    return _toml_value(line[:60])


def _key_of(line: str) -> str:
    """ "lr" of " lr = 1"; "" if the line does not begin with a plain key."""
    found = re.match(r"[ \t]*([A-Za-z0-9_-]+)[ \t]*=", line)
    return found[1] if found else ""


def _advice(lines: Sequence[str], bad: int) -> str:
    """What to do about a line that is not TOML."""
    key = _key_of(lines[bad])
    if not key:
        return "write one option a line, name = value"
    for number, line in enumerate(lines[:bad], start=1):
        if _key_of(line) == key:
            return f"{key} is given twice, first in line {number}: {_quoted_line(line)}"
    value = lines[bad].partition("=")[2].lstrip(" \t")
    if not value:
        return "a value is missing"
    if value in _NOT_FLAGS:
        return "write true or false"
    return "give one number, true, false, a text in quotes, or a list of these: [1, 2]"


def _check_type(option: Option, value: object, where: str) -> None:
    if isinstance(value, list) and option.type != "list":
        raise UsageError(f"{where} is a list, {shown(value)}: give one value")
    if isinstance(value, dict):
        raise UsageError(f"{where} is a table: {_OUTSIDE_TABLES}")
    if isinstance(value, (datetime.date, datetime.time)):
        raise UsageError(f"{where} is a date or time: give a number, a text, true or false")


def to_toml(config: Config, extra: Mapping[str, Value] | None = None) -> str:
    """Writes TOML for read_toml, without options whose default depends on others, and lengths that are not given."""
    lines = []
    for option in OPTIONS.values():
        value = getattr(config, option.key)
        if option.stored and value not in (None, "", ()) and not (option.off == -1 and value == -1):
            lines.append(f"{option.name} = {_toml_value(value)}\n")
    lines += [f"{key.replace('_', '-')} = {_toml_value(value)}\n" for key, value in (extra or {}).items()]
    return "".join(lines)


def _toml_value(value: Value) -> str:
    if isinstance(value, tuple):
        items = [_toml_value(item) for item in value]
        return items[0] if len(items) == 1 else f"[{', '.join(items)}]"
    if not isinstance(value, str):
        return json.dumps(value)
    text = value.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON allows DEL, TOML does not
