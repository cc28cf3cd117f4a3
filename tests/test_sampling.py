"""Text from a model: train_gpt2 sample, train_gpt2.py sample and llmc.GPT2.generate give the same."""

import contextlib
import io
import json

import numpy as np
import pytest
from both_programs import both, original, twin
from data_tools import characters
from program import BINARY, log
from shards import random_text
from weight_tools import CONFIG, VOCAB, random_weights, write

import llmc
import train_gpt2
from llmc.config import Config
from llmc.random import draw, uniform
from llmc.sampling import generate

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]
SHAPE = {"depth": 2, "width": 32, "heads": 2, "seq_len": 24, "batch_size": 8, "vocab_size": 257}
PROMPT = "ab"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a model that has learned a little, so that some tokens are much likelier than others."""
    out, rng = tmp_path_factory.mktemp("run"), np.random.default_rng(0)
    text = np.frombuffer(random_text(5000).encode(), np.uint8)
    model = llmc.GPT2(**SHAPE, lr=0.01, tokenizer="byte", backend="cpu")
    for _ in range(100):
        rows = np.stack([np.append(256, text[i : i + 24]) for i in rng.integers(0, len(text) - 24, 8)])
        model.zero_grad()
        model.forward(rows[:, :-1], rows[:, 1:])
        model.backward()
        model.step()
    model.save(out)
    return out


@pytest.fixture(scope="module")
def model(folder):
    return llmc.load(folder, backend="cpu")


def sampled(program, folder, *options):
    """What the command prints, without the end of the line."""
    code, printed, error = program(["sample", str(folder), "--prompt", PROMPT, "--threads", "1", *map(str, options)])
    assert code == 0, error
    assert printed.endswith("\n")
    return printed[:-1]


# --- The same text ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"top_p": 0.8, "seed": 1},
        {"top_k": 12, "top_p": 0.7, "temperature": 1.3},
        {"repetition_penalty": 1.5, "temperature": 0},
        {"repetition_penalty": 0.8, "top_p": 0.9, "top_k": 100, "temperature": 0.6, "seed": 2**40},
        {"top_p": 1e-9},
    ],
)
def test_programs_and_python_give_the_same_text(folder, model, options):
    words = [word for key, value in options.items() for word in ("--" + key.replace("_", "-"), value)]
    words += ["--sample-tokens", 60]
    ours, theirs = (sampled(program, folder, *words) for program in (original, twin))
    assert ours == theirs
    assert ours == PROMPT + model.generate(PROMPT, 60, **options)
    tokens = model.generate([256, *PROMPT.encode()], 60, **options)  # longer than seq_len: the window slides
    text = model.generate(PROMPT, 60, **options)
    assert bytes(token for token in tokens if token < 256).decode(errors="replace").startswith(text)


def test_several_samples(folder, model):
    """The first is that of no --samples; the others are different; each is printed after a line that counts it."""
    options = ["--sample-tokens", 20]
    texts = model.generate(PROMPT, 20, samples=3)
    assert len(set(texts)) == 3
    expected = "\n".join(f"---- sample {i + 1} of 3 ----\n{PROMPT}{text}" for i, text in enumerate(texts))
    for program in (original, twin):
        assert sampled(program, folder, *options) == PROMPT + texts[0]
        assert sampled(program, folder, *options, "--samples", 1) == PROMPT + texts[0]
        assert sampled(program, folder, *options, "--samples", 3) == expected
    assert model.generate(PROMPT, 20) == texts[0]
    assert model.generate([256, *PROMPT.encode()], 20, samples=2)[0] == model.generate([256, *PROMPT.encode()], 20)


def test_random_numbers_of_samples_are_documented(model):
    """doc/formats.md: purpose 5, index = position + number of the sample * 2^32, stream 0; the order of token ids."""
    tokens = [256, *PROMPT.encode()]
    found = model.generate(tokens, 3, samples=3, temperature=1.0, seed=9)
    for number, continuation in enumerate(found):
        for i, token in enumerate(continuation):
            context = tokens + continuation[:i]
            p = np.exp(model.logits(context)[-1].astype(np.float64))
            u = uniform(draw(9, 5, 0, (number << 32) + len(context))[0])
            assert token == np.searchsorted(np.cumsum(p), u * p.sum())


def test_samples_of_a_run_take_the_options(folder, model, tmp_path):
    """At step 0 the stream is that of the command sample."""
    options = {"top_p": 0.8, "repetition_penalty": 1.2, "temperature": 1.1}
    text = model.generate(PROMPT, 40, **options)
    stop = text[10:12]
    words = [word for key, value in options.items() for word in ("--" + key.replace("_", "-"), str(value))]
    for program in (original, twin):
        out = tmp_path / program.__name__
        code, _, error = program(
            ["--init", str(folder), "--steps", "0", "--sample-every", "1", "--sample-tokens", "40", "--prompt", PROMPT,
             "--tokenizer", "byte", "--threads", "1", *words, "--stop", stop, "--out", str(out)]
        )  # fmt: skip
        assert code == 0, error
        (event,) = log(out, "sample")
        assert (event["prompt"], event["text"]) == (PROMPT, text[: text.index(stop)])
        assert log(out, "config")[0]["config"]["stop"] == stop


def test_contexts_of_a_model_trained_on_shorter_sequences(folder, tmp_path):
    """The commands use all positions; llmc.load has the seq_len of the run, unless it is told otherwise."""
    words = ["--init", str(folder), "--tokenizer", "byte", "--seq-len", "8", "--steps", "0", "--out", str(tmp_path)]
    assert original(words)[0] == 0
    printed = {sampled(program, tmp_path, "--sample-tokens", 40) for program in (original, twin)}
    assert printed == {PROMPT + llmc.load(tmp_path, seq_len=SHAPE["seq_len"]).generate(PROMPT, 40)}
    assert llmc.load(tmp_path, batch_size=3).generate(PROMPT, 2)  # the stored total batch is no multiple of it
    short = llmc.load(tmp_path)
    assert short.config["seq_len"] == 8
    assert PROMPT + short.generate(PROMPT, 40) not in printed


# --- The end of a text ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 5])
def test_text_ends_before_the_first_occurrence_of_stop(folder, model, length):
    whole = model.generate(PROMPT, 60, temperature=1.5, seed=3)
    stop = whole[20 : 20 + length]
    expected = whole[: whole.index(stop)]
    assert model.generate(PROMPT, 60, temperature=1.5, seed=3, stop=stop) == expected
    options = ["--sample-tokens", 60, "--temperature", 1.5, "--seed", 3, "--stop", stop]
    for program in (original, twin):
        assert sampled(program, folder, *options) == PROMPT + expected


@pytest.mark.parametrize("program", [original, twin])
def test_generation_ends_at_stop_and_at_the_end_of_a_document(folder, program):
    """With a thousand million tokens asked for. The prompt's occurrence of the text does not count."""
    text = sampled(program, folder, "--sample-tokens", 30, "--temperature", 0)[len(PROMPT) :]
    stop = text[-2:]
    assert sampled(program, folder, "--sample-tokens", 10**9, "--temperature", 0, "--stop", stop) == (
        PROMPT + text[: text.index(stop)]
    )
    assert sampled(program, folder, "--sample-tokens", 5, "--stop", PROMPT).startswith(PROMPT)


