"""--hellaswag: the accuracy of both programs on multiple-choice examples, compared with the log-likelihood of every
token by itself; in `eval`, while training, from both forms of the file."""

import contextlib
import io
import json
import shutil
import sys
from statistics import fmean

import numpy as np
import pytest
import torch
from hellaswag_tools import BYTES, evaluate, items, texts_of, u2, write_case, write_lines
from program import BINARY, ROOT, log, run
from reference_tools import main as reference_main
from reference_tools import model_of
from shards import random_text, write_text_shards
from test_text import tokenizer_bin  # noqa: F401 (a fixture)
from weight_tools import CONFIG, LENGTH, random_weights, write

from llmc.choice_evaluation import ChoiceEvaluation
from llmc.data import hellaswag
from llmc.data.multiple_choice import read_examples

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]
EVERY = "--eval-every 2 --eval-tokens 32".split()
MODEL = "--depth 2 --width 32 --heads 2 --seq-len 32 --batch-size 3 --threads 1 --steps 4 --lr 0.01".split()


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return write_case(tmp_path_factory.mktemp("hellaswag"))


@torch.no_grad()
def loss_one_by_one(model, context, ending, length):
    """-log p(ending | context), one token at a time. A token is predicted from those before it in its window; the
    windows' last targets are the ending's last token, the one `length` tokens before it, and so on."""
    tokens, total = context + ending, 0.0
    for at in range(len(context), len(tokens)):
        end = len(tokens) - (len(tokens) - 1 - at) // length * length
        logits = model(torch.tensor(tokens[max(0, end - length - 1) : at])[None])[0]
        total -= torch.log_softmax(logits.double(), 0)[tokens[at]].item()
    return total


def expected(model, path, length):
    """acc, acc by tokens, acc by bytes, and the losses of all endings per example."""
    right, losses = np.zeros(3), []
    for item in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        context = list(item["ctx"].encode())
        endings = [list(f" {text}".encode()) for text in item["endings"]]
        loss = np.array([loss_one_by_one(model, context, ending, length) for ending in endings])
        sizes = [[1] * len(endings), [len(e) for e in endings], [max(1, len(e) - 1) for e in endings]]
        right += [np.argmin(loss / size) == int(item["label"]) for size in sizes]
        losses.append(loss)
    return (*(right / len(losses)), losses)


def per_token(losses, item, label):
    return losses[label] / len(f" {item['endings'][label]}".encode())


@pytest.fixture(scope="module")
def scores(case):
    torch.set_num_threads(1)
    return expected(model_of(case[0]), case[1], LENGTH)


def test_the_examples_decide_something(scores):
    """The three accuracies differ, and none is 0 or 1."""
    acc, by_tokens, by_bytes, _ = scores
    assert len({acc, by_tokens, by_bytes}) == 3
    assert min(scores[:3]) > 0 and max(scores[:3]) < 1


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_loss_of_every_ending(case, scores, batch_size):
    path, lines, _ = case
    choices = ChoiceEvaluation(read_examples(lines, 0, BYTES), LENGTH, batch_size)
    with torch.no_grad():
        losses = choices.losses(model_of(path), torch.device("cpu"))
    # sums of up to 90 losses of about 10 nats in fp32
    np.testing.assert_allclose(losses, np.concatenate(scores[3]), rtol=2e-6)
    assert choices.judge(losses)[1:4] == pytest.approx(scores[:3])


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_both_programs_on_both_forms(case, scores, batch_size):
    path, lines, eval_path = case
    words = [path, "--tokenizer", "byte", "--batch-size", batch_size, "--hellaswag"]
    own = [per_token(loss, item, int(item["label"])) for loss, item in zip(scores[3], items(), strict=True)]
    numbers, text = evaluate(*words, lines)
    # four decimals; the loss of about 10 nats is a mean of fp32 numbers
    assert numbers == pytest.approx([*scores[:3], fmean(own)], abs=1.1e-4)
    assert text.startswith(f"choices 15 examples of {lines}\n")
    assert ", by bytes" in text
    other, text = evaluate(*words, eval_path)
    assert other == pytest.approx([numbers[0], numbers[1], numbers[3]], abs=1.1e-4)
    assert "by bytes" not in text


