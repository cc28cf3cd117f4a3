"""llmc.data.text with several documents in a file: separator lines, JSON lines, Parquet."""

import gzip
import json
import random

import numpy as np
import pytest
from data_tools import documents_of, some_text, tokens_of
from program import snapshot

from llmc.data import documents, files, records, text
from llmc.data.dataset import BATCH_BYTES, Piece, _next_batch
from llmc.errors import DataError

EOT = "<|endoftext|>"


def make(out, *arguments):
    text.main([*map(str, arguments), "--out", str(out)])
    return [
        documents_of(tokens_of(out, "text", split)) if list(out.glob(f"text_{split}_*")) else []
        for split in ("train", "val")
    ]


def texts(count, words=30):
    return [some_text(seed, words).strip() + "\n" for seed in range(count)]


def lines(path, values, **more):
    path.write_text("".join(json.dumps({"id": i, "text": v} | more) + "\n" for i, v in enumerate(values)))
    return path


# --- Separator lines --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block_bytes", [97, 4 << 20])
def test_a_separator_line_divides_a_file(tmp_path, monkeypatch, block_bytes):
    monkeypatch.setattr(files, "BLOCK_BYTES", block_bytes)
    expected = [*texts(40), "no newline at the end, <|endoftext|> within a line"]
    (tmp_path / "a.txt").write_text(f"{EOT}\n" + f"{EOT}\n".join(expected) + f"\n{EOT}\n\n{EOT}\r\n", newline="")
    train, val = make(tmp_path / "out", tmp_path / "a.txt", "--separator", EOT, "--val-fraction", "0.2")
    expected[-1] += "\n"
    assert sorted(train + val) == sorted(expected)
    assert train == [d for d in expected if d in set(train)] and 1 <= len(val) < 20
    manifest = json.loads((tmp_path / "out" / "text.json").read_text())
    assert manifest["documents"] == 41 and manifest["source"]["separator"] == EOT


def test_blank_lines_divide_with_an_empty_separator(tmp_path):
    (tmp_path / "a.txt").write_text("one\n1\n\n\ntwo\n\nthree")
    train, val = make(tmp_path / "out", tmp_path / "a.txt", "--separator", "", "--val-fraction", "0.3")
    assert sorted(train + val) == ["one\n1\n", "three", "two\n"] and len(val) >= 1


def test_separators_in_a_text_without_the_option_are_said(tmp_path, capsys):
    (tmp_path / "a.txt").write_text(f"one\n{EOT}\ntwo\n" * 20)
    make(tmp_path / "out", tmp_path / "a.txt")
    printed = capsys.readouterr().out
    assert f"a.txt: {EOT} is taken as text; --separator '{EOT}' divides documents there" in printed
    assert "a.txt: 1 file (0 left out)\n" in printed
    make(tmp_path / "out", tmp_path / "a.txt", "--separator", EOT)
    (tmp_path / "b.txt").write_text(f"within {EOT} a line\n" * 20)
    make(tmp_path / "out", tmp_path / "b.txt")
    assert "is taken as text" not in capsys.readouterr().out


def test_a_separator_that_is_nowhere_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text(f"one{EOT}two\n" * 50)
    with pytest.raises(DataError, match=r"no line of .*a\.txt is '<\|endoftext\|>'"):
        make(tmp_path / "out", tmp_path / "a.txt", "--separator", EOT)
    assert not list(tmp_path.glob("out/*"))
    with pytest.raises(SystemExit, match="2"):
        make(tmp_path / "out", tmp_path / "a.txt", "--separator", "a\nb")


def test_large_documents_are_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)
    large = "é日" * 3000 + "\n" + some_text(1, 2000) + "\n"
    (tmp_path / "a.txt").write_text(f"{large}{EOT}\nsmall\n", newline="")
    parts = list(documents.separated(tmp_path / "a.txt", EOT.encode()))
    assert max(len(part) for _, part in parts) <= 2000 and [begins for begins, _ in parts].count(True) == 2
    assert all(part.decode() for _, part in parts)  # nothing was cut within a character
    train, val = make(tmp_path / "out", tmp_path / "a.txt", "--separator", EOT)
    assert sorted(train + val) == sorted([large, "small\n"])


# --- JSON lines -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jsonl", ".ndjson", ".json", ".jsonl.gz", ".JSONL.GZ", ".jsonl.zst"])
def test_a_field_of_json_lines(tmp_path, suffix):
    expected = texts(30)
    values = [*expected[:10], "", None, *expected[10:]]
    data = b"\xef\xbb\xbf" + lines(tmp_path / "a", values).read_bytes() + b"\n  \n"
    if suffix.lower().endswith(".gz"):
        data = gzip.compress(data)
    elif suffix.endswith(".zst"):
        arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed")
        data = arrow.compress(data, codec="zstd", asbytes=True)
    (tmp_path / f"b{suffix}").write_bytes(data)
    train, val = make(tmp_path / "out", tmp_path / f"b{suffix}", "--field", "text", "--val-fraction", "0.2")
    assert sorted(train + val) == sorted(expected) and train and val


