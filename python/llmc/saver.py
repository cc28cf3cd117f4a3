"""When train_gpt2.py writes checkpoints, which it keeps, and which is the best."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmc.checkpoint import Rules, Tensors, save_checkpoint
from llmc.ranks import of_first_rank, rank
from llmc.resume import fingerprint
from llmc.run_folder import checkpoint_name, mark_best_checkpoint, prune_checkpoints
from llmc.run_log import RunLog
from llmc.run_setup import Setup


class Saver:
    """state: of the optimizer file that the run continues from, otherwise {}."""

    def __init__(self, setup: Setup, rules: Rules, log: RunLog, state: dict[str, Any]) -> None:
        self.setup, self.config, self.rules, self.log = setup, setup.config, rules, log
        self.time = time.monotonic()
        self.evaluated_at: int = state.get("evaluated_at", -1)
        self.best: dict[str, Any] | None = state.get("best")  # step, val_loss, evaluations_since
        self.data = {"train": fingerprint(setup.train), "val": fingerprint(setup.val)}
        if self.config.keep_best and self.best and of_first_rank(not self._folder(self.best["step"]).exists()):
            step = self.best["step"]
            log.note(f"the checkpoint of step {step}, the best, is gone: the next counts as best")
            self.best = None

    def _folder(self, step: int) -> Path:
        return Path(self.config.out) / "checkpoints" / checkpoint_name(step)

    def due(self, step: int) -> bool:
        every, minutes = self.config.checkpoint_every, self.config.checkpoint_minutes
        seconds = 60 * (15.0 if minutes is None else minutes)
        return (every > 0 and step % every == 0) or 0 < seconds <= time.monotonic() - self.time

    def save(self, step: int, weights: Tensors, moments: Tensors, state: dict[str, Any]) -> None:
        self.time = time.monotonic()
        if rank():
            return
        config, log, best = self.config, self.log, self.best
        state = state | {"seed": config.seed, "optimizer": config.optimizer, "data": self.data}
        state |= {"evaluated_at": self.evaluated_at, "best": best}
        files = self.setup.tokenizer_file
        path = save_checkpoint(config.out, step, self.rules, weights, moments, log.metadata, state, files)
        prune_checkpoints(config.out, config.keep, best["step"] if best and config.keep_best else -1)
        log.write("checkpoint", step, {"path": path})

    def judge(self, step: int, val_loss: float, save: Callable[[], None]) -> None:
        """Remembers the best evaluation, for --early-stop and --keep-best. save: writes the checkpoint of the step if
        there is none."""
        self.evaluated_at = step
        if not val_loss < (self.best["val_loss"] if self.best else math.inf):
            if self.best:
                self.best["evaluations_since"] += 1
            return
        self.best = {"step": step, "val_loss": val_loss, "evaluations_since": 0}
        if not self.config.keep_best or self.log.at_resume.get("best", {}).get("step") == step:
            return
        save()
        if rank() == 0:
            mark_best_checkpoint(self.config.out, step)
            prune_checkpoints(self.config.out, self.config.keep, step)
            self.log.write("best", step, {"val_loss": val_loss, "path": str(self._folder(step))})

    @property
    def stopped_early(self) -> bool:
        return self.best is not None and 0 < self.config.early_stop <= self.best["evaluations_since"]
