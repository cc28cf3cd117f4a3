"""What a checkpoint and the log beside it say of a run: data, tokens, parametrization, losses, machine, command."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from llmc.checkpoint import Checkpoint, Start, read_start
from llmc.errors import DataError
from llmc.log import finite, parse_event
from llmc.wording import plural

Facts = dict[str, Any]  # texts and numbers by name


class RunEvents(NamedTuple):
    """Of the log, at the checkpoint's step."""

    command: str = ""
    loss: float | None = None  # of the step's batch, nats per token
    val_loss: float | None = None
    bits_per_byte: float | None = None


def read_events_of(checkpoint: Checkpoint) -> RunEvents:
    """From OUT/log.jsonl, of OUT/checkpoints/step_*. Empty if the log is not of the program that wrote the checkpoint:
    a run may have been resumed from it, and Python may save into the folder of a run."""
    folder = checkpoint.path.resolve().parent.parent
    path = folder.parent / "log.jsonl"
    if checkpoint.foreign or folder.name != "checkpoints" or not path.is_file():
        return RunEvents()
    found: dict[str, dict[str, Any]] = {}
    origin = _provenance(checkpoint)
    with open(path, encoding="utf-8", errors="replace") as file:
        for event in filter(None, map(parse_event, file)):
            kind, step = event["event"], int(event["step"])
            before = step < checkpoint.step or event.get("resumed_from") is None  # both may start in the same second
            wrote_it = kind == "config" and before and event.get("provenance") == origin
            if wrote_it or (kind in ("train", "eval") and step == checkpoint.step):
                found[kind] = event
    if "config" not in found:
        return RunEvents()
    train, evaluation = found.get("train", {}), found.get("eval", {})
    return RunEvents(
        str(found["config"].get("command", "")),
        finite(train.get("loss")),
        finite(evaluation.get("val_loss")),
        finite(evaluation.get("bits_per_byte")),
    )


def training_facts(checkpoint: Checkpoint, events: RunEvents) -> Facts:
    """In the order of a table; without what is not known. {} for weights of another project."""
    rules = checkpoint.parametrization
    if rules is None:
        return {}
    config, origin = checkpoint.config, _provenance(checkpoint)
    start = _start(checkpoint)
    wide = {"base width": rules["base_width"], "width multiplier": rules["width_mult"]} if rules["base_width"] else {}
    facts = {
        "data": _data(start),
        "data SHA256": origin.get("data_sha256"),
        "steps": checkpoint.step,
        "tokens": start.tokens if start else None,
        "initial weights": config.get("init"),
        "parametrization": rules["scheme"],
        **wide,
        "optimizer": config.get("optimizer"),
        "learning rate": config.get("lr"),
        "loss of the last step": events.loss,
        "validation loss": events.val_loss,
        "bits per byte": events.bits_per_byte,
        "hardware": origin.get("device"),
        "program": " ".join(filter(None, (origin.get("program"), origin.get("version")))),
        "commit": origin.get("commit"),
        "compiler": origin.get("compiler"),
        "PyTorch": origin.get("torch"),
        "started": origin.get("started"),
    }
    return {name: value for name, value in facts.items() if value not in (None, "", "unknown")}


def _provenance(checkpoint: Checkpoint) -> dict[str, Any]:
    try:
        found = json.loads(checkpoint.files.metadata["provenance"])
    except (KeyError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _start(checkpoint: Checkpoint) -> Start | None:
    """None without the optimizer's file."""
    try:
        return read_start(checkpoint.path.parent)
    except DataError:
        return None


def _data(start: Start | None) -> str:
    """ "pystdlib_train_000001.bin and 2 more: 5,001 tokens" """
    try:
        shards = (start.data.get("train") or {}).get("shards") if start else None
        if not shards:
            return ""
        more = f" and {len(shards) - 1} more" if len(shards) > 1 else ""
        return f"{shards[0][0]}{more}: {plural(sum(int(tokens) for _, tokens in shards), 'token')}"
    except (TypeError, ValueError, AttributeError):
        return ""
