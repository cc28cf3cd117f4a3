"""What the events of a log are to trackers: scalars with the names that people expect, and texts (doc/formats.md)."""

from __future__ import annotations

import calendar
import json
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from llmc.log import Event, finite

NO_CURVES = {"config", "sample", "checkpoint", "final"}  # final repeats the last values
GROUPS = {"eval": "val"}  # by event; otherwise the event's own name
NAMES = {
    ("train", "tokens_per_second"): "perf/tokens_per_second",
    ("train", "elapsed"): "perf/elapsed_seconds",
    ("eval", "elapsed"): "val/elapsed_seconds",
    ("hellaswag", "elapsed"): "hellaswag/elapsed_seconds",
    ("eval", "val_loss"): "val/loss",
    ("best", "val_loss"): "val/best_loss",
}


def scalars(event: Event) -> dict[str, float]:
    """The numbers of an event by name. NaN for null, which stands for a number that was not finite; 1 and 0 for true
    and false. Whole numbers are int."""
    kind = event["event"]
    if kind in NO_CURVES:
        return {}
    found: dict[str, float] = {}
    for field, value in event.items():
        if field not in ("event", "step") and (value is None or isinstance(value, (bool, int, float))):
            name = NAMES.get((kind, field), f"{GROUPS.get(kind, kind)}/{field}")
            found[name] = math.nan if value is None else int(value) if isinstance(value, bool) else value
    return found


def options(event: Event) -> dict[str, Any]:
    """The options of a config event, without those that are null."""
    config = event.get("config")
    return {key: value for key, value in config.items() if value is not None} if isinstance(config, dict) else {}


def origin(event: Event) -> dict[str, Any]:
    """What a config event says of the program and the machine that trained, and of the start of the run."""
    provenance = event.get("provenance")
    more = {key: event[key] for key in ("command", "parameters", "resumed_from") if event.get(key) is not None}
    return (provenance if isinstance(provenance, dict) else {}) | more


def plain(value: Any) -> bool | int | float | str:
    """A list or an object as JSON; everything else as it is."""
    return value if isinstance(value, (bool, int, float, str)) else json.dumps(value, ensure_ascii=False)


def texts(event: Event) -> dict[str, str]:
    """The texts of an event by name, in Markdown."""
    kind = event["event"]
    if kind == "sample":
        return {"sample": verbatim(sample(event))}
    if kind == "final":
        return {"final": table(("", "value"), final(event).items())}
    if kind != "config":
        return {}
    found = {
        "config": table(("option", "value"), options(event).items()),
        "provenance": table(("", "value"), origin(event).items()),
    }
    rules = event.get("parametrization")
    tensors = rules.get("tensors") if isinstance(rules, dict) else None
    if tensors and all(isinstance(tensor, dict) for tensor in tensors):
        columns = list(tensors[0])
        found["parametrization"] = table(columns, [[tensor.get(name) for name in columns] for tensor in tensors])
    return found


def sample(event: Event) -> str:
    """The prompt and the text that continues it."""
    return f"{event.get('prompt') or ''}{event.get('text') or ''}"


def final(event: Event) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in ("event", "step")}


def verbatim(text: str) -> str:
    """A code block of Markdown: line breaks, spaces and markup characters stay. Removing four characters at the begin
    of each line gives the text."""
    return "\n".join("    " + line for line in text.split("\n"))


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    """A table of Markdown."""
    heads = list(columns)
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        lines.append([str(plain(value)).replace("|", "\\|").replace("\n", " ") for value in row])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def storable(event: Event) -> Event:
    """The event with valid Unicode: half surrogate pairs, which UTF-8 does not have, become question marks."""
    try:
        json.dumps(event, ensure_ascii=False).encode()
        return event
    except UnicodeEncodeError:
        return dict(json.loads(json.dumps(event, ensure_ascii=False).encode(errors="replace")))


class Clock:
    """The time of events: when their program started (to the second) and `elapsed`, which only some events have."""

    def __init__(self) -> None:
        self.started: float | None = None
        self.newest: float | None = None

    def time_of(self, event: Event) -> float:
        """Seconds since 1970; of an event without a time that of the one before it; now, if the log has no times."""
        provenance: Mapping[str, Any] = origin(event) if event["event"] == "config" else {}
        if "started" in provenance:
            try:
                parsed = time.strptime(str(provenance["started"]), "%Y-%m-%dT%H:%M:%SZ")
            except ValueError:
                self.started = None
            else:
                self.started = self.newest = float(calendar.timegm(parsed))
        elapsed = finite(event.get("elapsed"))
        if elapsed is not None and self.started is not None:
            self.newest = self.started + elapsed
        return time.time() if self.newest is None else self.newest
