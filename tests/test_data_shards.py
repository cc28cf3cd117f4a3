"""llmc.data: the bytes of token shards, and data sets that are complete or absent after any interruption."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from data_tools import decode_bytes, pieces, some_text, tokens_of
from program import ROOT, snapshot
from shards import write_shard

from llmc.data import shards, tokenizers
from llmc.data.dataset import Piece, write_dataset
from llmc.errors import DataError

# --- Format ---


def test_shard_bytes_exactly(tmp_path):
    manifest, there = write_dataset(tmp_path, "d", "byte", pieces("ab", "é"), {}, shard_tokens=100)
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
    header = np.frombuffer(shards.shard_header(5, 257, 1, (3 << 32) + 7, bytes(32)), "<u4")
    assert header[5:7].tolist() == [7, 3]


@pytest.mark.parametrize("vocab_size", [257, 100_000])
def test_a_shard_of_given_tokens_is_that_of_the_tests_own_writer(tmp_path, vocab_size):
    tokens = np.random.default_rng(0).integers(0, vocab_size, 1000)
    shards.write_shard(tmp_path / "a.bin", tokens, vocab_size)
    write_shard(tmp_path / "b.bin", tokens, vocab_size, tokenizer="unknown")
    assert (tmp_path / "a.bin").read_bytes() == (tmp_path / "b.bin").read_bytes()
    content = shards.read_shard(tmp_path / "a.bin")
    assert content.tokens.tolist() == tokens.tolist()
    assert content.vocab_size == vocab_size


def test_shards_are_full_and_together_are_the_text(tmp_path):
    documents = [some_text(seed) for seed in range(8)]
    manifest, _ = write_dataset(tmp_path, "d", "byte", pieces(*documents), {}, shard_tokens=1000)
    sizes = [shard["tokens"] for shard in manifest["shards"]]
    assert len(sizes) > 5
    assert set(sizes[:-1]) == {1000}
    tokens = tokens_of(tmp_path, "d", "train")
    assert decode_bytes(tokens) == "".join(documents).encode()
    assert (tokens == 256).sum() == 8
    contents = [shards.read_shard(tmp_path / shard["file"]) for shard in manifest["shards"]]
    assert sum(content.bytes for content in contents) == len("".join(documents).encode())
    assert {content.sha256 for content in contents} == {manifest["sha256"]}


def test_a_tiny_remainder_joins_the_last_shard(tmp_path):
    manifest, _ = write_dataset(tmp_path, "d", "byte", pieces("x" * 2004), {}, shard_tokens=1000)
    assert [shard["tokens"] for shard in manifest["shards"]] == [1000, 1005]
    assert shards.read_shard(tmp_path / "d_train_000002.bin").tokens.tolist() == [120] * 1005
    assert shards.read_shard(tmp_path / "d_train_000002.bin").bytes == 1005


def test_first_tokens_for_validation_and_a_limit(tmp_path):
    write_dataset(tmp_path, "d", "byte", pieces("abcdef", "ghi"), {}, shard_tokens=100, val_tokens=3, max_tokens=9)
    assert tokens_of(tmp_path, "d", "val").tolist() == [256, 97, 98]
    assert tokens_of(tmp_path, "d", "train").tolist() == [99, 100, 101, 102, 256, 103]


@pytest.mark.parametrize("spoil", [lambda b: b[:-1], lambda b: b + b"\0", lambda b: b[:500], lambda b: b"x" + b[1:]])
def test_reader_refuses_spoiled_shards(tmp_path, spoil):
    write_dataset(tmp_path, "d", "byte", pieces("hello"), {}, shard_tokens=100)
    path = tmp_path / "d_train_000001.bin"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match="d_train_000001"):
        shards.read_shard(path)


# --- Complete data sets ---


def test_made_twice_is_made_once(tmp_path):
    def make(*documents, **options):
        return write_dataset(tmp_path, "d", "byte", pieces(*documents), {}, **{"shard_tokens": 4} | options)[1]

    assert not make("hello", "world")
    path = tmp_path / "d_train_000001.bin"
    stamp = path.stat().st_mtime_ns
    assert make("hello", "world")
    assert path.stat().st_mtime_ns == stamp
    assert not make("hello", "there")  # another text
    assert make("hello", "there")
    path.unlink()
    assert not make("hello", "there")  # a shard was lost
    assert not make("hello", "there", shard_tokens=100)  # other shards: the old ones are removed
    assert sorted(p.name for p in tmp_path.glob("*.bin")) == ["d_train_000001.bin"]


def test_two_data_sets_share_a_folder(tmp_path):
    for name in ("d", "d_train"):
        write_dataset(tmp_path, name, "byte", pieces(name), {}, shard_tokens=100)
    write_dataset(tmp_path, "d", "byte", pieces("new"), {}, shard_tokens=100)
    assert decode_bytes(tokens_of(tmp_path, "d_train", "train")) == b"d_train"


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit, DataError, OSError])
def test_interruption_leaves_nothing(tmp_path, problem):
    def broken():
        yield Piece("train", b"x" * 5000)
        raise problem("stop")

    with pytest.raises(problem):
        write_dataset(tmp_path, "d", "byte", broken, {}, shard_tokens=1000)
    assert list(tmp_path.iterdir()) == []


def test_interruption_keeps_the_old_data_set(tmp_path):
    write_dataset(tmp_path, "d", "byte", pieces("old"), {}, shard_tokens=1000)
    before = snapshot(tmp_path)

    def broken():
        yield Piece("train", b"x" * 5000)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, "d", "byte", broken, {}, shard_tokens=100)
    assert snapshot(tmp_path) == before


@pytest.mark.skipif(os.name != "posix", reason="signals as on Unix")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_signals_leave_nothing(tmp_path, sent):
    process = subprocess.Popen(
        [sys.executable, ROOT / "dev/data/synthetic.py", "--tokens", "1000000000", "--out", tmp_path],
        stderr=subprocess.PIPE,
        text=True,
        # background jobs of a shell ignore Ctrl-C, and so do their child processes
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
    write_dataset(tmp_path, "d", "byte", pieces("x"), {}, shard_tokens=10)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.json", "d_train_000001.bin"]


@pytest.mark.parametrize("stop_at", [1, 7, 19, 40])
def test_resumed_shards_equal_those_made_at_once(tmp_path, stop_at, capsys):
    documents = [Piece("train", some_text(seed, 60).encode()) for seed in range(40)]
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
        return write_dataset(
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
        assert encoded[0] not in {piece.text for piece in documents[:15]}  # complete shards are not tokenized again
    assert snapshot(tmp_path / "twice") == snapshot(tmp_path / "once")


def test_resuming_with_other_options_begins_anew(tmp_path):
    def broken():
        yield Piece("train", b"a" * 300)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, "d", "byte", broken, {"a": 1}, shard_tokens=100, resumable=True)
    write_dataset(tmp_path, "d", "byte", pieces("b" * 300), {"a": 2}, shard_tokens=100, resumable=True)
    assert decode_bytes(tokens_of(tmp_path, "d", "train")) == b"b" * 300


def test_several_processes_write_the_same(tmp_path):
    documents = [some_text(seed, 30) for seed in range(300)]
    for workers in (1, 2):
        write_dataset(
            tmp_path / str(workers), "d", "byte", pieces(*documents), {}, shard_tokens=10_000, workers=workers
        )
    assert snapshot(tmp_path / "1") == snapshot(tmp_path / "2")
