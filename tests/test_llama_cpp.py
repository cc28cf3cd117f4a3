"""Exported GGUF files in llama.cpp itself (llama-cpp-python; make test-slow builds it): logits, tokens, text."""

import ctypes
import random
import unicodedata

import numpy as np
import pytest
from data_tools import write_gpt2_table
from export_tools import CASES, random_checkpoint
from measures import float64
from program import run
from reference_tools import main
from shards import random_text, write_shard, write_text_shards
from test_text import TEXTS, codes_where_classes_change

import llmc
from llmc.bpe_table import read_table
from llmc.export.gguf_tool import main as export

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module"),
]
LENGTH, TOKENS = 96, 64
SHAPE = f"--depth 2 --width 64 --heads 4 --seq-len {LENGTH} --batch-size 2".split()
# Of the largest logit. llama.cpp takes GELU from a table in float16, and keeps keys and values in float16: its logits
# of F32 files were seen to be off by up to 1.7e-3; here by 4e-5 to 6e-4.
TOLERANCE = 2e-3
# The same, and the rounding of weights and of the inputs of products, by 2^-12 and 2^-9: 3e-4 to 1.4e-3, 3e-3 to 9e-3.
ROUNDED = {"f16": 5e-3, "bf16": 3e-2}
SOME = ["sp", "mup untied", "completep tied", "u-mup"]


@pytest.fixture(scope="module")
def llama():
    """Makes llama_cpp.Llama of a file, on one thread."""
    try:
        import llama_cpp
    except Exception as error:  # its shared libraries are loaded by the import, which fails in several ways
        pytest.skip(f"llama-cpp-python cannot be imported ({error}): make test-slow builds it")

    def load(path, **options):
        return llama_cpp.Llama(str(path), n_threads=1, n_threads_batch=1, verbose=False, **options)

    return load


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(5000), shards=1)


@pytest.fixture
def checkpoint(data, tmp_path, one_thread):
    """Of a case. Its blocks are three times as strong as at the start, so that their errors show in the logits."""

    def make(case):
        return random_checkpoint(data, tmp_path / "run", *SHAPE, *CASES[case], larger={"hidden": 3})

    return make


def logits_of(model, tokens):
    return float64(model.forward(np.array([tokens]))[0])


def lead_of(model, begin, text):
    """By how much the logit of every token of a greedy text is ahead of all others, in units of the largest logit."""
    logits = logits_of(model, [*begin, *text][:-1])
    ahead = np.diff(np.sort(logits[len(begin) - 1 :], axis=1)[:, -2:])
    return ahead.min() / np.abs(logits).max()


def clearest_text(model):
    """(first tokens, greedy text, lead) of the random beginning, out of 100, whose text has the largest lead."""
    rng, found = random.Random(0), []
    for _ in range(100):
        begin = [256, *rng.choices(range(256), k=16)]
        text = model.generate(begin, TOKENS, temperature=0)
        found.append((lead_of(model, begin, text), begin, text))
    lead, begin, text = max(found)
    return begin, text, lead


def error_of(loaded, logits, tokens):
    """The largest difference of logits, in units of the largest logit."""
    loaded.reset()
    loaded.eval(tokens)
    return np.abs(float64(loaded.scores[: len(tokens)]) - logits).max() / np.abs(logits).max()


def greedy(loaded, begin):
    loaded.reset()
    tokens = loaded.generate(begin, temp=0, repeat_penalty=1.0)
    return [next(tokens) for _ in range(TOKENS)]


@pytest.mark.parametrize("case", CASES)
def test_logits_and_greedy_tokens(llama, checkpoint, tmp_path, case):
    path = checkpoint(case)
    assert export([str(path), str(tmp_path / "m.gguf")]) == 0
    model, loaded = llmc.load(path, batch_size=1), llama(tmp_path / "m.gguf", n_ctx=LENGTH, logits_all=True)
    begin, text, lead = clearest_text(model)
    tokens = [*begin, *text][:-1]
    error = error_of(loaded, logits_of(model, tokens), tokens)
    print(f"{case}: logits differ by {error:.1e} of the largest, tokens lead by {lead:.1e}")
    assert error < TOLERANCE
    assert 2 * error < lead, "these tokens may differ"
    assert greedy(loaded, begin) == text


@pytest.mark.parametrize("dtype", ROUNDED)
@pytest.mark.parametrize("case", SOME)
def test_rounded_weights(llama, checkpoint, tmp_path, case, dtype):
    path = checkpoint(case)
    assert export([str(path), str(tmp_path / "m.gguf"), "--dtype", dtype]) == 0
    model, loaded = llmc.load(path, batch_size=1), llama(tmp_path / "m.gguf", n_ctx=LENGTH, logits_all=True)
    tokens = [256, *random.Random(1).choices(range(256), k=LENGTH - 1)]
    error = error_of(loaded, logits_of(model, tokens), tokens)
    print(f"{case}, {dtype}: logits differ by {error:.1e} of the largest")
    assert error < ROUNDED[dtype]


