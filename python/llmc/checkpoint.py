"""Checkpoints (doc/formats.md): model and optimizer files as safetensors, with Hugging Face's names and layout.

A rule table (`rules`) is the JSON object stored in every checkpoint; a rule is one of its `tensors`.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from llmc.bpe_table import find_table, kind_of_table, read_table
from llmc.config_json import config_json, factors_outside
from llmc.errors import DamageError, DataError, Error
from llmc.foreign import ForeignModel, read_foreign
from llmc.other_formats import what_file_is, what_is_in
from llmc.tokenizer import GPT2_VOCAB_SIZE, VOCAB_SIZES
from llmc.weight_files import WeightFiles, check_tensor, open_safetensors, read_finite

Rule: TypeAlias = dict[str, Any]
Rules: TypeAlias = dict[str, Any]
Tensors: TypeAlias = dict[str, torch.Tensor]
MODEL_FILES = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class Shape:
    """The numbers that determine the sizes of all tensors."""

    depth: int
    width: int
    heads: int
    max_seq_len: int
    vocab_size: int  # without padding rows
    tie_embeddings: bool

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @classmethod
    def from_json(cls, model: Mapping[str, Any]) -> Shape:
        """From the metadata `model` of a checkpoint."""
        keys = ("num_layers", "channels", "num_heads", "max_seq_len", "vocab_size", "tie_embeddings")
        return cls(*(model[key] for key in keys))

    def to_json(self) -> dict[str, Any]:
        return {
            "num_layers": self.depth,
            "num_heads": self.heads,
            "channels": self.width,
            "max_seq_len": self.max_seq_len,
            "vocab_size": self.vocab_size,
            "tie_embeddings": self.tie_embeddings,
        }


class Checkpoint:
    """A model opened for reading: shape, metadata, tensors. A file without our metadata is Hugging Face's format."""

    def __init__(self, path: Path, files: WeightFiles | None = None) -> None:
        self.path, self.files = path, files or WeightFiles(path)
        self.config: dict[str, Any] = {}
        self.parametrization: Rules | None = None
        self.tokenizer, self.step = "unknown", 0
        self.foreign: ForeignModel | None = None
        if any(self.files.metadata.get(key, "").startswith("llmc-mup") for key in ("writer", "format")):
            self._read_metadata(self.files.metadata)
        else:
            self.foreign = other = read_foreign(self.files)
            self.shape = Shape(other.depth, other.width, other.heads, other.max_seq_len, other.vocab_size, other.tied)
        if self.tokenizer == "unknown":
            self.tokenizer = self._likely_tokenizer()

    def _read_metadata(self, metadata: dict[str, str]) -> None:
        if "state" in metadata:
            raise DataError(
                f"{self.path} holds the state of an optimizer: name model.safetensors, or the folder of both"
            )
        for key in ("model", "parametrization", "config", "tokenizer", "step"):
            if key not in metadata:
                raise DamageError(f"{self.path} is damaged, or not of this project: its metadata has no '{key}'")
        try:
            self.shape = Shape.from_json(json.loads(metadata["model"]))
            self.parametrization = json.loads(metadata["parametrization"])
            self.config, self.tokenizer = json.loads(metadata["config"]), metadata["tokenizer"]
            self.step = int(metadata["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise DamageError(f"{self.path} is damaged: its metadata cannot be read ({error})") from None

    def _likely_tokenizer(self) -> str:
        """That of GPT-2 by the number of tokens; for weights of other projects, that of the vocabulary beside them."""
        size, table = self.shape.vocab_size, find_table(self.path.parent) if self.foreign else None
        if size == GPT2_VOCAB_SIZE:
            return "gpt2"
        kind = kind_of_table(table) if table else "unknown"
        return kind if VOCAB_SIZES.get(kind, 0) <= size else "unknown"

    def values(self, rule: Rule) -> torch.Tensor:
        """The tensor of a rule, fp32, (out, in)."""
        name, rows = rule["name"], rule["shape"][0]
        if self.foreign:
            if name in ("wte.weight", "lm_head.weight"):  # the file may have rows of padding
                rule = rule | {"shape": [self.foreign.rows, self.shape.width]}
            name = self.foreign.stored_name(name)
        return from_stored(self.files.read(name, stored_shape(rule)), rule)[:rows].float()


def checkpoints_in(out: str | Path) -> list[Path]:
    """Folders OUT/checkpoints/step_00000010, oldest first."""
    found = Path(out).glob("checkpoints/step_*") if out else []
    return sorted(path for path in found if path.name[5:].isdecimal() and path.is_dir())


def newest_checkpoint(out: str | Path) -> Path | None:
    """The checkpoint OUT/checkpoints/step_* of the latest step."""
    found = checkpoints_in(out)
    return found[-1] if found else None


class Damaged(NamedTuple):
    folder: Path
    reason: str


def newest_intact_checkpoint(
    out: str | Path, before: str = "", with_values: bool = False, known: Sequence[Damaged] = ()
) -> tuple[Path | None, list[Damaged]]:
    """The newest intact checkpoint, and the damaged ones that are newer, newest first.

    before          only those older than the folder of this name
    with_values     False: looks only at headers, sizes and metadata of both files
    known           what reading their values has found
    """
    damaged, reasons = list[Damaged](), dict(known)
    for folder in reversed(checkpoints_in(out)):
        if before and folder.name >= before:
            continue
        reason = reasons.get(folder) or _damage_of(folder, with_values)
        if not reason:
            return folder, damaged
        damaged.append(Damaged(folder, reason))
    return None, damaged


def _damage_of(folder: Path, with_values: bool) -> str:
    """Why a checkpoint cannot be resumed from; "" if it can."""
    try:
        check_complete(open_file(folder), with_values)
    except Error as error:
        return str(error)
    return ""


def check_complete(model: Checkpoint, with_values: bool) -> None:
    """DamageError unless the model and the optimizer file beside it are of one step and have all tensors. with_values:
    all tensors are read, because one may hold a number that is not finite."""
    folder = model.path.parent
    step, path = read_start(folder).step, folder / "optimizer.safetensors"
    if model.step != step:
        raise DamageError(f"its files are of the steps {model.step} and {step}")
    if model.parametrization is None:  # not of this project
        return
    prefixes = ["m.", *(["v."] if model.config.get("optimizer") == "adamw" else [])]
    prefixes += ["master."] if model.config.get("dtype") == "bf16" else []
    in_model, in_optimizer = (model.files.read, read_finite) if with_values else (model.files.check, check_tensor)
    try:
        with open_safetensors(path) as file:
            for rule in model.parametrization["tensors"]:
                in_model(rule["name"], stored_shape(rule))
                for prefix in prefixes:
                    in_optimizer(file, path, prefix + rule["name"], stored_shape(rule))
    except (KeyError, TypeError, AttributeError) as error:
        raise DamageError(f"{model.path} is damaged: its metadata cannot be read ({error})") from None


@contextmanager
def naming_intact(path: Path, kind: type[DataError] = DamageError) -> Iterator[None]:
    """If a file proves to be damaged, and `path` is a checkpoint of a run, a file of one, or the folder of a run, the
    error also names an older checkpoint that is intact."""
    try:
        yield
    except kind as error:
        intact = _intact_beside(path)
        if intact is None:
            raise
        raise DamageError(f"{error}; the checkpoint {intact} is intact") from None


def _intact_beside(path: Path) -> Path | None:
    if not path.exists():
        return None
    folder = path if path.is_dir() else path.parent
    if (folder / "checkpoints").exists():
        return newest_intact_checkpoint(folder, with_values=True)[0]
    step = folder.resolve().name  # of the link checkpoints/best, too
    return newest_intact_checkpoint(folder.parent.parent, before=step, with_values=True)[0]


def open_checkpoint(given: str | Path) -> Checkpoint:
    """given: a checkpoint's folder, a model file, or a run's folder, for its newest checkpoint. If it is a damaged
    checkpoint of a run, the error names an older one that is intact."""
    with naming_intact(Path(given), DataError):
        return open_file(given)


def open_file(given: str | Path) -> Checkpoint:
    path = Path(given)
    if not path.exists():
        raise DataError(f"there is no checkpoint at {path}")
    if path.is_dir():
        run = path.parent if path.name == "checkpoints" else path  # the folder of a run, or that of its checkpoints
        found = [folder / name for folder in (path, newest_checkpoint(run)) if folder for name in MODEL_FILES]
        path = next((file for file in found if file.is_file()), path)
    if path.is_dir():
        raise DataError(f"the folder {path} holds no model.safetensors{what_is_in(path)}")
    if not path.is_file():  # opening a pipe would wait for a writer
        raise DataError(f"{given} is no checkpoint: it is neither a file nor a folder")
    if path.suffix == ".bin" and not what_file_is(path):
        raise DataError(
            f"{path} is a model file of llm.c, which only train_gpt2 reads: make a checkpoint of it with "
            f"./train_gpt2 --init {path} --steps 0 --out OUT"
        )
    return Checkpoint(path)


# --- Layout: a block's matrices are stored as (in, out), like Hugging Face's Conv1D ---


def stored_shape(rule: Rule) -> list[int]:
    shape: list[int] = rule["shape"]
    return shape[::-1] if rule["role"] == "hidden" else shape


def from_stored(value: torch.Tensor, rule: Rule) -> torch.Tensor:
    return value.T if rule["role"] == "hidden" else value


def stored(tensor: torch.Tensor, rule: Rule) -> torch.Tensor:
    """The tensor as stored in the files: without padding rows."""
    tensor = tensor.detach()[: rule["shape"][0]]
    return (tensor.T if rule["role"] == "hidden" else tensor).contiguous().cpu()


# --- Does a checkpoint fit this run's rules? ---


def check_rules(checkpoint: Checkpoint, rules: Rules, head_dim: int, training: bool) -> None:
    """DataError if the model would compute another function with this run's rules than with the checkpoint's.
    training: also if it would scale gradients differently."""
    theirs = checkpoint.parametrization or _standard_rules(rules, _standard_attention(checkpoint, head_dim))
    trained, now = _numbers_of(theirs, training), _numbers_of(rules, training)
    for key, there, here in [
        *((key, theirs[key], rules[key]) for key in ("scheme", "width_mult")),
        *((key, trained.get(key, []), now[key]) for key in now),
    ]:
        if _same(there, here):
            continue
        if isinstance(here, list):
            there, here = next(pair for pair in zip(there, here, strict=True) if not _same(*pair))
        there, here = json.dumps(there), json.dumps(here)
        if checkpoint.parametrization is None:
            raise DataError(
                f"{checkpoint.path} is a standard GPT-2, whose {key} is {there}, this run's is {here}: use "
                "--parametrization sp and no multipliers"
            )
        raise DataError(
            f"{checkpoint.path} was trained under another parametrization: its {key} is {there}, this run's is {here}; "
            "leave the options of the parametrization out to take the checkpoint's"
        )


def _same(a: Any, b: Any) -> bool:
    """Whether a == b, numbers up to rounding."""
    if isinstance(b, list):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return math.isclose(a, b, rel_tol=1e-6) if isinstance(b, float) else bool(a == b)


def _numbers_of(rules: Rules, training: bool) -> dict[str, list[float]]:
    """The numbers of a table that change the model's function, by name; training: also those of the backward pass."""
    scales = dict(rules["scales"])
    out = {
        f"{('attention', 'mlp')[i % 2]} branch of block {i // 2}": factors if training else factors[:2]
        for i, factors in enumerate(scales.pop("residual"))
    }
    forward = ("embedding", "attention", "attention_out", "gelu", "loss", "output")
    out |= {f"scale {key}": [value] for key, value in scales.items() if training or key in forward}
    keys = ("multiplier", "dinp_multiplier", "dweight_multiplier") if training else ("multiplier",)
    tensors = [
        rule for rule in rules["tensors"] if rule["role"] in ("hidden", "vector")
    ]  # those of the others are in the scales
    return out | {f"multiplier of {rule['name']}": [rule[key] for key in keys] for rule in tensors}


def _standard_attention(checkpoint: Checkpoint, head_dim: int) -> float:
    """The attention scale of a standard GPT-2 with the head size of this run, which its file may not contain."""
    scaled = not checkpoint.foreign or checkpoint.foreign.scaled_attention
    return float(np.float32(math.sqrt(head_dim) / head_dim)) if scaled else 1.0


def _standard_rules(rules: Rules, attention: float) -> Rules:
    scales = dict.fromkeys(rules["scales"], 1.0) | {
        "attention": attention,
        "residual": [[1.0] * 5] * len(rules["scales"]["residual"]),
    }
    ones = {"multiplier": 1.0, "dinp_multiplier": 1.0, "dweight_multiplier": 1.0}
    return {**rules, "scales": scales, "tensors": [rule | ones for rule in rules["tensors"]]}


# --- Writing, and resuming ---


def save_checkpoint(
    out: str,
    step: int,
    rules: Rules,
    weights: Tensors,
    moments: Tensors,
    metadata: dict[str, str],
    state: dict[str, Any],
    tokenizer_file: Path | None = None,
) -> str:
    """Writes a temporary folder, syncs it to disk, then renames it: a folder named step_* is complete. Returns it.

    weights     by the names of the rules; moments: "m.NAME", "v.NAME", "master.NAME" (load_training_state)
    metadata    of the model file; state: of the optimizer file
    """
    by_name = {rule["name"]: rule for rule in rules["tensors"]}
    model = {name: stored(weights[name], rule) for name, rule in by_name.items()}
    optimizer = {name: stored(tensor, by_name[name.split(".", 1)[1]]) for name, tensor in moments.items()}
    folder = Path(out) / "checkpoints"
    final, temporary = folder / f"step_{step:08d}", folder / f".tmp-step_{step:08d}"
    # transformers 4.57 refuses files without format = pt
    head = {"format": "pt", "writer": "llmc-mup 1", "step": str(step)}
    shape = Shape.from_json(json.loads(metadata["model"]))
    outside = factors_outside(rules, shape.head_dim)
    metadata = metadata | {"plain_gpt2": f"no: {outside}" if outside else "yes"}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(model, temporary / "model.safetensors", head | metadata)
        save_file(optimizer, temporary / "optimizer.safetensors", head | {"state": json.dumps(state)})
        if not outside:
            dtype = json.loads(metadata["config"])["dtype"]
            text = config_json(shape.to_json(), dtype, metadata["tokenizer"])
            (temporary / "config.json").write_text(text)
        if tokenizer_file:
            read_table(tokenizer_file).save(temporary / "tokenizer.bin")
        for path in [*temporary.iterdir(), temporary]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors makes files that only their owner can read
            _sync(path)
        remove_checkpoint(final)
        temporary.rename(final)
        _sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise Error(f"cannot write the checkpoint {final}: {error}; free some space, or choose another --out") from None
    return str(final)


def remove_checkpoint(folder: Path) -> None:
    """Renamed first: a checkpoint that is being deleted must not look like a whole one."""
    if folder.exists():
        leaving = folder.with_name(f".old-{folder.name}")
        shutil.rmtree(leaving, ignore_errors=True)
        folder.rename(leaving)
        shutil.rmtree(leaving)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


class Start(NamedTuple):
    """The position of a run in its data."""

    step: int = 0
    samples: int = 0
    tokens: int = 0
    data: Mapping[str, Any] = {}  # fingerprints of "train" and "val" (llmc.resume)


def read_start(folder: Path) -> Start:
    """The position at which a checkpoint was written."""
    path = folder / "optimizer.safetensors"
    try:
        with open_safetensors(path) as file:
            state, step = json.loads(file.metadata()["state"]), int(file.metadata()["step"])
            return Start(step, int(state["samples"]), int(state["tokens"]), state.get("data") or {})
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{path} is missing or damaged: {error}") from None


def load_training_state(folder: Path, tensors: Mapping[str, torch.Tensor], rules: Rules) -> dict[str, Any]:
    """Copies the optimizer file's tensors into `tensors` ("m.wte.weight", ...); returns its state."""
    path = folder / "optimizer.safetensors"
    by_name = {rule["name"]: rule for rule in rules["tensors"]}
    try:
        with open_safetensors(path) as file, torch.no_grad():
            state: dict[str, Any] = json.loads(file.metadata()["state"])
            for name, tensor in tensors.items():
                rule = by_name[name.split(".", 1)[1]]
                tensor[: rule["shape"][0]].copy_(from_stored(read_finite(file, path, name, stored_shape(rule)), rule))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise DamageError(f"{path} is missing or damaged: {error}") from None
    return state
