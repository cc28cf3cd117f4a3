"""Multiple-choice examples and what both programs say of them, for the tests of --hellaswag."""

import contextlib
import io
import json
import re

import numpy as np
import pytest
from both_programs import without_name
from program import run
from weight_tools import CONFIG, VOCAB, random_weights, write

import train_gpt2
from llmc.data.multiple_choice import ModelTokens, eval_file, read_examples
from llmc.tokenizer import TextTokenizer

BYTES = ModelTokens("byte", VOCAB, TextTokenizer)


def items():
    """Fifteen examples: contexts and endings shorter and longer than a window, letters of several bytes, an empty
    ending, a label as text, and other numbers of endings than four."""
    rng = np.random.default_rng(0)
    words = "a the cat dog runs sleeps über naïve 日本 under green tree and , .".split()

    def text(low, high):
        return " ".join(rng.choice(words, rng.integers(low, high)))

    out = [
        {"ind": i, "ctx": text(1, 5), "label": int(rng.integers(4)), "endings": [text(1, 6) for _ in range(4)]}
        for i in range(12)
    ]
    out[2]["ctx"] = text(30, 31)
    out[4]["endings"][1] = text(25, 26)
    out[5]["endings"][3] = ""
    out[7]["label"] = str(out[7]["label"])
    out += [{"ctx": "It is", "label": 1, "endings": ["one", "two words"]}]
    out += [{"ctx": text(1, 3), "label": 4, "endings": [text(1, 3) for _ in range(5)]} for _ in range(2)]
    return out


def write_lines(path, examples):
    path.write_text("".join(json.dumps(example, ensure_ascii=False) + "\n" for example in examples), encoding="utf-8")
    return path


def write_case(folder):
    """Weights, the JSON lines, and the eval file of the same examples."""
    lines, eval_path = write_lines(folder / "items.jsonl", items()), folder / "items.bin"
    eval_path.write_bytes(eval_file(read_examples(lines, 0, BYTES), "byte"))
    return write(folder / "model", random_weights(), CONFIG), lines, eval_path


def u2(content, at, value):
    """The content with another uint16 at a byte."""
    return content[:at] + int(value).to_bytes(2, "little") + content[at + 2 :]


def texts_of(*words, code=0):
    """What the programs print, on both outputs, without their names."""
    here = "".join(map(without_name, run("eval", *words, "--threads", 1, expect=code)))
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        assert train_gpt2.main(["eval", *map(str, words), "--threads", "1"]) == code
    return here, without_name(out.getvalue() + error.getvalue())


def evaluate(*words):
    """[acc, by tokens, (by bytes,) loss of the right endings] of both programs, which print the same text."""
    texts = texts_of(*words)
    lines = [re.search(r"choices (.*)\nacc     (.*)\n", text) for text in texts]
    numbers = [[float(x) for x in re.findall(r"\d+\.\d+", line[2])] for line in lines]
    assert lines[0][1] == lines[1][1]
    assert re.sub(r"\d+\.\d+", "", lines[0][2]) == re.sub(r"\d+\.\d+", "", lines[1][2])
    assert numbers[0][:-1] == numbers[1][:-1]
    assert numbers[0][-1] == pytest.approx(numbers[1][-1], abs=1.1e-4)  # four decimals of the same number
    return numbers[0], lines[0][0]
