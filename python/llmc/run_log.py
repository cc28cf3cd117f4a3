"""The output of a run: log.jsonl, the metadata of its checkpoints, lines on the screen."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from llmc.checkpoint import Rules, newest_checkpoint
from llmc.errors import Error, ExitCode
from llmc.log import Event
from llmc.log_writer import LogWriter, provenance
from llmc.options import stored_options
from llmc.progress import duration
from llmc.ranks import of_first_rank, rank
from llmc.run_folder import tidy_checkpoints
from llmc.run_setup import Setup, describe, open_folder, parameter_count
from llmc.step_line import SCREEN, Status
from llmc.wording import plural


def _provenance(setup: Setup, device: torch.device) -> dict[str, str]:
    cuda = device.type == "cuda"
    return provenance(
        "train_gpt2.py",
        torch=torch.__version__,
        backend=device.type,
        device=torch.cuda.get_device_name(device) if cuda else f"CPU, {plural(torch.get_num_threads(), 'thread')}",
        data_sha256=setup.train.sha256 if setup.train else "",
    )


class RunLog:
    """Only rank 0 writes and prints. `step` always is the number of optimizer steps done.

    step        of the checkpoint that the run continues from, otherwise 0
    changed     options that differ from that checkpoint's
    begin       time.perf_counter() at the start of the program
    """

    def __init__(
        self,
        setup: Setup,
        rules: Rules,
        step: int,
        device: torch.device,
        compiled: bool,
        changed: list[str],
        begin: float,
    ) -> None:
        self.setup, self.first_step, self.begin = setup, step, begin
        self.last: dict[str, Any] = {}  # newest value of each field, for the final event
        self.evaluated_at = self.chosen_at = self.sampled_at = -1  # steps
        self.training_seconds = self.first_step_seconds = self.first_step_end = 0.0
        open_folder(setup)
        record: dict[str, Any] = {
            "config": stored_options(setup.config) | setup.extra,
            "model": setup.shape.to_json(),
            "parametrization": rules,
            "provenance": _provenance(setup, device),
        }
        self.metadata = {key: json.dumps(value) for key, value in record.items()} | {"tokenizer": setup.tokenizer}
        self.file = self._open(step) if rank() == 0 and setup.config.out else None
        # the events of the step that the run continues from, by kind
        self.at_resume: dict[str, Event] = of_first_rank(self.file.at_resume if self.file else {})
        if "eval" in self.at_resume and self.at_resume["eval"].get("val_loss") is not None:
            self.evaluated_at = step
            known = self.at_resume["eval"]
            self.last |= {key: known[key] for key in ("val_loss", "bits_per_byte") if key in known}
        if known := self.at_resume.get("hellaswag"):
            self.chosen_at = step
            self.last["hellaswag"] = {k: v for k, v in known.items() if k not in ("event", "step", "elapsed")}
        self.sampled_at = step if "sample" in self.at_resume else -1
        record |= {"parameters": parameter_count(rules), "command": shlex.join(sys.argv)}
        self.write("config", step, record | ({"resumed_from": str(setup.resume_from)} if setup.resume_from else {}))
        self.note(describe(setup, rules, f"{device}, compiled" if compiled else str(device)))
        if setup.ranks > 1:
            parts = ", each with its part of the optimizer's state" if setup.config.zero_stage else ""
            self.note(f"ranks   {setup.ranks} processes by {dist.get_backend()}{parts}")
        if not setup.config.out:
            self.note("no --out: nothing of this run is kept, neither log nor checkpoints")
        for change in changed:
            self.note(f"changed since the checkpoint: {change}")
        if setup.resume_from:
            self.note(f"resumed from {setup.resume_from} at step {step}")
        elif setup.config.resume:
            self.note(f"nothing to resume in {setup.config.out}: starting at step 0")
        if compiled:
            self.note("compiling at the first step and at the first evaluation: a minute or more each")

    def _open(self, step: int) -> LogWriter:
        config = self.setup.config
        out = Path(config.out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            if config.overwrite:
                shutil.rmtree(out / "checkpoints", ignore_errors=True)
            tidy_checkpoints(config.out, self.setup.damaged)
            return LogWriter(out, step if self.setup.resume_from else None)
        except OSError as error:
            raise Error(f"cannot write to --out {out}: {error.strerror}") from None

    def elapsed(self) -> float:
        return time.perf_counter() - self.begin

    def note(self, text: str) -> None:
        if text and rank() == 0:
            SCREEN.note(text)

    def write(self, event: str, step: int, fields: dict[str, Any]) -> None:
        if self.file:
            self.file.write(event, step, fields)

    def train(self, step: int, loss: float, norm: float, lr: float, tokens: int, seconds: float, skipped: bool) -> None:
        """Logs the numbers of a step; tokens: of the run so far."""
        rate = round(self.setup.config.total_batch_size / seconds)
        self.training_seconds += seconds
        self.last |= {"loss": loss, "lr": lr, "grad_norm": norm, "tokens_per_second": rate}
        fields = {"loss": loss, "grad_norm": norm, "lr": lr, "tokens": tokens, "tokens_per_second": rate}
        self.write("train", step, fields | {"elapsed": self.elapsed()} | ({"skipped": True} if skipped else {}))

    def eval(self, step: int, val_loss: float) -> None:
        fields = {"val_loss": val_loss}
        if self.setup.val and self.setup.val.tokens_per_byte:
            fields["bits_per_byte"] = val_loss / math.log(2) * self.setup.val.tokens_per_byte
        self.last |= fields
        self.evaluated_at = step
        self.write("eval", step, fields | {"elapsed": self.elapsed()})

    def choices(self, step: int, scores: dict[str, float]) -> None:
        """scores: of --hellaswag."""
        self.last["hellaswag"], self.chosen_at = scores, step
        self.write("hellaswag", step, scores | {"elapsed": self.elapsed()})

    def sample(self, step: int, text: str) -> None:
        prompt = self.setup.config.prompt
        self.sampled_at = step
        self.write("sample", step, {"prompt": prompt, "text": text})
        self.note(f"---- sample at step {step} ----\n{prompt}{text}\n----")

    def show(self, step: int, stopping: bool) -> None:
        """The line of a step; that of an evaluated one stays."""
        done, now, steps, last = step - self.first_step, self.elapsed(), self.setup.steps, self.last
        if done == 1:
            self.first_step_end, self.first_step_seconds = now, self.training_seconds
        later, evaluated = done - 1, self.evaluated_at == step
        # the first step includes first accesses to memory, and compiling
        seconds = self.training_seconds - (self.first_step_seconds if later else 0)
        status = Status(step, steps, last["loss"], grad_norm=last["grad_norm"], lr=last["lr"])
        status.tokens_per_second = max(1, later) * self.setup.config.total_batch_size / seconds
        if later and step < steps:
            status.seconds_left = (now - self.first_step_end) / later * (steps - step)
        if evaluated:
            status.val_loss, status.bits_per_byte = last["val_loss"], last.get("bits_per_byte")
        if chosen := self.chosen_at == step:
            status.acc, status.acc_norm = (last["hellaswag"][key] for key in ("acc", "acc_norm_tokens"))
        stays = evaluated or chosen or step == steps or stopping
        if rank() == 0:
            SCREEN.step(status, "stays" if stays else "now" if done == 1 else "fleeting")

    def activity(self, step: int, what: str, done: int, count: int) -> None:
        """Shows what takes long within a step: "evaluating 12/60"."""
        if rank() == 0:
            status = Status(step, self.setup.steps, self.last.get("loss"), activity=f"{what} {done}/{count}")
            SCREEN.step(status, "fleeting")

    def finish(self, step: int, reason: str, stop: int = 0, best: dict[str, Any] | None = None) -> None:
        """reason: done, early_stop, signal or diverged; stop: the signal; best: the best evaluation."""
        config = self.setup.config
        fields: dict[str, Any] = self.last | {"elapsed": self.elapsed(), "reason": reason}
        if best:
            fields["best"] = {key: best[key] for key in ("step", "val_loss")}
        if reason == "early_stop":
            fields["early_stop"] = config.early_stop
        self.write("final", step, fields)
        if reason == "early_stop" and best:
            since = plural(best["evaluations_since"], "evaluation")
            self.note(
                f"stopped early at step {step}: {since} without a validation loss below that of step {best['step']}"
            )
        elif reason == "done" and "val_loss" in self.last:
            bits = f", {self.last['bits_per_byte']:.4f} bits/byte" if "bits_per_byte" in self.last else ""
            took, loss = duration(self.elapsed()), self.last["val_loss"]
            self.note(f"done in {took}: validation loss {loss:.4f} nats/token{bits}")
        if best and config.keep_best:
            where = f"{config.out}/checkpoints/best"
            self.note(f"best    validation loss {best['val_loss']:.4f} at step {best['step']}: {where}")
        if newest := newest_checkpoint(config.out):
            self.note(f"log {config.out}/log.jsonl, checkpoint {newest}")
        if stop:
            saved = "--resume continues from here" if config.out else "nothing was saved (no --out)"
            self.note(f"stopped by signal {stop} after step {step}; {saved}")


def report(problem: Exception) -> int:
    """Prints why train_gpt2.py failed, on a line of its own; returns the exit code."""
    text = str(problem)
    if isinstance(problem, torch.OutOfMemoryError):
        text = "out of device memory: lower --batch-size (and keep --total-batch-size)"
    SCREEN.close()
    print(f"train_gpt2.py: {text}", file=sys.stderr)
    return int(getattr(problem, "code", ExitCode.FAILED))
