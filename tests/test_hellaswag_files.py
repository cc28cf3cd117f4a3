"""Files of multiple-choice examples: what both programs refuse, and dev/data/hellaswag.py, which writes them."""

import json

import numpy as np
import pytest
from both_programs import both as both_programs
from both_programs import without_name
from hellaswag_tools import items, texts_of, u2, write_case, write_lines
from program import BINARY, run
from script_tools import run_script
from weight_tools import CONFIG, random_weights, write

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("hellaswag"))


GOOD = {"ctx": "a", "endings": ["b", "c"], "label": 0}
BAD_LINES = {
    "{": "is not a JSON object",
    '{"ctx": NaN}': "is not a JSON object",
    '{"ctx": "\\ud800", "endings": ["b", "c"], "label": 0}': "is not a JSON object",
    "[1]": "is not a JSON object",
    '{"endings": ["b", "c"], "label": 0}': 'has no "ctx"',
    '{"ctx": "a", "label": 0}': 'has no "endings"',
    '{"ctx": "a", "endings": ["b", "c"]}': 'has no "label"',
    json.dumps(GOOD | {"ctx": ""}): ": the context is empty",
    json.dumps(GOOD | {"ctx": 7}): ": the context is 7, not a text",
    json.dumps(GOOD | {"endings": []}): ": the endings should be a list of at least two texts",
    json.dumps(GOOD | {"endings": ["b"]}): ": the endings should be a list of at least two texts",
    json.dumps(GOOD | {"endings": "bc"}): ": the endings should be a list of at least two texts",
    json.dumps(GOOD | {"endings": ["b", None]}): ": an ending is null, not a text",
    json.dumps(GOOD | {"label": 2}): ": the label is 2, but the endings have the numbers 0 to 1",
    json.dumps(GOOD | {"label": -1}): ": the label is -1, but the endings have the numbers 0 to 1",
    json.dumps(GOOD | {"label": "1.0"}): ': the label is "1.0", but the endings have the numbers 0 to 1',
    json.dumps(GOOD | {"label": 1.5}): ": the label is 1.5, but the endings have the numbers 0 to 1",
    json.dumps(GOOD | {"label": True}): ": the label is true, but the endings have the numbers 0 to 1",
    json.dumps(GOOD | {"label": [1, "ü"]}): ': the label is [1,"ü"], but the endings have the numbers 0 to 1',
    json.dumps(GOOD | {"label": {"b": 1, "a": 2}}): ': the label is {"a":2,"b":1}, but the endings have the numbers 0 '
    "to 1",
}


def refused(case, file):
    """The message of both programs, in `eval` and before training."""
    words = ["--hellaswag", file, "--tokenizer", "byte"]
    here, there = texts_of(case[0], *words, code=3)
    assert here == there
    training = run("--init", case[0], "--steps", 0, *words, expect=3)
    assert without_name(training[1]) == here
    return here


@pytest.mark.parametrize("line", BAD_LINES)
def test_bad_lines_are_named(case, tmp_path, line):
    path = tmp_path / "bad.jsonl"
    path.write_text(f"{json.dumps(GOOD)}\n\n{line}\n", encoding="utf-8")
    if line == "{":  # one run of training is enough
        assert refused(case, path) == f"{path}, line 3 {BAD_LINES[line]}\n"
    message = f"{path}, line 3{'' if BAD_LINES[line][0] == ':' else ' '}{BAD_LINES[line]}\n"
    assert texts_of(case[0], "--hellaswag", path, "--tokenizer", "byte", code=3) == (message, message)


def bad_eval_files(content):
    """{message: bytes}. The first example begins at byte 1024: start, bytes, number, label, endings, context."""
    second = 1024 + int.from_bytes(content[1026:1028], "little")
    context = int.from_bytes(content[1034:1036], "little")
    return {
        "BAD is neither JSON lines (it does not begin with {) nor llm.c's eval file (it has 0 bytes, the header alone "
        "1,024)": b"",
        "BAD is neither JSON lines (it does not begin with {) nor llm.c's eval file (its magic number is 20240520, not "
        "20240522): make one with dev/data/hellaswag.py": np.array([20240520], "<i4").tobytes() + content[4:],
        "BAD is an eval file of version 2, this program reads 1": u2(content, 4, 2),
        "BAD has 0 examples: make it again with dev/data/hellaswag.py": u2(content, 8, 0),
        "BAD was made with the tokenizer gpt2, the model has byte: make it with dev/data/hellaswag.py --tokenizer "
        "byte": u2(content, 16, 2),
        "BAD, byte 1024: example 1 of 15 begins with 7, not 65535": u2(content, 1024, 7),
        f"BAD, byte {second}: example 1 of 15 should end here, but ends at byte {second + 2}": u2(
            content, 1026, second - 1024 + 2
        ),
        f"BAD is truncated or damaged: example 1 of 15 ends at byte {second - 2}": u2(content, 1026, second - 1026),
        "BAD, byte 1028: example 1 of 15 has the number 3, not 0": u2(content, 1028, 3),
        "BAD, byte 1030: the label is 4, but the endings have the numbers 0 to 3": u2(content, 1030, 4),
        "BAD, byte 1030: example 1 of 15 has 1 ending, fewer than two": u2(content, 1032, 1),
        "BAD, byte 1034: the context of example 1 of 15 has no tokens": u2(content, 1034, 0),
        "BAD, byte 1036: the token 300 is beyond the model's vocabulary of 257: give a file made with the model's "
        "tokenizer": u2(content, 1036, 300),
        f"BAD, byte {1036 + 2 * context}: an ending of example 1 of 15 has no tokens": u2(
            content, 1036 + 2 * context, 0
        ),
        "BAD is truncated: example 15 of 15 should have": content[:-2],
        f"BAD, byte {len(content)}: after the last example the file should end, it has {len(content) + 2:,} bytes": (
            content + b"\0\0"
        ),
    }


