"""The environment variables of `llmc check`, `llmc sweep` and `llmc transfer`: their meaning; mistakes are refused.

A misspelt variable would be ignored, and dozens of runs of the default experiment would start. Therefore names close to
one of the command's, and names of the other commands, are refused.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping

from llmc.errors import UsageError
from llmc.mup.theory import SCHEMES
from llmc.numbers import whole
from llmc.options import OPTIONS

Env = Mapping[str, str]

SEEDS_HELP = "one number: how many, 3 is 1 2 3; several: the seeds themselves; 4-6 is 4 5 6"
CHECK_HELP = f"""\
Environment variables:
  AXIS              the size that varies: width or depth                   [width]
  WIDTHS, DEPTHS    sizes of the models                                    [width: 64 128 256 512 1024 at depth 2
                                                                            depth: 2 4 8 16 32 at width 64]
  PARAMETRIZATIONS  schemes to check                                       [width: sp mup completep u-mup
                                                                            depth: mup completep]
  SEEDS             {SEEDS_HELP} [3]
                    all use the same data
  STEPS             steps of each run                                      [10]
  HEADS             number of heads at every size, instead of HEAD_DIM     [HEAD_DIM=16]
  LR                learning rate                                          [1e-3; u-mup: 0.1]
  DATA              token shards                                           [data/pystdlib/pystdlib_train_*.bin]
  PROGRAM, EXTRA    the trainer; further options for all runs              [./train_gpt2]
  THREADS, JOBS     CPU threads of a run; runs at a time                   [1; cores / THREADS, 1 for train_gpt2cu]
  OUT               folder for all output                                  [runs/coordinate_check]
"""
SWEEP_HELP = f"""\
Environment variables:
  SCALE             the size that varies: width, depth, batch_size, seq_len or tokens          [width]
  SCALES            its values; the axis is tuned at the smallest                              [width: 32 64 128 256]
  VALUES            of the axis, 2^-7 or 0.0078125; VALUES_SP, VALUES_U_MUP for one scheme     [a grid of factor 2]
  SEEDS             {SEEDS_HELP} [3]
  PARAMETRIZATIONS  schemes to compare                                                         [sp mup]
  BASE_WIDTH        of the schemes with a base model (completep: BASE_DEPTH too)               [the smallest width]
  STEPS             optimizer steps of a run (not if SCALE is tokens)                          [those of CONFIG]
  CONFIG            TOML file of all other options                                             [scripts/mup_sweep.toml]
  EXTRA             further options for all runs, such as EXTRA="--schedule cosine"; EXTRA_SP for one scheme
  PROGRAM           [./train_gpt2]; ./train_gpt2cu, or '.venv/bin/python train_gpt2.py'
  THREADS, JOBS     CPU threads of a run [1]; runs at a time [cores / THREADS]
  LOSS              the loss to compare: val, after the last step, or train, the mean of the last 50 steps (in a long
                    run the last tenth), which is better for a constant learning rate          [val]
  SSHLOGINFILE      other machines for GNU parallel; they must have this folder at the same path
  OUT               folder for all output                                                      [runs/sweep_AXIS_SCALE]
