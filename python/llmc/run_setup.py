"""From options to the parts of a training run: data, model shape, length, first weights. Nothing is written."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmc.bpe_table import find_table
from llmc.checkpoint import (
    Checkpoint,
    Damaged,
    Rules,
    Shape,
    Start,
    check_rules,
    newest_checkpoint,
    newest_intact_checkpoint,
    open_checkpoint,
    read_start,
)
from llmc.choice_evaluation import open_choices
from llmc.command_line import CommandLine
from llmc.config import Config
from llmc.cpus import threads_text
from llmc.data.multiple_choice import Example
from llmc.data.windows import Dataset
from llmc.errors import DataError, Error, UsageError
from llmc.options import OPTIONS, Value, check_scheme, of_type, resolve_batch, resolve_heads, stored_options
from llmc.ranks import number_of_processes, rank
from llmc.resume import compare_data, why_finished
from llmc.run_folder import RunLock
from llmc.tokenizer import GPT2_VOCAB_SIZE, UNKNOWN
from llmc.wording import plural

FIXED = ("optimizer", "dtype", "seq_len", "parametrization")  # must be the same as in the checkpoint of a resumed run
FREE = ("resume", "overwrite", "out", "init", "threads")  # changes of these are not reported


@dataclass(frozen=True)
class Setup:
    """A run before its first step."""

    config: Config  # resolved: batch, shape of a checkpoint, tokenizer
    shape: Shape
    start: Start  # of the checkpoint of --resume
    steps: int  # at the end of the run, those before a --resume included
    ranks: int  # processes that share each step
    weights: Checkpoint | None  # of --resume or --init
    resume_from: Path | None  # checkpoint folder
    train: Dataset | None
    val: Dataset | None
    tokenizer: str  # byte, gpt2 or unknown
    tokenizer_file: Path | None
    extra: dict[str, Value]  # options that only this program has
    warnings: list[str]
    notes: list[str]  # what was assumed or taken from a checkpoint, a sentence each
    lock: RunLock  # of --out
    damaged: list[Damaged]  # checkpoints newer than that of --resume
    finished: str  # of --resume: why there is nothing to do; "" if there is
    choices: list[Example]  # of --hellaswag

    @property
    def micro_steps(self) -> int:
        """Micro-batches of each rank per step."""
        return self.config.total_batch_size // (self.config.batch_size * self.config.seq_len * self.ranks)


def prepare(line: CommandLine, ties: bool, grad_clip: float, passed_over: Sequence[Damaged] = ()) -> Setup:
    """Raises UsageErrors and DataErrors before anything is written.

    ties, grad_clip     the scheme's defaults of --tie-embeddings and --grad-clip
    passed_over         damaged checkpoints that --resume does not take
    """
    config, weights, notes = line.config, None, []
    ranks = number_of_processes(config, line.dry_run)
    lock, resume_from, damaged = RunLock(), None, list[Damaged]()
    if not line.dry_run and rank() == 0:
        lock.take_existing(config.out)
    if config.resume:
        resume_from, damaged = newest_intact_checkpoint(config.out, known=passed_over)
    warnings = _about_damage(config.out, resume_from, damaged)
    if source := resume_from or config.init:
        weights = open_checkpoint(source)
        if not resume_from:
            config, taken = take_parametrization(config, line.given, weights)
            notes += taken
        check_scheme(config, line.given)
        config, shape = take_shape(config, line.given, weights)
        notes += assumptions(weights, line.given)
    config = resolve_batch(config, grad_clip, ranks)
    if not (config.train_data or line.dry_run or config.steps == 0):
        raise UsageError(
            "--train-data is missing: name token shards, such as 'data/pystdlib/*_train_*.bin' "
            "(dev/data/*.py make them)"
        )
    train, val = _open_data(config)
    notes += [note for data in (train, val) if data for note in data.notes]
    if weights is None:
        config = resolve_heads(config)
        vocab_size = config.vocab_size or (train.vocab_size if train else 0) or GPT2_VOCAB_SIZE
        tied = ties if config.tie_embeddings is None else config.tie_embeddings
        config = replace(config, vocab_size=vocab_size, tie_embeddings=tied)
        shape = Shape(config.depth, config.width, config.heads, config.seq_len, vocab_size, tied)
    if train and train.vocab_size > shape.vocab_size:
        raise DataError(
            f"the training data has a vocabulary of {train.vocab_size} tokens, the model of {shape.vocab_size}: "
            + (f"make the data with the tokenizer of {weights.path}" if weights else "raise --vocab-size")
            + ", or choose other data"
        )
    check_stride(config)
    tokenizer, tokenizer_file = _choose_tokenizer(config, train, weights)
    choices = open_choices(config, tokenizer, tokenizer_file, shape.vocab_size)
    if not line.dry_run:
        check_unused(config)
    start = read_start(resume_from) if resume_from else Start()
    steps = length_in_steps(config, train, start)
    finished = why_finished(config, start.step, steps) if resume_from else ""
    setup = (config, shape, start, steps, ranks, weights, resume_from, train, val, tokenizer, tokenizer_file)
    return Setup(*setup, line.extra, warnings, notes, lock, damaged, finished, choices)


def check_stride(config: Config) -> None:
    """UsageError for a stride that would leave targets out."""
    if (config.eval_stride or 1) > config.seq_len:
        raise UsageError(
            f"--eval-stride {config.eval_stride} is longer than a window, --seq-len {config.seq_len}, and would leave "
            f"targets out: give at most {config.seq_len}"
        )


def check_unused(config: Config) -> None:
    """UsageError if --out holds an earlier run and neither --resume nor --overwrite is given."""
    used = config.out and (newest_checkpoint(config.out) or (Path(config.out) / "log.jsonl").exists())
    if used and not (config.resume or config.overwrite):
        raise UsageError(
            f"--out {config.out} holds an earlier run: continue it (--resume), delete it (--overwrite), or choose "
            "another folder"
        )


def open_folder(setup: Setup) -> None:
    """Creates --out and takes its lock. Another run may have come first since prepare() looked."""
    config = setup.config
    if not config.out or rank():
        return
    try:
        Path(config.out).mkdir(parents=True, exist_ok=True)
        warning = setup.lock.take(config.out)
    except OSError as error:
        raise Error(f"cannot write to --out {config.out}: {error.strerror}") from None
    setup.warnings.extend([warning] if warning else [])
    check_unused(config)
    if config.resume and newest_intact_checkpoint(config.out, known=setup.damaged)[0] != setup.resume_from:
        raise Error(f"--out {config.out}: another run wrote a checkpoint meanwhile: start again")


def _about_damage(out: str, resume_from: Path | None, damaged: list[Damaged]) -> list[str]:
    """What to say of damaged checkpoints. DataError if none is intact."""
    if damaged and not resume_from:
        newest = damaged[0]
        raise DataError(
            f"--resume: no checkpoint in {out} is intact: {newest.reason}; delete {newest.folder} to start at step 0"
        )
    return [f"the checkpoint {d.folder} is damaged ({d.reason}): going on from {resume_from}" for d in damaged]


def take_parametrization(config: Config, given: frozenset[str], checkpoint: Checkpoint) -> tuple[Config, list[str]]:
    """The options of the parametrization that were not given become those of the checkpoint, unless another
    --parametrization was given. Also returns what to say of it."""
    theirs, taken, text = checkpoint.config, {}, ""
    if "parametrization" in given and config.parametrization != theirs.get("parametrization"):
        return config, []
    group = OPTIONS["parametrization"].group
    for name, option in OPTIONS.items():
        key = name.replace("-", "_")
        if option.group != group or name in given or theirs.get(key) in (None, getattr(config, key)):
            continue
        taken[key] = of_type(option, theirs[key])
        text += f" --{name} {theirs[key] if isinstance(theirs[key], str) else json.dumps(theirs[key])}"
    return replace(config, **taken), [f"parametrization of {checkpoint.path}:{text}"] if taken else []


def assumptions(checkpoint: Checkpoint, given: frozenset[str]) -> list[str]:
    """What to say of that which is neither in the file nor given (the number of heads, a lone head that is the
    embedding), and of what is not taken: rows of padding."""
    foreign, notes = checkpoint.foreign, []
    if foreign and not foreign.heads_known and not given & {"heads", "head-dim", "preset"}:
        notes.append(
            f"heads assumed {checkpoint.shape.heads} x {checkpoint.shape.head_dim}, as in GPT-2, because neither "
            f"{checkpoint.path} nor a config.json beside it says them: give --heads"
        )
    if foreign and foreign.tie_note and "tie-embeddings" not in given:
        notes.append(foreign.tie_note)
    if foreign and foreign.cut_note:
        notes.append(foreign.cut_note)
    return notes


def take_shape(config: Config, given: frozenset[str], checkpoint: Checkpoint) -> tuple[Config, Shape]:
    """The model takes the checkpoint's shape; options that were given must agree with it."""
    shape, path = checkpoint.shape, checkpoint.path
    said = given | ({"depth", "width", "heads", "seq-len"} if config.preset else set())
    foreign = checkpoint.foreign
    heads = max(1, shape.width // config.head_dim) if config.head_dim else config.heads
    if config.head_dim:
        said |= {"heads"}
    if foreign and not foreign.heads_known and "heads" in said:
        shape = replace(shape, heads=heads)
    if foreign and foreign.head_optional and config.tie_embeddings is not None:
        shape = replace(shape, tie_embeddings=config.tie_embeddings)
    if not config.vocab_size:
        said -= {"vocab-size"}
    config = replace(config, heads=heads, head_dim=None)
    for name in ("depth", "width", "heads", "vocab-size", "tie-embeddings"):
        wanted, has = (getattr(x, name.replace("-", "_")) for x in (config, shape))
        if name in said and wanted != has:
            raise DataError(
                f"--{name} {wanted} does not fit the checkpoint {path}, which has {has}: leave the option out, or "
                "choose another checkpoint"
            )
    if shape.width % shape.heads:
        raise DataError(f"{path} has width {shape.width}, which {shape.heads} heads do not divide: give --heads")
    seq_len = config.seq_len if "seq-len" in said else shape.max_seq_len
    if seq_len > shape.max_seq_len:
        raise DataError(
            f"--seq-len {seq_len} is longer than the {plural(shape.max_seq_len, 'learned position')} of {path}: "
            "shorten it"
        )
    if foreign and not foreign.scaled_attention and config.attn_mult is None:
        config = replace(config, attn_mult=float(shape.head_dim))
    taken = {name: getattr(shape, name) for name in ("depth", "width", "heads", "vocab_size", "tie_embeddings")}
    return replace(config, seq_len=seq_len, **taken), shape


def _open_data(config: Config) -> tuple[Dataset | None, Dataset | None]:
    train = val = None
    if config.train_data:
        shuffle = config.shuffle and not config.overfit_single_batch
        train = Dataset(config.train_data, config.seq_len, "--train-data", config.seed, shuffle)
    if config.val_data:
        val = Dataset(config.val_data, config.seq_len, "--val-data", shuffle=False)
    if train and val and (train.vocab_size, train.tokenizer) != (val.vocab_size, val.tokenizer):
        raise DataError(
            "--train-data and --val-data were made with different tokenizers or vocabularies "
            f"({train.tokenizer} and {val.tokenizer})"
        )
    if train and config.overfit_single_batch and train.windows < config.batch_size:
        raise DataError(
            f"--overfit-single-batch needs {config.batch_size} sequences, the training data holds {train.windows}"
        )
    return train, val


def _choose_tokenizer(config: Config, train: Dataset | None, weights: Checkpoint | None) -> tuple[str, Path | None]:
    """Its name, and the file with its vocabulary in the folder of the data or of the checkpoint."""
    source = train or weights
    name = source.tokenizer if source else "unknown"
    if config.tokenizer != "auto":
        name = config.tokenizer
    elif name == "unknown" and config.vocab_size == GPT2_VOCAB_SIZE:
        name = "gpt2"  # llm.c's own shards do not name it
    if name == "unknown" and config.sample_every:
        raise UsageError(f"--sample-every {config.sample_every} cannot be done: {UNKNOWN}")
    beside = ([Path(train.paths[0])] if train else []) + ([weights.path] if weights else [])
    files = [find_table(path.parent) for path in beside if name == "gpt2"]
    return name, next((file for file in files if file), None)


def length_in_steps(config: Config, train: Dataset | None, start: Start) -> int:
    """Steps at the end of a run that starts at `start`."""
    if config.steps >= 0:
        return config.steps
    batch = config.total_batch_size
    if config.tokens >= 0:  # steps before a --resume may have had another batch size
        left = config.tokens - start.tokens
        if left <= -batch:
            raise UsageError(
                f"--resume: the checkpoint has seen {plural(start.tokens, 'token')}, beyond --tokens {config.tokens}: "
                "raise --tokens"
            )
        return start.step + max(0, -(-left // batch))
    if train is None:
        return 0
    samples = (config.epochs if config.epochs >= 0 else 1.0) * train.windows
    samples_per_step = batch // config.seq_len
    if start.samples == start.step * samples_per_step:
        steps = int(samples / samples_per_step)
    else:
        steps = start.step + int(max(0.0, samples - start.samples) / samples_per_step)
    return max(int(config.epochs != 0), steps)


def check_weights(setup: Setup, rules: Rules) -> list[str]:
    """DataError for weights of another parametrization and, with --resume, for options that must be the same as in the
    checkpoint. Returns the other options that changed: "lr: 0.01 -> 0.02"."""
    weights, resume_from, changed = setup.weights, setup.resume_from, []
    if weights:
        check_rules(weights, rules, setup.shape.head_dim, training=resume_from is not None)
    if not weights or not resume_from:
        return []
    for key, now in stored_options(setup.config).items():
        then = weights.config.get(key, now)
        then = of_type(OPTIONS[key.replace("_", "-")], then) if isinstance(now, tuple) else then
        if then != now and key in FIXED:
            raise DataError(
                f"--resume: the checkpoint {resume_from} has {key} = {then}, this run {now}: give the same, or start a "
                "new run with --init and another --out"
            )
        if then != now and key not in FREE:
            changed.append(f"{key}: {json.dumps(then)} -> {json.dumps(now)}")
    if weights.step > setup.steps:
        raise UsageError(
            f"--resume: the checkpoint is at step {weights.step}, beyond the {plural(setup.steps, 'step')} asked for: "
            "raise --steps"
        )
    if setup.finished:
        return []
    return changed + compare_data(setup.config, resume_from, setup.start.data, setup.train, setup.val)


def parameter_count(rules: Rules) -> int:
    return sum(math.prod(rule["shape"]) for rule in rules["tensors"])


def describe(setup: Setup, rules: Rules, device: str) -> str:
    """Describes the run in a few lines."""
    config, shape, scales = setup.config, setup.shape, rules["scales"]
    micro = f"{setup.micro_steps} x {config.batch_size} x {config.seq_len}"
    lines = [
        f"device  {device.replace('cpu', 'cpu, ' + threads_text(config.threads))}, {config.dtype}",
        f"model   depth {shape.depth}, width {shape.width}, heads {shape.heads} x {shape.head_dim}, positions "
        f"{shape.max_seq_len}, vocabulary {shape.vocab_size}, head {'tied' if shape.tie_embeddings else 'untied'}: "
        f"{parameter_count(rules):,} parameters",
    ]
    if setup.train:
        train = setup.train
        shards = plural(len(train.shards), "shard")
        lines.append(f"data    {train.tokens:,} training tokens in {shards}, tokenizer {setup.tokenizer}")
    if setup.choices:
        lines.append(f"choices {plural(len(setup.choices), 'example')} of {config.hellaswag}")
    lines.append(
        f"run     {plural(setup.steps, 'step')} of {plural(config.total_batch_size, 'token')} ({micro}"
        + (f" x {setup.ranks} processes) = " if setup.ranks > 1 else ") = ")
        + _tokens_text(setup)
    )
    depth = f", depth_mult {rules['depth_mult']:g}" if rules["depth_mult"] != 1 else ""
    lines.append(
        f"rules   {rules['scheme']}, width_mult {rules['width_mult']:g}{depth}, attention scale "
        f"{scales['attention']:g}, output scale {scales['output']:g} (--dry-run shows every tensor)"
    )
    lines += [f"warning {warning}" for warning in setup.warnings] + [f"note    {note}" for note in setup.notes]
    return "\n".join(lines)


def _tokens_text(setup: Setup) -> str:
    """4,300,800 tokens = 0.38 epochs. Steps before a --resume may have had another batch size."""
    start, batch, to_do = setup.start, setup.config.total_batch_size, max(0, setup.steps - setup.start.step)
    text = plural(start.tokens + to_do * batch, "token")
    if start.tokens != start.step * batch:
        text += f" ({start.tokens:,} in the {plural(start.step, 'step')} done)"
    if setup.train:
        samples = start.samples + to_do * (batch // setup.config.seq_len)
        text += f" = {samples / setup.train.windows:.2f} epochs"
    return text
