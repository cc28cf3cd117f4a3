"""dev/data: token shards, the scripts that make them, and what they say when they cannot."""

from __future__ import annotations

import hashlib
import http.server
import io
import json
import math
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

np = pytest.importorskip("numpy")
ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "dev" / "data"
SHARED = ROOT.parent / "shared" / "data"
sys.path.append(str(SCRIPTS))

import common  # noqa: E402
import download  # noqa: E402
import files  # noqa: E402
import fineweb  # noqa: E402
import pystdlib  # noqa: E402
import synthetic  # noqa: E402
import text  # noqa: E402
import tinyshakespeare  # noqa: E402
import tinystories  # noqa: E402
import token_shards  # noqa: E402
import tokenizer as tokenizers  # noqa: E402
from errors import DataError  # noqa: E402

WORDS = ["the", "a", "cat", "sees", "dog", "on", "under", "green", "tree", "and", "sleeps", "été", "naïve", "日本"]


def some_text(seed: int, words: int = 200) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + rng.choice(["  ", " ", "\n", ". "]) for _ in range(words))


def decode_bytes(tokens) -> bytes:
    """The text of byte tokens, without the ends of documents."""
    return bytes(token for token in tokens.tolist() if token != 256)


def tokens_of(out: Path, name: str, split: str) -> np.ndarray:
    return np.concatenate([token_shards.read_shard(path).tokens for path in sorted(out.glob(f"{name}_{split}_*.bin"))])


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pieces(*documents: str, split: str = "train"):
    return lambda: [common.Piece(split, document.encode()) for document in documents]


def run_script(name: str, *arguments, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(SCRIPTS / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, **(env or {})},
    )


# Format


def test_shard_bytes_exactly(tmp_path):
    manifest, there = common.write_dataset(tmp_path, "d", "byte", pieces("ab", "é"), {}, shard_tokens=100)
    assert not there
    header = [20240520, 1, 6, 257, 1, 4, 0, 0]
    expected = b"".join(n.to_bytes(4, "little") for n in header) + hashlib.sha256("abé".encode()).digest()
    expected += bytes(1024 - len(expected))
    expected += b"".join(n.to_bytes(2, "little") for n in [256, 97, 98, 256, 0xC3, 0xA9])
    assert (tmp_path / "d_train_000001.bin").read_bytes() == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.json", "d_train_000001.bin"]
    assert manifest["documents"] == 2
    assert manifest == json.loads((tmp_path / "d.json").read_text())


def test_header_holds_large_byte_counts():
    header = np.frombuffer(token_shards.shard_header(5, 257, 1, (3 << 32) + 7, bytes(32)), "<u4")
    assert header[5:7].tolist() == [7, 3]


def test_shards_are_full_and_together_are_the_text(tmp_path):
    documents = [some_text(seed) for seed in range(8)]
    manifest, _ = common.write_dataset(tmp_path, "d", "byte", pieces(*documents), {}, shard_tokens=1000)
    sizes = [shard["tokens"] for shard in manifest["shards"]]
    assert len(sizes) > 5
    assert set(sizes[:-1]) == {1000}
    tokens = tokens_of(tmp_path, "d", "train")
    assert decode_bytes(tokens) == "".join(documents).encode()
    assert (tokens == 256).sum() == 8
    contents = [token_shards.read_shard(tmp_path / shard["file"]) for shard in manifest["shards"]]
    assert sum(content.bytes for content in contents) == len("".join(documents).encode())
    assert {content.sha256 for content in contents} == {manifest["sha256"]}


def test_a_tiny_remainder_joins_the_last_shard(tmp_path):
    manifest, _ = common.write_dataset(tmp_path, "d", "byte", pieces("x" * 2004), {}, shard_tokens=1000)
    assert [shard["tokens"] for shard in manifest["shards"]] == [1000, 1005]
    assert token_shards.read_shard(tmp_path / "d_train_000002.bin").tokens.tolist() == [120] * 1005
    assert token_shards.read_shard(tmp_path / "d_train_000002.bin").bytes == 1005


