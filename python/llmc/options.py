"""The table of options, and the way from given values to a Config: text or TOML -> checks -> Config.

options.json is the output of `./train_gpt2 --options-json`; `make options` writes it. The checks, their order and their
messages are those of llmc/train/options/settings.cpp: tests/test_options.py gives both programs the same input.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from llmc.config import Config
from llmc.errors import UsageError
from llmc.numbers import INT64_MAX, INT64_MIN, real, short_number, whole

Value: TypeAlias = "bool | int | float | str | tuple[str, ...] | None"

JSON_FILE = Path(__file__).with_name("options.json")
EVAL_TOKENS = 81920  # default of --eval-tokens, without --eval-batches


@dataclass(frozen=True)
class Option:
    """One option: --base-width on the command line, base-width or base_width in TOML, base_width in JSON and Python."""

    name: str
    type: str  # flag, integer, number, text, choice, list (of texts)
    default: Value  # None: depends on other options
    help: str
    group: str = ""
    scope: tuple[str, ...] = ("run",)  # of run, model, sample, eval
    unit: str = ""
    choices: tuple[str, ...] = ()
    low: float = -math.inf  # included unless above_low
    high: float = math.inf
    above_low: bool = False
    default_text: str = ""
    off: Value = None  # a value that means "not given"
    excludes: tuple[str, ...] = ()
    replaces: tuple[str, ...] = ()  # options of a --config that mean nothing beside this one
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


def _read_table() -> tuple[dict[str, Option], dict[str, dict[str, int]], dict[str, list[str]]]:
    content = json.loads(JSON_FILE.read_text(encoding="utf-8"))
    table = {}
    for entry in content["options"]:
        fields: dict[str, Any] = {key: tuple(v) if isinstance(v, list) else v for key, v in entry.items()}
        table[entry["name"]] = Option(**fields)
    return table, content["presets"], content["other_names"]


OPTIONS, PRESETS, OTHER_NAMES = _read_table()  # by name, in the order of --help


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
    """Parses the text of a value: on the command line, and of a number in quotes. Whole numbers may have a point or an
    exponent (1e6). UsageError if it does not have the option's type."""
    if option.type == "number":
        number = real(text)
        if number is None:
            raise UsageError(f"{where}: '{text}' is not a number")
        if not math.isfinite(number):
            raise UsageError(f"{where}: '{text}' is not a finite number")
        return number
    if option.type == "integer":
        value = whole(text)
        if value is None:
            raise UsageError(f"{where}: '{text}' is not a whole number")
        _check_int64(value, text, where)
        return value
    return text


def _check_int64(value: float, text: str, where: str) -> None:
    if not INT64_MIN <= value <= INT64_MAX:
        limit = f"at least {INT64_MIN}" if value < 0 else f"at most {INT64_MAX}"
        raise UsageError(f"{where}: '{text}' is out of range: {limit}")


def _range_of(option: Option) -> str:
    low, high = short_number(option.low), short_number(option.high)
    if math.isfinite(option.high):
        return f"greater than {low} and at most {high}" if option.above_low else f"between {low} and {high}"
    return f"{'greater than' if option.above_low else 'at least'} {low}"


def _check_number(option: Option, value: object, where: str) -> None:
    kind = "a whole number" if option.type == "integer" else "a number"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UsageError(f"{where}: '{shown(value)}' is not {kind}")
    if not math.isfinite(value):
        raise UsageError(f"{where}: '{shown(value)}' is not a finite number")
    if option.type == "integer":
        if value != math.floor(value):
            raise UsageError(f"{where}: '{shown(value)}' is not {kind}")
        _check_int64(int(value), shown(value), where)
    if value < option.low or value > option.high or (option.above_low and value == option.low):
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
    if option.type == "integer" and value is not None:
        return int(value)
    return float(value) if option.type == "number" and value is not None else value


def has_effect(option: Option, value: Any) -> bool:
    """Whether a value differs from what leaves the option out: not None, False, empty or `off`."""
    if value is None or value is False or (isinstance(value, (str, list, tuple)) and not value):
        return False
    return option.off is None or value != option.off