"""
CHECK = (
    "AXIS WIDTHS DEPTHS PARAMETRIZATIONS SEEDS STEPS HEADS HEAD_DIM LR DATA PROGRAM EXTRA THREADS JOBS OUT PYTHON"
).split()
SWEEP = (
    "SCALE SCALES VALUES SEEDS PARAMETRIZATIONS BASE_WIDTH BASE_DEPTH STEPS CONFIG EXTRA PROGRAM THREADS JOBS LOSS "
    "SSHLOGINFILE OUT PYTHON"
).split()
# Variables of the other command, and what to give instead. "": there is nothing like it.
NOT_OF_CHECK = {
    "SCALE": "AXIS",
    "SCALES": "WIDTHS or DEPTHS",
    "VALUES": "LR, the one learning rate of a check",
    "BASE_WIDTH": "WIDTHS, whose smallest one is the base",
    "BASE_DEPTH": "DEPTHS, whose smallest one is the base",
    "CONFIG": "the options in EXTRA",
    "LOSS": "",
    "SSHLOGINFILE": "",
}
NOT_OF_SWEEP = {
    "AXIS": "the swept option as the first word, and SCALE",
    "WIDTHS": "SCALES",
    "DEPTHS": "SCALE=depth and SCALES",
    "WIDTH": "SCALES",
    "DEPTH": "SCALE=depth and SCALES, or depth in CONFIG",
    "LR": "VALUES",
    "DATA": 'EXTRA="--train-data ... --val-data ...", or both in CONFIG',
    "HEADS": 'EXTRA="--heads N"',
    "HEAD_DIM": 'EXTRA="--head-dim N"',
}
# Scripts without a command of llmc: their variables, and others that they would ignore. `make` passes its JOBS on.
SCRIPTS: dict[str, tuple[list[str], dict[str, str]]] = {
    "scripts/first_run.sh": (
        ["STEPS", "JOBS", "PYTHON"],
        {name: f"--{name.lower()} as an option" for name in ("WIDTH", "DEPTH", "LR", "SEED", "THREADS")},
    ),
    "scripts/figures.sh": (
        ["THREADS", "JOBS", "PROGRAM", "PYTHON"],
        {name: "" for name in [*CHECK, *SWEEP] if name not in ("THREADS", "JOBS", "PROGRAM", "PYTHON")},
    ),
}


# --- Names ---


def refuse_mistakes(env: Env, command: str, known: list[str], others: Mapping[str, str]) -> None:
    """UsageError for a variable that is not one of the command's and was probably meant to be.

    known     the command's variables; VALUES and EXTRA may have a scheme's name added
    others    names that another command has or that are often tried, with what this one has instead
    """
    by_scheme = {
        f"{name}_{scheme.upper().replace('-', '_')}"
        for name in {"VALUES", "EXTRA"} & set(known)
        if "VALUES" in known
        for scheme in SCHEMES
    }
    for name in sorted(env):
        if name in known or name in by_scheme or not env[name]:
            continue
        if name in others:
            instead = f"give {others[name]}" if others[name] else "unset it"
            raise UsageError(f"{name} is set, and it is no variable of {command}: {instead} (--help lists all)")
        meant = next(
            (
                each
                for each in [*(k for k in known if k != "PYTHON"), *sorted(by_scheme), *filter(others.get, others)]
                if resembles(name, each)
            ),
            None,
        )
        if meant is None and "VALUES" in known and re.match("(VALUES|EXTRA)_", name):
            scheme = name.partition("_")[2].lower().replace("_", "-")
            raise UsageError(f"{name} is set, and there is no parametrization {scheme}: {', '.join(SCHEMES)}")
        if meant is not None:
            instead = others.get(meant, meant)
            raise UsageError(
                f"{name} is set, and it is no variable of {command}: is it {instead}? If it belongs to another "
                f"program: env -u {name} ..."
            )


def resembles(name: str, known: str) -> bool:
    """Whether a name is likely a slip for a known one: case, a plural, one letter or two swapped, a spelling."""

    def bare(text: str) -> str:
        return text.upper().replace("_", "").replace("-", "").removesuffix("S")

    if len(known) < 4:  # too many short names are one letter apart
        return False
    if bare(name) == bare(known) or bare(name).replace("METERI", "METRI").replace("IS", "IZ") == bare(known):
        return True
    return len(known) >= 5 and name.isupper() and one_slip(name, known)


def one_slip(a: str, b: str) -> bool:
    """Whether one letter is missing, added, or another one, or two neighbours are swapped."""
    start = 0
    while start < min(len(a), len(b)) and a[start] == b[start]:
        start += 1
    x, y = a[start:], b[start:]
    return x[1:] == y[1:] or x[1:] == y or x == y[1:] or (x[:2] == y[1::-1] and len(y) > 1 and x[2:] == y[2:])


# --- Values ---


def words(text: str) -> list[str]:
    """The words of a list: separated by blanks or commas."""
    return text.replace(",", " ").split()


def whole_number(env: Env, name: str, default: int, least: int = 1) -> int:
    """Numbers mean what they mean as options of the programs: 1e3 and 1_000 are 1000."""
    text = (env.get(name) or str(default)).strip()
    value = whole(text)
    if value is None or value < least:
        raise UsageError(f"{name} is {text!r}: give one whole number, at least {least}")
    return value


def whole_numbers(name: str, text: str) -> list[int]:
    """Different whole numbers, sorted as given."""
    numbers = [whole(word) or 0 for word in words(text)]
    if not numbers or min(numbers) < 1:
        raise UsageError(f"{name} is {text!r}: give whole numbers, at least 1, such as {name}='64 128 256'")
    if len(set(numbers)) < len(numbers):
        twice = next(number for number in numbers if numbers.count(number) > 1)
        raise UsageError(f"{name} has {twice} twice: leave one out")
    return numbers


def seeds_of(env: Env, default: str = "3") -> list[int]:
    """SEEDS: a single number is a count, several are the seeds, 4-6 is a range."""
    text = env.get("SEEDS", "").strip() or default
    seeds: list[int] = []
    for word in words(text):
        first, _, last = (word, "", word) if whole(word) is not None else word.partition("-")
        begin, end = whole(first) or 0, whole(last) or 0
        if not 1 <= begin <= end:
            raise UsageError(
                f"SEEDS is {text!r}: give how many (SEEDS=3), the seeds themselves (SEEDS='1 2 3'), or a range (4-6)"
            )
        seeds += range(begin, end + 1)
    if len(set(seeds)) < len(seeds):
        twice = next(seed for seed in seeds if seeds.count(seed) > 1)
        raise UsageError(f"SEEDS has {twice} twice: leave one out")
    return list(range(1, seeds[0] + 1)) if whole(text) is not None else seeds


def schemes_of(env: Env, default: str) -> list[str]:
    """PARAMETRIZATIONS, each once."""
    found = list(dict.fromkeys(words(env.get("PARAMETRIZATIONS", "")) or words(default)))
    unknown = [scheme for scheme in found if scheme not in SCHEMES]
    if unknown:
        raise UsageError(f"PARAMETRIZATIONS has {unknown[0]!r}: there are {', '.join(SCHEMES)}")
    return found


def merged(options: list[str], extra: list[str], taken: set[str], command: str) -> list[str]:
    """The options without those that EXTRA has too or excludes, and EXTRA. --x and --no-x are the same option.

    taken    options that the command sets for every run: UsageError if EXTRA has one
    """

    def key(word: str) -> str:
        return word.split("=")[0].removeprefix("--").removeprefix("no-").replace("_", "-")

    given = {key(word) for word in extra if word.startswith("--")}
    if extra and not extra[0].startswith("-"):
        raise UsageError(f"EXTRA begins with {extra[0]!r}: give options, such as EXTRA='--weight-decay 0'")
    if given & taken:
        raise UsageError(f"EXTRA has --{min(given & taken)}, which {command} sets itself: leave it out")
    used = {key(word) for word in extra if word.startswith("--") and not word.startswith("--no-")} & set(OPTIONS)
    excluded = {name for name in OPTIONS for other in used if name in OPTIONS[other].excludes}
    excluded |= {name for name, option in OPTIONS.items() if used & set(option.excludes)}
    kept, keep = [], True
    for word in options:
        if word.startswith("--"):
            keep = key(word) not in given | excluded
        if keep:
            kept.append(word)
    return kept + extra


if __name__ == "__main__":
    from llmc.errors import run_main

    run_main(lambda: refuse_mistakes(os.environ, sys.argv[1], *SCRIPTS[sys.argv[1]]))