PIECES = [bytes([b]) for b in range(256)] + [b"ab", b"abc", b"cd", b"bcde", b""]  # the last one ends a document


def write_tokenizer(path):
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240328, 2, len(PIECES), len(PIECES) - 1
    path.write_bytes(header.tobytes() + b"".join(bytes([len(piece)]) + piece for piece in PIECES))
    return path


def saying(tokens, vocab_size):
    """A model with a position for every token that says these tokens one after the other, whatever it is given."""
    model = llmc.GPT2(
        depth=1, width=vocab_size, heads=1, seq_len=len(tokens), batch_size=1, vocab_size=vocab_size,
        tie_embeddings=False,
    )  # fmt: skip
    for name, values in model.parameters().items():
        model.set_parameter(name, np.zeros_like(values))
    model.set_parameter("ln_f.weight", np.ones(vocab_size))
    model.set_parameter("wpe.weight", np.eye(vocab_size)[tokens])
    model.set_parameter("lm_head.weight", np.eye(vocab_size))
    return model


@pytest.mark.parametrize(
    ("stop", "text", "count"),
    [
        ("cc", "xab", 1),  # of 'abc' and 'cd': the text ends within a token, the token ids before it
        ("ab", "x", 1),
        ("d", "xabcc", 2),
        ("c", "xab", 1),
        ("abccdbcde", "x", 1),
        ("deb", "xabccdbc", 3),
        ("e", "xabccdbcd", 3),
        ("zz", "xabccdbcdebcde", 5),
        (None, "xabccdbcdebcde", 5),
        ("", "xabccdbcdebcde", 5),
    ],
)
def test_stop_may_span_tokens(tmp_path, stop, text, count):
    says = [PIECES.index(piece) for piece in (b"x", b"abc", b"cd", b"bcde", b"bcde")]
    model, vocabulary = saying(says, len(PIECES)), write_tokenizer(tmp_path / "tokenizer.bin")
    named = llmc.load(model.save(tmp_path / "run", tokenizer=vocabulary))
    assert named.generate("", 5, temperature=0, stop=stop) == text
    assert named.generate([0], 5, temperature=0, stop=stop) == says[:count]
    calls = []

    def next_logits(tokens):
        calls.append(len(tokens))
        return np.eye(len(PIECES), dtype=np.float32)[says[len(tokens) - 1]]

    class Tokenizer:
        end = len(PIECES) - 1

        def encode(self, text):
            return []

        def decode(self, tokens):
            return b"".join(PIECES[token] for token in tokens)

    config = Config(temperature=0, stop=stop or "", sample_tokens=5)
    assert generate(next_logits, Tokenizer(), len(PIECES), config) == text
    ends = np.cumsum([len(PIECES[token]) for token in says])
    assert len(calls) == (1 + np.searchsorted(ends, len(text) + len(stop)) if stop and stop != "zz" else 5)