@pytest.mark.parametrize("label", range(4))
def test_the_loss_of_every_ending_in_both_programs(case, scores, label, tmp_path):
    """By files in which other endings are right: the printed loss is that of the right ones."""
    examples = [item | {"label": label} for item in items()[:12]]
    lines = write_lines(tmp_path / "items.jsonl", examples)
    numbers, _ = evaluate(case[0], "--tokenizer", "byte", "--hellaswag", lines)
    own = [per_token(scores[3][i], item, label) for i, item in enumerate(examples)]
    assert numbers[-1] == pytest.approx(fmean(own), abs=1.1e-4)


def test_a_limit_and_validation_data(case, tmp_path):
    path, lines, eval_path = case
    data = write_text_shards(tmp_path, random_text(500), shards=1)
    for file in (lines, eval_path):
        words = [path, "--tokenizer", "byte", "--val-data", data, "--hellaswag", file, "--hellaswag-limit", 1]
        numbers, text = evaluate(*words)
        assert set(numbers[:2]) <= {0, 1}
        assert text.startswith("choices 1 example of ")
        assert "\nloss    " in texts_of(*words)[0]


@pytest.mark.parametrize("options", [["--parametrization", "mup", "--base-width", 16], ["--parametrization", "u-mup"]])
def test_while_training(case, tmp_path, options):
    """At each validation and at the end, in the log and on the screen; the checkpoint then has these accuracies, which
    the model computes token by token."""
    _, lines, _ = case
    data = write_text_shards(tmp_path, random_text(3000), shards=1)
    words = ["--train-data", data, "--hellaswag", lines, *MODEL, *EVERY, *options]
    printed = [run(*words, "--out", tmp_path / "c")[0], io.StringIO()]
    with contextlib.redirect_stdout(printed[1]):
        assert reference_main([*words, "--out", tmp_path / "p"]) == 0
    printed[1] = printed[1].getvalue()
    events = [log(tmp_path / name, "hellaswag") for name in "cp"]
    for cpp, py in zip(*events, strict=True):
        assert list(cpp) == list(py)
        for key in ("step", "examples", "acc", "acc_norm_tokens", "acc_norm_bytes"):
            assert cpp[key] == py[key], key
        assert cpp["loss"] == pytest.approx(py["loss"], rel=1e-4)  # weights after some steps in fp32
    assert [event["step"] for event in events[0]] == [2, 4]
    for name, text in zip("cp", printed, strict=True):
        out, event = tmp_path / name, log(tmp_path / name, "hellaswag")[-1]
        fields = {key: event[key] for key in event if key not in ("event", "step", "elapsed")}
        assert log(out, "final")[0]["hellaswag"] == fields
        assert f" | hellaswag {event['acc']:.4f} (by tokens {event['acc_norm_tokens']:.4f}) | norm " in text
        assert f"\nchoices 15 examples of {lines}\n" in text
        acc, by_tokens, by_bytes, _ = expected(model_of(out), lines, 32)
        assert (event["acc"], event["acc_norm_tokens"], event["acc_norm_bytes"]) == (acc, by_tokens, by_bytes)
        numbers, _ = evaluate(out, "--hellaswag", lines)
        assert numbers == pytest.approx([acc, by_tokens, by_bytes, event["loss"]], abs=1.1e-4)


def train(program, *words):
    if program == "c":
        run(*words)
    else:
        assert reference_main(words) == 0


