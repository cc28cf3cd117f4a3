"""The tensors of one .safetensors file, or of all files that a model.safetensors.index.json names ("weight_map": name
of a tensor -> file beside the index), as transformers writes large models."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from llmc.errors import DamageError, DataError
from llmc.json_file import read_json
from llmc.other_formats import what_file_is
from llmc.wording import plural

DTYPES = {"F32", "BF16", "F16"}
LONGEST_HEADER = 100_000_000  # bytes, of the library
_open: Any = safe_open  # it has no types


def open_safetensors(path: Path) -> Any:
    """DamageError if the file is missing or not in the format."""
    _check_length(path)
    try:
        return _open(path, "pt")
    except (OSError, SafetensorError) as error:
        raise DamageError(f"{path} is no safetensors file, or damaged: {error}") from None


def _check_length(path: Path) -> None:
    """DamageError for a file that cannot be in the format, with what else it is."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # opening a pipe would wait for a writer
        with open(descriptor, "rb") as file:
            beginning = file.read(8) or b""
    except OSError as error:
        raise DamageError(f"cannot open the checkpoint {path}: {error.strerror}") from None
    size, length = path.stat().st_size, int.from_bytes(beginning, "little")
    if size < 8:
        raise DamageError(f"{path} is no safetensors file: it has {plural(size, 'byte')}{what_file_is(path)}")
    if length > LONGEST_HEADER:
        too_long = f": its header should have {length} bytes, more than the format allows"
        raise DamageError(f"{path} is no safetensors file{what_file_is(path) or too_long}")
    if length > size - 8:
        raise DamageError(
            f"{path} is no safetensors file, or truncated: its header should have "
            f"{plural(length, 'byte')}, the file has {size:,}"
        )


def check_tensor(file: Any, path: Path, name: str, shape: list[int]) -> None:
    """DamageError if a tensor of an open file is absent, has another shape, or is not F32, BF16 or F16."""
    if name not in file.keys():  # noqa: SIM118 - not a dict
        raise DamageError(f"{path} has no tensor '{name}': is it a checkpoint of another model?")
    part = file.get_slice(name)
    if part.get_shape() != shape:
        raise DamageError(
            f"{path}: tensor {name} has the shape {_json(part.get_shape())}, the model needs {_json(shape)}"
        )
    if part.get_dtype() not in DTYPES:
        raise DamageError(f"{path}: tensor {name} has dtype {part.get_dtype()}; this program reads F32, BF16 and F16")


def read_finite(file: Any, path: Path, name: str, shape: list[int]) -> torch.Tensor:
    """A tensor of an open file. DamageError as of check_tensor, and for a number that is not finite."""
    check_tensor(file, path, name, shape)
    value: torch.Tensor = file.get_tensor(name)
    finite = torch.isfinite(value).flatten()
    if not finite.all():
        at = int((~finite).nonzero()[0])
        kind = "NaN" if torch.isnan(value.flatten()[at]) else "infinity"
        raise DamageError(
            f"{path}: tensor {name} has {kind} at element {at} of {value.numel()}: the run that wrote it had diverged, "
            "or the file is damaged; use an earlier checkpoint"
        )
    return value


def _json(shape: list[int]) -> str:
    return json.dumps(shape, separators=(",", ":"))


class WeightFiles:
    """The files of one model, opened."""

    def __init__(self, path: Path, open_one: Callable[[Path], Any] = open_safetensors) -> None:
        """open_one: what opens each of them, with the interface of safetensors.safe_open"""
        self.path, self._open_one = path, open_one
        self._where: dict[str, tuple[Any, Path]] = {}
        if path.suffix == ".json":
            self._open_index()
        else:
            file = open_one(path)
            self.metadata: dict[str, str] = file.metadata() or {}
            self._where = {name: (file, path) for name in file.keys()}  # noqa: SIM118

    def _open_index(self) -> None:
        index = read_json(self.path)
        places = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(places, dict) or not places:
            raise DataError(f"{self.path} is no index of safetensors files: it has no object 'weight_map'")
        opened: dict[Path, Any] = {}
        for name, file_name in sorted(places.items()):
            if not isinstance(file_name, str) or file_name in ("", ".", "..") or "\0" in file_name:
                wrong = json.dumps(file_name)
                raise DataError(f"{self.path}: the file of tensor {name} is {wrong}, which is not a file name")
            if "/" in file_name:
                raise DataError(f"{self.path}: the file {file_name} must be in the index's folder")
            path = self.path.parent / file_name
            if path not in opened:
                opened[path] = self._open_one(path)
            if name not in opened[path].keys():  # noqa: SIM118
                raise DataError(f"{path} has no tensor '{name}', which {self.path} places there")
            self._where[name] = opened[path], path
        self.metadata = next(iter(opened.values())).metadata() or {}

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(path.stat().st_size for path in {path for _, path in self._where.values()})

    def names(self) -> list[str]:
        return sorted(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def shape(self, name: str) -> list[int] | None:
        """None: there is no such tensor."""
        return list(self._where[name][0].get_slice(name).get_shape()) if name in self else None

    def dtype(self, name: str) -> str:
        """By the format's name. DamageError if there is no such tensor."""
        return str(self._place(name)[0].get_slice(name).get_dtype())

    def check(self, name: str, shape: list[int]) -> None:
        """DamageError as of check_tensor."""
        check_tensor(*self._place(name), name, shape)

    def read(self, name: str, shape: list[int]) -> torch.Tensor:
        """DamageError as of read_finite."""
        return read_finite(*self._place(name), name, shape)

    def _place(self, name: str) -> tuple[Any, Path]:
        if name not in self:
            raise DamageError(f"{self.path} has no tensor '{name}': is it a checkpoint of another model?")
        return self._where[name]
