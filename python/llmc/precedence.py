"""The command line wins over the options of a file. The same as llmc/train/options/precedence.cpp."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from llmc.options import Setting, Table, has_effect, shown


def leave_out(
    of_file: Sequence[Setting], given: Sequence[Setting], file: str, tying: Collection[str]
) -> tuple[list[Setting], list[str]]:
    """The settings of a file without those that cannot stand beside the ones given on the command line: what they
    exclude or replace, what needs an option that is off, and what has no meaning under their --parametrization. And a
    sentence for each reason, which starts with `file`: "--config a.toml: steps = 5 left out: --tokens is given".

    What remains and does not fit is refused later: numbers (a --batch-size that does not divide the file's
    total-batch-size), and an option of the command line that has no meaning under the file's parametrization, which is
    not exchanged in passing.

    tying: schemes that tie the head by default
    """
    ours, theirs = ({setting.option.name: setting for setting in settings} for settings in (of_file, given))
    # what the command line only repeats already stands beside the rest of the file
    changes = [theirs[name] for name in sorted(theirs) if name not in ours or ours[name].value != theirs[name].value]
    tie = theirs.get("tie-embeddings", ours.get("tie-embeddings"))
    tying = () if tie and tie.value is False else tying
    reasons: dict[str, str] = {}  # by option

    def off(name: str) -> bool:
        """Whether the command line turned an option off, or it is left out of the file."""
        if name in theirs:
            return not has_effect(theirs[name].option, theirs[name].value)
        return name in reasons or (name in ours and off(ours[name].option.needs))

    mine = {name: setting for name, setting in ours.items() if name not in theirs and setting.value is not None}
    for name, setting in mine.items():
        if why := next(filter(None, (_reason(setting, other, tying) for other in changes)), ""):
            reasons[name] = why
    for name, (option, value, _) in mine.items():
        if name not in reasons and has_effect(option, value) and off(option.needs):
            reasons[name] = f"--{option.needs} is off"
    left_out: dict[str, list[str]] = {}
    for name in filter(reasons.__contains__, ours):
        left_out.setdefault(reasons[name], []).append(f"{name} = {shown(ours[name].value)}")
    notes = [f"{file}: {', '.join(what)} left out: {why}" for why, what in left_out.items()]
    return [setting for setting in of_file if setting.option.name not in reasons], notes


def stored_settings(config: Mapping[str, Any], source: str, table: Table) -> list[Setting]:
    """The options of the run that --resume continues, as if they had been given."""
    # one micro-batch is the default, also of another --batch-size
    sizes: list[Any] = [config.get(key) for key in ("total_batch_size", "batch_size", "seq_len")]
    default_total = all(isinstance(size, int) for size in sizes) and sizes[0] == sizes[1] * sizes[2]
    own = {"out", "resume", "overwrite", "allow-data-change"} | ({"total-batch-size"} if default_total else set())
    settings = []
    for name, option in table.items():
        value = config.get(option.key)
        if name in own or not option.stored or value is None or value == "":
            continue
        if option.schemes and config.get("parametrization") not in option.schemes:
            continue  # a default without a meaning
        settings.append(Setting(option, value, f"{source}: --{name}"))
    return settings


def _reason(of_file: Setting, given: Setting, tying: Collection[str]) -> str:
    """Why a setting of the file is left out for one of the command line; "" if it is not."""
    option, other = of_file.option, given.option
    if not has_effect(other, given.value):
        return ""
    if option.name in other.replaces:
        return f"--{other.name} {shown(given.value)} is given"
    if not has_effect(option, of_file.value):
        return ""
    if other.name in option.excludes or option.name in other.excludes:
        return f"--{other.name} is given"
    if other.name != "parametrization" or given.value not in other.choices:
        return ""
    if option.schemes and given.value not in option.schemes:
        return f"no meaning under --parametrization {given.value}"
    if option.name == "zero-init-head" and given.value in tying:
        return f"--parametrization {given.value} ties the head"
    return ""
