"""Multiple-choice examples: a context and several endings, one of which is right. HellaSwag (Zellers et al. 2019) as
its public JSON lines, or as llm.c's eval file (doc/formats.md, "Multiple choice"). llmc/data/multiple_choice.cpp reads
the same, with the same messages."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmc.errors import DataError
from llmc.json_file import parse_json
from llmc.tokenizer import TextTokenizer
from llmc.wording import plural

MAGIC, VERSION, HEADER_BYTES = 20240522, 1, 1024
START_OF_EXAMPLE = 65535  # also a bound of its bytes, of the number of examples, and of tokens
TOKENIZERS = {1: "byte", 2: "gpt2"}


class Example(NamedTuple):
    context: list[int]  # at least one token
    endings: list[list[int]]  # at least two, of at least one token each
    label: int  # number of the right ending
    bytes: list[int] | None  # of each ending's text; None: not known


@dataclass(frozen=True)
class ModelTokens:
    """The tokens that a model knows."""

    tokenizer: str  # byte, gpt2 or unknown
    vocab_size: int
    open: Callable[[], TextTokenizer]  # called for JSON lines; raises if there is none


def read_examples(path: Path, limit: int, tokens: ModelTokens) -> list[Example]:
    """The first `limit` examples of a file, 0: all. DataError that names the file and the line or byte."""
    try:
        content = path.read_bytes() if path.is_file() or not path.exists() else b""
    except OSError as error:
        raise DataError(f"cannot open the file of examples {path}: {error.strerror}") from None
    text = content.removeprefix(b"\xef\xbb\xbf")
    if text.lstrip(b" \t\r\n").startswith(b"{"):
        return _read_lines(text, path, limit, tokens)
    return _read_eval_file(content, path, limit, tokens)


# --- JSON lines: {"ctx": "...", "endings": ["...", ...], "label": 3}, other keys are not read ---


def _read_lines(content: bytes, path: Path, limit: int, tokens: ModelTokens) -> list[Example]:
    tokenizer, out = tokens.open(), list[Example]()
    for number, line in enumerate(content.split(b"\n"), start=1):
        if limit and len(out) == limit:
            break
        if line.strip(b" \t\r"):
            out.append(_parse_line(line, f"{path}, line {number}", tokenizer, tokens.vocab_size))
    return out


def _parse_line(line: bytes, place: str, tokenizer: TextTokenizer, vocab_size: int) -> Example:
    entry = parse_json(line)
    if not isinstance(entry, dict):
        raise DataError(f"{place} is not a JSON object")
    for key in ("ctx", "endings", "label"):
        if key not in entry:
            raise DataError(f'{place} has no "{key}"')
    texts = entry["endings"]
    if not isinstance(texts, list) or len(texts) < 2:
        raise DataError(f"{place}: the endings should be a list of at least two texts")

    def encode(text: str) -> list[int]:
        out = tokenizer.encode(text)
        for token in out:
            if token >= vocab_size:
                raise DataError(
                    f"{place}: the tokenizer's token {token} is beyond the model's vocabulary of {vocab_size}: give "
                    "the right --tokenizer"
                )
        return out

    context = encode(_text(entry["ctx"], place, "the context"))
    if not context:
        raise DataError(f"{place}: the context is empty")
    endings = [encode(" " + _text(text, place, "an ending")) for text in texts]
    sizes = [max(1, len(text.encode())) for text in texts]
    return Example(context, endings, _label(entry["label"], place, len(endings)), sizes)


def _text(value: Any, place: str, what: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{place}: {what} is {_dump(value)}, not a text")
    return value


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _label(value: Any, place: str, endings: int) -> int:
    for i in range(endings):
        if (type(value) is int and value == i) or value == str(i):  # 3 or "3"
            return i
    raise DataError(f"{place}: the label is {_dump(value)}, but the endings have the numbers 0 to {endings - 1}")


# --- llm.c's eval file ---


class _Numbers:
    """The uint16 numbers of one example after the other."""

    def __init__(self, content: bytes, path: Path, vocab_size: int) -> None:
        self.content, self.path, self.vocab_size = content, path, vocab_size
        self.at, self.end, self.example = HEADER_BYTES, HEADER_BYTES, ""  # end: of the current example

    def here(self) -> str:
        """The place of the next number."""
        return f"{self.path}, byte {self.at}"

    def next(self) -> int:
        if self.at + 2 > self.end:
            raise DataError(
                f"{self.path} is truncated or damaged: {self.example} ends at byte {self.end}, within its numbers"
            )
        self.at += 2
        return int.from_bytes(self.content[self.at - 2 : self.at], "little")

    def tokens(self, what: str) -> list[int]:
        place = self.here()
        count = self.next()
        if not count:
            raise DataError(f"{place}: {what} of {self.example} has no tokens")
        out = []
        for _ in range(count):
            place = self.here()
            out.append(self.next())
            if out[-1] >= self.vocab_size:
                raise DataError(
                    f"{place}: the token {out[-1]} is beyond the model's vocabulary of {self.vocab_size}: give a file "
                    "made with the model's tokenizer"
                )
        return out

    def next_example(self, number: int, count: int) -> Example:
        self.example, begin, size_of_file = f"example {number + 1} of {count}", self.here(), len(self.content)
        first, self.end = self.at, size_of_file
        if (start := self.next()) != START_OF_EXAMPLE:
            raise DataError(f"{begin}: {self.example} begins with {start}, not {START_OF_EXAMPLE}")
        size = self.next()
        if first + size > size_of_file:
            raise DataError(
                f"{self.path} is truncated: {self.example} should have {size} bytes from byte {first} on, the file has "
                f"{size_of_file:,}"
            )
        self.end = first + size
        place = self.here()
        if (index := self.next()) != number:
            raise DataError(f"{place}: {self.example} has the number {index}, not {number}")
        place = self.here()
        label, endings = self.next(), self.next()
        if endings < 2:
            raise DataError(f"{place}: {self.example} has {plural(endings, 'ending')}, fewer than two")
        _label(label, place, endings)
        context = self.tokens("the context")
        out = Example(context, [self.tokens("an ending") for _ in range(endings)], label, None)
        if self.at != self.end:
            raise DataError(f"{self.here()}: {self.example} should end here, but ends at byte {self.end}")
        return out


def _read_eval_file(content: bytes, path: Path, limit: int, tokens: ModelTokens) -> list[Example]:
    neither = f"{path} is neither JSON lines (it does not begin with {{) nor llm.c's eval file"
    if len(content) < HEADER_BYTES:
        raise DataError(f"{neither} (it has {plural(len(content), 'byte')}, the header alone 1,024)")
    magic, version, count, _, kind = np.frombuffer(content, "<i4", 5).tolist()
    if magic != MAGIC:
        raise DataError(f"{neither} (its magic number is {magic}, not {MAGIC}): make one with dev/data/hellaswag.py")
    if version != VERSION:
        raise DataError(f"{path} is an eval file of version {version}, this program reads {VERSION}")
    if count < 1:
        raise DataError(f"{path} has {count} examples: make it again with dev/data/hellaswag.py")
    made_with = TOKENIZERS.get(kind, "unknown")
    if made_with != tokens.tokenizer and "unknown" not in (made_with, tokens.tokenizer):
        raise DataError(
            f"{path} was made with the tokenizer {made_with}, the model has {tokens.tokenizer}: make it with "
            f"dev/data/hellaswag.py --tokenizer {tokens.tokenizer}"
        )
    numbers = _Numbers(content, path, tokens.vocab_size)
    out = [numbers.next_example(i, count) for i in range(min(limit or count, count))]
    if len(out) == count and numbers.at != len(content):
        raise DataError(f"{numbers.here()}: after the last example the file should end, it has {len(content):,} bytes")
    return out


def eval_file(examples: Sequence[Example], tokenizer: str) -> bytes:
    """llm.c's eval file; the header also has the tokenizer. DataError for what the format cannot hold."""
    if len(examples) >= START_OF_EXAMPLE:
        raise DataError(f"{len(examples):,} examples are too many for an eval file, which numbers them in 16 bits")
    records = [np.array(list(_record(number, example)), "<u2") for number, example in enumerate(examples)]
    header = np.zeros(256, "<i4")
    longest = max(record.nbytes for record in records)
    header[:5] = MAGIC, VERSION, len(examples), longest, {name: i for i, name in TOKENIZERS.items()}[tokenizer]
    return header.tobytes() + b"".join(record.tobytes() for record in records)


def _record(number: int, example: Example) -> Iterator[int]:
    parts = [example.context, *example.endings]
    size = 2 * (5 + sum(1 + len(part) for part in parts))
    if size >= 1 << 16:
        raise DataError(
            f"example {number + 1} needs {size:,} bytes in an eval file, which has 16 bits for that number: leave it "
            "out, or use the JSON lines"
        )
    yield from (START_OF_EXAMPLE, size, number, example.label, len(example.endings))
    for part in parts:
        yield len(part)
        yield from part