# --- All options ---


def make_config(settings: Sequence[Setting], extra: Iterable[Option] = ()) -> Given:
    """Applies defaults, then the preset, then the settings, where later ones win. UsageErrors name the option, its
    value and what is allowed. extra: options of one program that Config does not have."""
    table = {**OPTIONS, **{option.name: option for option in extra}}
    values: dict[str, Any] = {option.key: option.default for option in table.values()}
    settings = [setting for setting in settings if setting.value is not None]
    for i, (option, value, where) in enumerate(settings):
        if isinstance(value, str) and option.type in ("integer", "number"):  # width = "64"
            value = parse_text(option, value, where)
            settings[i] = Setting(option, value, where)
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


def check_storable(config: Config) -> None:
    """UsageError for a text that is not UTF-8: log and checkpoints, which keep the options of a run, could not be
    read by other programs."""
    for name, option in OPTIONS.items():
        value = getattr(config, option.key)
        for text in value if isinstance(value, list | tuple) else [value]:
            readable = text.encode(errors="surrogateescape").decode(errors="replace") if isinstance(text, str) else text
            if readable != text:
                raise UsageError(f'--{name} "{readable}" is not UTF-8, as the log and checkpoints are: give other text')


def _check_combinations(table: Table, values: Mapping[str, Any], given: frozenset[str]) -> None:
    """Checks of several options: those that exclude or need each other, or have no meaning under the scheme."""
    if not values["init"]:  # its checkpoint may have a scheme of its own: check_scheme later
        _check_scheme(table, values, given)
    used = {name for name, option in table.items() if name in given and has_effect(option, values[option.key])}
    for name, option in table.items():
        given_as = f"--{name} {shown(values[option.key])}" if option.takes_value else f"--{name}"
        for other in option.excludes if name in used else ():
            if other in used:
                raise UsageError(f"--{name} excludes --{other}: give one of the two")
        if name in used and option.needs and option.needs not in used:
            raise UsageError(f"{given_as} needs --{option.needs}: {option.needs_why}")


def check_scheme(config: Config, given: frozenset[str]) -> None:
    """UsageError for an option that was given and has no meaning under the scheme, or that the scheme needs."""
    _check_scheme(OPTIONS, vars(config), given)


def _check_scheme(table: Table, values: Mapping[str, Any], given: frozenset[str]) -> None:
    scheme = values["parametrization"]
    for name, option in table.items():
        if option.key not in values:
            continue
        value = values[option.key]
        if name in given and has_effect(option, value) and option.schemes and scheme not in option.schemes:
            given_as = f"--{name} {shown(value)}" if option.takes_value else f"--{name}"
            raise UsageError(
                f"{given_as} has no meaning under --parametrization {scheme}, {option.schemes_why}: "
                f"leave it out, or choose {_either(option.schemes)}"
            )
        if scheme in option.required_by and not has_effect(option, value):
            raise UsageError(
                f"--parametrization {scheme} needs --{name}: the value at which your learning rate was tuned "
                "(that of the model itself for the base model)"
            )


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


def base_shape(config: Config, head_dim: int) -> tuple[int, int]:
    """Width and head size of the base model, under a scheme that has one. head_dim: that of the model itself."""
    width, heads = config.base_width, config.base_heads
    if not heads:  # keep the head size
        heads, rest = divmod(width, head_dim)
        if rest:
            raise UsageError(f"the head size {head_dim} does not divide --base-width {width}: give --base-heads")
    if width % heads:
        raise UsageError(f"--base-heads {heads} does not divide --base-width {width}")
    return width, width // heads


def resolve_batch(config: Config, grad_clip: float, ranks: int = 1) -> Config:
    """Sets --total-batch-size and the scheme's grad_clip; micro-batches must divide the batch."""
    micro = config.batch_size * config.seq_len * ranks
    total = config.total_batch_size or micro
    if total % micro:
        raise UsageError(
            f"--total-batch-size {total} is not a multiple of --batch-size x --seq-len{' x processes' * (ranks > 1)} = "
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
