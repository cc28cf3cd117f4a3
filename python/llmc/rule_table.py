"""The rule table of a run as text."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # it needs torch
    from llmc.checkpoint import Rule, Rules


def table_lines(rules: Rules, every_block: bool = False) -> str:
    """The rule table as JSON, one tensor or scale a line. Without every_block, tensors that are the same in all blocks
    are one row, h.*.NAME with the number of blocks, and equal residual branches one entry."""
    tensors, scales = rules["tensors"], dict(rules["scales"])
    residual = scales["residual"]
    if not every_block:
        tensors = folded(tensors)
        if residual and all(factors == residual[0] for factors in residual):
            scales.pop("residual")
            scales[f"residual x {len(residual)}"] = residual[0]
    head = [
        f" {json.dumps(key)}: {json.dumps(value)}"
        for key, value in rules.items()
        if not isinstance(value, (dict, list))
    ]
    rows = ",\n".join(f"  {json.dumps(rule)}" for rule in tensors)
    lines = ",\n".join(f"  {json.dumps(key)}: {json.dumps(value)}" for key, value in scales.items())
    return "{\n" + ",\n".join([*head, f' "tensors": [\n{rows}\n ]', f' "scales": {{\n{lines}\n }}']) + "\n}"


def folded(tensors: list[Rule]) -> list[Rule]:
    """One row for the tensors of all blocks that differ only in the number of the block."""
    groups: dict[str, list[Rule]] = {}
    for rule in tensors:
        groups.setdefault(re.sub(r"^h\.\d+\.", "h.*.", rule["name"]), []).append(rule)
    rows: list[Rule] = []
    for name, group in groups.items():
        if len(group) > 1 and all(rule | {"name": name} == group[0] | {"name": name} for rule in group):
            rows.append({"name": name, "blocks": len(group)} | {k: v for k, v in group[0].items() if k != "name"})
        else:
            rows += group
    return rows