def test_a_text_ends_with_its_document_and_token_ids_do_not():
    end = 256
    model = saying([7, 8, end, 9], 257)
    named = llmc.GPT2(**{**model_options(model), "tokenizer": "byte"})
    for name, values in model.parameters().items():
        named.set_parameter(name, values)
    assert named.generate("", 4, temperature=0) == "\x07\x08"
    assert named.generate([end], 4, temperature=0) == [7, 8, end, 9]


def model_options(model):
    keys = ("depth", "width", "heads", "seq_len", "batch_size", "vocab_size", "tie_embeddings")
    return {key: model.config[key] for key in keys}


# --- Weights of other projects ----------------------------------------------------------------------------------------


def test_text_of_weights_without_a_tokenizer(tmp_path):
    weights = write(tmp_path / "model", random_weights(), CONFIG)
    model = llmc.load(weights)
    for call in (lambda m: m.generate("a", 2), lambda m: m.loss("a"), lambda m: m.logits("a")):
        with pytest.raises(
            llmc.UsageError, match='does not know its tokenizer: say tokenizer="byte" or tokenizer=PATH'
        ):
            call(model)
    with pytest.raises(llmc.UsageError, match="does not know its tokenizer"):
        model.generate([1], 2, stop="a")
    assert len(model.generate([1], 2)) == 2
    named = llmc.load(weights, tokenizer="byte")
    text = named.generate(PROMPT, 12, temperature=0)
    options = ["--tokenizer", "byte", "--temperature", 0, "--sample-tokens", 12]
    assert {sampled(program, weights, *options) for program in (original, twin)} == {PROMPT + text}
    assert VOCAB == 257
    with pytest.raises(llmc.UsageError, match="tokenizer is gpt2, whose vocabulary is not beside the weights"):
        llmc.load(weights, tokenizer="gpt2")
    with pytest.raises(llmc.DataError, match=r"cannot read the tokenizer .*missing"):
        llmc.load(weights, tokenizer=tmp_path / "missing")


def vocabulary_like_gpt2():
    """vocab.json with as many tokens as GPT-2's: the bytes, pairs of them in any order, the end of a document."""
    letters = list(characters().values())
    pairs = [a + b for a in letters for b in letters]
    words = letters + pairs[: 50256 - len(letters)]
    return {word: number for number, word in enumerate([*words, "<|endoftext|>"])}


