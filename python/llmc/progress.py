"""Progress displays: on a terminal one line that is rewritten, otherwise a new line at intervals."""

from __future__ import annotations

import os
import sys
from typing import NoReturn, TextIO

from tqdm import tqdm


def can_rewrite(file: TextIO) -> bool:
    """A dumb terminal (Emacs, some CI systems) cannot rewrite a line."""
    return file.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


class _Lines:
    """Output of tqdm for a file that is not a terminal: every display becomes a separate line."""

    def __init__(self, file: TextIO) -> None:
        self.file = file

    def write(self, text: str) -> None:
        text = text.strip()
        if text:
            self.file.write(text + "\n")

    def flush(self) -> None:
        self.file.flush()


class Progress:
    """Displays how much of `total` is done, as reported by `show`.

    every    seconds between lines if `file` is not a terminal
    """

    def __init__(self, total: float, text: str, *, done: float = 0, every: float = 30, file: TextIO | None = None):
        file = file or sys.stdout
        terminal = can_rewrite(file)
        self.bar: tqdm[NoReturn] = tqdm(
            total=total,
            initial=done,
            desc=text,
            file=file if terminal else _Lines(file),
            mininterval=0.5 if terminal else every,
            miniters=0,
            smoothing=0,  # ETA from the mean speed: runs differ much in length
            bar_format="{desc} | {percentage:3.0f}% of the work | ETA {remaining}",
            dynamic_ncols=terminal,
        )

    def show(self, done: float, text: str) -> None:
        self.bar.set_description_str(text, refresh=False)
        self.bar.update(done - self.bar.n)

    def close(self, done: float, text: str) -> None:
        """Shows the last state."""
        self.bar.set_description_str(text, refresh=False)
        self.bar.n = done
        self.bar.close()


def duration(seconds: float) -> str:
    """7s, 1m03s or 2h05m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