def test_unusual_lines(case, tmp_path):
    """A byte order mark before an empty line, and a label of -0, which is a number with a sign."""
    path = tmp_path / "unusual.jsonl"
    line = json.dumps(GOOD)
    path.write_text(f"\ufeff\n{line}\r\n{line.replace('0}', '-0}')}\n", encoding="utf-8")
    here, there = texts_of(case[0], "--hellaswag", path, "--tokenizer", "byte")
    assert here == there
    assert "choices 2 examples of" in here


def test_bad_eval_files_are_named(case, tmp_path):
    path = tmp_path / "bad.bin"
    for message, content in bad_eval_files(case[2].read_bytes()).items():
        path.write_bytes(content)
        here, there = texts_of(case[0], "--hellaswag", path, "--tokenizer", "byte", code=3)
        assert here == there
        assert here.startswith(message.replace("BAD", str(path))), here


def test_other_things_that_are_refused(case, tmp_path):
    path, lines, _ = case
    gone = tmp_path / "gone"
    assert refused(case, gone) == f"cannot open the file of examples {gone}: No such file or directory\n"
    assert "it has 0 bytes" in refused(case, tmp_path)
    for text in texts_of(path, "--hellaswag", lines, code=3):
        assert "is text, which needs the model's tokenizer: the data does not say which" in text
    assert "needs --hellaswag" in both_programs("eval", path, "--val-data", "x", "--hellaswag-limit", 1)
    assert "--val-data is missing" in both_programs("eval", path)
    small = write(tmp_path / "small", random_weights() | {"wte.weight": random_weights()["wte.weight"][:100]}, {})
    (small / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 100}))
    for text in texts_of(small, "--hellaswag", lines, "--tokenizer", "byte", code=3):
        assert "beyond the model's vocabulary of 100: give the right --tokenizer" in text


# --- dev/data/hellaswag.py ---


def test_the_tool_writes_the_eval_file(case, tmp_path):
    _, lines, eval_path = case
    out = tmp_path / "new" / "out.bin"
    words = [lines, "--out", out, "--tokenizer", "byte"]
    done = run_script("dev/data/hellaswag.py", *words)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{out}: written\n15 examples, ")
    assert out.read_bytes() == eval_path.read_bytes()
    assert "(nothing written)" in run_script("dev/data/hellaswag.py", *words).stdout
    out.write_text("mine")
    done = run_script("dev/data/hellaswag.py", *words)
    assert done.returncode == 3
    assert "exists and has other content: delete it" in done.stderr
    assert out.read_text() == "mine"
    done = run_script("dev/data/hellaswag.py", eval_path, "--out", tmp_path / "x", "--tokenizer", "byte")
    assert done.returncode == 3
    assert "is an eval file already" in done.stderr
    assert not (tmp_path / "x").exists()


def test_what_an_eval_file_cannot_hold(tmp_path):
    lines = write_lines(tmp_path / "long.jsonl", [GOOD, GOOD | {"ctx": "a" * 40_000}])
    done = run_script("dev/data/hellaswag.py", lines, "--out", tmp_path / "x", "--tokenizer", "byte")
    assert done.returncode == 3
    assert "example 2 needs 80,024 bytes in an eval file, which has 16 bits for that number" in done.stderr


def test_the_layout_of_an_eval_file(case):
    """As llm.c's loader reads it: every number by itself."""
    content = case[2].read_bytes()
    header, numbers = np.frombuffer(content[:1024], "<i4"), np.frombuffer(content[1024:], "<u2").tolist()
    assert header[:5].tolist() == [20240522, 1, 15, max(x for x in sizes(numbers)), 1]
    assert not header[5:].any()
    at = 0
    for number, item in enumerate(items()):
        parts = [item["ctx"].encode(), *(f" {text}".encode() for text in item["endings"])]
        length = 5 + sum(1 + len(part) for part in parts)
        head = [65535, 2 * length, number, int(item["label"]), len(item["endings"])]
        assert numbers[at : at + length] == head + [x for part in parts for x in (len(part), *part)]
        at += length
    assert at == len(numbers)


def sizes(numbers):
    at = 0
    while at < len(numbers):
        yield numbers[at + 1]
        at += numbers[at + 1] // 2