def test_text_of_transformers_weights_in_shards(tmp_path):
    """With vocab.json beside them, as transformers keeps GPT-2's vocabulary."""
    import torch

    generator = torch.Generator().manual_seed(1)
    weights = random_weights()
    weights["wte.weight"] = 0.2 * torch.randn(50257, CONFIG["n_embd"], generator=generator)
    names = sorted(weights)
    files = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for name, part in files.items():
        write(tmp_path / "model", {key: weights[key] for key in part}, name=name, metadata={"format": "pt"})
    where = {key: name for name, part in files.items() for key in part}
    (tmp_path / "model" / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG | {"vocab_size": 50257}))
    model = llmc.load(tmp_path / "model")
    with pytest.raises(llmc.UsageError, match="GPT-2's vocabulary is not beside the weights: say tokenizer=PATH"):
        model.generate("a", 2)
    (tmp_path / "model" / "vocab.json").write_text(json.dumps(vocabulary_like_gpt2()))
    model = llmc.load(tmp_path / "model")
    text = model.generate(PROMPT, 8, top_p=0.9)
    for program in (original, twin):
        assert sampled(program, tmp_path / "model", "--sample-tokens", 8, "--top-p", 0.9) == PROMPT + text
    assert llmc.load(tmp_path / "model", tokenizer="gpt2").generate(PROMPT, 8, top_p=0.9) == text
    assert model.logits("abc").shape[1] == 50257


def test_a_loaded_checkpoint_gives_its_tokenizer(folder):
    model = llmc.GPT2(**SHAPE)
    with pytest.raises(llmc.UsageError, match="does not know its tokenizer"):
        model.generate("a", 2)
    model.load(folder)
    assert model.generate("a", 2) == llmc.load(folder).generate("a", 2)


# --- Bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--top-p", "0"], "--top-p: '0' is out of range: greater than 0 and at most 1"),
        (["--top-p", "1.5"], "--top-p: '1.5' is out of range: greater than 0 and at most 1"),
        (["--repetition-penalty", "0"], "--repetition-penalty: '0' is out of range: greater than 0 and at most 1000"),
        (["--samples", "0"], "--samples: '0' is out of range: between 1 and 1073741824"),
        (["--stop-strings", "a"], "unknown argument: --stop-strings; did you mean --stop?"),
        (["--num-return-sequences", "3"], "unknown argument: --num-return-sequences; did you mean --samples?"),
    ],
)
def test_options_out_of_range(folder, words, says):
    assert both("sample", folder, *words) == says


def test_samples_is_an_option_of_the_command():
    assert both("--samples", "2") == "unknown argument: --samples; --help lists the options"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda m: m.generate("a", 3, top_p=0), "top_p: '0' is out of range: greater than 0 and at most 1"),
        (lambda m: m.generate("a", 3, repetition_penalty=-1), "repetition_penalty: '-1' is out of range"),
        (lambda m: m.generate("a", 3, samples=0), "samples: '0' is out of range: between 1 and"),
        (lambda m: m.generate("a", -1), "count is -1"),
        (lambda m: m.generate("a", 3, stop=7), "stop is 7: give a text"),
        (lambda m: m.generate("\ud800", 3), "prompt is not Unicode text"),
        (lambda m: m.generate(b"a", 3), "give integers"),
        (lambda m: m.generate([[1]], 3), "give a list"),
        (lambda m: m.logits([0] * 25), "tokens have the length 25, the model's seq_len is 24"),
        (lambda m: m.logits([]), "of at least one token"),
        (lambda m: m.logits(np.zeros((1, 2, 3), int)), "give \\(T,\\) or \\(B, T\\)"),
        (lambda m: m.logits([257]), "token 257 is outside the vocabulary of 257"),
        (lambda m: m.loss(""), "no token to predict"),
        (lambda m: m.loss([[1], [2]]), "no token to predict"),
        (lambda m: m.loss([[1, 2], [3]]), "rows of integers of the same length"),
        (lambda m: m.loss([0, -1]), "token -1 is outside the vocabulary"),
    ],
)
def test_bad_arguments_in_python(model, call, says):
    with pytest.raises(llmc.UsageError, match=says):
        call(model)


def test_a_prompt_that_is_not_utf8(folder):
    """Both programs take its bytes."""
    words = ["sample", str(folder), "--threads", "1", "--sample-tokens", "3", "--prompt"]
    text = original([*words, b"\xff\x41"])[1]
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert train_gpt2.main([*words, "\udcffA"]) == 0
    assert out.getvalue() == text
    assert text.startswith("�A")