def test_first_tokens_for_validation_and_a_limit(tmp_path):
    common.write_dataset(
        tmp_path, "d", "byte", pieces("abcdef", "ghi"), {}, shard_tokens=100, val_tokens=3, max_tokens=9
    )
    assert tokens_of(tmp_path, "d", "val").tolist() == [256, 97, 98]
    assert tokens_of(tmp_path, "d", "train").tolist() == [99, 100, 101, 102, 256, 103]


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:500], lambda b: b"x" + b[1:]])
def test_reader_refuses_spoiled_shards(tmp_path, spoil):
    common.write_dataset(tmp_path, "d", "byte", pieces("hello"), {}, shard_tokens=100)
    path = tmp_path / "d_train_000001.bin"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match="d_train_000001"):
        token_shards.read_shard(path)


# Data sets as wholes


def test_made_twice_is_made_once(tmp_path):
    def make(*documents, **options):
        return common.write_dataset(tmp_path, "d", "byte", pieces(*documents), {}, **{"shard_tokens": 4} | options)[1]

    assert not make("hello", "world")
    path = tmp_path / "d_train_000001.bin"
    stamp = path.stat().st_mtime_ns
    assert make("hello", "world")
    assert path.stat().st_mtime_ns == stamp
    assert not make("hello", "there")  # another text
    assert make("hello", "there")
    path.unlink()
    assert not make("hello", "there")  # a shard was lost
    assert not make("hello", "there", shard_tokens=100)  # other shards: the old ones go
    assert sorted(p.name for p in tmp_path.glob("*.bin")) == ["d_train_000001.bin"]


def test_two_data_sets_share_a_folder(tmp_path):
    for name in ("d", "d_train"):
        common.write_dataset(tmp_path, name, "byte", pieces(name), {}, shard_tokens=100)
    common.write_dataset(tmp_path, "d", "byte", pieces("new"), {}, shard_tokens=100)
    assert decode_bytes(tokens_of(tmp_path, "d_train", "train")) == b"d_train"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit, DataError, OSError])
def test_interruption_leaves_nothing(tmp_path, problem):
    def broken():
        yield common.Piece("train", b"x" * 5000)
        raise problem("stop")

    with pytest.raises(problem):
        common.write_dataset(tmp_path, "d", "byte", broken, {}, shard_tokens=1000)
    assert list(tmp_path.iterdir()) == []


