"""llmc.data: text files and the standard library, and the split for validation."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import time
from pathlib import Path

import pytest
from data_tools import documents_of, some_text, tokens_of
from program import snapshot
from script_tools import run_script

from llmc.data import files, options, pystdlib, text
from llmc.errors import DataError

# --- Files ---


def test_split_is_stable_and_about_as_large_as_asked():
    rng = random.Random(0)
    sizes = {f"folder/file{i}.py": rng.randrange(100, 20_000) for i in range(1000)}
    splits = files.split_by_name(sizes, 0.05)
    val = sum(size for name, size in sizes.items() if splits[name] == "val")
    assert 0.05 <= val / sum(sizes.values()) < 0.06
    fewer = files.split_by_name({name: size for name, size in sizes.items() if not name.endswith("7.py")}, 0.05)
    assert sum(splits[name] != split for name, split in fewer.items()) < 20
    assert set(files.split_by_name({"a": 10, "b": 1}, 0.05).values()) == {"train", "val"}
    assert set(files.split_by_name({"a": 1, "b": 1}, 0.99).values()) == {"train", "val"}
    assert set(files.split_by_name({"a": 10, "b": 1}, 0.0).values()) == {"train"}


@pytest.mark.parametrize(("size", "split"), [(2, "val"), (3, "train")])
def test_a_file_with_more_than_half_of_the_share_stays_in_training(size, split):
    """4 of 100 bytes are for validation: the first file by hash is used if it has 2 bytes, not if it has 3."""
    names = sorted(map(str, range(99)), key=lambda name: hashlib.sha256(name.encode()).digest())
    sizes = dict.fromkeys(names[: 101 - size], 1) | {names[0]: size}
    assert sum(sizes.values()) == 100
    splits = files.split_by_name(sizes, 0.04)
    assert splits[names[0]] == split
    assert sum(sizes[name] for name in sizes if splits[name] == "val") == 4


def make_folder(folder: Path, count: int = 30) -> dict[str, str]:
    contents = {f"part{i % 3}/{i:02d}.txt": f"file {i} begins\n" + some_text(i) for i in range(count)}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return contents


def test_text_splits_by_file(tmp_path):
    contents = make_folder(tmp_path / "in")
    out = tmp_path / "out"
    text.main([str(tmp_path / "in"), "--out", str(out), "--val-fraction", "0.2"])
    train, val = (documents_of(tokens_of(out, "text", split)) for split in ("train", "val"))
    assert not set(train) & set(val)
    assert sorted(train + val) == sorted(contents.values())
    assert 1 <= len(val) < 12
    again = tmp_path / "again"
    text.main([str(tmp_path / "in"), "--out", str(again), "--val-fraction", "0.2"])
    assert snapshot(out) == snapshot(again)


def test_text_says_that_it_is_done(tmp_path, capsys):
    make_folder(tmp_path / "in")
    arguments = [str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    text.main(arguments)
    assert "already there" not in capsys.readouterr().out
    text.main(arguments)
    assert "already there" in capsys.readouterr().out
    (tmp_path / "in" / "part0" / "00.txt").write_text("another text")
    text.main(arguments)
    assert "already there" not in capsys.readouterr().out


def test_text_leaves_out_what_is_no_text(tmp_path, capsys):
    folder = tmp_path / "in"
    contents = make_folder(folder, 4)
    (folder / "empty.txt").write_bytes(b"")
    (folder / "image.txt").write_bytes(b"\x89PNG\0\0")
    (folder / "latin.txt").write_bytes("déjà vu".encode("latin-1"))
    (folder / "cut.txt").write_bytes("é".encode()[:1])
    (folder / "copy.txt").write_text(contents["part0/00.txt"], encoding="utf-8")
    (folder / ".hidden").mkdir()
    (folder / ".hidden" / "x.txt").write_text("hidden")
    text.main([str(folder), str(folder / "part0"), "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for note in ("empty.txt: empty", "image.txt: binary", "latin.txt: not UTF-8", "cut.txt: not UTF-8", "same text as"):
        assert note in printed
    manifest = json.loads((tmp_path / "out" / "text.json").read_text())
    assert manifest["documents"] == 4


def test_numbers_of_data_scripts_are_those_of_the_programs():
    parse = options.count(2, 2_000_000_000)
    assert [parse(text) for text in ("1e6", "1_000", "1,000", "2", "1.5e3")] == [1_000_000, 1000, 1000, 2, 1500]
    for wrong in ("1e-3", "x", "", "0x10", "1.5"):
        with pytest.raises(ValueError):
            parse(wrong)
    for wrong in ("1", "-5", "3e9", "1e99"):
        with pytest.raises(argparse.ArgumentTypeError, match=re.escape(f"{wrong} is not in [2, 2,000,000,000]")):
            parse(wrong)


def test_text_patterns(tmp_path):
    for name in ("a.md", "b.txt", "c.py"):
        (tmp_path / name).write_text(f"this is {name}\n" * 9)
    text.main([str(tmp_path), "--out", str(tmp_path / "out"), "--pattern", "*.md,*.py", "--val-fraction", "0"])
    assert json.loads((tmp_path / "out" / "text.json").read_text())["source"]["files"] == ["a.md", "c.py"]
    assert not list((tmp_path / "out").glob("*_val_*"))


@pytest.mark.parametrize("lines", [True, False])
def test_text_of_one_file_is_split_at_its_tail(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(files, "BLOCK_BYTES", 1000)  # several blocks
    content = some_text(1, 3000) if lines else "é日" * 4000
    (tmp_path / "one.txt").write_text(content, encoding="utf-8", newline="")
    text.main([str(tmp_path / "one.txt"), "--out", str(tmp_path / "out"), "--val-fraction", "0.1"])
    train, val = (tokens_of(tmp_path / "out", "text", split) for split in ("train", "val"))
    (head,), (tail,) = documents_of(train), documents_of(val)  # decodes: nothing was cut within a character
    assert head + tail == content
    assert 0.09 < len(tail) / len(content) < 0.11
    assert head.endswith("\n") == lines


def test_blocks_are_cut_between_characters_and_lines():
    assert files.cut_before(b"ab\ncd") == 3
    assert files.cut_before("aé".encode()[:2]) == 1
    assert files.cut_before("日日".encode()[:5]) == 3
    assert files.cut_before(b"abc") >= 2


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda p: p / "missing", "does not exist"),
        (lambda p: p, "no text in"),
        (lambda p: os.mkfifo(p / "pipe") or p / "pipe", "is a pipe or device"),
        (lambda p: (p / "e.txt").write_bytes(b"") * 0 or p / "e.txt", "no text in"),
        (lambda p: (p / "b.bin").write_bytes(b"\0\1\2") * 0 or p / "b.bin", "no text in"),
        (lambda p: (p / "s.txt").write_bytes(b"ab") * 0 or p / "s.txt", "too short"),
    ],
    ids=["missing", "empty folder", "pipe", "empty file", "binary", "too short"],
)
def test_text_without_text_is_an_error(tmp_path, make, message):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(DataError, match=message):
        text.main([str(make(folder)), "--out", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/*"))


def test_exit_codes(tmp_path):
    result = run_script("dev/data/text.py", tmp_path / "missing")
    assert result.returncode == 3
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for wrong in (["--val-fraction", "1.5"], ["--shard-tokens", "1"], ["--tokenizer", "bert"], ["--frob"]):
        result = run_script("dev/data/text.py", tmp_path, *wrong)
        assert result.returncode == 2
        assert wrong[0] in result.stderr
    (tmp_path / "file").write_text("text\n" * 100)
    result = run_script("dev/data/text.py", tmp_path / "file", "--out", tmp_path / "file" / "out")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


# --- The standard library ---


def test_pystdlib_of_this_python(tmp_path):
    start = time.monotonic()
    result = run_script("dev/data/pystdlib.py", "--out", tmp_path)
    seconds = time.monotonic() - start
    if result.returncode == 3 and "no whole standard library" in result.stderr:
        pytest.skip("this Python has no sources of its standard library")
    assert result.returncode == 0, result.stderr
    assert seconds < 30
    assert "already there" in run_script("dev/data/pystdlib.py", "--out", tmp_path).stdout
    manifest = json.loads((tmp_path / "pystdlib.json").read_text())
    train, val = (documents_of(tokens_of(tmp_path, "pystdlib", split)) for split in ("train", "val"))
    assert not set(train) & set(val)
    assert len(train) + len(val) == manifest["documents"] > 300
    assert 0.03 < sum(map(len, val)) / sum(map(len, train + val)) < 0.08
    assert manifest["shards"][0]["bytes"] + manifest["shards"][1]["bytes"] > 5_000_000
    every = "".join(sorted(train + val))
    assert "import unittest" in every  # unittest itself is included, the tests are not
    assert "class TestCase(object):" in every or "class TestCase:" in every


def make_library(folder: Path) -> None:
    for name, data in {
        "good.py": b"a = 1\n",
        "windows.py": b"b = 1\r\n",
        "latin.py": "# coding: latin-1\nc = 'é'\n".encode("latin-1"),
        "bom.py": b"\xef\xbb\xbfd = 1\n",
        "copy/good.py": b"a = 1\n",
        "blank.py": b"\n",
        "broken.py": b"e = '\xff'\n",
        "strange.py": b"# coding: klingon\n",
        "test/t.py": b"t = 1\n",
        "pkg/tests/t.py": b"t = 1\n",
        "no.txt": b"no",
        "site-packages/x.py": b"x = 1\n",
        "_sysconfigdata__linux.py": b"path = 1\n",
        "pkg/z.py": b"z = 1\n",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def test_pystdlib_reads_all_encodings(tmp_path, monkeypatch):
    make_library(tmp_path)
    monkeypatch.setattr(pystdlib, "LEAST_BYTES", 1)
    texts, left_out = pystdlib.read_library(tmp_path)
    assert texts == {
        "bom.py": b"d = 1\n",
        "copy/good.py": b"a = 1\n",
        "windows.py": b"b = 1\n",
        "latin.py": "# coding: latin-1\nc = 'é'\n".encode(),
        "pkg/z.py": b"z = 1\n",
    }
    assert left_out == {"duplicate": 1, "empty": 1, "unreadable": 2}


@pytest.mark.parametrize("exists", [True, False])
def test_python_without_its_library(tmp_path, exists):
    if exists:
        make_library(tmp_path / "lib")
    result = run_script("dev/data/pystdlib.py", "--stdlib", tmp_path / "lib", "--out", tmp_path / "out")
    assert result.returncode == 3
    assert "no whole standard library" in result.stderr
    assert "text.py" in result.stderr
