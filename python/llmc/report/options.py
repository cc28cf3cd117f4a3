"""The options of runs: those that differ from the defaults, then the others."""

from __future__ import annotations

import json
from collections.abc import Sequence

from llmc.config import Config
from llmc.options import OPTIONS, stored_options
from llmc.report.html import Cell, Node, el, more, table
from llmc.report.record import Record

DEFAULTS = json.loads(json.dumps(stored_options(Config())))  # as JSON has them: lists, not tuples
BY_KEY = {option.key: option for option in OPTIONS.values()}


def text(value: object) -> str:
    """A value as the command line takes it; "" for none."""
    if value is None or value in ("", []):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return format(value, ".10g") if isinstance(value, float) else str(value)


def default_text(key: str) -> str:
    """In words where it depends on other options."""
    option = BY_KEY.get(key)
    return option.default_text or text(DEFAULTS[key]) if option else ""


def name(key: str) -> Node:
    return el("code", f"--{key.replace('_', '-')}")


def configuration(records: list[Record]) -> list[Node]:
    """A row for each option. Those that have the default in every run can be opened."""
    configs = [record.part("config") for record in records]
    known = [key for key in DEFAULTS if any(key in config for config in configs)]
    others = sorted({key for config in configs for key in config if key not in DEFAULTS})
    keys = [*known, *others]
    if not keys:
        return [el("p", "The log does not have the options.")]
    changed = [key for key in keys if any(differs(config, key) for config in configs)]
    rest = [key for key in keys if key not in changed]
    found: list[Node] = []
    if changed:
        found.append(option_table(records, changed, "Options that differ from the defaults"))
    else:
        found.append(el("p", "All options have their defaults."))
    if rest:
        title = "Options with the default" + (" in every run" if len(records) > 1 else "")
        found.append(more(f"{title} ({len(rest)})", option_table(records, rest, title)))
    return found


def differs(config: dict[str, object], key: str) -> bool:
    value = config.get(key)
    return value is not None and value != DEFAULTS.get(key)


def option_table(records: list[Record], keys: list[str], title: str) -> Node:
    """Of one run with what an option means, of several with a column for each run."""
    alone = len(records) == 1
    head: list[Cell] = ["option", *(["value"] if alone else [record.name for record in records]), "default"]
    rows: list[Sequence[Cell]] = []
    for key in keys:
        values = [text(record.part("config").get(key)) for record in records]
        same = len(set(values)) == 1 and not alone
        cells: list[Cell] = [el("code", value, **({"class_": "same"} if same else {})) for value in values]
        help_text = [el("span", BY_KEY[key].help if key in BY_KEY else "", class_="long")] if alone else []
        rows.append([name(key), *cells, el("code", default_text(key)), *help_text])
    result = table([*head, *(["meaning"] if alone else [])], [("", rows)], title)
    result[0].set("class", "wrap")
    return result
