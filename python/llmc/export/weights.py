"""Weights as transformers writes those of a GPT2LMHeadModel: one .safetensors file, or several with an index."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from llmc.checkpoint import Checkpoint, Rule, Tensors, stored
from llmc.config_json import DTYPE_NAMES
from llmc.errors import DataError
from llmc.foreign import HEAD

PREFIX = "transformer."  # of all names but the head's: transformers 4.57 takes no other names beside a head


@dataclass(frozen=True)
class Written:
    files: list[str]  # names, without that of the index
    bytes: int
    dtype: str
    rounded: str  # the first tensor that the dtype has rounded; "": none


def _torch_dtype(dtype: str) -> Any:
    return getattr(torch, DTYPE_NAMES[dtype])


def stored_dtype(checkpoint: Checkpoint, rules: Sequence[Rule]) -> str:
    """fp32, bf16 or fp16, if all tensors have it; fp32 for several."""
    foreign = checkpoint.foreign
    names = [foreign.stored_name(rule["name"]) if foreign else rule["name"] for rule in rules]
    found = {checkpoint.files.dtype(name) for name in names}
    return {"BF16": "bf16", "F16": "fp16"}.get(found.pop(), "fp32") if len(found) == 1 else "fp32"


def write_weights(
    folder: Path,
    rules: Sequence[Rule],
    read: Callable[[Rule], torch.Tensor],
    dtype: str,
    shard_size: int,
    metadata: dict[str, str],
) -> Written:
    """One file is in memory at a time. DataError naming the tensor and its value for a number beyond the dtype.

    read            the tensor of a rule, float32, (out, in)
    shard_size      bytes of the tensors of a file; a larger tensor has a file of its own
    metadata        of each file
    """
    places: dict[str, str] = {}
    rounded = ""
    shards = list(_shards(rules, _torch_dtype(dtype).itemsize, shard_size))
    for number, shard in enumerate(shards, 1):
        name = "model.safetensors" if len(shards) == 1 else f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors: Tensors = {}
        for rule in shard:
            value = read(rule)
            cast = _cast(value, rule["name"], dtype)
            rounded = rounded or ("" if torch.equal(cast.float(), value) else rule["name"])
            tensors[_written_name(rule)] = stored(cast, rule)
        save_file(tensors, folder / name, metadata | {"format": "pt"})
        places |= dict.fromkeys(tensors, name)
    total = sum(_bytes(rule, _torch_dtype(dtype).itemsize) for rule in rules)
    if len(shards) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return Written(sorted(set(places.values())), total, dtype, rounded)


def _written_name(rule: Rule) -> str:
    name: str = rule["name"]
    return name if name == HEAD else PREFIX + name


def _bytes(rule: Rule, itemsize: int) -> int:
    return math.prod(rule["shape"]) * itemsize


def _shards(rules: Sequence[Rule], itemsize: int, limit: int) -> Iterator[list[Rule]]:
    """The tensors of each file, in order."""
    shard: list[Rule] = []
    used = 0
    for rule in rules:
        size = _bytes(rule, itemsize)
        if shard and used + size > limit:
            yield shard
            shard, used = [], 0
        shard.append(rule)
        used += size
    yield shard


def _cast(value: torch.Tensor, name: str, dtype: str) -> torch.Tensor:
    cast = value.to(_torch_dtype(dtype))
    if not torch.isfinite(cast).all():
        worst = value.flatten()[value.abs().argmax()].item()
        raise DataError(
            f"{name} has the number {worst:.6g}, beyond {dtype}'s largest, {torch.finfo(_torch_dtype(dtype)).max:.6g}: "
            "choose another --dtype"
        )
    return cast
