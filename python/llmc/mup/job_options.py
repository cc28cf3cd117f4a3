"""The options of planned runs, read as the programs read them, to refuse what they would refuse before any starts."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path

from llmc.command_line import TORCH_OPTIONS, Program, parse_command_line
from llmc.config import Config
from llmc.errors import UsageError
from llmc.options import OPTIONS, PRESETS, Setting, Table, base_shape, parse_text, resolve_batch
from llmc.toml_options import read_toml


def program_of(command: Sequence[str]) -> Program:
    """Whose options a trainer takes. One that is neither, such as a script that calls one of them, may take all."""
    native = command_name(command).startswith("train_gpt2") and not command_name(command).endswith(".py")
    return Program("train_gpt2", "", "", {}, frozenset(), () if native else TORCH_OPTIONS)


def program_at(command: Sequence[str]) -> int:
    """The position of the trainer in PROGRAM: before it is what starts it, after it are options."""
    names = [Path(word).name for word in command]
    return max((i for i, name in enumerate(names) if name.startswith("train_gpt2") or name.endswith(".py")), default=0)


def command_name(command: Sequence[str]) -> str:
    return Path(command[program_at(command)]).name


def read_options(command: Sequence[str], words: Sequence[str]) -> Config:
    """The Config of a run of PROGRAM, `command`, with these options. UsageError in the programs' words."""
    program = program_of(command)
    own = list(command[program_at(command) + 1 :])
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # notes
            line = parse_command_line(program, [*own, *words])
    except SystemExit:  # --help, --version, --print-config
        raise UsageError("EXTRA or PROGRAM has an option with which nothing is trained, such as --help") from None
    if line.dry_run or line.command != "train":
        raise UsageError("EXTRA or PROGRAM has an option or a command with which nothing is trained, such as --dry-run")
    config = line.config
    if not (config.init or config.resume):  # the shape is not known yet
        resolve_batch(config, grad_clip=0)
        if config.base_width:
            base_shape(config, config.width // config.heads)
    if not config.train_data and config.steps != 0:
        raise UsageError("--train-data is missing: name token shards in CONFIG or EXTRA")
    return config


def table_of(command: Sequence[str]) -> Table:
    return {**OPTIONS, **{option.name: option for option in program_of(command).options}}


def numbers_of(settings: Sequence[Setting]) -> dict[str, float]:
    """The numbers among the options of a file, by name, and those of its preset."""
    found: dict[str, float] = {}
    for option, value, where in settings:
        if option.name == "preset" and value in PRESETS:
            shape = PRESETS[value].items()
            found = {key.replace("_", "-"): number for key, number in shape} | found
        elif option.type in ("integer", "number"):
            number = parse_text(option, value, where) if isinstance(value, str) else value
            if isinstance(number, (int, float)):
                found[option.name] = number
    return found


def read_config(path: Path, command: Sequence[str]) -> list[Setting]:
    """The options in a TOML file, as --config of the program reads them."""
    return read_toml(str(path), table_of(command))
