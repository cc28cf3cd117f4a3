"""train_gpt2.py's commands on a checkpoint: sample, eval, info."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llmc.batches import evaluation_batch, evaluation_segments
from llmc.bpe_table import find_table
from llmc.checkpoint import Checkpoint, Rules, Shape, naming_intact, open_checkpoint
from llmc.choice_evaluation import ChoiceEvaluation, open_choices
from llmc.command_line import CommandLine
from llmc.config import Config
from llmc.data.multiple_choice import Example
from llmc.data.windows import Dataset
from llmc.errors import DataError, Error, ExitCode, UsageError
from llmc.info import describe_checkpoint
from llmc.progress import LINES
from llmc.ranks import pick_device
from llmc.run_setup import assumptions, check_stride, take_shape
from llmc.sampling import NotFinite, generate, open_tokenizer
from llmc.step_line import SCREEN, Status
from llmc.tokenizer import UNKNOWN, to_bytes
from llmc.wording import plural

MakeModel = Callable[[Config, Shape, Rules | None], Any]  # train_gpt2.GPT2


def run_command(line: CommandLine, make_model: MakeModel) -> int:
    """Returns the exit code."""
    if line.command == "info":
        print(describe_checkpoint(line.checkpoint))
        return ExitCode.DONE
    if line.command == "sample":
        return _sample(line, make_model)
    with torch.no_grad():
        return _eval(line, make_model)


def _open_model(
    line: CommandLine, checkpoint: Checkpoint, make_model: MakeModel
) -> tuple[Any, Config, Shape, torch.device]:
    """A model with the shape and the rules of the checkpoint."""
    config, shape = take_shape(line.config, line.given, checkpoint)
    if "dtype" not in line.given:
        config = replace(config, dtype=checkpoint.config.get("dtype", "fp32"))
    if "batch-size" not in line.given:
        config = replace(config, batch_size=checkpoint.config.get("batch_size", config.batch_size))
    for note in assumptions(checkpoint, line.given):
        print(note, file=sys.stderr)
    device = pick_device(str(line.extra["device"]), config.threads)
    model = make_model(config, shape, checkpoint.parametrization).to(device)
    with naming_intact(checkpoint.path):
        model.set_weights(checkpoint.values)
    return model, config, shape, device


def _sample(line: CommandLine, make_model: MakeModel) -> int:
    checkpoint = open_checkpoint(line.checkpoint)
    kind = checkpoint.tokenizer if line.config.tokenizer == "auto" else line.config.tokenizer
    if kind == "unknown":
        raise DataError(f"cannot sample from {checkpoint.path}: {UNKNOWN}")
    model, config, shape, _ = _open_model(line, checkpoint, make_model)
    tokenizer = open_tokenizer(kind, find_table(checkpoint.path.parent) if kind == "gpt2" else None)
    prompt = to_bytes(config.prompt).decode(errors="replace")
    for number in range(config.samples):
        try:
            text = generate(model.next_logits, tokenizer, shape.vocab_size, config, number=number)
        except NotFinite:
            raise Error(f"the logits of {checkpoint.path} are not finite", ExitCode.DIVERGED) from None
        if config.samples > 1:
            print(f"---- sample {number + 1} of {config.samples} ----")
        print(f"{prompt}{text}", flush=True)  # the next one may take long
    return ExitCode.DONE


def _eval(line: CommandLine, make_model: MakeModel) -> int:
    if not (line.config.val_data or line.config.hellaswag):
        raise UsageError("--val-data is missing: name token shards to evaluate on, or examples with --hellaswag")
    checkpoint = open_checkpoint(line.checkpoint)
    opened = _Opened(*_open_model(line, checkpoint, make_model), checkpoint.path)
    config = opened.config
    check_stride(config)
    data = Dataset(config.val_data, config.seq_len, "--val-data", shuffle=False) if config.val_data else None
    if data:
        _check_tokens(data, checkpoint)
    tokenizer = checkpoint.tokenizer if config.tokenizer == "auto" else config.tokenizer
    examples = open_choices(config, tokenizer, find_table(checkpoint.path.parent), opened.shape.vocab_size)
    heading = f"weights {checkpoint.path}\n"
    if data:
        _evaluate_data(opened, data, heading)
    if examples:
        _evaluate_choices(opened, examples, "" if data else heading)
    return ExitCode.DONE


class _Opened(NamedTuple):
    """A checkpoint's model to evaluate."""

    model: Any
    config: Config
    shape: Shape
    device: torch.device
    path: Path