def test_records_and_text_in_one_folder(tmp_path):
    expected = texts(12)
    (tmp_path / "in").mkdir()
    lines(tmp_path / "in" / "a.jsonl", expected[:10])
    (tmp_path / "in" / "copy.jsonl").write_bytes((tmp_path / "in" / "a.jsonl").read_bytes())
    (tmp_path / "in" / "b.txt").write_text(expected[10])
    (tmp_path / "in" / "c.txt").write_text(f"{expected[11]}{EOT}\nlast\n")
    train, val = make(tmp_path / "out", tmp_path / "in", "--field", "text", "--separator", EOT)
    assert sorted(train + val) == sorted([*expected, "last\n"])


def test_equal_documents_are_on_one_side_and_others_do_not_move(tmp_path):
    values = texts(60)
    train, val = make(tmp_path / "a", lines(tmp_path / "a.jsonl", values * 2), "--field", "text")
    assert val and not set(train) & set(val)
    random.Random(0).shuffle(values)
    fewer, fewer_val = make(tmp_path / "b", lines(tmp_path / "b.jsonl", values[10:]), "--field", "text")
    assert set(fewer) <= set(train) and (set(fewer_val) <= set(val) or len(fewer_val) == 1)


@pytest.mark.parametrize(("count", "fraction", "sides"), [(2, 0.0001, (1, 1)), (2, 0.9999, (1, 1)), (5, 0, (5, 0))])
def test_each_side_gets_a_document(tmp_path, count, fraction, sides):
    path = lines(tmp_path / "a.jsonl", texts(count))
    assert tuple(map(len, make(tmp_path / "out", path, "--field", "text", "--val-fraction", fraction))) == sides


def test_one_document_cannot_be_divided(tmp_path):
    path = lines(tmp_path / "a.jsonl", ["the same"] * 5)
    with pytest.raises(DataError, match=r"a\.jsonl: a single document cannot be for training and for validation"):
        make(tmp_path / "out", path, "--field", "text")
    assert make(tmp_path / "out", path, "--field", "text", "--val-fraction", "0") == [["the same"] * 5, []]
    for fraction in ("0", "0.1"):
        with pytest.raises(DataError, match="every document is empty"):
            make(tmp_path / "no", lines(tmp_path / "b.jsonl", [""]), "--field", "text", "--val-fraction", fraction)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b'{"id": 1, "content": "x"}', "no field 'text': it has 'id', 'content'"),
        (b"{}", "no field 'text': it has none"),
        (b'["text"]', "list, not an object with a field 'text'"),
        (b'{"text": 7}', "'text' holds int, not text: name another field"),
        (b'{"text": "cut', "not JSON (Unterminated string"),
        (b'{"text": "\xff"}', "not UTF-8"),
        (b'{"text": "\\ud83d"}', "half of a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
        (b'{"text": ' + b"9" * 10_000 + b"}", "line 3"),
    ],
    ids=["other", "empty", "list", "number", "cut", "latin", "surrogate", "deep", "digits"],
)
def test_errors_name_file_and_line(tmp_path, line, says):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "good"}\n\n' + line + b"\n")
    with pytest.raises(DataError) as error:
        make(tmp_path / "out", tmp_path / "a.jsonl", "--field", "text")
    assert f"{tmp_path}/a.jsonl, line 3" in str(error.value) and says in str(error.value)
    assert "\n" not in str(error.value) and not list(tmp_path.glob("out/*"))


def test_a_line_that_is_too_long_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "LONGEST_LINE", 1000)
    lines(tmp_path / "a.jsonl", ["short", "x" * 1000])
    with pytest.raises(DataError, match="line 2: longer than 1,000 bytes"):
        make(tmp_path / "out", tmp_path / "a.jsonl", "--field", "text")


@pytest.mark.parametrize("damage", [lambda data: data[:-20], lambda data: b"text" + data, lambda data: b"\x1f\x8b\x08"])
def test_damaged_compressed_files_are_refused(tmp_path, damage):
    data = gzip.compress(lines(tmp_path / "a", texts(2000, 10)).read_bytes())
    (tmp_path / "a.jsonl.gz").write_bytes(damage(data))
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: cannot be read after line \d+"):
        make(tmp_path / "out", tmp_path / "a.jsonl.gz", "--field", "text")


def test_what_needs_a_field_is_said(tmp_path, capsys):
    lines(tmp_path / "a.jsonl", texts(50))
    make(tmp_path / "out", tmp_path / "a.jsonl")
    assert "a.jsonl: the lines are taken as they are; --field takes a text field of each" in capsys.readouterr().out
    (tmp_path / "b.parquet").write_bytes(b"PAR1\0\0")
    make(tmp_path / "out", tmp_path, "--pattern", "*.parquet,*.jsonl")
    assert "b.parquet: binary: --field takes a text field of its records" in capsys.readouterr().out
    (tmp_path / "c.txt").write_text("text")
    with pytest.raises(DataError, match=r"--field text: no file of .* has records"):
        make(tmp_path / "out", tmp_path / "c.txt", "--field", "text")
    make(tmp_path / "out", tmp_path / "a.jsonl", "--field", "text", "--val-fraction", "0")
    assert "50 documents in 1 file (0 left out)" in capsys.readouterr().out


