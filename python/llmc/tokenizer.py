"""Text to tokens and back, for prompts and samples. llmc.data.tokenizers makes data sets with the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BYTE_VOCAB_SIZE, GPT2_VOCAB_SIZE = 257, 50257
VOCAB_SIZES = {"byte": BYTE_VOCAB_SIZE, "gpt2": GPT2_VOCAB_SIZE}
UNKNOWN = "the data does not say which tokenizer made it (give --tokenizer)"


class TextTokenizer:
    """The 256 byte values and 256 = end of document; with bpe, a tiktoken encoding: GPT-2's byte-pair encoding."""

    def __init__(self, bpe: Any = None) -> None:
        self.bpe, self.end = bpe, GPT2_VOCAB_SIZE - 1 if bpe else 256  # of a document

    def encode(self, text: str) -> list[int]:
        return list(self.bpe.encode_ordinary(text)) if self.bpe else list(to_bytes(text))

    def decode(self, tokens: Sequence[int]) -> bytes:
        """The end of a document, and tokens that only the model has, are no text."""
        known = [token for token in tokens if token < self.end]
        return bytes(self.bpe.decode_bytes(known) if self.bpe else known)


def to_bytes(text: str) -> bytes:
    """A text of the command line, as its bytes were."""
    return text.encode(errors="surrogateescape")
