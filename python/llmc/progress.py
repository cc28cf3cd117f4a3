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


LINES = 5.0  # seconds between lines: as of a run (step_line.py)


class Progress:
    """Displays how much of `total` is done, as reported by `show`.

    every    seconds between lines if `file` is not a terminal; if there is no news, six times as long
    """

    def __init__(self, total: float, text: str, *, done: float = 0, every: float = LINES, file: TextIO | None = None):
        file = file or sys.stdout
        self.terminal, self.every = can_rewrite(file), every
        self.bar: tqdm[NoReturn] = tqdm(
            total=total,
            initial=done,
            desc=text,
            file=file if self.terminal else _Lines(file),
            mininterval=0.5 if self.terminal else every,
            miniters=0,
            smoothing=0,  # ETA from the mean speed: runs differ much in length
            bar_format="{desc} | {percentage:3.0f}% of the work | ETA {remaining}",
            dynamic_ncols=self.terminal,
        )

    def show(self, done: float, text: str, news: bool = True) -> bool:
        """Whether it was displayed now. news: whether anything has ended that was not displayed yet."""
        if not self.terminal:
            self.bar.mininterval = self.every if news else 6 * self.every
        self.bar.set_description_str(text, refresh=False)
        return bool(self.bar.update(done - self.bar.n))

    def close(self, done: float, text: str) -> None:
        """Shows the last state."""
        self.bar.set_description_str(text, refresh=False)
        self.bar.n = done
        self.bar.close()


def counter(
    total: float | None, text: str, *, done: float = 0, unit: str = "it", scale: bool = False
) -> tqdm[NoReturn]:
    """A tqdm bar on stderr; lines if that is not a terminal, or a dumb one."""
    terminal = can_rewrite(sys.stderr)
    return tqdm(
        total=total,
        initial=done,
        desc=text,
        unit=unit,
        unit_scale=scale,
        leave=not terminal,
        file=sys.stderr if terminal else _Lines(sys.stderr),
        mininterval=0.1 if terminal else LINES,
        miniters=None if terminal else 0,
        ncols=None if terminal else 0,  # 0: no bar, only numbers
    )


def duration(seconds: float) -> str:
    """7s, 1m03s or 2h05m."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if hours else f"{minutes}m{seconds:02d}s" if minutes else f"{seconds}s"
