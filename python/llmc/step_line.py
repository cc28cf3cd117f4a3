"""The progress of a training run on standard output: on a terminal one line that is rewritten and fits its width,
otherwise a new line every five seconds. llmc/train/progress.cpp writes the same lines."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
from dataclasses import dataclass
from typing import Literal, TextIO

from llmc.progress import can_rewrite, duration


@dataclass
class Status:
    step: int
    steps: int  # -1: not of a run, only the activity
    loss: float | None = None
    val_loss: float | None = None
    bits_per_byte: float | None = None
    grad_norm: float | None = None
    lr: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    activity: str = ""  # instead of the numbers after the loss: "evaluating 12/60"
    acc: float | None = None  # of --hellaswag
    acc_norm: float | None = None  # the same by tokens


def status_line(status: Status, width: int | None = None) -> str:
    """The line of a status, without the least important fields if it would be longer than `width`."""
    s = status
    fields = [(f"step {s.step:{len(str(s.steps))}d}/{s.steps}", 9)] if s.steps >= 0 else []
    if s.loss is not None:
        fields.append((f" | loss {s.loss:.4f}", 7))
    if s.activity:
        fields.append((f"{' | ' if fields else ''}{s.activity}", 8))
    else:
        optional = [
            (s.val_loss, " | val {:.4f}", 6),
            (s.bits_per_byte, " ({:.3f} bits/byte)", 3),
            (s.acc, " | hellaswag {:.4f}", 6),
            (s.acc_norm, " (by tokens {:.4f})", 3),
            (s.grad_norm, " | norm {:.3f}", 2),
            (s.lr, " | lr {:.2e}", 1),
            (s.tokens_per_second, " | {:.0f} tok/s", 4),
        ]
        fields += [(text.format(value), rank) for value, text, rank in optional if value is not None]
        if s.seconds_left is not None:
            fields.append((f" | ETA {duration(s.seconds_left) if math.isfinite(s.seconds_left) else '?'}", 5))
    for least in range(10):
        line = "".join(text for text, rank in fields if rank >= least)
        if width is None or len(line) <= width:
            break
    return line[:width]


def _width(file: TextIO) -> int:
    try:
        columns = os.get_terminal_size(file.fileno()).columns or 80
    except OSError:
        columns = 80
    return columns - 1  # some terminals start a new line after the last column


class Screen:
    """All output of a run; can be used from any thread."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.open_line, self.last = False, -math.inf

    def step(self, status: Status, line: Literal["fleeting", "now", "stays"]) -> None:
        """fleeting: shown if the last line is old enough, and rewritten by the next; now: shown in any case; stays: the
        next one is below it."""
        with self.lock:
            rewrites, now = can_rewrite(sys.stdout), time.monotonic()
            if line == "fleeting" and now - self.last < (0.1 if rewrites else 5):
                return
            self.last = now
            if rewrites:
                end = "\n" if line == "stays" else ""
                print(f"\r\033[K{status_line(status, _width(sys.stdout))}", end=end, flush=True)
            else:
                print(status_line(status), flush=True)
            self.open_line = rewrites and line != "stays"

    def note(self, text: str) -> None:
        """A separate line."""
        with self.lock:
            self.close()
            print(text, flush=True)

    def close(self) -> None:
        """Ends an open line, so that an error message has a line of its own."""
        with self.lock:
            if self.open_line:
                print(flush=True)
            self.open_line = False


SCREEN = Screen()  # there is one standard output