def test_interruption_keeps_the_old_data_set(tmp_path):
    common.write_dataset(tmp_path, "d", "byte", pieces("old"), {}, shard_tokens=1000)
    before = snapshot(tmp_path)

    def broken():
        yield common.Piece("train", b"x" * 5000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        common.write_dataset(tmp_path, "d", "byte", broken, {}, shard_tokens=100)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_nothing(tmp_path, sent):
    process = subprocess.Popen(
        [sys.executable, SCRIPTS / "synthetic.py", "--tokens", "1000000000", "--out", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background jobs ignore Ctrl-C, and so would what they start
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    partial = tmp_path / ".synthetic.partial" / "synthetic_train_000001.bin"
    deadline = time.monotonic() + 20
    while not partial.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + sent
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_remains_of_a_killed_run_are_swept_up(tmp_path):
    (tmp_path / ".d.partial").mkdir()
    (tmp_path / ".d.partial" / "d_train_000009.bin").write_text("half")
    common.write_dataset(tmp_path, "d", "byte", pieces("x"), {}, shard_tokens=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.json", "d_train_000001.bin"]


@pytest.mark.parametrize("stop_at", [1, 7, 19, 40])
def test_resumed_shards_equal_those_made_at_once(tmp_path, stop_at, capsys):
    documents = [common.Piece("train", some_text(seed, 60).encode()) for seed in range(40)]
    encoded = []

    class Counting(tokenizers.ByteTokenizer):
        def encode(self, piece):
            encoded.append(piece)
            return super().encode(piece)

    def source(stop):
        yield from documents[:stop]
        if stop < len(documents):
            raise KeyboardInterrupt

    def make(out, stop):
        encoded.clear()
        return common.write_dataset(
            out,
            "d",
            Counting(),
            lambda: source(stop),
            {},
            shard_tokens=700,
            val_tokens=700,
            max_tokens=9100,
            resumable=True,
        )

    make(tmp_path / "once", 40)
    if stop_at < 40:
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "twice", stop_at)
    kept = list(tmp_path.glob("twice/.d.partial/*.bin"))
    make(tmp_path / "twice", 40)
    if stop_at == 19:
        assert len(kept) > 5
        assert encoded[0] not in {piece.text for piece in documents[:15]}  # what is done is not tokenized again
    assert snapshot(tmp_path / "twice") == snapshot(tmp_path / "once")


def test_resuming_with_other_options_begins_anew(tmp_path):
    def broken():
        yield common.Piece("train", b"a" * 300)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        common.write_dataset(tmp_path, "d", "byte", broken, {"a": 1}, shard_tokens=100, resumable=True)
    common.write_dataset(tmp_path, "d", "byte", pieces("b" * 300), {"a": 2}, shard_tokens=100, resumable=True)
    assert decode_bytes(tokens_of(tmp_path, "d", "train")) == b"b" * 300


def test_several_processes_write_the_same(tmp_path):
    documents = [some_text(seed, 30) for seed in range(300)]
    for workers in (1, 2):
        common.write_dataset(
            tmp_path / str(workers), "d", "byte", pieces(*documents), {}, shard_tokens=10_000, workers=workers
        )
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "2")


# Files


def test_split_is_stable_and_about_as_large_as_asked():
    rng = random.Random(0)
    sizes = {f"folder/file{i}.py": rng.randrange(100, 20_000) for i in range(1000)}
    splits = common.split_by_name(sizes, 0.05)
    val = sum(size for name, size in sizes.items() if splits[name] == "val")
    assert 0.05 <= val / sum(sizes.values()) < 0.06
    fewer = common.split_by_name({name: size for name, size in sizes.items() if not name.endswith("7.py")}, 0.05)
    assert sum(splits[name] != split for name, split in fewer.items()) < 20
    assert set(common.split_by_name({"a": 10, "b": 1}, 0.05).values()) == {"train", "val"}
    assert set(common.split_by_name({"a": 1, "b": 1}, 0.99).values()) == {"train", "val"}
    assert set(common.split_by_name({"a": 10, "b": 1}, 0.0).values()) == {"train"}


def make_folder(folder: Path, count: int = 30) -> dict[str, str]:
    contents = {f"part{i % 3}/{i:02d}.txt": f"file {i} begins\n" + some_text(i) for i in range(count)}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    return contents


def documents_of(tokens) -> list[str]:
    starts = [*np.nonzero(tokens == 256)[0].tolist(), len(tokens)]
    assert starts[0] == 0
    return [decode_bytes(tokens[a:b]).decode() for a, b in pairwise(starts)]


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
        (lambda p: (p / "e.txt").write_bytes(b"") * 0 or p / "e.txt", "no text in"),
        (lambda p: (p / "b.bin").write_bytes(b"\0\1\2") * 0 or p / "b.bin", "no text in"),
        (lambda p: (p / "s.txt").write_bytes(b"ab") * 0 or p / "s.txt", "too short"),
    ],
    ids=["missing", "empty folder", "empty file", "binary", "too short"],
)
def test_text_without_text_is_an_error(tmp_path, make, message):
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(DataError, match=message):
        text.main([str(make(folder)), "--out", str(tmp_path / "out")])
    assert not list(tmp_path.glob("out/*"))


def test_exit_codes(tmp_path):
    result = run_script("text.py", tmp_path / "missing")
    assert result.returncode == 3
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for wrong in (["--val-fraction", "1.5"], ["--shard-tokens", "1"], ["--tokenizer", "bert"], ["--frob"]):
        result = run_script("text.py", tmp_path, *wrong)
        assert result.returncode == 2
        assert wrong[0] in result.stderr
    (tmp_path / "file").write_text("text\n" * 100)
    result = run_script("text.py", tmp_path / "file", "--out", tmp_path / "file" / "out")
    assert result.returncode == 3
    assert "Traceback" not in result.stderr


