"""The table of options, and the way from given values to a Config: text or TOML -> checks -> Config.

options.json is the output of `./train_gpt2 --options-json`; `make options` writes it. The checks, their order and their
messages are those of llmc/train/options/*.cpp: tests/test_options.py gives both programs the same input.
"""

from __future__ import annotations

import datetime
import json
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from llmc.config import Config
from llmc.errors import UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Value: TypeAlias = "bool | int | float | str | tuple[str, ...] | None"

JSON_FILE = Path(__file__).with_name("options.json")
EVAL_TOKENS = 81920  # default of --eval-tokens, without --eval-batches
INT64_MIN, INT64_MAX = -(2**63), 2**63 - 1
WHOLE_NUMBER = re.compile(r"[+-]?[0-9]+")
REAL_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True)
class Option:
    """One option: --base-width on the command line, base-width or base_width in TOML, base_width in JSON and Python."""

    name: str
    type: str  # flag, integer, number, text, choice, list (of texts)
    default: Value  # None: depends on other options
    help: str
    group: str = ""
    scope: tuple[str, ...] = ("run",)  # of run, model, sample
    unit: str = ""
    choices: tuple[str, ...] = ()
    low: float = -math.inf  # included unless above_low
    high: float = math.inf
    above_low: bool = False
    default_text: str = ""
    off: Value = None  # a value that means "not given"
    excludes: tuple[str, ...] = ()
    needs: str = ""
    needs_why: str = ""
    schemes: tuple[str, ...] = ()  # under which it has a meaning; (): all
    schemes_why: str = ""
    required_by: tuple[str, ...] = ()
    stored: bool = True  # in the log and in checkpoints

    @property
    def key(self) -> str:
        return self.name.replace("-", "_")

    @property
    def takes_value(self) -> bool:
        return self.type != "flag"


Table: TypeAlias = Mapping[str, Option]


def _read_table() -> tuple[dict[str, Option], dict[str, dict[str, int]]]:
    content = json.loads(JSON_FILE.read_text(encoding="utf-8"))
    table = {}
    for entry in content["options"]:
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        table[entry["name"]] = Option(**fields)
    return table, content["presets"]


OPTIONS, PRESETS = _read_table()  # by name, in the order of --help


class Setting(NamedTuple):
    """One option that was given. `where` starts the message if the value is refused: "--lr"."""

    option: Option
    value: Any
    where: str


class Given(NamedTuple):
    """The result of make_config: the Config, options that only the program has, and the names that were given."""

    config: Config
    extra: dict[str, Value]
    names: frozenset[str]


# --- One value ---


def short_number(value: float) -> str:
    """4096, 0.5, 1e-08: the shortest text that gives the same number."""
    whole = math.isfinite(value) and value == math.floor(value) and abs(value) < 1e15
    return str(int(value)) if whole else repr(float(value))


def shown(value: object) -> str:
    """A value in a message: "..." for what no option takes (tables, dates)."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    if not isinstance(value, (int, float, str)):
        return "..."
    return short_number(value) if isinstance(value, float) else str(value)


def parse_text(option: Option, text: str, where: str) -> Value:
    """Parses the text of a value on the command line. UsageError if it does not have the option's type."""
    if option.type not in ("integer", "number"):
        return text
    whole = option.type == "integer"
    if not (WHOLE_NUMBER if whole else REAL_NUMBER).fullmatch(text):
        raise UsageError(f"{where}: '{text}' is not {'a whole number' if whole else 'a number'}")
    if not whole:
        number = float(text)
        if not math.isfinite(number):
            raise UsageError(f"{where}: '{text}' is not a finite number")
        return number
    if len(text.lstrip("+-0")) > 19 or not INT64_MIN <= int(text) <= INT64_MAX:
        limit = f"at least {INT64_MIN}" if text.startswith("-") else f"at most {INT64_MAX}"
        raise UsageError(f"{where}: '{text}' is out of range: {limit}")
    return int(text)


def _range_of(option: Option) -> str:
    low = short_number(option.low)
    if math.isfinite(option.high):
        return f"between {low} and {short_number(option.high)}"
    return f"{'greater than' if option.above_low else 'at least'} {low}"


