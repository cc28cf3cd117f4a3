"""The command line of a training program and its commands, parsed by argparse with the table of options."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

from llmc.config import Config
from llmc.errors import UsageError
from llmc.options import (
    JSON_FILE,
    OPTIONS,
    Option,
    Setting,
    Table,
    Value,
    check_storable,
    make_config,
    parse_text,
    resolve_batch,
    resolve_heads,
    shown,
)
from llmc.precedence import leave_out, stored_settings
from llmc.suggest import nearest_argument
from llmc.toml_options import read_toml, to_toml


@dataclass(frozen=True)
class CommandLine:
    """A parsed command line."""

    config: Config
    given: frozenset[str]  # names of the options given explicitly, not set by a default or a preset
    extra: dict[str, Value] = field(default_factory=dict)  # options that only this program has
    dry_run: bool = False
    every_block: bool = False  # --dry-run --all: a row for every block
    command: str = "train"  # or one of COMMANDS
    checkpoint: str = ""  # of these


@dataclass(frozen=True)
class Program:
    """A program with the options of the table and its own options."""

    name: str
    version: str
    description: str
    grad_clips: Mapping[str, float]  # default of --grad-clip by scheme
    tying: frozenset[str]  # schemes under which --tie-embeddings is on by default
    options: tuple[Option, ...] = ()
    # --out -> the options of the run in this folder, and the file that they come from: --resume continues with them
    stored_config: Callable[[str], tuple[dict[str, Any], str]] | None = None


COMMANDS = ["sample", "eval", "info"]  # the first word
DEVICES, WITH_DEVICE = ("auto", "cpu", "cuda"), ("run", "sample", "eval")
TORCH_OPTIONS = (  # of train_gpt2.py alone; here, because llmc sweep reads the options of its runs without torch
    Option("device", "choice", "auto", "auto: cuda if there is one", scope=WITH_DEVICE, choices=DEVICES),
    # a compiled model does not report its activations
    Option("compile", "flag", False, "torch.compile the forward and backward pass", excludes=("coord-check",)),
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists the options")


def parse_command_line(program: Program, argv: Sequence[str] | None = None, ranks: int = 1) -> CommandLine:
    """Parses and validates. The command line wins over --config: a note names what it displaces from the file.
    Prints and raises SystemExit(0) for --help, --version, --print-config and --options-json. UsageError for invalid
    input. ranks: processes that share each step."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv and argv[0] in COMMANDS else "train"
    scope = "run" if command == "train" else command
    table = {**OPTIONS, **{option.name: option for option in program.options}}
    parser = _train_parser(program) if command == "train" else _checkpoint_parser(program, command)
    mine = {name: option for name, option in table.items() if scope in option.scope}
    _add_options(parser, mine)
    taken, words = _take_values(argv if command == "train" else argv[1:], parser, table)
    for word in COMMANDS if command == "train" else ():
        if word in words:
            raise UsageError(f"'{word}' comes first: {program.name} {word} CHECKPOINT, then its options")
    parsed, unknown = parser.parse_known_args(words)
    values = {**vars(parsed), **taken}
    settings = _settings(values, mine)
    if command != "train" and values["checkpoint"] is None:
        what = "give the folder of a run or of a checkpoint, or a .safetensors file"
        after = "the words after --val-data are its values, so CHECKPOINT stands before it"
        raise UsageError(f"CHECKPOINT is required: {after if 'val_data' in values else what}")
    if unknown and command == "info":
        raise UsageError(f"unknown argument: {unknown[0]}; info takes a checkpoint only")
    if unknown:
        commands = COMMANDS if command == "train" else []
        raise UsageError(f"unknown argument: {unknown[0]}{nearest_argument(unknown[0], commands, table, scope)}")
    if command != "train":
        config, extra, given = make_config(settings, program.options)
        return CommandLine(config, given, extra, command=command, checkpoint=values["checkpoint"])
    if values["all"] and not values["dry_run"]:
        raise UsageError("--all needs --dry-run: it prints the rules of every block instead of one")
    if values["options_json"]:
        print(JSON_FILE.read_text(encoding="utf-8"), end="")
        raise SystemExit(0)
    if values["config"]:
        of_file, file = read_toml(values["config"], table), f"--config {values['config']}"
        kept, notes = leave_out(of_file, settings, file, program.tying)
        settings = kept + settings
        _print_notes(notes)
    given_values = {setting.option.name: setting.value for setting in settings}
    if program.stored_config and given_values.get("resume") is True and isinstance(out := given_values.get("out"), str):
        stored = stored_settings(*program.stored_config(out), table) if out else []
        kept, notes = leave_out(stored, settings, "--resume", program.tying)
        settings = kept + settings
        _print_notes(notes)
    config, extra, given = make_config(settings, program.options)
    check_storable(config)
    from_checkpoint = config.init or config.resume  # the shape is not known yet
    if not from_checkpoint:
        config = resolve_heads(config)
    if values["print_config"]:
        if not from_checkpoint:
            config = resolve_batch(config, program.grad_clips[config.parametrization], ranks)
        changed = {option.key: extra[option.key] for option in program.options if option.name in given}
        print(to_toml(config, changed), end="")
        raise SystemExit(0)
    return CommandLine(config, given, extra, values["dry_run"], values["all"])


