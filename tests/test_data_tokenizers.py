"""llmc.data.tokenizers: GPT-2's byte-pair encoding from the files in tiktoken's cache."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from data_tools import SHARED, pieces, some_text, tokens_of

from llmc.data import shards, tinyshakespeare, tokenizer, tokenizers
from llmc.data.dataset import write_dataset
from llmc.errors import DataError


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
    assert 50256 not in gpt2.encode(b"<|endoftext|>").tolist()  # text never becomes the end of a document


def test_gpt2_data_set_and_decoder_table(gpt2, tmp_path):
    documents = [some_text(seed) for seed in range(3)]
    write_dataset(tmp_path, "d", "gpt2", pieces(*documents), {}, shard_tokens=100)
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
    content = [shards.read_shard(path) for path in sorted(tmp_path.glob("*.bin")) if path.name != "tokenizer.bin"]
    assert (content[0].vocab_size, content[0].tokenizer) == (50257, 2)
    assert sum(c.bytes for c in content) == sum(len(d.encode()) for d in documents)
    write_dataset(tmp_path, "d", "byte", pieces(*documents), {}, shard_tokens=100)
    assert not (tmp_path / "tokenizer.bin").exists()  # it would belong to other shards


def test_the_vocabulary_alone(gpt2, tmp_path):
    """dev/data/tokenizer.py writes the file that data scripts write."""
    write_dataset(tmp_path / "data", "d", "gpt2", pieces(some_text(0)), {}, shard_tokens=100)
    tokenizer.main([str(tmp_path)])
    written = (tmp_path / "tokenizer.bin").read_bytes()
    assert written == (tmp_path / "data/tokenizer.bin").read_bytes()
    tokenizer.main([str(tmp_path / "data"), "--file", str(tmp_path / "tokenizer.bin")])
    assert (tmp_path / "data/tokenizer.bin").read_bytes() == written
    with pytest.raises(DataError, match="there is no folder"):
        tokenizer.main([str(tmp_path / "gone")])


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
