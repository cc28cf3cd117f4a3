"""Text in the C++ program: both tokenizers, and the choice of a token from logits."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from program import ROOT

import llmc

pytestmark = pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module")
RANKS = ROOT.parent / "shared" / "data" / "gpt2.tiktoken"

TEXTS = [
    "hello world",
    "The quick brown fox jumps over the lazy dog.",
    "it's we'll they've I'd can't you're I'm 'quoted' 'S",
    "  leading, trailing  and   many    spaces   ",
    "tabs\tand\nnewlines\n\n\n  indented\n\t\tcode:\r\n    return x[1:-2] ** 3.14e-5",
    "numbers 1 12 123 1234567 a1b2c3 3rd",
    "!!! ... --- ??? (a)[b]{c} <|endoftext|> #hash @at $5 100% a_b __init__",
    "naïve café Zürich ÄÖÜß привет мир 你好世界 日本語 한국어 ελληνικά",
    "emoji 😀👍🏽 and symbols ≤ ∑ → € µP ½ ²",
    "no\u00a0break\u2003space\u3000ideographic",
    "",
    " ",
    "\n",
    "   ",
]


@pytest.fixture(scope="module")
def tokenizer_bin(tmp_path_factory):
    """(path of a tokenizer.bin, tiktoken's encoding), from the shared copy of GPT-2's ranks."""
    if not RANKS.exists():
        pytest.skip(f"{RANKS} is not there")
    tiktoken = pytest.importorskip("tiktoken")
    from tiktoken.load import load_tiktoken_bpe
    from tiktoken_ext.openai_public import r50k_pat_str

    folder = tmp_path_factory.mktemp("gpt2")
    ranks = load_tiktoken_bpe(str(shutil.copy(RANKS, folder)))
    special = {"<|endoftext|>": 50256}
    encoding = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens=special)
    pieces = [*sorted(ranks, key=ranks.get), b"<|endoftext|>"]
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240328, 2, len(pieces), 50256
    path = folder / "tokenizer.bin"
    path.write_bytes(header.tobytes() + b"".join(bytes([len(p)]) + p for p in pieces))
    return str(path), encoding


@pytest.mark.parametrize("text", TEXTS)
def test_gpt2_tokens_are_tiktokens(tokenizer_bin, text):
    path, encoding = tokenizer_bin
    tokens = llmc.cpu.encode(text, path)
    assert tokens == encoding.encode_ordinary(text)
    assert llmc.cpu.decode(tokens, path).decode() == text


def test_gpt2_tokens_of_real_text(tokenizer_bin):
    path, encoding = tokenizer_bin
    for source in sorted(Path(ROOT).glob("*.md")) + sorted((ROOT / "llmc").rglob("*.cpp")):
        text = source.read_text()
        assert llmc.cpu.encode(text, path) == encoding.encode_ordinary(text), source


def test_damaged_tokenizer(tmp_path):
    path = tmp_path / "tokenizer.bin"
    for content, says in (
        (b"", "cannot read"),
        (bytes(2000), "no tokenizer file"),
        (np.array([20240328, 2, 10, 9], dtype="<i4").tobytes() + bytes(1008), "truncated"),
    ):
        path.write_bytes(content)
        with pytest.raises(llmc.cpu.Error, match=says):
            llmc.cpu.encode("x", str(path))


@pytest.mark.parametrize("text", TEXTS)
def test_byte_tokens(text):
    assert llmc.cpu.encode(text) == list(text.encode())
    assert llmc.cpu.decode([*text.encode(), 256]) == text.encode(), "the end of a document is no text"


def test_choice_follows_the_softmax():
    logits = np.random.default_rng(0).normal(0, 2, 50).astype(np.float32)
    for temperature in (0.5, 1.0, 2.0):
        p = np.exp(logits.astype(float) / temperature)
        p /= p.sum()
        grid = (np.arange(100_000) + 0.5) / 100_000  # uniform on (0, 1): frequencies are the probabilities
        chosen = [llmc.cpu.choose_token(logits.tolist(), temperature, 0, u) for u in grid[::20]]
        counts = np.bincount(chosen, minlength=50) / len(chosen)
        np.testing.assert_allclose(counts, p, atol=2 / len(chosen))


def test_cached_keys_change_nothing():
    """Cached keys and values give the same text as computing every context again; also beyond seq_len."""
    model = llmc.cpu.GPT2(depth=2, width=32, heads=2, seq_len=48, vocab_size=257, batch_size=1)
    cached, recomputed = (model.generate([256, 7], 70, seed=5, cache=cache) for cache in (True, False))
    assert len(cached) == 70 and cached == recomputed
    assert cached != model.generate([256, 7], 70, seed=6)
    with pytest.raises(llmc.cpu.Error, match="token 300 is outside the vocabulary of 257"):
        model.generate([300], 1)


def test_greedy_and_top_k():
    logits = [1.0, 5.0, 3.0, 5.0, 2.0]
    assert llmc.cpu.choose_token(logits, 0, 0, 0.99) == 1, "ties go to the lower index"
    assert {llmc.cpu.choose_token(logits, 1.0, 3, u) for u in np.linspace(0.001, 0.999, 500)} == {1, 2, 3}
    assert {llmc.cpu.choose_token(logits, 1.0, 1, u) for u in (0.01, 0.5, 0.99)} == {1}
    assert llmc.cpu.choose_token(logits, 1.0, 99, 1 - 1e-12) == 4
