"""`--eval-stride`: windows that overlap, in both programs, compared with the loss of each target by itself."""

import contextlib
import io
import re
from statistics import fmean

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from both_programs import both as both_programs
from data_tools import windows_of
from program import BINARY, log, run
from reference_tools import model_of
from reference_tools import run as run_reference
from shards import random_text, write_shard
from weight_tools import CONFIG, LENGTH, VOCAB, random_weights, write

import train_gpt2

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]
SHARDS = (3 * LENGTH + 6, 5, LENGTH + 1, LENGTH + 3)  # tokens: the second is shorter than a window, the third is one


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Weights whose predictions depend on all of the context, shards, and the tokens of these."""
    folder = tmp_path_factory.mktemp("windows")
    rng = np.random.default_rng(0)
    shards = [rng.integers(0, VOCAB, count) for count in SHARDS]
    for i, tokens in enumerate(shards):
        write_shard(folder / f"val_{i}.bin", tokens, VOCAB, "byte", len(tokens))
    return write(folder / "model", random_weights(), CONFIG), folder / "val_*.bin", shards


@torch.no_grad()
def loss_one_by_one(path, shards, stride, length=LENGTH):
    """The mean loss of all targets. Target t of a shard is in the first window that reaches it: window 0 for the first
    `length` of them, otherwise window k, which begins at token k * stride."""
    model, losses = model_of(path), []
    for tokens in shards:
        for t in range(1, len(tokens)):
            begin = max(0, -(-(t - length) // stride)) * stride
            logits = model(torch.tensor(tokens[begin:t])[None])[0]
            losses.append(F.cross_entropy(logits.double(), torch.tensor(tokens[t])).item())
    return fmean(losses)


def evaluate(*words):
    """The loss that both programs print, and the line about windows."""
    texts = [run("eval", *words, "--threads", 1)[0], io.StringIO()]
    with contextlib.redirect_stdout(texts[1]):
        assert train_gpt2.main(["eval", *map(str, words), "--threads", "1"]) == 0
    texts[1] = texts[1].getvalue()
    assert re.sub(r"\d+\.\d+", "", texts[0]) == re.sub(r"\d+\.\d+", "", texts[1])
    losses = [float(re.search("loss    (.*) nats", text)[1]) for text in texts]
    # four decimals of the same number
    assert losses[0] == pytest.approx(losses[1], abs=1.1e-4)
    return losses[0], re.search("windows .*", texts[0])[0], re.search("data .*", texts[0])[0]


@pytest.mark.parametrize("stride", [1, 5, 8, LENGTH])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_every_target_once_with_its_context(case, stride, batch_size):
    path, data, shards = case
    words = [path, "--val-data", data, "--eval-stride", stride, "--eval-tokens", 0, "--batch-size", batch_size]
    loss, windows, count = evaluate(*words)
    # the weights make losses of about 11 nats, four decimals are printed
    assert loss == pytest.approx(loss_one_by_one(path, shards, stride), abs=2e-4)
    targets = sum(SHARDS) - len(SHARDS)
    assert count == f"data    {targets} of {targets} tokens"
    least = "" if stride == 1 else f"{LENGTH - stride + 1} to "
    assert windows.startswith(f"windows 16 tokens, stride {stride}: a target has {least}16 tokens of context")
    assert windows.endswith(" of context" if stride == LENGTH else ", at the beginning of a shard fewer")


def test_a_part_of_the_targets_in_shorter_windows(case):
    path, data, shards = case
    loss, windows, count = evaluate(
        path, "--val-data", data, "--eval-stride", 3, "--seq-len", 7, "--eval-tokens", 40, "--batch-size", 4
    )
    assert loss == pytest.approx(loss_one_by_one(path, [shards[0][:41]], 3, 7), abs=2e-4)
    assert windows.startswith("windows 7 tokens, stride 3: a target has 5 to 7 tokens of context")
    assert count.startswith("data    40 of 91 tokens")


def test_without_the_option_the_stride_is_the_length(case):
    path, data, _ = case
    words = [path, "--val-data", data, "--eval-tokens", 0]
    assert evaluate(*words) == evaluate(*words, "--eval-stride", LENGTH)
    assert evaluate(*words)[1] == "windows 16 tokens, stride 16: a target has 1 to 16 tokens of context"


def test_in_training(tmp_path):
    """Both programs; --eval-stride is stored, so that --resume and the log have it."""
    write_shard(tmp_path / "d.bin", [256, *random_text(600).encode()], VOCAB, "byte", 600)
    words = ["--train-data", tmp_path / "d.bin", "--val-data", tmp_path / "d.bin", "--threads", 1, "--steps", 2]
    words += "--depth 1 --width 32 --heads 2 --seq-len 16 --batch-size 2 --lr 0.01 --eval-tokens 0".split()
    run(*words, "--eval-stride", 4, "--out", tmp_path / "c")
    run_reference(tmp_path / "p", *words, "--eval-stride", 4)
    losses = [log(tmp_path / name, "eval")[-1]["val_loss"] for name in "cp"]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)  # two steps in fp32
    assert log(tmp_path / "c", "config")[0]["config"]["eval_stride"] == 4
    printed = evaluate(tmp_path / "c", "--val-data", tmp_path / "d.bin", "--eval-stride", 4, "--eval-tokens", 0)
    assert printed[0] == pytest.approx(losses[0], abs=1e-4)
    run(*words, "--out", tmp_path / "disjoint")
    assert log(tmp_path / "disjoint", "eval")[-1]["val_loss"] != losses[0]


def test_what_is_refused(case, tmp_path):
    path, data, _ = case
    message = "--eval-stride 17 is longer than a window, --seq-len 16, and would leave targets out: give at most 16"
    assert both_programs("eval", path, "--val-data", data, "--eval-stride", 17) == message
    words = ["--train-data", data, "--val-data", data, "--seq-len", 16, "--out", tmp_path / "out"]
    assert both_programs(*words, "--eval-stride", 17) == message
    assert not (tmp_path / "out").exists()
    assert "0' is out of range" in both_programs("eval", path, "--val-data", data, "--eval-stride", 0)
    message = both_programs("eval", path, "--val-data", data, "--eval-stride", 4, "--eval-batches", 1)
    assert message == "--eval-stride excludes --eval-batches: give one of the two"
    assert "needs --val-data" in both_programs("--train-data", data, "--eval-stride", 4)


def test_windows_are_not_those_of_lm_eval(tmp_path):
    """lm-eval 0.4.13 scores 150 tokens at length 64 as (context, scored) = (1, 64), (1, 64), (43, 22): the first token
    too, after a token that stands for the beginning, and its last window reaches back to be full. Here the first token
    of a shard is no target, and the last window begins where its stride puts it."""
    assert windows_of(tmp_path, 150, 64, 64) == [(1, 64), (1, 64), (1, 21)]
    assert windows_of(tmp_path, 150, 64, 32) == [(1, 64), (33, 32), (33, 32), (33, 21)]
