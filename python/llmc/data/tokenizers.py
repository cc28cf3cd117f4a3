"""Tokenizers of the data scripts: bytes, and GPT-2's byte-pair encoding."""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from llmc.bpe_table import BpeTable
from llmc.data.download import host_of, unreachable
from llmc.errors import DataError
from llmc.tokenizer import GPT2_VOCAB_SIZE

# tiktoken looks for a URL's contents in its cache folder under the SHA-1 of the URL. `gpt2` and `r50k_base` have the
# same vocabulary and the same regular expression: either set of files is enough. {file name: (its source, its SHA-256)}
BLOBS = "https://openaipublic.blob.core.windows.net"
GPT2_FILES = {
    "gpt2": {
        "6d1cbeee0f20b3d9449abfede4726ed8212e3aee": (
            "gpt-2/encodings/main/vocab.bpe",
            "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
        ),
        "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6": (
            "gpt-2/encodings/main/encoder.json",
            "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
        ),
    },
    "r50k_base": {
        "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4": (
            "encodings/r50k_base.tiktoken",
            "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930",
        ),
    },
}


class Tokenizer(Protocol):
    """From text to tokens below 65,536."""

    name: str  # in NAME.json: byte, gpt2 or unknown
    id: int  # in the shards' header: 1, 2 or 0
    vocab_size: int
    eot: int | None  # written before each document
    byte_lengths: NDArray[np.int64] | None  # (vocab_size,) bytes of text per token; None: unknown

    def encode(self, text: bytes) -> NDArray[np.uint16]: ...


class ByteTokenizer:
    """The 256 byte values, and 256 = end of document."""

    name, id, vocab_size = "byte", 1, 257
    eot: int | None = 256

    def __init__(self) -> None:
        self.byte_lengths: NDArray[np.int64] | None = np.append(np.ones(256, dtype=np.int64), 0)

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        return np.frombuffer(text, dtype=np.uint8).astype(np.uint16)


class Gpt2Tokenizer:
    """GPT-2's byte-pair encoding by tiktoken; its last token is the end of a document. The text must be UTF-8."""

    name, id, vocab_size = "gpt2", 2, GPT2_VOCAB_SIZE
    eot: int | None = GPT2_VOCAB_SIZE - 1

    def __init__(self) -> None:
        self.encoding = load_gpt2()
        self.table: list[bytes] = [self.encoding.decode_single_token_bytes(token) for token in range(self.vocab_size)]
        lengths = [len(word) if token != self.eot else 0 for token, word in enumerate(self.table)]
        self.byte_lengths: NDArray[np.int64] | None = np.array(lengths, dtype=np.int64)

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        return np.array(self.encoding.encode_ordinary(text.decode("utf-8")), dtype=np.uint16)


class SymbolTokenizer:
    """For data that are already tokens: the text is little-endian uint16, without documents and byte counts."""

    name, id = "unknown", 0
    eot: int | None = None
    byte_lengths: NDArray[np.int64] | None = None

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, text: bytes) -> NDArray[np.uint16]:
        return np.frombuffer(text, dtype="<u2")


def make_tokenizer(name: str) -> Tokenizer:
    return Gpt2Tokenizer() if name == "gpt2" else ByteTokenizer()


# --- GPT-2's vocabulary ---


def cache_folder() -> str:
    """Where tiktoken looks for its files; "" if an empty variable switches its cache off."""
    default = os.path.join(tempfile.gettempdir(), "data-gym-cache")
    return os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR", default))


def load_gpt2() -> Any:
    """The tiktoken encoding, from its cache folder if the files are there, else from the network."""
    try:
        import tiktoken
    except ImportError:
        raise DataError(
            "--tokenizer gpt2 needs the package tiktoken: pip install tiktoken, or use --tokenizer byte"
        ) from None
    name = _cached_encoding() or _reachable_encoding()
    try:
        return tiktoken.get_encoding(name)
    except Exception as error:  # tiktoken does not catch the errors of its HTTP library
        raise DataError(
            f"tiktoken cannot load GPT-2's vocabulary ({error}): try again, put {_file_sets()} into "
            f"the folder TIKTOKEN_CACHE_DIR, or use --tokenizer byte"
        ) from None


def _cached_encoding() -> str:
    """The encoding whose files are all in the cache folder, or "". DataError for a file with another SHA-256, which
    tiktoken would delete and download again."""
    if not cache_folder():
        return ""
    for encoding, files in GPT2_FILES.items():
        paths = {name: Path(cache_folder(), name) for name in files}
        if not all(path.is_file() for path in paths.values()):
            continue
        for name, (source, sha256) in files.items():
            found = hashlib.sha256(paths[name].read_bytes()).hexdigest()
            if found != sha256:
                raise DataError(
                    f"{paths[name]} has SHA-256 {found} and should have {sha256}: "
                    f"replace it by {BLOBS}/{source}, or use --tokenizer byte"
                )
        return encoding
    return ""


def _file_sets() -> str:
    return " or ".join(
        " + ".join(f"{name} (= {Path(source).name})" for name, (source, _) in files.items())
        for files in GPT2_FILES.values()
    )


def _reachable_encoding() -> str:
    reason = unreachable(f"{BLOBS}/gpt-2/encodings/main/vocab.bpe")
    if reason:
        raise DataError(
            f"GPT-2's vocabulary is not on this machine and {host_of(BLOBS)} cannot be reached ({reason}): "
            f"set TIKTOKEN_CACHE_DIR to a folder with {_file_sets()}, or use --tokenizer byte"
        )
    return "gpt2"


def write_tokenizer_bin(tokenizer: Gpt2Tokenizer, path: Path) -> None:
    """llm.c's decoder table."""
    BpeTable(tokenizer.table, GPT2_VOCAB_SIZE - 1).save(path)
