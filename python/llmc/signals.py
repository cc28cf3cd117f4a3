"""SIGINT and SIGTERM let a run finish its step and save; a second signal ends it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass
class Received:
    signal: int = 0


@contextmanager
def stop_signals() -> Iterator[Received]:
    """Records the first signal and then restores the default action. Works only in the main thread."""
    received = Received()

    def handle(number: int, frame: FrameType | None) -> None:
        received.signal = number
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
