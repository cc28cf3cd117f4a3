"""Files that are no safetensors: what they are, and what to do with them."""

from __future__ import annotations

from pathlib import Path

TORCH = "it was written by torch.save"
KNOWN = {
    b"PK\x03\x04": TORCH,
    b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46": TORCH,  # before PyTorch 1.6
    b"\x89HDF\r\n": "it is an HDF5 file, as TensorFlow and Keras write them",
    b"GGUF": "it is a GGUF file, llama.cpp's format",
    b"version https://git-lfs": "it is a pointer of Git LFS instead of the file: run git lfs pull in its folder",
    b"<!DOCTYPE": "it is a web page: download the file itself",
    b"<!doctype": "it is a web page: download the file itself",
    b"<html": "it is a web page: download the file itself",
}


def what_file_is(path: Path) -> str:
    """ ": it was written by torch.save; dev/import_hf.py ..." for a file that begins like one of a known format; "" for
    others and for what cannot be read."""
    if not path.is_file():  # a pipe would be waited for
        return ""
    try:
        with open(path, "rb") as file:
            beginning = file.read(32)
    except OSError:
        return ""
    what = next((what for start, what in KNOWN.items() if beginning.startswith(start)), "")
    return f": {_advice(what, path)}" if what else ""


def _advice(what: str, path: Path) -> str:
    """path: what dev/import_hf.py should read"""
    return f"{what}; dev/import_hf.py {path} OUT makes safetensors of it" if what == TORCH else what


def what_is_in(folder: Path) -> str:
    """What to say of a folder without a model.safetensors."""
    files = sorted(folder.iterdir(), key=lambda path: path.name)
    for path in files:
        if path.suffix == ".safetensors":
            return f", but {path.name}: name the file"
    for path in files:
        if path.suffix in (".bin", ".pt", ".pth") and TORCH in what_file_is(path):
            whole = folder if (folder / "pytorch_model.bin.index.json").is_file() else path
            return f", but {path.name}: {_advice(TORCH, whole)}"
    if (folder / "log.jsonl").exists():
        return ": the run in it has not saved one yet"
    return ": name a checkpoint, such as OUT/checkpoints/step_00000100"
