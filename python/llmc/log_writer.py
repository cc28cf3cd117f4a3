"""Writes OUT/log.jsonl, one JSON object per line (doc/formats.md); provenance of a run."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.log import Event, parse_event


class LogWriter:
    """resume_step: remove lines after that step, then append; None: start an empty log."""

    def __init__(self, out: Path, resume_step: int | None) -> None:
        path, kept = out / "log.jsonl", ""
        self.at_resume: dict[str, Event] = {}  # the events of the step that the run continues from, by kind
        if resume_step is not None and path.exists():
            # the last line may be incomplete after a crash; texts may have U+2028, where str.splitlines would split
            for line in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
                event = parse_event(line)
                if event and event["event"] != "final" and event["step"] <= resume_step:
                    kept += line + "\n"
                    if event["step"] == resume_step:
                        self.at_resume[event["event"]] = event
        temporary = path.with_suffix(".tmp")
        temporary.write_text(kept, encoding="utf-8")
        temporary.rename(path)
        self.file = open(path, "a", encoding="utf-8")  # noqa: SIM115 - open during the whole run

    def write(self, event: str, step: int, fields: Mapping[str, Any]) -> None:
        """Writes one line. Numbers that are not finite become null: JSON has no NaN."""
        bad = [key for key, value in fields.items() if isinstance(value, float) and not math.isfinite(value)]
        self.file.write(json.dumps({"event": event, "step": step, **fields, **dict.fromkeys(bad)}) + "\n")
        self.file.flush()


def provenance(program: str, **more: str) -> dict[str, str]:
    """The origin of a run: program, git commit of the clone, host, start time, and `more`."""
    clone = Path(__file__).resolve().parents[2]
    command = ["git", "rev-parse", "HEAD"]
    try:
        commit = subprocess.run(command, cwd=clone, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"program": program, "commit": commit or "unknown", **more, "host": socket.gethostname(), "started": started}
