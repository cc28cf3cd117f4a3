"""Reads a log that grows, and notices that another one replaced it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import BinaryIO

from llmc.log import Event, parse_event
from llmc.track.values import storable

CHUNK = 1 << 20  # bytes


class Tail:
    """The events of a log, as far as its lines are complete. A program that resumes replaces the log by one without the
    lines of later steps; --overwrite by an empty one. Only opens the file for reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.first_line = b""
        self.broken = 0  # lines that are not events
        self._file: BinaryIO | None = None
        self._forget()

    def _forget(self) -> None:
        self._position = 0  # bytes of complete lines read so far
        self._digest = hashlib.sha256()  # of these
        self._rest = b""  # of an incomplete line
        self.first_line, self.broken = b"", 0

    def poll(self) -> tuple[list[Event], bool]:
        """New events; and whether they begin with the first line, because what was read before no longer is the begin
        of the log. No events if there is no log."""
        fresh = self._position == 0
        if self._replaced():
            self.close()
            try:
                self._file = open(self.path, "rb")  # noqa: SIM115 - stays open
            except FileNotFoundError:
                return [], False
            if not self._same_begin():
                self._forget()
                fresh = True
            self._file.seek(self._position)
            self._rest = b""
        assert self._file is not None
        events = []
        while chunk := self._file.read(CHUNK):
            *lines, self._rest = (self._rest + chunk).split(b"\n")
            events += self._events(lines)
        return events, fresh and bool(events)

    def restart(self) -> list[Event]:
        """All events from the first line on."""
        self.close()
        self._forget()
        return self.poll()[0]

    def close(self) -> None:
        if self._file:
            self._file.close()
        self._file = None

    def _replaced(self) -> bool:
        """Whether the file that is open is not the one at the path, or lost what was read of it."""
        if self._file is None:
            return True
        try:
            there, mine = os.stat(self.path), os.fstat(self._file.fileno())
        except FileNotFoundError:
            return False  # moved or deleted: what it still gets is read
        except OSError:  # a stale handle of NFS
            return True
        return (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino) or mine.st_size < self._position

    def _same_begin(self) -> bool:
        """Whether the file begins with the lines that were read before."""
        assert self._file is not None
        digest, left = hashlib.sha256(), self._position
        while left and (chunk := self._file.read(min(left, CHUNK))):
            digest.update(chunk)
            left -= len(chunk)
        return left == 0 and digest.digest() == self._digest.digest()

    def _events(self, lines: list[bytes]) -> list[Event]:
        found = []
        for line in lines:
            self.first_line = self.first_line or line
            self._digest.update(line + b"\n")
            self._position += len(line) + 1
            event = parse_event(line.decode(errors="replace"))
            if event is not None:
                found.append(storable(event))
            elif line.strip():
                self.broken += 1
        return found
