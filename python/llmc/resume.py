"""What --resume refuses, and when there is nothing to resume. The same as llmc/train/resume.cpp."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.config import Config
from llmc.data.windows import Dataset
from llmc.errors import DataError
from llmc.log import last_event
from llmc.wording import plural


def fingerprint(data: Dataset | None) -> dict[str, Any] | None:
    """What identifies a data set: names and sizes of its shards, and the SHA-256 of its source text."""
    if data is None:
        return None
    sizes = zip(data.paths, data.shards, strict=True)
    return {"sha256": data.sha256, "shards": [[Path(path).name, len(shard.tokens)] for path, shard in sizes]}


def _names(names: list[str]) -> str:
    """a.bin, b.bin, c.bin and 4 more"""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def difference(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """What changed, in words; "" if nothing did, or if one of the two is not known."""
    if not then or not now or then == now:
        return ""
    before, after = dict(sorted(then["shards"])), dict(sorted(now["shards"]))
    parts = [f"without {_names(names)}" for names in [[name for name in before if name not in after]] if names]
    parts += [f"with {_names(names)}" for names in [[name for name in after if name not in before]] if names]
    sizes = [(name, after[name], before[name]) for name in after if before.get(name, after[name]) != after[name]]
    parts += [f"{name} has {plural(tokens, 'token')}, not {earlier:,}" for name, tokens, earlier in sizes[:1]]
    if then["sha256"] != now["sha256"]:
        parts.append("made from another text (SHA-256)")
    count = f"{plural(len(after), 'shard')}, not {len(before)}: " if len(after) != len(before) else ""
    return count + ("; ".join(parts) or "in another order")


def compare_data(
    config: Config, resume_from: Path, then: Mapping[str, Any], train: Dataset | None, val: Dataset | None
) -> list[str]:
    """DataError if the data is not that of the checkpoint: another data set has another order, and the position in it
    would mean other text. With --allow-data-change returns what changed."""
    changes = []
    for which, data in (("train", train), ("val", val)):
        change, name = difference(then.get(which), fingerprint(data)), {"train": "training", "val": "validation"}[which]
        if change and not config.allow_data_change:
            raise DataError(
                f"--resume: the {name} data is not that of the checkpoint {resume_from}: {change}; give the same data, "
                "or --allow-data-change to go on with this"
            )
        if change:
            changes.append(f"{name} data: {change}")
    return changes


def why_finished(config: Config, step: int, steps: int) -> str:
    """What to say instead of continuing a run; "" if there is something to do."""
    last = last_event(Path(config.out) / "log.jsonl")
    if last.get("event") != "final" or last.get("step") != step:
        return ""
    finished = f"the run in {config.out} is finished: it"
    if last.get("reason") == "done" and step == steps:
        return f"{finished} did {'all of ' * (steps != 1)}its {plural(steps, 'step')}; to go on, raise --steps"
    if last.get("reason") == "early_stop" and last.get("early_stop") == config.early_stop:
        return f"{finished} stopped early at step {step}; to go on, raise --early-stop, or give 0"
    return ""