# The standard library


def test_pystdlib_of_this_python(tmp_path):
    start = time.monotonic()
    result = run_script("pystdlib.py", "--out", tmp_path)
    seconds = time.monotonic() - start
    if result.returncode == 3 and "no whole standard library" in result.stderr:
        pytest.skip("this Python has no sources of its standard library")
    assert result.returncode == 0, result.stderr
    assert seconds < 30
    assert "already there" in run_script("pystdlib.py", "--out", tmp_path).stdout
    manifest = json.loads((tmp_path / "pystdlib.json").read_text())
    train, val = (documents_of(tokens_of(tmp_path, "pystdlib", split)) for split in ("train", "val"))
    assert not set(train) & set(val)
    assert len(train) + len(val) == manifest["documents"] > 300
    assert 0.03 < sum(map(len, val)) / sum(map(len, train + val)) < 0.08
    assert manifest["shards"][0]["bytes"] + manifest["shards"][1]["bytes"] > 5_000_000
    every = "".join(sorted(train + val))
    assert "import unittest" in every  # unittest itself stays, the tests do not
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
    result = run_script("pystdlib.py", "--stdlib", tmp_path / "lib", "--out", tmp_path / "out")
    assert result.returncode == 3
    assert "no whole standard library" in result.stderr
    assert "text.py" in result.stderr


# GPT-2's tokenizer


@pytest.fixture(scope="module")
def gpt2_cache(tmp_path_factory):
    pytest.importorskip("tiktoken")
    source = SHARED / "gpt2.tiktoken"
    if not source.exists():
        pytest.skip("../shared/data/gpt2.tiktoken is not there")
    folder = tmp_path_factory.mktemp("tiktoken")
    shutil.copyfile(source, folder / "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4")
    return folder


@pytest.fixture
def gpt2(gpt2_cache, monkeypatch):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(gpt2_cache))
    monkeypatch.setattr(tokenizers, "unreachable", lambda url: "no network in tests")
    return tokenizers.make_tokenizer("gpt2")


def test_gpt2_tokens(gpt2):
    assert gpt2.encode(b"hello world").tolist() == [31373, 995]
    assert gpt2.encode(b"The quick brown fox").tolist() == [464, 2068, 7586, 21831]
    assert 50256 not in gpt2.encode(b"<|endoftext|>").tolist()  # text is never taken for the end of a document


def test_gpt2_data_set_and_decoder_table(gpt2, tmp_path):
    documents = [some_text(seed) for seed in range(3)]
    common.write_dataset(tmp_path, "d", "gpt2", pieces(*documents), {}, shard_tokens=100)
    table = (tmp_path / "tokenizer.bin").read_bytes()
    assert np.frombuffer(table, "<i4", 5).tolist() == [20240328, 2, 50257, 50256, 0]
    words, position = [], 1024
    while position < len(table):
        words.append(table[position + 1 : position + 1 + table[position]])
        position += 1 + table[position]
    assert len(words) == 50257
    assert words[50256] == b"<|endoftext|>"
    tokens = tokens_of(tmp_path, "d", "train").tolist()
    assert b"".join(words[t] for t in tokens) == b"".join(b"<|endoftext|>" + d.encode() for d in documents)
    content = [token_shards.read_shard(path) for path in sorted(tmp_path.glob("*.bin")) if path.name != "tokenizer.bin"]
    assert (content[0].vocab_size, content[0].tokenizer) == (50257, 2)
    assert sum(c.bytes for c in content) == sum(len(d.encode()) for d in documents)
    common.write_dataset(tmp_path, "d", "byte", pieces(*documents), {}, shard_tokens=100)
    assert not (tmp_path / "tokenizer.bin").exists()  # it would be taken for that of the new shards