def _check_number(option: Option, value: object, where: str) -> None:
    whole = option.type == "integer"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or (whole and not isinstance(value, int)):
        raise UsageError(f"{where}: '{shown(value)}' is not {'a whole number' if whole else 'a number'}")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        limit = f"at least {INT64_MIN}" if value < 0 else f"at most {INT64_MAX}"
        raise UsageError(f"{where}: '{value}' is out of range: {limit}")
    number = float(value)
    if not math.isfinite(number):
        raise UsageError(f"{where}: '{shown(value)}' is not a finite number")
    if number < option.low or number > option.high or (option.above_low and number == option.low):
        raise UsageError(f"{where}: '{shown(value)}' is out of range: {_range_of(option)}")


def check_value(option: Option, value: object, where: str) -> None:
    """Type, range and choices of one value."""
    if option.type == "flag":
        if not isinstance(value, bool):
            raise UsageError(f"{where}: '{shown(value)}' is not true or false")
    elif option.type in ("integer", "number"):
        _check_number(option, value, where)
    elif option.type == "list":
        for item in as_list(value):
            if not isinstance(item, str) or not item:
                raise UsageError(
                    f"{where}: '{shown(item)}' {'is empty: leave it out' if item == '' else 'is not a text'}"
                )
    elif option.choices:
        if value not in option.choices:
            raise UsageError(f"{where}: '{shown(value)}' is not one of {'|'.join(option.choices)}")
    elif not isinstance(value, str):
        raise UsageError(f"{where}: '{shown(value)}' is not a text")


def as_list(value: Any) -> tuple[Any, ...]:
    """The value of a list, which may be a single text: () for "", ("a",) for "a"."""
    if isinstance(value, (list, tuple)):
        return tuple(value)
    return () if value == "" else (value,)


def of_type(option: Option, value: Any) -> Any:
    """A checked value in the type of the Config's field."""
    if option.type == "list":
        return as_list(value)
    return float(value) if option.type == "number" else value


# --- All options ---


def make_config(settings: Sequence[Setting], extra: Iterable[Option] = ()) -> Given:
    """Applies defaults, then the preset, then the settings, where later ones win. UsageErrors name the option, its
    value and what is allowed. extra: options of one program that Config does not have."""
    table = {**OPTIONS, **{option.name: option for option in extra}}
    values: dict[str, Any] = {option.key: option.default for option in table.values()}
    settings = [setting for setting in settings if setting.value is not None]
    for option, value, where in settings:
        check_value(option, value, where)
        if option.name == "preset":
            values["preset"] = value
    values |= PRESETS.get(values["preset"], {})
    for option, value, _ in settings:
        values[option.key] = of_type(option, value)
    given = frozenset(option.name for option, _, _ in settings)
    _check_combinations(table, values, given)
    if values["eval_tokens"] is None and values["eval_batches"] is None:
        values["eval_tokens"] = EVAL_TOKENS
    own = {key: values.pop(key) for key in [option.key for option in extra]}
    return Given(Config(**values), own, given)


def _in_use(option: Option, value: Value, given: frozenset[str]) -> bool:
    """Whether an option is given with a value that has an effect."""
    if option.name not in given or value is None or value is False or value in ("", ()):
        return False
    return option.off is None or value != option.off


def _check_combinations(table: Table, values: Mapping[str, Any], given: frozenset[str]) -> None:
    """Checks of several options: those that exclude or need each other, or have no meaning under the scheme."""
    scheme = values["parametrization"]
    used = {name for name, option in table.items() if _in_use(option, values[option.key], given)}
    for name, option in table.items():
        value = shown(values[option.key])
        if name in used and option.schemes and scheme not in option.schemes:
            raise UsageError(
                f"--{name} {value} has no meaning under --parametrization {scheme}, {option.schemes_why}: "
                f"leave it out, or choose {_either(option.schemes)}"
            )
        if name not in used and scheme in option.required_by:
            raise UsageError(
                f"--parametrization {scheme} needs --{name}: the value at which your learning rate was tuned "
                "(that of the model itself for the base model)"
            )
        for other in option.excludes if name in used else ():
            if other in used:
                raise UsageError(f"--{name} excludes --{other}: give one of the two")
        if name in used and option.needs and option.needs not in used:
            given_as = f"--{name} {value}" if option.takes_value else f"--{name}"
            raise UsageError(f"{given_as} needs --{option.needs}: {option.needs_why}")


