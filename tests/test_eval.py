"""`eval CHECKPOINT --val-data ...`: both programs print the same, and the loss that training found."""

import json
import re

import numpy as np
import pytest
import torch
from both_programs import both as both_programs
from program import BINARY, log, run
from reference_tools import ALL
from reference_tools import run as run_reference
from shards import random_text, write_shard, write_text_shards
from weight_tools import CONFIG, HEADS, LENGTH, VOCAB, random_weights, reference_loss, write

import train_gpt2

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]
MODEL = "--depth 2 --width 32 --heads 2 --seq-len 16 --batch-size 2 --threads 1 --steps 3 --lr 0.01".split()


NUMBER = r"\d+\.\d+|nan"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(9000), shards=2)


@pytest.fixture
def both(capsys):
    """The output of both programs, which is the same up to the rounding of sums."""

    def text(*words, code=0):
        here = run("eval", *words, "--threads", 1, expect=code)
        capsys.readouterr()
        assert train_gpt2.main(["eval", *map(str, words), "--threads", "1"]) == code
        there = capsys.readouterr()
        assert re.sub(NUMBER, "N", there.out) == re.sub(NUMBER, "N", here[0])
        for a, b in zip(re.findall(NUMBER, there.out), re.findall(NUMBER, here[0]), strict=True):
            assert float(a) == pytest.approx(float(b), rel=1e-4, nan_ok=True)
        assert there.err.replace("train_gpt2.py: ", "train_gpt2: ") == here[1]
        return here[0] + here[1]

    return text


@pytest.mark.parametrize("options", [["--parametrization", "sp"], *ALL.values()])
def test_the_loss_that_training_found(data, tmp_path, both, options):
    words = ["--train-data", data, "--val-data", data, "--eval-tokens", 1000, *MODEL, *options]
    run(*words, "--out", tmp_path / "c")
    run_reference(tmp_path / "p", *words)
    for out in (tmp_path / "c", tmp_path / "p"):
        final = log(out, "final")[0]
        text = both(out, "--val-data", data, "--eval-tokens", 1000)
        assert text.startswith(f"weights {out}/checkpoints/step_00000003/model.safetensors\n")
        assert "\ndata    1,000 of 9,000 tokens (--eval-tokens 0: all)\n" in text
        found = re.search(r"loss    (.*) nats/token, (.*) bits/byte, perplexity (.*)\n", text)
        wanted = final["val_loss"], final["bits_per_byte"], np.exp(final["val_loss"])
        assert [float(number) for number in found.groups()] == pytest.approx(wanted, rel=1e-4)


def test_all_tokens_at_any_batch_size_and_length(data, tmp_path, both):
    run("--train-data", data, *MODEL, "--out", tmp_path / "run")
    texts = [both(tmp_path / "run", "--val-data", data, "--eval-tokens", 0, "--batch-size", n) for n in (1, 2, 64)]
    losses = [float(re.search("loss    (.*) nats", text)[1]) for text in texts]
    assert losses == pytest.approx([losses[0]] * 3, abs=1.1e-4)
    assert "data    9,000 of 9,000 tokens\n" in texts[0]
    assert "data    4 of 9,000" in both(tmp_path / "run", "--val-data", data, "--eval-tokens", 4, "--seq-len", 3)
    assert "data    32 of 9,000" in both(tmp_path / "run", "--val-data", data, "--eval-batches", 1)
    assert "longer than the 16 learned positions" in both(tmp_path / "run", "--val-data", data, "--seq-len", 17, code=3)


def test_a_model_of_one_position(data, tmp_path, both):
    run("--train-data", data, *MODEL, "--seq-len", 1, "--out", tmp_path / "run")
    text = both(tmp_path / "run", "--val-data", data, "--seq-len", 2, code=3)
    assert "--seq-len 2 is longer than the 1 learned position of " in text


def test_a_bf16_checkpoint_is_evaluated_as_it_was_trained(data, tmp_path):
    words = ["--train-data", data, "--val-data", data, *MODEL[:-1], 1, "--dtype", "bf16", "--eval-tokens", 16]
    run(*words, "--out", tmp_path)
    loss = f"loss    {log(tmp_path, 'final')[0]['val_loss']:.4f} nats"
    command = ["eval", tmp_path, "--val-data", data, "--threads", 1, "--eval-tokens", 16]
    assert loss in run(*command)[0]
    assert loss not in run(*command, "--dtype", "fp32")[0]


def test_weights_of_other_projects(tmp_path, both):
    tokens = torch.arange(LENGTH + 1) * 7 % VOCAB
    write_shard(tmp_path / "val.bin", tokens.numpy(), VOCAB)
    model = write(tmp_path / "model", random_weights(), CONFIG)
    loss = f"loss    {reference_loss(random_weights(), tokens, HEADS):.3f}"
    assert loss in both(model, "--val-data", tmp_path / "val.bin")
    (model / "config.json").unlink()
    assert "heads assumed 2 x 64" in both(model, "--val-data", tmp_path / "val.bin")
    for option in (("--heads", HEADS), ("--head-dim", 32)):
        text = both(model, "--val-data", tmp_path / "val.bin", *option)
        assert loss in text
        assert "assumed" not in text


def test_what_cannot_be_evaluated(data, tmp_path, both):
    model = write(tmp_path / "model", random_weights(), CONFIG)
    assert "--val-data is missing" in both(model, code=2)
    assert "unknown argument: --lr" in both(model, "--lr", "1", code=2)
    for words in ([], ["--val-data", data, tmp_path / "model"], ["--seq-len", 9, "--val-data", data, "--threads", 1]):
        after = "the words after --val-data are its values, so CHECKPOINT stands before it"
        what = after if words else "give the folder of a run or of a checkpoint, or a .safetensors file"
        assert both_programs("eval", *words) == f"CHECKPOINT is required: {what}"
    assert "there is no checkpoint at" in both(tmp_path / "gone", "--val-data", data, code=3)
    shard = write_shard(tmp_path / "gpt2.bin", np.arange(99), 50257, "gpt2")
    assert "has a vocabulary of 50257 tokens, the model of 257" in both(model, "--val-data", shard, code=3)
    run("--train-data", data, *MODEL, "--vocab-size", 50257, "--out", tmp_path / "run")
    assert "made with the tokenizer gpt2, the model" in both(tmp_path / "run", "--val-data", shard, code=3)
    huge = random_weights() | {"ln_f.weight": torch.full((128,), 3e38)}
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    write(tmp_path / "model", huge)
    val = write_shard(tmp_path / "val.bin", np.arange(99) % VOCAB, VOCAB)
    text = both(model, "--val-data", val, code=4)
    assert "loss    nan nats/token, perplexity nan" in text
    assert "is not finite" in text
