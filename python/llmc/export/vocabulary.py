"""The vocabulary of a checkpoint's tokenizer, in the terms of other programs: texts and merges."""

from __future__ import annotations

from dataclasses import dataclass

from llmc.bpe_table import END_OF_TEXT, BpeTable, byte_of_characters, byte_table, find_table, read_table
from llmc.checkpoint import Checkpoint
from llmc.errors import DataError
from llmc.tokenizer import GPT2_VOCAB_SIZE, VOCAB_SIZES


@dataclass(frozen=True)
class Vocabulary:
    kind: str  # byte or gpt2
    pieces: list[bytes]  # by id; of the end of a document, END_OF_TEXT
    end: int  # id of the end of a document

    def texts(self) -> list[str]:
        """By id, as GPT-2 writes them: a character for each byte. The end of a document is END_OF_TEXT."""
        character_of = {byte: character for character, byte in byte_of_characters().items()}
        out = ["".join(character_of[byte] for byte in piece) for piece in self.pieces]
        out[self.end] = END_OF_TEXT
        return out

    def merges(self) -> list[str]:
        """ "a b": the two texts that each token of several bytes was merged from, by id; empty for bytes. DataError for
        tokens that are not made of two earlier ones."""
        ranks = {piece: rank for rank, piece in enumerate(self.pieces) if rank != self.end}
        texts, out = self.texts(), []
        for rank, piece in enumerate(self.pieces):
            if len(piece) > 1 and rank != self.end:
                left, right = _halves(piece, rank, ranks)
                out.append(f"{texts[ranks[left]]} {texts[ranks[right]]}")
        return out


def _halves(piece: bytes, rank: int, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """What byte-pair encoding with the merges before this one leaves of a token."""
    parts = [bytes([byte]) for byte in piece]
    best = -1
    while len(parts) > 2 and best < rank:
        best, at = min((ranks.get(parts[i] + parts[i + 1], rank), i) for i in range(len(parts) - 1))
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    if best == rank or not all(part in ranks for part in parts):
        raise DataError(f"token {rank} of the vocabulary, {piece!r}, is not made of two earlier tokens: it is no BPE")
    return parts[0], parts[1]


def vocabulary(checkpoint: Checkpoint) -> Vocabulary | None:
    """None: the tokenizer is unknown. GPT-2's table is beside the weights, or tiktoken's. DataError if it is missing,
    or if the model has fewer tokens than the tokenizer."""
    if checkpoint.tokenizer not in VOCAB_SIZES:
        return None
    table = byte_table() if checkpoint.tokenizer == "byte" else _gpt2_table(checkpoint)
    found = Vocabulary(checkpoint.tokenizer, table.pieces, table.end)
    if checkpoint.shape.vocab_size < len(found.pieces):
        raise DataError(
            f"{checkpoint.path} has a vocabulary of {checkpoint.shape.vocab_size} tokens, its tokenizer {found.kind} "
            f"has {len(found.pieces)}: their files would not fit each other"
        )
    return found


def _gpt2_table(checkpoint: Checkpoint) -> BpeTable:
    folder = checkpoint.path.parent
    path = find_table(folder)
    if path is None:
        from llmc.data.tokenizers import load_gpt2  # imported here: needs other packages

        try:
            encoding = load_gpt2()
        except DataError:
            raise DataError(
                f"{checkpoint.path} has GPT-2's tokens, but no vocabulary is beside it, in tiktoken's cache or within "
                f"reach: write it by dev/data/tokenizer.py {folder} --file VOCAB_JSON"
            ) from None
        pieces = [encoding.decode_single_token_bytes(token) for token in range(GPT2_VOCAB_SIZE)]
        return BpeTable(pieces, GPT2_VOCAB_SIZE - 1)
    table = read_table(path)
    if (len(table.pieces), table.end) != (GPT2_VOCAB_SIZE, GPT2_VOCAB_SIZE - 1):
        raise DataError(
            f"{path} is not GPT-2's vocabulary: it has {len(table.pieces)} tokens, and {table.end} ends a document"
        )
    return table
