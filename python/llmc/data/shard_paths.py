"""Which files --train-data and --val-data name. The same as llmc/data/shard_paths.cpp."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable
from os import PathLike, fspath
from typing import NoReturn

from llmc.errors import DataError
from llmc.wording import plural

Patterns = str | PathLike[str] | Iterable[str | PathLike[str]]
ADVICE = "make shards with dev/data/*.py, or correct the path"
NAMED = 3  # files named in a message


def find_shards(patterns: Patterns, option: str) -> tuple[list[str], list[str]]:
    """The files that the words name, each once, sorted, and what was taken of folders, a sentence each.

    Each word is a file, a folder (its training or its validation shards, as `option` says) or a pattern of these. The
    longest leading part that exists is taken literally, so that folders may have brackets in their names; only the rest
    is a pattern. DataError for a word that names no file.
    """
    split = "val" if option == "--val-data" else "train"
    paths: set[str] = set()
    notes = []
    for pattern in [patterns] if isinstance(patterns, (str, PathLike)) else patterns:
        word = re.sub("/+", "/", fspath(pattern))  # glob does this in some places
        literal = _literal_length(word)
        rest = word[literal:].replace("[^", "[!")  # as in C
        found = sorted(glob.glob(glob.escape(word[:literal]) + rest), key=os.fsencode)
        if not found:
            _fail_pattern(word, option)
        for path in found:
            if not os.path.isdir(path):
                paths.add(path)
                continue
            names = _shards_in(path, split)
            if not names:
                _fail_folder(path, option, split)
            paths.update(os.path.join(path, name) for name in names)
            taken = "is taken" if len(names) == 1 else f"to {names[-1]} are taken, {plural(len(names), 'file')}"
            notes.append(f"{option} {path} is a folder: {names[0]} {taken}")
    return sorted(paths, key=os.fsencode), notes


def _literal_length(text: str) -> int:
    """The length of the longest leading part, up to a slash or the end, that exists."""
    length = 0
    while length < len(text):
        end = text.find("/", length + 1)
        end = len(text) if end < 0 else end
        if not os.path.exists(text[:end]):
            break
        length = end
    return 1 if length == 0 and text.startswith("/") else length


def _names_in(folder: str, folders: bool) -> list[str]:
    """Names of files ending with .bin, or of folders, sorted; without hidden ones. An unreadable folder has none."""
    try:
        names = [name for name in os.listdir(folder or ".") if not name.startswith(".")]
    except OSError:
        return []
    chosen = [name for name in names if os.path.isdir(os.path.join(folder, name)) == folders]
    return sorted((name for name in chosen if folders or name.endswith(".bin")), key=os.fsencode)


def _shards_in(folder: str, split: str) -> list[str]:
    """Those that have train or val as a word: text_train_000001.bin, tiny_shakespeare_train.bin."""
    return [name for name in _names_in(folder, False) if split in name.removesuffix(".bin").split("_")]


def _listed(names: list[str]) -> str:
    """a.bin, b.bin, c.bin and 2 more"""
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _fail_folder(folder: str, option: str, split: str) -> NoReturn:
    advice = ADVICE
    if files := _names_in(folder, False):
        advice = f"it has {_listed(files)}: name the files to take"
    elif folders := [name for name in _names_in(folder, True) if _shards_in(os.path.join(folder, name), split)]:
        example = os.path.join(folder, folders[0])
        advice = f"there are some in {_listed(folders)}: give such a folder, as '{example}'"
    raise DataError(f"{option} '{folder}' is a folder without *_{split}_*.bin: {advice}")


def _fail_pattern(word: str, option: str) -> NoReturn:
    literal = _literal_length(word)
    slash = word.find("/", literal + 1)
    folder, advice = word[:literal], ADVICE
    if slash >= 0 and not glob.has_magic(word[literal:slash]):
        advice = f"there is no folder '{word[:slash]}': {ADVICE}"
    elif files := _names_in(folder, False):
        what = "pattern" if glob.has_magic(word[literal:]) else "name"
        advice = f"'{folder or '.'}' has {_listed(files)}: correct the {what}"
    raise DataError(f"{option} '{word}' matches no file: {advice}")
