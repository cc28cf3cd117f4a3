"""What torch.save wrote, read like .safetensors files (llmc.weight_files). Nothing of it is executed."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch

from llmc.errors import DataError
from llmc.other_formats import what_file_is
from llmc.weight_files import open_safetensors

# names of safetensors
NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float64: "F64",
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
}


class _Slice(NamedTuple):
    value: torch.Tensor

    def get_shape(self) -> list[int]:
        return list(self.value.shape)

    def get_dtype(self) -> str:
        return NAMES.get(self.value.dtype, str(self.value.dtype))


class TorchFile:
    """The tensors of one file, with the interface of safetensors.safe_open. DataError for a file with anything else."""

    def __init__(self, path: Path) -> None:
        self._tensors = _load(path)
        for name, value in self._tensors.items():
            if not isinstance(value, torch.Tensor):
                kind = type(value).__name__
                raise DataError(f"{path} has {name!r}, a {kind} and no tensor: save the model's state_dict() alone")
            if value.layout != torch.strided or value.is_meta:
                kind = "without numbers" if value.is_meta else str(value.layout).removeprefix("torch.")
                raise DataError(f"{path} has {name!r}, a tensor that is {kind}: save it as a dense one")

    def keys(self) -> list[str]:
        return list(self._tensors)

    def metadata(self) -> dict[str, str]:
        return {}

    def get_slice(self, name: str) -> _Slice:
        return _Slice(self._tensors[name])

    def get_tensor(self, name: str) -> torch.Tensor:
        return self._tensors[name]


def open_any(path: Path) -> Any:
    """A .safetensors file by its name, every other as one of torch.save."""
    return open_safetensors(path) if path.suffix == ".safetensors" else TorchFile(path)


def _load(path: Path) -> dict[str, Any]:
    if not path.is_file():  # opening a pipe would wait for a writer
        raise DataError(f"there is no file {path}")
    try:
        with open(path, "rb") as file:
            start = file.read(4)
        archive = start == b"PK\x03\x04"  # since PyTorch 1.6; before, a pickle
        if not archive and start[:1] != b"\x80":
            raise DataError(f"{path} is no file of torch.save{what_file_is(path)}")
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except DataError:
        raise
    except pickle.UnpicklingError as error:
        # without PyTorch's advice to read the file nevertheless
        said = str(error).split("WeightsUnpickler error:")[-1].split("Please use")[0].strip()
        reason = next(iter(said.splitlines()), "not said")
        raise DataError(
            f"{path} holds more than tensors, which only a program that trusts it may read ({reason}): save the "
            "model's state_dict() alone"
        ) from None
    except Exception as error:  # of a damaged file PyTorch's reader raises KeyError, AssertionError and many others
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{path} cannot be read as a file of torch.save ({reason})") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise DataError(f"{path} holds no dictionary of tensors but {type(found).__name__}: save the state_dict()")
    return dict(found)