class _Shown:
    """Shows how much is done: on a terminal, or else on stderr, because standard output has the result alone."""

    def __init__(self, what: str, batches: int) -> None:
        self.what, self.batches, self.last = what, batches, time.monotonic()

    def show(self, done: int) -> bool:
        text = f"{self.what} {done}/{self.batches}"
        if sys.stdout.isatty():
            SCREEN.step(Status(0, -1, activity=text), "fleeting")
        elif time.monotonic() - self.last >= LINES:
            print(text, file=sys.stderr, flush=True)
            self.last = time.monotonic()
        return True


def _evaluate_data(opened: _Opened, data: Dataset, heading: str) -> None:
    """Writes the heading and the result. Error if that is not finite."""
    model, config, shape, device, path = opened
    segments = evaluation_segments(data, config)
    targets, total, loss = sum(segment.targets for segment in segments), data.tokens - len(data.shards), 0.0
    progress = _Shown("evaluating", len(segments))
    for done, segment in enumerate(segments):
        progress.show(done)
        loss += float(model(*evaluation_batch(data, segment, shape.vocab_size, device))) * segment.targets / targets
    bits = f", {loss / math.log(2) * data.tokens_per_byte:.4f} bits/byte" if data.tokens_per_byte else ""
    rest = " (--eval-tokens 0: all)" if targets < total else ""
    perplexity = math.inf if loss > 709 else math.exp(loss)
    SCREEN.note(
        f"{heading}data    {targets:,} of {plural(total, 'token')}{rest}\n{_windows_text(config)}\n"
        f"loss    {loss:.4f} nats/token{bits}, perplexity {perplexity:.5g}"
    )
    if not math.isfinite(loss):
        raise Error(f"the loss of {path} is not finite", ExitCode.DIVERGED)


def _windows_text(config: Config) -> str:
    """Which windows the targets were read in."""
    T, stride = config.seq_len, config.eval_stride or config.seq_len
    text = f"windows {plural(T, 'token')}, stride {stride}: a target has"
    if stride == T:
        return f"{text} 1 to {plural(T, 'token')} of context"
    least = f"{T - stride + 1} to " if stride > 1 else ""
    return f"{text} {least}{T} tokens of context, at the beginning of a shard fewer"


def _evaluate_choices(opened: _Opened, examples: list[Example], heading: str) -> None:
    """As _evaluate_data."""
    model, config, _, device, path = opened
    choices = ChoiceEvaluation(examples, config.seq_len, config.batch_size)
    scores = choices.run(model, device, _Shown("hellaswag", choices.batches).show)
    assert scores  # it is not interrupted
    SCREEN.note(heading + scores.report(config.hellaswag))
    if not math.isfinite(scores.loss):
        raise Error(f"the scores of {path} on {config.hellaswag} are not finite", ExitCode.DIVERGED)


def _check_tokens(data: Dataset, checkpoint: Checkpoint) -> None:
    """DataError for text that the model cannot know."""
    if data.vocab_size > checkpoint.shape.vocab_size:
        raise DataError(
            f"the validation data has a vocabulary of {data.vocab_size} tokens, the model of "
            f"{checkpoint.shape.vocab_size}: make the data with the tokenizer of {checkpoint.path}, or choose other "
            "data"
        )
    if data.tokenizer != checkpoint.tokenizer and "unknown" not in (data.tokenizer, checkpoint.tokenizer):
        raise DataError(
            f"the validation data was made with the tokenizer {data.tokenizer}, the model {checkpoint.path} with "
            f"{checkpoint.tokenizer}: choose other data"
        )
