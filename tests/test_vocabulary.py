"""The vocabulary of a checkpoint in the terms of other programs (llmc.export.vocabulary)."""

import shutil
from types import SimpleNamespace

import pytest
from data_tools import SHARED

from llmc.bpe_table import BpeTable
from llmc.errors import DataError
from llmc.export.vocabulary import Vocabulary, vocabulary


def checkpoint(folder, tokenizer, vocab_size):
    path = folder / "model.safetensors"
    return SimpleNamespace(path=path, tokenizer=tokenizer, shape=SimpleNamespace(vocab_size=vocab_size))


def test_bytes(tmp_path):
    """The id is the byte; the file's order of bytes_to_unicode would be another one (0x0A: 198)."""
    found = vocabulary(checkpoint(tmp_path, "byte", 300))
    assert [found.kind, found.end, len(found.pieces)] == ["byte", 256, 257]
    assert found.pieces[:256] == [bytes([byte]) for byte in range(256)]
    texts = found.texts()
    assert [texts[0x0A], texts[ord(" ")], texts[ord("a")], texts[256]] == ["Ċ", "Ġ", "a", "<|endoftext|>"]
    assert len(set(texts)) == 257
    assert found.merges() == []
    with pytest.raises(DataError, match="vocabulary of 256 tokens, its tokenizer byte has 257"):
        vocabulary(checkpoint(tmp_path, "byte", 256))


def test_a_model_of_unknown_tokens_has_none(tmp_path):
    assert vocabulary(checkpoint(tmp_path, "unknown", 300)) is None


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """The checkpoint's vocabulary, from a tokenizer.bin beside it."""
    source = SHARED / "gpt2.tiktoken"
    if not source.exists():
        pytest.skip("../shared/data/gpt2.tiktoken is not there")
    pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe

    folder = tmp_path_factory.mktemp("gpt2")
    ranks = load_tiktoken_bpe(str(shutil.copy(source, folder)))
    BpeTable([*sorted(ranks, key=ranks.get), b"<|endoftext|>"], 50256).save(folder / "tokenizer.bin")
    return vocabulary(checkpoint(folder, "gpt2", 50304))


def test_gpt2(gpt2):
    texts, merges = gpt2.texts(), gpt2.merges()
    assert [texts[262], texts[220], texts[198], texts[50256]] == ["Ġthe", "Ġ", "Ċ", "<|endoftext|>"]
    assert (len(texts), len(set(texts)), len(merges)) == (50257, 50257, 50000)
    assert merges[:4] == ["Ġ t", "Ġ a", "h e", "i n"]  # the first lines of GPT-2's merges.txt
    assert [merge.replace(" ", "") for merge in merges] == texts[256:50256]


def test_another_vocabulary_is_refused(tmp_path):
    BpeTable([b"a", b"b", b"<|endoftext|>"], 2).save(tmp_path / "tokenizer.bin")
    with pytest.raises(DataError, match=r"tokenizer.bin is not GPT-2's vocabulary: it has 3 tokens"):
        vocabulary(checkpoint(tmp_path, "gpt2", 50257))
    with pytest.raises(DataError, match="token 3 of the vocabulary, b'abc', is not made of two earlier tokens"):
        Vocabulary("gpt2", [b"a", b"b", b"c", b"abc", b""], 4).merges()


def test_a_missing_vocabulary_is_named(tmp_path, monkeypatch):
    from llmc.data import tokenizers

    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    monkeypatch.setattr(tokenizers, "unreachable", lambda url: "no network in tests")
    with pytest.raises(DataError, match=r"has GPT-2's tokens, but no vocabulary is beside it.*tokenizer.py .* --file"):
        vocabulary(checkpoint(tmp_path, "gpt2", 50257))
