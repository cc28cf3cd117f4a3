"""A run as an event file of TensorBoard."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from llmc.extras import load
from llmc.log import Event
from llmc.track.values import options, plain, scalars, texts

ENDING = ".llmc"  # of our event files


def _withdraw(path: Path) -> None:
    """Empties an event file, or removes one that is empty already. Where the file that it reads was deleted, a running
    TensorBoard without its data server never goes on to the next."""
    if path.stat().st_size:
        os.truncate(path, 0)
    else:
        path.unlink()


class TensorBoardFile:
    """folder: of the run. Event files that an earlier export wrote there are replaced.

    Scalars are fp32, TensorBoard's own precision; the values of an event are one record.
    """

    def __init__(self, folder: Path) -> None:
        writer = load("tensorboard.summary.writer.record_writer", "track")
        self._event = load("tensorboard.compat.proto.event_pb2", "track")
        self._summary = load("tensorboard.compat.proto.summary_pb2", "track").Summary
        self._text = load("tensorboard.plugins.text.summary_v2", "track").text_pb
        self._hparams = load("tensorboard.plugins.hparams.summary_v2", "track").hparams_pb
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob(f"events.out.tfevents.*{ENDING}"):
            _withdraw(old)
        # TensorBoard reads the files of a folder in the order of their names
        self.path = folder / f"events.out.tfevents.{time.time():.6f}{ENDING}"
        self._file = open(self.path, "xb")  # noqa: SIM115 - stays open
        self._records = writer.RecordWriter(self._file)
        self._configured = False
        self._write(file_version="brain.Event:2", wall_time=time.time())
        # a TensorBoard that runs drops what it read from the files that this one replaces
        start = self._event.SessionLog(status=self._event.SessionLog.START)
        self._write(session_log=start, wall_time=time.time())

    def _write(self, **fields: object) -> None:
        self._records.write(self._event.Event(**fields).SerializeToString())

    def add(self, event: Event, wall_time: float) -> None:
        step = int(event["step"])
        values = [self._summary.Value(tag=name, simple_value=value) for name, value in scalars(event).items()]
        summaries = [self._summary(value=values)] if values else []
        summaries += [self._text(name, text) for name, text in texts(event).items()]
        if event["event"] == "config" and not self._configured:  # TensorBoard takes one set of hyperparameters
            self._configured = True
            chosen = {key: plain(value) for key, value in options(event).items()}
            summaries.append(self._hparams(chosen, start_time_secs=wall_time))
        for summary in summaries:
            self._write(step=step, wall_time=wall_time, summary=summary)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Empties the file."""
        with suppress(OSError):  # the disk may be full
            self._file.close()
        _withdraw(self.path)

    def where(self) -> str:
        return f"{self.path} (tensorboard --logdir {self.path.parent})"