def test_tinyshakespeare_has_the_token_counts_of_llmc(gpt2, tmp_path):
    source = SHARED / "tinyshakespeare.txt"
    if not source.exists():
        pytest.skip("../shared/data/tinyshakespeare.txt is not there")
    tinyshakespeare.main(["--file", str(source), "--out", str(tmp_path)])
    train, val = (tokens_of(tmp_path, "tinyshakespeare", split) for split in ("train", "val"))
    assert (len(train), len(val)) == (305_260, 32_768)
    assert val[:3].tolist() == [50256, 5962, 22307]


def test_wrong_file_in_the_cache_is_named_and_kept(tmp_path, monkeypatch):
    pytest.importorskip("tiktoken")
    path = tmp_path / "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4"
    path.write_text("not it")
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    with pytest.raises(DataError, match="SHA-256"):
        tokenizers.make_tokenizer("gpt2")
    assert path.exists()


# Without a network


@contextmanager
def dead_proxy(silent: bool):
    """A proxy that refuses connections, or accepts them and never answers; whatever the machine's network is."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if silent:
            listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield {name: address for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")} | {
            "no_proxy": "",
            "NO_PROXY": "",
            "ALL_PROXY": "",
            "all_proxy": "",
        }


@pytest.mark.parametrize(
    "script, silent, says",
    [
        ("tinyshakespeare.py", True, ["raw.githubusercontent.com", "--file", "pystdlib.py"]),
        ("tinystories.py", False, ["huggingface.co", "--file", "pystdlib.py"]),
        ("fineweb.py", False, ["huggingface.co", "--file", "pystdlib.py"]),
        (
            "pystdlib.py --tokenizer gpt2",
            True,
            [
                "TIKTOKEN_CACHE_DIR",
                "6d1cbeee0f20b3d9449abfede4726ed8212e3aee",
                "6c7ea1a7e38e3a7f062df639a5b80947f075ffe6",
                "0ea1e91bbb3a60f729a8dc8f777fd2fc07cd8df4",
                "--tokenizer byte",
            ],
        ),
    ],
)
def test_without_a_network_scripts_say_so_within_seconds(tmp_path, script, silent, says):
    name, *arguments = script.split()
    if arguments:
        pytest.importorskip("tiktoken")
    with dead_proxy(silent) as proxy:
        start = time.monotonic()
        result = run_script(
            name, *arguments, "--out", tmp_path / "out", env={**proxy, "TIKTOKEN_CACHE_DIR": str(tmp_path / "none")}
        )
        seconds = time.monotonic() - start
    assert result.returncode == 3
    assert seconds < 8  # 4 of waiting, and the start of Python on a busy machine
    assert result.stderr.count("\n") == 1
    assert all(part in result.stderr for part in says), result.stderr
    assert not list(tmp_path.glob("out/*"))


class Server(http.server.BaseHTTPRequestHandler):
    content = some_text(5, 3000).encode()
    give = None  # bytes to send before the connection breaks
    requests: list[str | None] = []  # noqa: RUF012 (of the test, not of an instance)

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def do_GET(self):
        wanted = self.headers.get("Range")
        Server.requests.append(wanted)
        start = int(wanted[6:-1]) if wanted else 0
        past_end = start >= len(self.content)
        self.send_response(404 if "missing" in self.path else 416 if past_end else 206 if start else 200)
        self.send_header("Content-Length", str(max(0, len(self.content) - start)))
        self.end_headers()
        self.wfile.write(self.content[start : start + self.give if self.give else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        Server.requests.clear()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_download_resumes(server, tmp_path, monkeypatch):
    path = tmp_path / "new" / "file.txt"
    monkeypatch.setattr(Server, "give", 1000)
    with pytest.raises(DataError, match="run the same command again"):
        download.download(f"{server}/file.txt", path)
    assert not path.exists()
    assert path.with_name("file.txt.part").stat().st_size == 1000
    monkeypatch.setattr(Server, "give", None)
    download.download(f"{server}/file.txt", path)
    assert path.read_bytes() == Server.content
    assert Server.requests == [None, "bytes=1000-"]
    download.download("http://nowhere.invalid/file.txt", path)  # what is there is not fetched
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]


def test_download_begins_anew_behind_a_wrong_part(server, tmp_path):
    (tmp_path / "f.part").write_bytes(b"x" * (len(Server.content) + 5))
    assert download.download(f"{server}/f", tmp_path / "f").read_bytes() == Server.content


def test_download_of_a_missing_file(server, tmp_path):
    with pytest.raises(DataError, match="404"):
        download.download(f"{server}/missing", tmp_path / "f")


def test_tinyshakespeare_by_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(tinyshakespeare, "URL", f"{server}/input.txt")
    monkeypatch.setattr(tinyshakespeare, "VAL_TOKENS", 100)
    tinyshakespeare.main(["--out", str(tmp_path), "--tokenizer", "byte"])
    tokens = np.concatenate([tokens_of(tmp_path, "tinyshakespeare", split) for split in ("val", "train")])
    assert decode_bytes(tokens) == Server.content


# Samples of the large data sets


def test_tinystories_from_an_archive_and_from_a_folder(tmp_path):
    stories = {f"data{i:02d}.json": [{"story": f" story {i} {j}\n"} for j in range(20)] for i in range(3)}
    folder = tmp_path / "in"
    folder.mkdir()
    with tarfile.open(tmp_path / "all.tar.gz", "w:gz") as archive:
        for name in reversed(stories):  # in any order
            data = json.dumps(stories[name]).encode()
            (folder / name).write_bytes(data)
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for source in (folder, tmp_path / "all.tar.gz"):
        out = tmp_path / f"out_{source.name}"
        tinystories.main(["--file", str(source), "--out", str(out), "--tokenizer", "byte", "--workers", "1"])
        assert documents_of(tokens_of(out, "tinystories", "val")) == [f"story 0 {j}" for j in range(20)]
        assert documents_of(tokens_of(out, "tinystories", "train"))[0] == "story 1 0"


@pytest.mark.parametrize("content", [b"", b"not an archive", b"\x1f\x8b\x08\0\0\0\0\0"])
def test_tinystories_from_something_else(tmp_path, content):
    (tmp_path / "x.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match="is not the TinyStories archive"):
        tinystories.main(["--file", str(tmp_path / "x.tar.gz"), "--out", str(tmp_path / "out"), "--tokenizer", "byte"])


def write_jsonl(path: Path, count: int = 50) -> list[str]:
    documents = [some_text(seed, 40) for seed in range(count)]
    path.write_text("".join(json.dumps({"text": d, "id": i}) + "\n" for i, d in enumerate(documents)))
    return documents


def test_fineweb_from_a_sample(tmp_path):
    documents = write_jsonl(tmp_path / "a.jsonl")
    arguments = ["--file", str(tmp_path / "a.jsonl"), "--tokenizer", "byte", "--shard-tokens", "1000", "--workers", "1"]
    fineweb.main([*arguments, "--out", str(tmp_path / "all")])
    tokens = np.concatenate([tokens_of(tmp_path / "all", "fineweb", split) for split in ("val", "train")])
    assert documents_of(tokens) == documents
    assert token_shards.read_shard(tmp_path / "all" / "fineweb_val_000001.bin").tokens.size == 1000
    fineweb.main([*arguments, "--out", str(tmp_path / "some"), "--max-shards", "2"])
    assert len(list((tmp_path / "some").glob("fineweb_train_*.bin"))) == 2
    assert tokens_of(tmp_path / "some", "fineweb", "train").tolist() == tokens[1000:3000].tolist()


def test_fineweb_reads_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    table = sys.modules["pyarrow"].table({"text": ["one", "two"], "id": [1, 2]})
    parquet.write_table(table, tmp_path / "a.parquet")
    assert list(fineweb.texts(tmp_path / "a.parquet")) == ["one", "two"]


@pytest.mark.parametrize("line", ["{", '{"txt": 1}', "[]"])
def test_fineweb_names_a_bad_line(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "good"}\n' + line + "\n")
    with pytest.raises(DataError, match=r"a\.jsonl, line 2"):
        fineweb.main(
            [
                "--file",
                str(tmp_path / "a.jsonl"),
                "--tokenizer",
                "byte",
                "--workers",
                "1",
                "--out",
                str(tmp_path / "out"),
            ]
        )


def test_fineweb_lists_and_fetches_the_sample(tmp_path, monkeypatch):
    asked = []
    listing = [{"path": f"sample/10BT/{i:03d}_00000.parquet"} for i in (1, 0)] + [{"path": "README.md"}]
    monkeypatch.setattr(fineweb, "require_network", lambda *_: None)
    monkeypatch.setattr(fineweb, "fetch_json", lambda url: asked.append(url) or listing)
    assert fineweb.parquet_urls("edu", "10B") == [
        f"https://huggingface.co/datasets/HuggingFaceFW/fineweb-edu/resolve/main/sample/10BT/{i:03d}_00000.parquet"
        for i in (0, 1)
    ]
    assert asked == ["https://huggingface.co/api/datasets/HuggingFaceFW/fineweb-edu/tree/main/sample/10BT"]


# The source with a known entropy


def test_synthetic_entropy_is_that_of_its_symbols(tmp_path):
    synthetic.main(
        [
            "--out",
            str(tmp_path),
            "--vocab-size",
            "16",
            "--successors",
            "4",
            "--tokens",
            "600000",
            "--val-tokens",
            "1000",
        ]
    )
    facts = json.loads((tmp_path / "entropy.json").read_text())
    tokens = tokens_of(tmp_path, "synthetic", "train")
    content = token_shards.read_shard(tmp_path / "synthetic_val_000001.bin")
    assert (len(tokens), len(content.tokens)) == (600_000, 1000)
    assert (content.vocab_size, content.tokenizer, content.bytes) == (16, 0, 0)
    pairs = np.zeros((16, 16))
    np.add.at(pairs, (tokens[:-1], tokens[1:]), 1)
    q = pairs / pairs.sum(axis=1, keepdims=True)
    bigram = -(pairs * np.log(np.where(q > 0, q, 1))).sum() / pairs.sum()
    assert bigram == pytest.approx(facts["nats_per_token"], abs=0.003)
    p = np.bincount(tokens, minlength=16) / len(tokens)
    assert -(p * np.log(p)).sum() == pytest.approx(facts["unigram_nats_per_token"], abs=0.003)
    assert facts["bits_per_token"] == pytest.approx(facts["nats_per_token"] / math.log(2))


def test_synthetic_stationary_distribution_is_exact():
    chain = synthetic.make_chain(64, 8, np.random.RandomState(3))
    transitions = np.array([np.bincount(row, minlength=64) / 256 for row in chain.table])
    assert np.abs(chain.stationary @ transitions - chain.stationary).max() < 1e-15
    cycle = synthetic.make_chain(7, 1, np.random.RandomState(0))  # periodic, and nothing is left to chance
    assert np.allclose(cycle.stationary, 1 / 7)
    assert cycle.nats_per_token == 0


def test_synthetic_numbers_never_move(tmp_path):
    synthetic.main(["--out", str(tmp_path), "--tokens", "5000", "--val-tokens", "1000"])
    facts = json.loads((tmp_path / "entropy.json").read_text())
    assert facts["nats_per_token"] == pytest.approx(1.6715624006126037, rel=1e-12)
    digest = hashlib.sha256((tmp_path / "synthetic_train_000001.bin").read_bytes()[1024:]).hexdigest()
    assert digest == "ff28ddd108f90698310c7e77921886c829806e30666db0fda6a89853ce54d796"
    synthetic.main(["--out", str(tmp_path / "other"), "--tokens", "5000", "--val-tokens", "1000", "--seed", "1"])
    assert (tokens_of(tmp_path, "synthetic", "train") != tokens_of(tmp_path / "other", "synthetic", "train")).any()
