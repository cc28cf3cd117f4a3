"""The rule table of runs: what each tensor gets, blocks with equal numbers in one row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from llmc.plot.style import scheme_title
from llmc.report.html import Cell, Node, el, more, table
from llmc.report.record import Record
from llmc.rule_table import folded

# columns: title, key of a rule
NUMBERS = [
    ("init std", "init_std"),
    ("learning rate", "lr"),
    ("multiplier", "multiplier"),
    ("input gradient ×", "dinp_multiplier"),
    ("weight gradient ×", "dweight_multiplier"),
    ("weight decay", "weight_decay"),
    ("eps", "eps"),
]
SAME_AS = "multiplier"  # the two factors of gradients are shown where they differ from it


def rule_parts(records: list[Record]) -> list[Node]:
    """A table for each set of rules that occurs."""
    groups: list[tuple[dict[str, Any], list[str]]] = []
    for record in records:
        rules = record.part("parametrization")
        for known, names in groups:
            if known == rules:
                names.append(record.name)
                break
        else:
            groups.append((rules, [record.name]))
    found: list[Node] = []
    for rules, names in groups:
        title = "" if len(records) == 1 else ", ".join(names)
        if not rules.get("tensors"):
            found.append(el("p", f"The log{' of ' * bool(title)}{title} has no rule table."))
            continue
        parts = rule_nodes(rules, title)
        found += parts if len(groups) == 1 else [more(f"Rules of {title}: {summary(rules)}", *parts)]
    return found


def number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) and math.isfinite(value) else "–"


def summary(rules: dict[str, Any]) -> str:
    """The scheme and its bases."""
    names = {
        "base_width": "base width",
        "width_mult": "width_mult",
        "base_depth": "base depth",
        "depth_mult": "depth_mult",
    }
    parts = [f"{name} {number(rules[key])}" for key, name in names.items() if key in rules]
    return ", ".join([scheme_title(str(rules.get("scheme", "?"))), *parts])


def rule_nodes(rules: dict[str, Any], title: str) -> list[Node]:
    tensors = folded(rules["tensors"])
    columns = [(name, key) for name, key in NUMBERS if not key.startswith("d") or differ(tensors, key)]
    head: list[Cell] = ["tensor", "role", "shape", *(name for name, _ in columns)]
    rows: list[Sequence[Cell]] = []
    for rule in tensors:
        blocks = f" × {rule['blocks']}" if "blocks" in rule else ""
        first: Cell = [el("code", str(rule["name"])), blocks]
        shape = " × ".join(map(str, rule.get("shape", [])))
        rows.append([first, str(rule.get("role", "")), shape, *(value_of(rule, key) for _, key in columns)])
    suffix = f" of {title}" if title else ""
    text = "h.*: the blocks, whose numbers are equal. " if any("blocks" in rule for rule in tensors) else ""
    text += "The learning rate is the peak's."
    found: list[Node] = [el("p", f"{summary(rules)}. {text}")]
    found.append(table(head, [("", rows)], f"Rules by tensor{suffix}"))
    return [*found, *scales(rules.get("scales") or {}, suffix)]


def differ(tensors: list[dict[str, Any]], key: str) -> bool:
    return any(rule.get(key, rule.get(SAME_AS)) != rule.get(SAME_AS) for rule in tensors)


def value_of(rule: dict[str, Any], key: str) -> str:
    """A number; of the init also a mean that is not 0, and rows that start at zero."""
    text = number(rule.get(key))
    if key != "init_std":
        return text
    mean, zero = rule.get("init_mean", 0), rule.get("zero_rows", 0)
    if mean:
        text = f"mean {number(mean)}" + (f", std {text}" if rule.get(key) else "")
    return text + (f", first {zero:,} rows 0" if zero else "")


def scales(factors: dict[str, Any], suffix: str) -> list[Node]:
    """The factors outside of tensors; those of the residual branches once where they are equal."""
    rows: list[Sequence[Cell]] = [[key, number(value)] for key, value in factors.items() if not isinstance(value, list)]
    branches = factors.get("residual") or []
    equal = all(branch == branches[0] for branch in branches)
    for i, branch in enumerate(branches[:1] if equal else branches):
        which = f"residual × {len(branches)}" if equal else f"residual, {('attention', 'MLP')[i % 2]} of block {i // 2}"
        rows.append([which, ", ".join(map(number, branch))])
    if not rows:
        return []
    note = "Factors outside of the tensors; residual: skip, branch, and the gradients' skip, branch and split"
    return [more(f"Scales{suffix} ({len(rows)})", table(["scale", "factor"], [("", rows)], note + suffix))]