# --- Parquet ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def parquet():
    return pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.mark.parametrize("kind", ["string", "large_string", "dictionary"])
def test_a_column_of_parquet(tmp_path, parquet, kind):
    arrow = pytest.importorskip("pyarrow")
    expected = texts(700, 5)  # more than a batch
    column = arrow.array([*expected, None, ""], arrow.large_string() if kind == "large_string" else arrow.string())
    column = column.dictionary_encode() if kind == "dictionary" else column
    parquet.write_table(arrow.table({"id": list(range(702)), "content": column}), tmp_path / "a.parquet")
    train, val = make(tmp_path / "out", tmp_path / "a.parquet", "--field", "content")
    assert sorted(train + val) == sorted(expected) and val


def test_errors_of_parquet(tmp_path, parquet):
    arrow = pytest.importorskip("pyarrow")
    parquet.write_table(arrow.table({"text": [1, 2], "title": ["a", "b"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet: no column 'body': it has 'text', 'title'"):
        make(tmp_path / "out", tmp_path / "a.parquet", "--field", "body")
    with pytest.raises(DataError, match=r"a\.parquet, row 1: 'text' holds int"):
        make(tmp_path / "out", tmp_path / "a.parquet", "--field", "text")
    (tmp_path / "b.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-30])
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read as Parquet after row 0"):
        make(tmp_path / "out", tmp_path / "b.parquet", "--field", "text")


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.zst"])
def test_without_pyarrow_a_sentence_says_what_is_missing(tmp_path, monkeypatch, name):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / name).write_bytes(b"PAR1")
    with pytest.raises(DataError, match="files need the package pyarrow: pip install pyarrow"):
        make(tmp_path / "out", tmp_path / name, "--field", "text")


# --- Memory -----------------------------------------------------------------------------------------------------------


def test_large_records_are_encoded_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "BLOCK_BYTES", 100)
    large = "é日" * 500
    assert max(map(len, files.cut(large.encode()))) <= 100
    assert [part.decode() for part in files.cut(b"")] == [""]
    assert "".join(part.decode() for part in files.cut(large.encode())) == large  # nothing was cut within a character
    train, val = make(tmp_path / "out", lines(tmp_path / "a.jsonl", [large, "b"]), "--field", "text")
    assert sorted(train + val) == ["b", large]


def test_processes_get_a_few_megabytes_at_a_time():
    pieces = iter([Piece("train", bytes(BATCH_BYTES))] * 3 + [Piece("train", b"a")] * 300)
    assert [len(_next_batch(pieces)) for _ in range(7)] == [1, 1, 1, 128, 128, 44, 0]


def test_several_processes_make_the_same(tmp_path):
    path = lines(tmp_path / "a.jsonl", texts(300))
    assert make(tmp_path / "1", path, "--field", "text") == make(
        tmp_path / "2", path, "--field", "text", "--workers", 2
    )
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "2")


# --- Made again -------------------------------------------------------------------------------------------------------


def test_documents_that_end_elsewhere_are_another_data_set(tmp_path, capsys):
    """Although all of their text, one after the other, is the same."""
    for values, says in [
        (["aa", "bb", "cc"], None),
        (["aa", "bb", "cc"], "already there, made from the same text (nothing written)"),
        (["aab", "b", "cc"], "replaced its data set text, whose text or options were others"),
    ]:
        made = make(tmp_path / "out", lines(tmp_path / "a.jsonl", values), "--field", "text", "--val-fraction", "0")
        assert made == [values, []]
        printed = capsys.readouterr().out
        assert f"out: {says}\n" in printed if says else "already" not in printed and "replaced" not in printed
    for moved in ("one\n", "one\ntwo\n"):  # between files
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / "a.txt").write_text(moved)
        (tmp_path / "in" / "b.txt").write_text("one\ntwo\nthree\n".removeprefix(moved))
        made = make(tmp_path / "files", tmp_path / "in", "--val-fraction", "0")
        assert made[0][0] == moved


# --- The split --------------------------------------------------------------------------------------------------------


def test_about_the_share_asked_for_goes_to_validation(tmp_path):
    values = [f"document {i}" for i in range(4000)]
    train, val = make(tmp_path / "out", lines(tmp_path / "a.jsonl", values), "--field", "text", "--val-fraction", "0.1")
    assert len(train) + len(val) == 4000
    assert abs(len(val) / 4000 - 0.1) < 4 * np.sqrt(0.1 * 0.9 / 4000)
