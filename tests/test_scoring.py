"""llmc.GPT2.logits and llmc.GPT2.loss: of texts and token ids of any length and number."""

import re

import numpy as np
import pytest
import torch
from both_programs import original, twin
from program import BINARY
from shards import random_text, write_shard
from weight_tools import CONFIG, LENGTH, VOCAB, random_weights, reference_loss, write

import llmc

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]
T = 16
SHAPE = {"depth": 2, "width": 32, "heads": 2, "seq_len": T, "batch_size": 3, "vocab_size": 257}


@pytest.fixture(scope="module")
def model():
    return llmc.GPT2(**SHAPE, init_std=0.3, tokenizer="byte", backend="cpu")


def losses(logits, targets):
    """-log softmax of the targets, in float64."""
    x = np.asarray(logits, np.float64)
    x -= x.max(-1, keepdims=True)
    return np.log(np.exp(x).sum(-1)) - np.take_along_axis(x, np.asarray(targets)[..., None], -1)[..., 0]


def test_logits_are_those_of_the_loss(model):
    rows = np.random.default_rng(0).integers(0, 257, (7, T))  # more rows than batch_size
    found = model.logits(rows)
    assert found.shape == (7, T, 257) and found.dtype == np.float32
    for first in range(0, 7, 3):  # the rows of a batch are computed together: the same bits as forward()'s
        np.testing.assert_array_equal(found[first : first + 3], model.forward(rows[first : first + 3]))
    # a row alone may be rounded otherwise; logits are up to 40
    np.testing.assert_allclose(model.logits(rows[4]), found[4], atol=1e-4)
    assert model.logits(rows[4].tolist()).shape == (T, 257)
    assert losses(found[:3, :-1], rows[:3, 1:]).mean() == pytest.approx(
        model.forward(rows[:3, :-1], rows[:3, 1:]), rel=1e-6
    )


def test_logits_of_a_text_begin_after_the_end_of_a_document(model):
    found = model.logits("ab c")
    assert found.shape == (5, 257)
    np.testing.assert_array_equal(found, model.logits([256, *b"ab c"]))
    assert model.generate([256, *b"ab c"], 1, temperature=0) == [found[-1].argmax()]
    assert model.logits("").shape == (1, 257)


def test_loss_of_rows(model):
    rows = np.random.default_rng(1).integers(0, 257, (7, T + 1))
    each = [model.forward(row[None, :-1], row[None, 1:]) for row in rows]
    assert model.loss(rows) == pytest.approx(np.mean(each), rel=1e-6)
    assert model.loss(rows[2]) == pytest.approx(each[2], rel=1e-6)
    assert model.loss(rows[2].tolist()) == model.loss(rows[2])
    assert model.loss(rows[:, :2]) == pytest.approx(
        losses(model.logits(rows[:, :1])[:, 0], rows[:, 1]).mean(), rel=1e-6
    )


@pytest.mark.parametrize("count", [T - 1, T, T + 1, 3 * T, 3 * T + 1, 10 * T + 5])
def test_longer_rows_are_read_in_windows(model, count):
    """Each window predicts seq_len tokens, the last what is left; every token but the first is predicted once."""
    rows = np.random.default_rng(2).integers(0, 257, (4, count))
    expected = [
        losses(model.logits(row[begin : min(begin + T, count - 1)]), row[begin + 1 : begin + 1 + T])
        for row in rows
        for begin in range(0, count - 1, T)
    ]
    assert sum(len(part) for part in expected) == 4 * (count - 1)
    assert model.loss(rows) == pytest.approx(np.concatenate(expected).mean(), rel=1e-6)


def test_loss_of_a_text_is_that_of_eval(model, tmp_path):
    """The same windows in the same batches: all digits that eval prints."""
    text = random_text(500)
    shard = write_shard(tmp_path / "val.bin", [256, *text.encode()])
    model.save(tmp_path / "run")
    printed = original(["eval", str(tmp_path / "run"), "--val-data", str(shard), "--threads", "1"])[1]
    assert "500 of 500 tokens" in printed
    loss = model.loss(text)
    assert re.search(r"loss +(\S+) nats", printed)[1] == f"{loss:.4f}"
    printed = twin(["eval", str(tmp_path / "run"), "--val-data", str(shard), "--threads", "1"])[1]
    assert float(re.search(r"loss +(\S+) nats", printed)[1]) == pytest.approx(loss, abs=2e-4)
    assert llmc.load(tmp_path / "run", batch_size=1).loss(text) == pytest.approx(loss, rel=1e-6)
    shorter = llmc.load(tmp_path / "run", seq_len=8)
    assert shorter.loss(text) != pytest.approx(loss, rel=1e-4)  # other contexts


def test_loss_of_weights_of_transformers(tmp_path):
    weights = random_weights()
    model = llmc.load(write(tmp_path / "model", weights, CONFIG), tokenizer="byte")
    text = "what a text says"
    assert len(text) == LENGTH and VOCAB == 257
    tokens = torch.tensor([256, *text.encode()])
    assert model.loss(text) == pytest.approx(reference_loss(weights, tokens), rel=1e-5)


def test_scores_need_no_options_of_training(tmp_path):
    """And leave the model's training as it was: its parameters, gradients and the optimizer's state."""
    model = llmc.GPT2(**SHAPE, tokenizer="byte")
    rows = np.random.default_rng(3).integers(0, 257, (3, T + 1))
    model.forward(rows[:, :-1], rows[:, 1:])
    model.backward()
    before = model.gradients() | model.parameters()
    loss = model.loss(random_text(300))
    assert loss == model.loss(random_text(300)) == pytest.approx(np.log(257), abs=0.2)
    model.logits("a")
    for name, values in (model.gradients() | model.parameters()).items():
        np.testing.assert_array_equal(values, before[name], err_msg=name)
    model.forward(rows[:, :-1], rows[:, 1:])
    model.loss("ab")
    with pytest.raises(llmc.UsageError, match="forward"):  # the batch is another one now
        model.backward()
