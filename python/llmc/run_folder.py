"""The folder of a run, --out: its lock, its checkpoints and which of them are intact, how the run ended. The same as
llmc/train/checkpoint/run_folder.cpp."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmc.checkpoint import Damaged, checkpoints_in, newest_intact_checkpoint, open_file, remove_checkpoint
from llmc.errors import Error
from llmc.log import read_events


class RunLock:
    """One process at a time writes into a run's folder. The lock is flock's on OUT/.lock: it ends with the process,
    however that ends, and NFS passes it on to the server. train_gpt2 takes the same one."""

    def __init__(self) -> None:
        self.descriptor = -1

    def take_existing(self, out: str) -> None:
        """Takes the lock if OUT/.lock exists; writes nothing. Error that names the process that has it."""
        if out and self.descriptor < 0:
            with suppress(OSError):
                self.descriptor = os.open(Path(out) / ".lock", os.O_RDWR)
            if self.descriptor >= 0:
                self._lock(out)

    def take(self, out: str) -> str:
        """Takes the lock of a folder that exists, and writes who has it. Returns a sentence to say if the file system
        has no locks."""
        if self.descriptor < 0:
            self.descriptor = os.open(Path(out) / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        problem = self._lock(out)
        since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        os.ftruncate(self.descriptor, 0)
        who = f"process {os.getpid()} on {socket.gethostname()} (train_gpt2.py, since {since})\n"
        os.pwrite(self.descriptor, who.encode(), 0)
        return problem

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1

    def _lock(self, out: str) -> str:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (Path(out) / ".lock").read_text(errors="replace").split("\n")[0] or "another process"
            self.close()
            raise Error(f"--out {out} is in use by {holder}: wait until it ends, or choose another folder") from None
        except OSError as error:
            return (
                f"--out {out} is on a file system without locks ({error.strerror}): make sure that no other run writes "
                "there"
            )
        return ""


def prune_checkpoints(out: str, keep: int, best: int) -> None:
    """Deletes all but the newest `keep` checkpoints, and that of step `best` (-1: none)."""
    for old in checkpoints_in(out)[:-keep]:
        if old.name != checkpoint_name(best):
            remove_checkpoint(old)


def tidy_checkpoints(out: str, damaged: list[Damaged]) -> None:
    """Removes what killed runs left, and renames damaged checkpoints, so that they do not count as new ones."""
    for path in Path(out).glob("checkpoints/.*-step_*"):
        if path.name.startswith((".tmp-", ".old-")):
            shutil.rmtree(path, ignore_errors=True)
    for folder, _ in damaged:
        aside = folder.with_name(f"damaged-{folder.name}")
        shutil.rmtree(aside, ignore_errors=True)
        with suppress(OSError):
            folder.rename(aside)


def mark_best_checkpoint(out: str, step: int) -> None:
    """Points OUT/checkpoints/best to the checkpoint of a step."""
    folder = Path(out) / "checkpoints"
    temporary = folder / ".tmp-best"
    with suppress(OSError):  # a file system without links: the log says which it is
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(checkpoint_name(step))
        temporary.replace(folder / "best")


def checkpoint_name(step: int) -> str:
    return f"step_{step:08d}"


def stored_config(out: str) -> tuple[dict[str, Any], str]:
    """The options of the run: of its newest intact checkpoint, without one of its log; {} if there is neither. And the
    file they come from."""
    folder, _ = newest_intact_checkpoint(out)
    if folder:
        return open_file(folder).config, str(folder)
    log = Path(out) / "log.jsonl"
    configs = [e["config"] for e in read_events(log) if e["event"] == "config"] if log.exists() else []
    return (configs[-1] if configs and isinstance(configs[-1], dict) else {}), str(log)
