"""A checkpoint of every scheme as a plain GPT-2 (llmc.export.fold), in float64."""

import re

import pytest
import torch
import torch.nn.functional as F
from export_tools import CASES, random_checkpoint
from reference_tools import ALL, parse
from safetensors.torch import load_file, save_file
from shards import random_text, write_text_shards

import train_gpt2
from llmc.checkpoint import open_checkpoint
from llmc.errors import DamageError, DataError
from llmc.export.fold import fold
from llmc.run_setup import take_shape

WIDTH, HEADS, LENGTH = 64, 4, 16
SHAPE = f"--depth 2 --width {WIDTH} --heads {HEADS} --seq-len {LENGTH} --batch-size 2".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(5000), shards=1)


@pytest.fixture
def checkpoint(data, tmp_path, one_thread):
    return lambda *options: random_checkpoint(data, tmp_path / "run", *SHAPE, *options)


def plain_gpt2(plain, tokens):
    """Logits (T, V) of the folded model in float64, by GPT-2's formulas."""
    w = {rule["name"]: value.double() for rule, value in plain.tensors()}
    C, T = plain.shape.width, len(tokens)
    x = w["wte.weight"][tokens] + w["wpe.weight"][:T]

    def norm(name):
        return F.layer_norm(x, (C,), w[name + ".weight"], w[name + ".bias"], 1e-5)

    def linear(y, name):
        return y @ w[name + ".weight"].T + w[name + ".bias"]

    for i in range(plain.shape.depth):
        parts = linear(norm(f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(C, -1)
        q, k, v = (part.view(T, plain.shape.heads, -1).transpose(0, 1) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1).reshape(T, C)
        x = x + linear(y, f"h.{i}.attn.c_proj")
        inner = F.gelu(linear(norm(f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        x = x + linear(inner, f"h.{i}.mlp.c_proj")
    return norm("ln_f") @ w.get("lm_head.weight", w["wte.weight"]).T


def trained(path):
    """The trained model in float64; it returns float32 logits, as in the loss."""
    checkpoint = open_checkpoint(path)
    line = parse("sample", str(path))
    config, shape = take_shape(line.config, line.given, checkpoint)
    model = train_gpt2.GPT2(config, shape, checkpoint.parametrization)
    model.set_weights(checkpoint.values)
    return model.double()


@pytest.mark.parametrize("case", CASES)
def test_a_folded_model_is_the_trained_one(checkpoint, case):
    path = checkpoint(*CASES[case])
    plain, model = fold(open_checkpoint(path)), trained(path)
    tokens = torch.randint(0, 257, (LENGTH,), generator=torch.Generator().manual_seed(2))
    theirs = plain_gpt2(plain, tokens)
    ours = torch.stack([model(tokens[None, : t + 1])[0] for t in range(LENGTH)])
    scale = ours.abs().max()
    assert scale > 0.1, "the logits are not all alike"
    # float32: of the trained model's logits, and of the folded weights; u-muP's stream has a variance of about 1, where
    # epsilon changes every layer norm by up to 1e-5 times this ratio
    assert (ours - theirs).abs().max() <= (1e-6 + 1e-5 * plain.epsilon_ratio) * scale
    assert (plain.epsilon_note() == "") == (plain.epsilon_ratio == 0) == (case != "u-mup")


def test_the_effect_of_epsilon_is_bounded(checkpoint):
    """u-muP's stream shrinks from block to block: where its variance is small, epsilon matters, within the bound."""
    plain = fold(open_checkpoint(checkpoint(*ALL["u-mup"])))
    ratio = plain.epsilon_ratio
    assert 0.1 < ratio < 10
    x = F.layer_norm(torch.randn(1000, dtype=torch.float64), (1000,), eps=0)
    for variance in (1e-4, 1e-2, 1.0):
        for c in plain.streams:
            here = F.layer_norm(x * variance**0.5, (1000,), eps=1e-5)
            trained = F.layer_norm(x * variance**0.5, (1000,), eps=1e-5 / c**2)
            assert ((here - trained).abs() <= 1e-5 * ratio / variance * here.abs()).all()
    stated = float(re.search(r"the fraction (\S+) / variance", plain.epsilon_note()).group(1))
    assert stated == pytest.approx(1e-5 * ratio, rel=0.05)  # printed with two digits


def test_weights_without_factors_stay_bit_for_bit(checkpoint):
    path = checkpoint("--parametrization", "sp", "--no-tie-embeddings")
    plain, stored = fold(open_checkpoint(path)), load_file(path)
    for rule, value in plain.tensors():
        there = stored[rule["name"]]
        assert torch.equal(value, there.T if rule["role"] == "hidden" else there)


def test_the_vocabulary_is_that_of_the_tokenizer(checkpoint):
    plain = fold(open_checkpoint(checkpoint("--vocab-size", "300")))
    assert plain.shape.vocab_size == 257
    assert {tuple(v.shape) for r, v in plain.tensors() if r["role"] == "input"} == {(257, WIDTH), (LENGTH, WIDTH)}


def test_what_no_gpt2_equals_is_refused(checkpoint):
    path = checkpoint("--parametrization", "sp", "--embed-mult", "0")
    with pytest.raises(DataError, match=r"embedding multiplier 0 and a tied head"):
        fold(open_checkpoint(path))


@pytest.mark.parametrize("table", ["{}", "[]", '{"scales": {}, "tensors": []}'])
def test_a_damaged_rule_table(checkpoint, table):
    path = checkpoint("--parametrization", "sp")
    tensors, metadata = load_file(path), open_checkpoint(path).files.metadata
    save_file(tensors, path, metadata | {"parametrization": table})
    with pytest.raises(DamageError, match="is damaged: its metadata cannot be read"):
        fold(open_checkpoint(path))


def test_numbers_that_are_too_large_are_refused(checkpoint):
    path = checkpoint("--parametrization", "sp", "--no-tie-embeddings", "--output-mult", "1e38")
    opened = open_checkpoint(path)
    tensors = {name: value * 1e6 if name == "lm_head.weight" else value for name, value in load_file(path).items()}
    save_file(tensors, path, opened.files.metadata)
    with pytest.raises(DataError, match=r"lm_head.weight with its factors folded in is too large"):
        list(fold(open_checkpoint(path)).tensors())