def test_text_is_that_of_the_program(llama, tmp_path):
    """A trained model, by the call that people use: llama.cpp puts the end of a document before the prompt, as
    train_gpt2 sample does."""
    known = "The naïve cat sits on a café's chair; it isn't big, but it's 12 kg \u2013 so say we. "
    data, out = write_text_shards(tmp_path / "data", 200 * known, shards=1), tmp_path / "run"
    words = "--depth 2 --width 64 --heads 4 --batch-size 8 --steps 200 --lr 5e-3 --parametrization mup --base-width 32"
    run("--train-data", data, *words.split(), "--seq-len", LENGTH, "--out", out)
    assert export([str(out), str(tmp_path / "m.gguf")]) == 0
    model, loaded = llmc.load(out, batch_size=1), llama(tmp_path / "m.gguf", n_ctx=LENGTH)
    for prompt in ("T", "The naïve", known[:40]):
        count = LENGTH - 1 - len(prompt.encode())
        ours, _ = run("sample", out, "--prompt", prompt, "--temperature", 0, "--sample-tokens", count)
        ours = ours[:-1].rstrip("\ufffd")  # of a character that is cut; llama-cpp-python goes on to its end
        text = ours.encode()[len(prompt.encode()) :]
        assert known[:60] in ours
        lead = lead_of(model, [256, *prompt.encode()], text)
        print(f"{prompt}: {len(text)} tokens lead by {lead:.1e}")
        assert lead > 2 * TOLERANCE, "these tokens may differ"
        theirs = loaded(prompt, max_tokens=count, temperature=0, repeat_penalty=1.0)["choices"][0]["text"]
        assert theirs.encode()[: len(text)] == text


def piece(loaded, token):
    """The bytes of a token. Llama.detokenize has room for 32 bytes alone, GPT-2's longest token has 128."""
    import llama_cpp

    room = (ctypes.c_char * 200)()
    count = llama_cpp.llama_token_to_piece(loaded._model.vocab, token, room, len(room), 0, True)
    return bytes(room[:count])


def special_tokens(loaded):
    return loaded.token_bos(), loaded.token_eos(), loaded.tokenize(b"")


def test_bytes(llama, checkpoint, tmp_path):
    assert export([str(checkpoint("sp")), str(tmp_path / "m.gguf")]) == 0
    loaded = llama(tmp_path / "m.gguf", vocab_only=True)
    assert special_tokens(loaded) == (256, 256, [256])
    assert [piece(loaded, token) for token in range(257)] == [*(bytes([b]) for b in range(256)), b"<|endoftext|>"]
    every = "".join(map(chr, codes_where_classes_change()))
    for text in [*TEXTS, *(f"a{c} {c}1{c}'s" for c in every), every, "<|endoftext|>", "\0", "\r\n\x0b\x85"]:
        assert loaded.tokenize(text.encode(), add_bos=False) == list(text.encode()), text
    assert loaded.tokenize(b"a<|endoftext|>b", special=True) == [256, 97, 256, 98]


@pytest.fixture(scope="module")
def gpt2(llama, tmp_path_factory):
    """(a model with GPT-2's vocabulary in llama.cpp, that vocabulary)."""
    folder = tmp_path_factory.mktemp("gpt2")
    table = write_gpt2_table(folder)
    shard = write_shard(folder / "text.bin", [50256, *range(40)], 50257, "gpt2")
    words = "--depth 1 --width 32 --heads 2 --seq-len 16 --batch-size 1 --steps 0 --tokenizer gpt2"
    assert main(["--train-data", shard, *words.split(), "--out", folder / "run"]) == 0
    assert export([str(folder / "run"), str(folder / "m.gguf")]) == 0
    return llama(folder / "m.gguf", vocab_only=True), read_table(table)


def test_gpt2_vocabulary(gpt2):
    loaded, table = gpt2
    assert special_tokens(loaded) == (50256, 50256, [50256])
    assert [piece(loaded, token) for token in range(50257)] == table.pieces


def test_gpt2_tokens_are_tiktokens(gpt2):
    """Letters added in Unicode 16 are none in llama.cpp, and tiktoken's: "'s" after one of these is split."""
    loaded, table = gpt2
    encoding = table.encoding()
    codes = codes_where_classes_change()
    old = [code for code in codes if unicodedata.ucd_3_2_0.category(chr(code)) != "Cn"]
    assert len(old) > 2000
    texts = [*TEXTS, *(form.format(chr(code)) for form in ("a{0}b", " {0}", "1{0}2") for code in codes)]
    texts += [f"{chr(code)} {chr(code)}'s" for code in old]
    theirs = [loaded.tokenize(text.encode(), add_bos=False) for text in texts]
    assert theirs == [encoding.encode_ordinary(text) for text in texts]
