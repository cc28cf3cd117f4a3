"""Text in the C++ program: both tokenizers, and the choice of a token from logits."""

import json
import re
import shutil
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from data_tools import characters
from program import ROOT, run

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


def codes_where_classes_change():
    """Every code point below 0x3000, and those at which the category changes, by Python's Unicode and by our table."""
    table = re.findall(r"\{0x(\w+), 0x(\w+)\}", (ROOT / "llmc/data/character_classes.h").read_text())
    codes = {int(first, 16) - 1 for first, _ in table} | {int(number, 16) for row in table for number in row}
    codes |= {int(last, 16) + 1 for _, last in table}
    for code in range(1, 0x110000):
        if unicodedata.category(chr(code)) != unicodedata.category(chr(code - 1)):
            codes |= {code - 1, code}
    return sorted(c for c in codes | set(range(0x3000)) if 0 <= c < 0x110000 and not 0xD800 <= c < 0xE000)


@pytest.mark.parametrize("context", ["a{0}b", " {0}", "1{0}2", "{0} {0}'s"])
def test_gpt2_tokens_of_every_kind_of_character(tokenizer_bin, context):
    """tiktoken 0.14.0: letters, digits and spaces are those of Unicode, which are not those of the C library: there,
    '²' is no digit, an Arabic digit is a letter, and U+2007 is no space."""
    path, encoding = tokenizer_bin
    texts = [context.format(chr(c)) for c in codes_where_classes_change()]
    for begin in range(0, len(texts), 1000):
        text = "\n".join(texts[begin : begin + 1000])
        if llmc.cpu.encode(text, path) != encoding.encode_ordinary(text):
            wrong = [t for t in texts[begin : begin + 1000] if llmc.cpu.encode(t, path) != encoding.encode_ordinary(t)]
            pytest.fail(f"{[t.encode('unicode_escape').decode() for t in wrong[:20]]}")


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


def test_tokenizer_of_version_1(tokenizer_bin, tmp_path):
    """llm.c's first form, which does not contain the end of a document."""
    from llmc.bpe_table import read_table

    path = tmp_path / "tokenizer.bin"
    raw = Path(tokenizer_bin[0]).read_bytes()
    path.write_bytes(np.array([20240328, 1, 50257, 0], dtype="<i4").tobytes() + raw[16:])
    assert llmc.cpu.encode("hello world", str(path)) == [31373, 995]
    assert read_table(path).end == 50256
    read_table(path).save(path)
    assert path.read_bytes() == raw


def test_sample_of_llmcs_model_file(tokenizer_bin, tmp_path):
    """gpt2_124M.bin and gpt2_tokenizer.bin, as llm.c names them, in one folder."""
    from test_program import write_llmc_model

    write_llmc_model(tmp_path / "gpt2_124M.bin", 3, (1, 1, 8, 32, 50257), np.random.default_rng(0))
    shutil.copyfile(tokenizer_bin[0], tmp_path / "gpt2_tokenizer.bin")
    text, _ = run("sample", tmp_path / "gpt2_124M.bin", "--prompt", "The", "--sample-tokens", 3)
    assert text.startswith("The")


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
    model = llmc.GPT2(backend="cpu", depth=2, width=32, heads=2, seq_len=48, vocab_size=257, batch_size=1)
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
    for value in (np.nan, np.inf, -np.inf):
        for temperature in (0, 1.0):
            with pytest.raises(llmc.Error, match="logits are not finite"):
                llmc.cpu.choose_token([*logits, value], temperature, 0, 0.5)


# --- The vocabulary as transformers writes it ---


@pytest.fixture(scope="module")
def vocabularies(tokenizer_bin, tmp_path_factory):
    """The folder of vocab.json and tokenizer.json, made from tiktoken's ranks."""
    folder, alphabet, encoding = tmp_path_factory.mktemp("json"), characters(), tokenizer_bin[1]
    words = [encoding.decode_single_token_bytes(token) for token in range(50256)]
    vocab = {"".join(alphabet[byte] for byte in word): number for number, word in enumerate(words)}
    vocab["<|endoftext|>"] = 50256
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": []}}))
    return folder


@pytest.mark.parametrize("name", ["vocab.json", "tokenizer.json"])
def test_vocabulary_beside_weights_of_transformers(tokenizer_bin, vocabularies, name, tmp_path):
    from llmc.bpe_table import read_table

    path, encoding = str(vocabularies / name), tokenizer_bin[1]
    table = read_table(vocabularies / name)
    text = "".join(TEXTS)
    tokens = encoding.encode_ordinary(text)
    assert llmc.cpu.encode(text, path) == tokens
    assert llmc.cpu.decode(tokens, path).decode() == text
    assert table.encoding().encode_ordinary(text) == tokens
    table.save(tmp_path / "tokenizer.bin")
    assert (tmp_path / "tokenizer.bin").read_bytes() == Path(tokenizer_bin[0]).read_bytes()


def test_sample_of_transformers_weights(vocabularies, tokenizer_bin, tmp_path, capsys):
    """A folder of transformers needs no option; both programs use the file beside the weights, without a network."""
    from safetensors.torch import save_file

    import train_gpt2

    generator = torch.Generator().manual_seed(0)
    shapes = {"wte.weight": (50257, 8), "wpe.weight": (32, 8), "ln_f.weight": (8,), "ln_f.bias": (8,)}
    model = {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_head": 2, "n_layer": 1}))
    sizes = {"ln_1": 0, "ln_2": 0, "attn.c_attn": 24, "attn.c_proj": 8, "mlp.c_fc": 32, "mlp.c_proj": -32}
    for i, shape in sizes.items():
        weight = (8,) if shape == 0 else (8, shape) if shape > 0 else (-shape, 8)
        model[f"h.0.{i}.weight"] = torch.randn(*weight, generator=generator)
        model[f"h.0.{i}.bias"] = torch.randn(weight[-1], generator=generator)
    save_file(model, tmp_path / "model.safetensors")
    options = ["sample", tmp_path, "--prompt", "The", "--temperature", 0, "--sample-tokens", 8, "--threads", 1]

    def texts():
        here = run(*options)[0]
        capsys.readouterr()
        assert train_gpt2.main([str(word) for word in options]) == 0
        return here, capsys.readouterr().out

    for name in ("vocab.json", "tokenizer.json", "tokenizer.bin", "gpt2_tokenizer.bin"):
        source = Path(tokenizer_bin[0]) if name.endswith(".bin") else vocabularies / name
        shutil.copyfile(source, tmp_path / name)
        here, there = texts()
        assert here == there
        assert here.startswith("The")
        (tmp_path / name).unlink()
    assert "dev/data/tokenizer.py FOLDER" in run(*options, expect=3)[1]
    done = [sys.executable, ROOT / "dev/data/tokenizer.py", tmp_path, "--file", vocabularies / "vocab.json"]
    assert "tokenizer.bin: GPT-2's vocabulary, from" in subprocess.run(done, capture_output=True, text=True).stdout
    assert texts()[0] == here
    (tmp_path / "tokenizer.bin").unlink()
    (tmp_path / "vocab.json").write_text('{"a": 1}')
    assert "vocab.json is not GPT-2's vocabulary" in run(*options, expect=3)[1]
    assert train_gpt2.main([str(word) for word in options]) == 3
    assert "vocab.json is not GPT-2's vocabulary" in capsys.readouterr().err