def _either(names: Sequence[str]) -> str:
    return " or ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def resolve_heads(config: Config) -> Config:
    """--head-dim becomes --heads, which must divide the width."""
    width, heads = config.width, config.heads
    if config.head_dim:
        if width % config.head_dim:
            raise UsageError(f"--head-dim {config.head_dim} does not divide --width {width}")
        heads = width // config.head_dim
    if width % heads:
        raise UsageError(f"--heads {heads} does not divide --width {width}; choose a divisor")
    return replace(config, heads=heads, head_dim=None)


def resolve_batch(config: Config, grad_clip: float, ranks: int = 1) -> Config:
    """Sets --total-batch-size and the scheme's grad_clip; micro-batches must divide the batch."""
    micro = config.batch_size * config.seq_len * ranks
    total = config.total_batch_size or micro
    if total % micro:
        raise UsageError(
            f"--total-batch-size {total} is not a multiple of --batch-size x --seq-len{' x ranks' * (ranks > 1)} = "
            f"{micro} tokens; the nearest are {max(1, total // micro) * micro} and {(total // micro + 1) * micro}"
        )
    if config.coord_check and total != micro // ranks:
        raise UsageError(
            f"--coord-check {config.coord_check} looks at one micro-batch a step, this run has "
            f"{total // micro * ranks}: leave --total-batch-size out"
        )
    clip = grad_clip if config.grad_clip is None else config.grad_clip
    return replace(config, total_batch_size=total, grad_clip=clip)


def stored_options(config: Config) -> dict[str, Value]:
    """All options by key, as stored in the log and in checkpoints."""
    return {option.key: getattr(config, option.key) for option in OPTIONS.values() if option.stored}


# --- TOML ---


def read_toml(path: str, table: Table) -> list[Setting]:
    """The settings of a TOML file. UsageError for a file that cannot be read, is not TOML, or has an unknown key."""
    try:
        content = tomllib.loads(Path(path).read_bytes().decode("utf-8-sig"))
    except OSError:
        raise UsageError(f"--config {path} cannot be read: give a TOML file") from None
    except ValueError as error:
        raise UsageError(f"--config {path}: {error}") from None
    settings = []
    for key in sorted(content):
        option = table.get(key.replace("_", "-"))
        if option is None or "run" not in option.scope:
            if isinstance(content[key], dict):
                _check_toml_type(content[key], f"--config {path}: [{key}]")
            raise UsageError(f"--config {path}: unknown key '{key}'{nearest_option(key, table)}")
        where = f"--config {path}: --{option.name}"
        if not (option.type == "list" and isinstance(content[key], list)):
            _check_toml_type(content[key], where)
        settings.append(Setting(option, content[key], where))
    return settings


def _check_toml_type(value: object, where: str) -> None:
    if isinstance(value, list):
        raise UsageError(f"{where} is a list, {shown(value)}: give one value")
    if isinstance(value, dict):
        raise UsageError(f"{where} is a table: options stand at the top of the file, outside of any [section]")
    if isinstance(value, (datetime.date, datetime.time)):
        raise UsageError(f"{where} is a date or time: give a number, a text, true or false")
    if isinstance(value, int) and not INT64_MIN <= value <= INT64_MAX:
        raise UsageError(f"{where}: '{value}' is out of range: TOML's integers have 64 bits")


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


# --- Unknown names ---


def nearest_option(given: str, table: Table, scope: str = "run") -> str:
    """The end of a message: "; did you mean --warmup-steps?", or a hint to --help."""
    word = given.lstrip("-").replace("_", "-").split("=")[0]
    best, best_distance = "", min(4, (len(word) + 1) // 2)
    for option in table.values():
        if scope in option.scope and (distance := _edit_distance(word, option.name)) < best_distance:
            best, best_distance = option.name, distance
    return f"; did you mean --{best}?" if best else "; --help lists the options"


def _edit_distance(a: str, b: str) -> int:
    """Levenshtein distance: insertions, deletions and replacements."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
    return row[-1]