def _print_notes(notes: Sequence[str]) -> None:
    for note in notes if os.environ.get("RANK", "0") == "0" else ():
        print(f"note: {note}", file=sys.stderr)


def _train_parser(program: Program) -> argparse.ArgumentParser:
    parser = _Parser(program.name, description=program.description, allow_abbrev=False, formatter_class=_FORMATTER)
    parser.add_argument("--version", action="version", version=program.version)
    parser.add_argument("--config", metavar="FILE", help="read options from a TOML file; the command line wins")
    for name, text in _FLAGS.items():
        parser.add_argument(f"--{name}", action="store_true", help=text)
    return parser


def _checkpoint_parser(program: Program, command: str) -> argparse.ArgumentParser:
    parser = _Parser(f"{program.name} {command}", allow_abbrev=False, formatter_class=_FORMATTER)
    text = "checkpoint folder, .safetensors file, or a run's --out"
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?", help=text)
    return parser


_FORMATTER = functools.partial(argparse.HelpFormatter, max_help_position=46, width=140)
_FLAGS = {
    "print-config": "print the resolved options as TOML and exit",
    "options-json": "print the table of options as JSON and exit",
    "dry-run": "print shapes, tokens and the rule of every tensor, and exit",
    "all": "with --dry-run: a row for every block, even if its rules are equal",
}


def _add_options(parser: argparse.ArgumentParser, table: Table) -> None:
    groups: dict[str, Any] = {}
    for name, option in table.items():
        title = option.group or f"Only {parser.prog.split()[0]}"
        group = groups.get(title) or groups.setdefault(title, parser.add_argument_group(title))
        text, metavar = _help_text(option).replace("%", "%%"), _value_name(option)
        if option.takes_value:
            group.add_argument(f"--{name}", help=text, metavar=metavar, default=argparse.SUPPRESS)
        else:
            flag = argparse.BooleanOptionalAction
            group.add_argument(f"--{name}", help=text, action=flag, default=argparse.SUPPRESS)


def _value_name(option: Option) -> str:
    """BLOCKS, or fp32|bf16."""
    names = option.choices if len(option.choices) < 8 else (*option.choices[:5], "...", option.choices[-1])
    return "|".join(names) or option.unit or "VALUE"


def _help_text(option: Option) -> str:
    """ "transformer blocks [12]": the default, or the rule for it."""
    text = option.default_text
    if not text and option.type == "flag":
        text = "on" if option.default else ""
    elif not text and option.type != "list" and option.default is not None:
        text = shown(option.default)
    return option.help + (f" [{text}]" if text else "")


def _take_values(
    argv: Sequence[str], parser: argparse.ArgumentParser, table: Table
) -> tuple[dict[str, Any], list[str]]:
    """The values of options by key, and the other words. argparse itself would refuse values that start with a dash,
    and turn the value "--" into an empty list."""
    values: dict[str, Any] = {}
    words: list[str] = []
    seen: dict[str, tuple[str, str]] = {}
    rest = list(reversed(argv))
    while rest:
        word = rest.pop()
        if word == "--":
            raise UsageError("unknown argument: --; --help lists the options")
        name, equals, joined = word.partition("=")
        action = parser._option_string_actions.get(name) if name.startswith("--") else None
        if action is None or action.nargs == 0:
            if action and equals:
                raise UsageError(f"{name} takes no value")
            if action:
                _add_once(seen, action, name, "")
            words.append(word)
            continue
        if not (equals or rest):
            raise UsageError(f"{name} needs a value: {action.metavar}")
        value = joined if equals else rest.pop()
        option = table.get(name[2:])
        if option and option.type == "list":
            items = [value]
            while rest and not rest[-1].startswith("-"):
                items.append(rest.pop())
            values[action.dest] = [*values.get(action.dest, []), *items]
        else:
            _add_once(seen, action, name, value)
            values[action.dest] = value
    return values, words


def _add_once(seen: dict[str, tuple[str, str]], action: argparse.Action, name: str, value: str) -> None:
    """Notes an option as given. UsageError if it was given before."""
    if action.dest not in seen:
        seen[action.dest] = (name, value)
        return
    name_before, value_before = seen[action.dest]
    if name != name_before:
        raise UsageError(f"{name_before} and {name} are both given: leave one out")
    values = "" if action.nargs == 0 else f", '{value_before}' and '{value}'"
    raise UsageError(f"{name} is given twice{values}: leave one out")


def _settings(values: dict[str, Any], table: Table) -> list[Setting]:
    settings = []
    for name, option in table.items():
        if option.key in values:
            value, where = values[option.key], f"--{name}"
            if option.takes_value and option.type != "list":
                value = parse_text(option, value, where)
            settings.append(Setting(option, value, where))
    return settings
