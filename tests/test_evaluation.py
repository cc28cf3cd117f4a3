"""Validation: --eval-tokens scores the same text at every batch size and sequence length, in both programs."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program import BINARY, TINY, checkpoints, last_wins, log, run
from safetensors.numpy import load_file, save_file
from shards import random_text, write_shard, write_text_shards

import train_gpt2
from llmc.batches import evaluation_batch
from llmc.choice_evaluation import NO_TARGET
from llmc.data.windows import Dataset

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]
PROGRAMS = ("cpp", "py")
SHARDS = (700, 5, 395)  # tokens; the second is shorter than a window


@pytest.fixture(scope="module")
def bigram(tmp_path_factory):
    """A model whose prediction depends on the current token alone, so that its loss on a text does not depend on the
    windows: without positions and branches. Returns the options, and the loss at every token of every shard."""
    folder = tmp_path_factory.mktemp("bigram")
    rng = np.random.default_rng(1)
    shards = [rng.integers(0, 256, count) for count in SHARDS]
    for i, tokens in enumerate(shards):
        write_shard(folder / f"val_{i}.bin", tokens, 257, "byte", len(tokens))
    text = write_text_shards(folder / "train", random_text(3_000), shards=1)
    shape = "--depth 2 --width 48 --heads 1 --seq-len 40 --threads 1 --steps 0".split()
    run("--train-data", text, *shape, "--out", folder / "run")
    weights = load_file(checkpoints(folder / "run")[0] / "model.safetensors")
    weights = {name: 0 * value if "c_proj" in name or "wpe" in name else value for name, value in weights.items()}
    weights["wte.weight"] = rng.normal(size=weights["wte.weight"].shape).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    wte = weights["wte.weight"].astype(np.float64)
    centered = wte - wte.mean(1, keepdims=True)
    logits = centered / np.sqrt((centered**2).mean(1, keepdims=True) + 1e-5) @ wte.T
    logits -= logits.max(1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(1, keepdims=True))
    options = ["--init", folder / "model.safetensors", "--heads", 1, "--threads", 1, "--steps", 0]
    options += ["--train-data", text, "--val-data", folder / "val_*.bin"]
    return options, [-logits[tokens[:-1], tokens[1:]] for tokens in shards]


def train(program, out, *options):
    if program == "cpp":
        run(*options, "--out", out)
    else:
        assert train_gpt2.main(last_wins([*options, "--device", "cpu", "--out", out])) == 0


def val_loss(program, out, *options):
    train(program, out, *options)
    return log(out, "eval")[0]["val_loss"]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("tokens", [500, 800, 0])
def test_the_same_text_at_every_batch_size_and_length(program, tokens, bigram, tmp_path):
    """500 tokens are 12.5 windows of 40; 800 end in the third shard; 0 is all of it."""
    options, losses = bigram
    expected = np.concatenate(losses)[: tokens or None].mean()
    for number, (batch, length) in enumerate([(4, 40), (2, 40), (3, 20), (32, 7)]):
        more = ["--eval-tokens", tokens, "--batch-size", batch, "--seq-len", length]
        assert val_loss(program, tmp_path / str(number), *options, *more) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("program", PROGRAMS)
def test_without_the_option_it_is_81920_tokens(program, bigram, tmp_path):
    """More than there are here, so all; the log has the number."""
    options, losses = bigram
    more = ["--batch-size", 2, "--seq-len", 40]
    assert val_loss(program, tmp_path, *options, *more) == pytest.approx(np.concatenate(losses).mean(), rel=2e-6)
    config = log(tmp_path, "config")[0]["config"]
    assert config["eval_tokens"] == 81920 and config["eval_batches"] is None


@pytest.mark.parametrize("program", PROGRAMS)
def test_eval_batches_counts_micro_batches_of_whole_windows(program, bigram, tmp_path):
    """For old configurations: the text depends on the batch."""
    options, losses = bigram
    more = ["--batch-size", 3, "--seq-len", 40, "--eval-batches"]
    assert val_loss(program, tmp_path / "a", *options, *more, 2) == pytest.approx(losses[0][:240].mean(), rel=2e-6)
    windows = np.concatenate([losses[0][:680], losses[2][:360]])
    for number, count in enumerate((0, 100)):
        loss = val_loss(program, tmp_path / f"{number}", *options, *more, count)
        assert loss == pytest.approx(windows.mean(), rel=2e-6)
    config = log(tmp_path / "a", "config")[0]["config"]
    assert config["eval_tokens"] is None and config["eval_batches"] == 2


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_trained_model_has_the_same_loss_at_every_batch_size(program, tmp_path):
    data = write_text_shards(tmp_path / "data", random_text(6_000), shards=2)
    options = ["--train-data", data, "--val-data", data, "--threads", 1, "--eval-tokens", 1000]
    train(program, tmp_path / "run", *options, *TINY, "--steps", 3)
    options += ["--steps", 0, "--init", checkpoints(tmp_path / "run")[0]]
    losses = [
        val_loss(program, tmp_path / f"batch{batch}", *options, "--batch-size", batch, "--seq-len", 40)
        for batch in (2, 4, 8)
    ]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 1200), st.integers(1, 9), st.integers(1, 390), st.data())
def test_segments_cover_the_first_targets(bigram, count, rows, seq_len, draw):
    """Once each, with the tokens before them, for every stride."""
    stride = draw.draw(st.one_of(st.just(seq_len), st.integers(1, seq_len)))
    data = Dataset(bigram[0][-1], seq_len)
    before, targets = [], []
    for segment in data.first_targets(count, rows, stride):
        tokens, wanted = evaluation_batch(data, segment, 257, torch.device("cpu"))
        assert tokens.shape == wanted.shape == (segment.rows, segment.length)
        assert segment.rows <= rows
        counts = wanted != NO_TARGET
        assert counts.sum() == segment.targets
        assert counts.any(1).all()
        for row, mask in enumerate(counts.tolist()):
            if segment.begin + row > 0:  # the context of the first target that counts, itself a token of the window
                assert mask.index(True) == seq_len - stride
        before.append(tokens[counts])
        targets.append(wanted[counts])
    every = np.concatenate([shard.tokens[1:] for shard in data.shards])
    previous = np.concatenate([shard.tokens[:-1] for shard in data.shards])
    np.testing.assert_array_equal(torch.cat(targets), every[: count or None])
    np.testing.assert_array_equal(torch.cat(before), previous[: count or None])
