"""SIGINT and SIGTERM ask a training run to stop at the next step, batch of an evaluation or token, and to save. After
SIGTERM, which SIGKILL may follow, a step is given up between two micro-batches, unless ranks share it. While the run
stops, further signals are ignored: launchers send them twice (SLURM: SIGTERM to the step and again to its processes,
0.4 s later). The third Ctrl-C, or a SIGTERM 20 seconds after the first signal, ends the program at once."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from llmc.step_line import SCREEN

ANNOUNCEMENTS = {
    signal.SIGINT: "Ctrl-C: stopping after this step; two more end at once, without saving",
    signal.SIGTERM: "SIGTERM: stopping; another one within 20 s is ignored",
}


@dataclass
class Received:
    signal: int = 0  # the first one


class Stopping:
    """Whether a signal ends the program at once. The same rules are in llmc/train/stopping.h."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.interrupts = clock, 0
        self.first: float | None = None
        self.last_interrupt = 0.0

    def ends_at_once(self, number: int) -> bool:
        now = self.clock()
        if number == signal.SIGINT:
            if self.interrupts and now - self.last_interrupt < 0.05:  # one Ctrl-C, sent on by a launcher too
                return False
            self.last_interrupt = now
            self.interrupts += 1
        if self.first is None:
            self.first = now
            return False
        return self.interrupts >= 3 if number == signal.SIGINT else now - self.first >= 20


def _watch(numbers: socket.socket) -> None:
    """Applies the rules to the signals, which arrive as bytes. In a thread of its own: the main thread may be in a
    computation, or wait for a rank that never answers."""
    stopping, announced = Stopping(), False
    while received := numbers.recv(4096):
        for number in received:
            if number not in ANNOUNCEMENTS:
                continue
            if stopping.ends_at_once(number):
                os._exit(128 + number)
            if not announced and os.environ.get("RANK", "0") == "0":
                announced = True
                # a terminal stopped by Ctrl-S must not keep the third Ctrl-C from being heard
                threading.Thread(target=SCREEN.note, args=(ANNOUNCEMENTS[signal.Signals(number)],), daemon=True).start()


@contextmanager
def stop_signals() -> Iterator[Received]:
    """Records the first signal. Works only in the main thread."""
    received = Received()

    def handle(number: int, frame: FrameType | None) -> None:
        received.signal = received.signal or number

    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    source, sink = socket.socketpair()
    source.setblocking(False)
    sink_thread = threading.Thread(target=_watch, args=(sink,), daemon=True)
    sink_thread.start()
    before_fd = signal.set_wakeup_fd(source.fileno(), warn_on_full_buffer=False)
    before = {number: signal.signal(number, handle) for number in ANNOUNCEMENTS}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        source.close()
        sink_thread.join()
        sink.close()
