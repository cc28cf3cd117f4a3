"""GPT-2's vocabulary from a file: llm.c's tokenizer.bin or gpt2_tokenizer.bin (doc/formats.md), or vocab.json or
tokenizer.json, which transformers writes beside its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmc.errors import DataError
from llmc.json_file import read_json
from llmc.tokenizer import BYTE_VOCAB_SIZE, GPT2_VOCAB_SIZE

MAGIC, VERSION, END_OF_TEXT = 20240328, 2, "<|endoftext|>"
NAMES = ("tokenizer.bin", "gpt2_tokenizer.bin", "vocab.json", "tokenizer.json")


@dataclass(frozen=True)
class BpeTable:
    pieces: list[bytes]  # of each token; its number is its rank in merging
    end: int  # of a document

    def encoding(self) -> Any:
        """The tiktoken encoding with these ranks and GPT-2's split into words. DataError without tiktoken."""
        try:
            import tiktoken
            from tiktoken_ext.openai_public import r50k_pat_str
        except ImportError:
            raise DataError("the gpt2 tokenizer needs the package tiktoken: pip install tiktoken") from None
        ranks = {piece: rank for rank, piece in enumerate(self.pieces) if rank != self.end}
        return tiktoken.Encoding(
            "gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={END_OF_TEXT: self.end}
        )

    def save(self, path: Path) -> None:
        """tokenizer.bin: header (magic, version, vocabulary, end of document), then each length and its bytes."""
        header = np.zeros(256, dtype="<i4")
        header[:4] = MAGIC, VERSION, len(self.pieces), self.end
        path.write_bytes(header.tobytes() + b"".join(bytes([len(piece)]) + piece for piece in self.pieces))


def find_table(folder: Path) -> Path | None:
    """The first of these files that is in the folder."""
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def read_table(path: Path) -> BpeTable:
    """DataError naming the file."""
    return _read_json(path) if path.suffix == ".json" else _read_bin(path)


def _read_bin(path: Path) -> BpeTable:
    raw = path.read_bytes()
    if len(raw) < 1024:
        raise DataError(f"cannot read the tokenizer {path}: make it with dev/data/tokenizer.py")
    header = np.frombuffer(raw[:1024], dtype="<i4")
    old = header[1] == 1 and header[2] == GPT2_VOCAB_SIZE  # it does not contain the end of a document
    if header[0] != MAGIC or not (header[1] == VERSION or old):
        raise DataError(
            f"{path} is no tokenizer file of version {VERSION} (magic {header[0]}, version {header[1]}): make it with "
            "dev/data/tokenizer.py"
        )
    pieces, at = [], 1024
    for i in range(int(header[2])):
        end = at + 1 + raw[at] if at < len(raw) else len(raw) + 1
        if end > len(raw):
            raise DataError(f"{path} is truncated at token {i} of {header[2]}")
        pieces.append(raw[at + 1 : end])
        at = end
    return BpeTable(pieces, GPT2_VOCAB_SIZE - 1 if old else int(header[3]))


def byte_of_characters() -> dict[str, int]:
    """GPT-2 writes a byte as a character: itself if it is printable, else 256, 257, ... in the order of the bytes.
    {character: byte}"""
    out, other = {}, 256
    for byte in range(256):
        printable = 33 <= byte <= 126 or (byte >= 161 and byte != 173)
        out[chr(byte if printable else other)] = byte
        other += not printable
    return out


def kind_of_table(path: Path) -> str:
    """byte: the 257 tokens of bytes and the end of a document; gpt2; unknown: another table, or one that cannot be
    read."""
    try:
        if path.suffix == ".json" and _is_of_bytes(_json_vocabulary(path)):
            return "byte"
        table = read_table(path)
    except (DataError, OSError):
        return "unknown"
    if table == byte_table():
        return "byte"
    return "gpt2" if len(table.pieces) == GPT2_VOCAB_SIZE else "unknown"


def byte_table() -> BpeTable:
    """Of the byte tokenizer: tokens are the byte values."""
    pieces = [bytes([byte]) for byte in range(BYTE_VOCAB_SIZE - 1)]
    return BpeTable([*pieces, END_OF_TEXT.encode()], BYTE_VOCAB_SIZE - 1)


def json_of_bytes() -> dict[str, int]:
    """The byte tokenizer's vocab.json."""
    return byte_of_characters() | {END_OF_TEXT: BYTE_VOCAB_SIZE - 1}


def _is_of_bytes(vocabulary: Any) -> bool:
    return bool(vocabulary == json_of_bytes()) and all(type(number) is int for number in vocabulary.values())


def _json_vocabulary(path: Path) -> Any:
    root = read_json(path)
    if isinstance(root, dict) and isinstance(root.get("model"), dict):
        root = root["model"].get("vocab", root)
    return root


def _read_json(path: Path) -> BpeTable:
    root = _json_vocabulary(path)
    if not isinstance(root, dict) or len(root) != GPT2_VOCAB_SIZE or END_OF_TEXT not in root:
        raise DataError(
            f"{path} is not GPT-2's vocabulary: it should have {GPT2_VOCAB_SIZE} tokens and {END_OF_TEXT} among them"
        )
    byte_of = byte_of_characters()
    pieces: list[bytes] = [b""] * len(root)
    for text, number in root.items():
        if type(number) is not int or not 0 <= number < len(root) or pieces[number]:
            raise DataError(f"{path}: the token '{text}' has the number {number}, which is out of range or used twice")
        try:
            pieces[number] = text.encode() if text == END_OF_TEXT else bytes(byte_of[c] for c in text)
        except KeyError:
            raise DataError(f"{path}: the token '{text}' is not in GPT-2's alphabet of bytes") from None
    return BpeTable(pieces, root[END_OF_TEXT])
