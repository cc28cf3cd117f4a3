"""The command line wins over the options of a file. The same as llmc/train/options/precedence.cpp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmc.options import Setting, Table, has_effect, shown

OF_PRESET = ("depth", "width", "heads", "head-dim", "seq-len")


def leave_out(of_file: Sequence[Setting], given: Sequence[Setting], file: str) -> tuple[list[Setting], list[str]]:
    """The settings of a file without those that cannot stand beside the ones given on the command line: what they
    exclude, what their preset replaces, and what has no meaning under their --parametrization. And a sentence for each
    reason, which starts with `file`: "--config a.toml: steps = 5 left out: --tokens is given"."""
    kept, left_out = [], dict[str, list[str]]()
    names = {setting.option.name for setting in given}
    for setting in of_file:
        reasons = []
        if has_effect(setting.option, setting.value) and setting.option.name not in names:
            reasons = [why for other in given if (why := _reason(setting, other))]
        if reasons:
            left_out.setdefault(reasons[0], []).append(f"{setting.option.name} = {shown(setting.value)}")
        else:
            kept.append(setting)
    return kept, [f"{file}: {', '.join(what)} left out: {why}" for why, what in left_out.items()]


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


def _reason(of_file: Setting, given: Setting) -> str:
    """Why a setting of the file is left out for one of the command line; "" if it is not."""
    option, other = of_file.option, given.option
    if not has_effect(other, given.value):
        return ""
    if other.name in option.excludes or option.name in other.excludes:
        return f"--{other.name} is given"
    if other.name == "preset" and option.name in OF_PRESET:
        return f"--preset {shown(given.value)} is given"
    if other.name == "parametrization" and option.schemes and given.value in other.choices:
        return "" if given.value in option.schemes else f"no meaning under --parametrization {given.value}"
    return ""
