"""A folder of a model for other programs, written completely or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from llmc.errors import DataError, Error, UsageError
from llmc.version import VERSION
from llmc.weight_files import open_safetensors

EXPORTED_BY = {"exported_by": f"llmc-mup {VERSION}"}  # in the metadata of the weights
# all that export_hf and import_hf write
NAMES = {
    "README.md",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors.index.json",
    "tokenizer.bin",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}


def check_source(out: Path, weights: Path) -> None:
    """UsageError if the folder holds the weights that are read: they, and what is beside them, would be lost."""
    if out.resolve() in (weights.parent.resolve(), weights.resolve().parent):
        raise UsageError(f"{out} holds the weights to read, {weights}: choose another folder")


def check_unused(out: Path, overwrite: bool) -> None:
    """UsageError if the folder exists, unless it is empty, or may be overwritten and was exported by this project."""
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.is_dir() and overwrite:
        other = _not_exported(out)
        if other:
            raise UsageError(f"{out} is not deleted, because it holds {other}: choose another folder")
    elif out.exists() or out.is_symlink():
        hint = "choose another folder, or give --overwrite" if out.is_dir() else "name a folder"
        raise UsageError(f"{out} exists: {hint}")


def _not_exported(folder: Path) -> str:
    """What a folder holds that this project does not export; "" if nothing."""
    weights = sorted(folder.glob("model*.safetensors"))
    for path in sorted(folder.iterdir()):
        if path.is_dir() or (path not in weights and path.name not in NAMES):
            return path.name
    for path in weights:
        try:
            metadata = open_safetensors(path).metadata() or {}
        except DataError:
            metadata = {}
        if not metadata.get("exported_by", "").startswith("llmc-mup"):
            return f"{path.name}, which was not exported by this project"
    return "" if weights else "no weights that were exported by this project"


@contextmanager
def new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder beside `out`, which takes its place when the block has ended without an error."""
    check_unused(out, overwrite)
    target = out.resolve()  # a link to a folder stays one
    temporary, leaving = (target.with_name(f".{target.name}.{state}") for state in ("tmp", "old"))
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            path.chmod(0o644)  # safetensors makes files that only their owner can read
        check_unused(out, overwrite)
        _replace(temporary, target, leaving)
    except (OSError, SafetensorError) as error:
        raise Error(f"cannot write {out}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, target: Path, leaving: Path) -> None:
    """If it fails, the earlier folder is back in its place."""
    shutil.rmtree(leaving, ignore_errors=True)
    had_one = target.exists()
    if had_one:
        target.rename(leaving)
    try:
        temporary.rename(target)
    except OSError:
        if had_one:
            leaving.rename(target)
        raise
    shutil.rmtree(leaving, ignore_errors=True)
