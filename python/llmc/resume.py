"""What --resume refuses, and when there is nothing to resume. The same as llmc/train/resume.cpp."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from llmc.config import Config
from llmc.data.windows import Dataset
from llmc.errors import DataError
from llmc.log import last_event
from llmc.wording import plural


class Entry(NamedTuple):
    """A shard of a fingerprint. Shards of several folders may have the same name."""

    name: str
    tokens: int
    content: str  # "": not compared
    label: str  # the name, and its place in the data set if the name is not the only one

    def same(self, other: Entry) -> bool:
        return self[:3] == other[:3]


def fingerprint(data: Dataset | None) -> dict[str, Any] | None:
    """What identifies a data set: names, sizes and hashes of its shards, and the SHA-256 of its source text."""
    if data is None:
        return None
    sizes = zip(data.paths, data.shards, strict=True)
    shards = [[Path(path).name, len(shard.tokens)] for path, shard in sizes]
    return {"sha256": data.sha256, "shards": shards, "content": data.content}


def _entries(data: Mapping[str, Any], with_content: bool) -> list[Entry]:
    count = Counter(name for name, _ in data["shards"])
    return [
        Entry(
            name,
            tokens,
            data["content"][i] if with_content else "",
            f"{name} (shard {i + 1} of {len(data['shards'])})" if count[name] > 1 else name,
        )
        for i, (name, tokens) in enumerate(data["shards"])
    ]


def _without(entries: list[Entry], others: list[Entry]) -> list[Entry]:
    """Those of `entries` that `others` lacks; each of the others stands for one."""
    left, others = list[Entry](), list(others)
    for entry in entries:
        same = next((other for other in others if other.same(entry)), None)
        if same:
            others.remove(same)
        else:
            left.append(entry)
    return left


def _names(names: list[str]) -> str:
    """a.bin, b.bin, c.bin and 4 more"""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def difference(then: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """What changed, in words; "" if nothing did, or if one of the two is not known."""
    if not then or not now:
        return ""
    with_content = "content" in then and "content" in now  # earlier versions wrote none
    before, after = _entries(then, with_content), _entries(now, with_content)
    if [entry[:3] for entry in before] == [entry[:3] for entry in after]:
        return "" if then["sha256"] == now["sha256"] else "made from another text (SHA-256)"
    missing, added = _without(before, after), _without(after, before)
    other_tokens, other_content = list[str](), list[str]()
    for entry in list(missing):
        same = next((other for other in added if other.name == entry.name), None)
        if same is None:
            continue
        if same.tokens == entry.tokens:
            other_content.append(same.label)
        else:
            other_tokens.append(f"{same.label} has {plural(same.tokens, 'token')}, not {entry.tokens:,}")
        missing.remove(entry)
        added.remove(same)
    parts = [f"without {_names([entry.label for entry in missing])}"] if missing else []
    parts += [f"with {_names([entry.label for entry in added])}"] if added else []
    parts += other_tokens[:1]
    parts += [f"other content in {_names(other_content)}"] if other_content else []
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