@pytest.mark.parametrize("program", "cp")
def test_resume(case, tmp_path, program):
    """The same events as without an interruption. The checkpoint is written before the evaluation of its step: what the
    log does not have is done when the run goes on, and only that."""
    data, out = write_text_shards(tmp_path, random_text(3000), shards=1), tmp_path / "out"
    words = ["--train-data", data, "--val-data", data, "--hellaswag", case[1], *MODEL, *EVERY, "--out", out]
    train(program, *words, "--checkpoint-every", 2)
    events = [log(out, kind) for kind in ("hellaswag", "eval")]
    lines = (out / "log.jsonl").read_text().splitlines(keepends=True)

    def cut(*kinds):
        """The log without the last events of these kinds."""
        (out / "log.jsonl").write_text("".join(x for x in lines if not ('"step": 4' in x or '"step":4' in x)
                                               or json.loads(x)["event"] not in kinds))  # fmt: skip

    for lost in (["final"], ["final", "hellaswag"], ["final", "hellaswag", "eval"]):
        cut(*lost)
        train(program, "--resume", "--out", out)
        for kind, before in zip(("hellaswag", "eval"), events, strict=True):
            now = log(out, kind)
            assert [event["step"] for event in now] == [2, 4]
            for a, b in zip(now, before, strict=True):
                assert {**a, "elapsed": 0} == {**b, "elapsed": 0}
        assert log(out, "final")[0]["hellaswag"]["acc"] == events[0][-1]["acc"]


def test_ranks_share_the_batches(case, tmp_path):
    data = write_text_shards(tmp_path, random_text(3000), shards=1)
    words = ["--train-data", data, "--hellaswag", case[1], *MODEL, "--steps", 0, "--device", "cpu"]
    reference_main([*words, "--out", tmp_path / "one"])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    run(*words, "--out", tmp_path / "two", program=[*command, str(ROOT / "train_gpt2.py")])
    one, two = (log(tmp_path / name, "hellaswag")[0] for name in ("one", "two"))
    assert {**one, "elapsed": 0} == {**two, "elapsed": 0}


def test_weights_that_are_not_finite(case, tmp_path):
    model = write(tmp_path / "model", random_weights() | {"ln_f.weight": torch.full((128,), 3e38)}, CONFIG)
    for text in texts_of(model, "--tokenizer", "byte", "--hellaswag", case[1], code=4):
        assert f"the scores of {model / 'model.safetensors'} on {case[1]} are not finite" in text
    data = write_text_shards(tmp_path, random_text(500), shards=1)
    words = ["--train-data", data, "--init", model, "--hellaswag", case[2], "--steps", 0, "--threads", 1]
    message = "training diverged at step 0: the scores of --hellaswag are not finite"
    assert message in run(*words, expect=4)[1]
    with contextlib.redirect_stderr(io.StringIO()) as error:
        assert reference_main(words) == 4
    assert message in error.getvalue()


def test_gpt2_tokens(case, tokenizer_bin, tmp_path, monkeypatch):  # noqa: F811
    """Text, tokenized by each program with the vocabulary beside the weights, and llm.c's own form of the eval file,
    which does not name its tokenizer."""
    path, encoding = tokenizer_bin
    weights = random_weights() | {"wte.weight": torch.randn(50257, 128, generator=torch.Generator().manual_seed(1)) / 5}
    model = write(tmp_path / "model", weights, CONFIG | {"vocab_size": 50257})
    shutil.copy(path, model / "tokenizer.bin")
    monkeypatch.setattr("llmc.data.tokenizers.load_gpt2", lambda: encoding)
    out = tmp_path / "items.bin"
    assert hellaswag.main([str(case[1]), "--out", str(out)]) == 0
    content = out.read_bytes()
    assert np.frombuffer(content, "<i4", 5)[4] == 2
    first = items()[0]
    tokens = [encoding.encode(first["ctx"]), *(encoding.encode(f" {text}") for text in first["endings"])]
    assert np.frombuffer(content[1034:], "<u2")[: 1 + len(tokens[0])].tolist() == [len(tokens[0]), *tokens[0]]
    numbers, _ = evaluate(model, "--hellaswag", case[1])
    for file in (content, u2(content, 16, 0)):
        out.write_bytes(file)
        assert evaluate(model, "--hellaswag", out)[0] == pytest.approx(numbers[:2] + numbers[3:], abs=1.1e-4)
    for text in texts_of(case[0], "--hellaswag", out, "--tokenizer", "byte", code=3):
        assert "is beyond the model's vocabulary of 257: give a file made with the model's tokenizer" in text
