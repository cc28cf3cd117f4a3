"""What both programs say about a run: its rules and memory, warnings, the tokens of a resumed run."""

import re

import pytest
from both_programs import original, twin
from program import BINARY, TINY, last_wins, log
from shards import random_text, write_text_shards

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]
PROGRAMS = pytest.mark.parametrize("program", [original, twin], ids=["cpp", "py"])


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return ["--train-data", write_text_shards(tmp_path_factory.mktemp("data"), random_text(30_000), shards=1)]


def said(program, *arguments, expect=0):
    code, out, error = program(last_wins(arguments))
    assert code == expect, out + error
    return out if expect == 0 else error


# --- The rules of a deep model ---


@PROGRAMS
def test_equal_blocks_are_shown_once(program):
    options = ["--dry-run", "--depth", 48, "--width", 64, "--heads", 4, "--seq-len", 8]
    out = said(program, *options)
    assert len(re.findall(r"attn.c_attn.weight", out)) == 1 and "48" in out.split("c_attn.weight")[1]
    assert len(out.splitlines()) < 60 and max(map(len, out.splitlines())) < 400
    assert len(re.findall(r"attn.c_attn.weight", said(program, *options, "--all"))) == 48


@PROGRAMS
def test_blocks_with_other_rules_are_all_shown(program):
    """u-muP's residual branches differ from block to block; its tensors do not."""
    out = said(program, "--dry-run", *TINY, "--depth", 3, "--parametrization", "u-mup")
    assert len(re.findall(r"attn.c_attn.weight", out)) == 1
    assert "residual x" not in out


# --- Memory ---


def test_a_run_that_does_not_fit_into_memory():
    """The dry run shows everything, then fails as the run would."""
    code, out, error = original(["--dry-run", "--depth", "40", "--width", "262144", "--heads", "2048"])
    assert code == 1
    assert re.search(r"^memory  \d+\.\d\d GiB: parameters \d+\.\d\d GiB, .*; too little for any batch size", out, re.M)
    assert "h.* x 40" in out
    assert re.match(
        r"out of memory: --batch-size 4 needs \d+\.\d\d GiB, .* not even --batch-size 1 fits \(param", error
    )
    assert "choose a smaller model (--preset gpt" in error


def test_a_batch_that_does_not_fit_into_memory():
    """--batch-size, --recompute and --dtype are named with what they allow, each only if it allows more."""
    code, out, error = original(["--dry-run", *"--depth 4 --width 256 --heads 4 --batch-size 1000000".split()])
    assert code == 1 and "batch size" in out
    sizes = re.search(r"; --batch-size (\d+) fits, or (\d+) with --recompute block, or (\d+) with --dtype bf16 ", error)
    assert sizes, error
    assert 0 < int(sizes[1]) < int(sizes[2]) < int(sizes[3])
    assert f"batch size {sizes[1]} fits)" in out


def test_small_models_are_in_mebibytes():
    assert re.search(
        r"^memory  \d+\.\d MiB: .* MiB, .*; batch size \d+ fits\)", said(original, "--dry-run", *TINY), re.M
    )


# --- Warnings ---


def warnings(out):
    return [line.removeprefix("warning ") for line in out.splitlines() if line.startswith("warning ")]


@pytest.mark.parametrize("steps", [["--steps", 5], ["--tokens", 800]])
def test_a_warm_up_that_does_not_end(text, steps):
    options = ["--dry-run", *text, *TINY, *steps, "--warmup-steps"]
    found = [warnings(said(program, *options, 10)) for program in (original, twin)]
    assert found[0] == found[1] == [
        "--warmup-steps 10 is not shorter than the run of 5 steps: the learning rate still rises when it ends, at 0.5 "
        "of --lr"
    ]  # fmt: skip
    for program in (original, twin):
        assert warnings(said(program, *options, 5)) and not warnings(said(program, *options, 4))


@PROGRAMS
def test_a_learning_rate_that_jumps_when_a_run_is_extended(program, text, tmp_path):
    options = [*text, *TINY, "--lr", "0.01", "--out", tmp_path / "run"]
    said(program, *options, "--steps", 6)
    for reader in (original, twin):
        out = said(reader, *options, "--resume", "--dry-run", "--steps", 12)
        assert warnings(out) == [
            "--resume: the learning rate jumps from 0.00067 to 0.005 at step 7, because the schedule is now one of 12 "
            "steps, not 6: --schedule constant and wsd can be extended without a jump"
        ]
        assert not warnings(said(reader, *options, "--resume", "--dry-run", "--steps", 12, "--lr", "1e-3"))
        assert not warnings(said(reader, *options, "--resume", "--dry-run", "--steps", 6))
    assert warnings(said(program, *options, "--resume", "--steps", 7, "--final-lr-frac", 0.5))


@PROGRAMS
@pytest.mark.parametrize("schedule", ["constant", "wsd", "cosine"])
def test_no_jump_in_a_run_that_was_only_interrupted(program, schedule, text, tmp_path):
    options = [*text, *TINY, "--out", tmp_path / "run", "--schedule", schedule, "--steps", 8, "--warmup-steps", 2]
    said(program, *options, "--checkpoint-every", 2, "--keep", 9)
    for checkpoint in sorted((tmp_path / "run/checkpoints").iterdir(), reverse=True):
        for reader in (original, twin):
            assert not warnings(said(reader, *options, "--resume", "--dry-run"))
        for file in checkpoint.iterdir():
            file.unlink()
        checkpoint.rmdir()


# --- Tokens of a resumed run whose batch is another one ---


@PROGRAMS
@pytest.mark.parametrize("length", ["--tokens", "--epochs"])
def test_a_resumed_run_counts_the_tokens_of_its_first_batch_size(program, length, text, tmp_path):
    """4 steps of 160 tokens, then steps of 320 up to 2,000 tokens: 1,360 are left, so 5 more steps."""
    options = [*text, *TINY, "--out", tmp_path / "run", "--schedule", "constant"]
    said(program, *options, "--steps", 4)
    windows = (30_000 + 1 - 1) // 40
    options += [length, 2000 if length == "--tokens" else 2000 / 40 / windows, "--resume", "--batch-size", 8]
    steps, tokens = (9, 2240) if length == "--tokens" else (8, 1920)  # the last step is left out by --epochs
    out = said(program, *options)
    assert f"run     {steps} steps of 320 tokens (1 x 8 x 40) = {tokens:,} tokens (640 in the 4 steps done) = " in out
    assert log(tmp_path / "run", "train")[-1]["step"] == steps
    assert log(tmp_path / "run", "train")[-1]["tokens"] == tokens
    assert said(program, *options).count("step") >= 1  # done: nothing to do, no error


@PROGRAMS
def test_fewer_tokens_than_the_checkpoint_has_seen(program, text, tmp_path):
    options = [*text, *TINY, "--out", tmp_path / "run"]
    said(program, *options, "--steps", 4)
    error = said(program, *options, "--resume", "--tokens", 300, expect=2)
    assert "note: --resume: steps = 4 left out: --tokens is given\n" in error
    assert error.endswith("\n--resume: the checkpoint has seen 640 tokens, beyond --tokens 300: raise --tokens")


# --- NaN ---


def test_nan_has_no_sign(text, tmp_path):
    """On the terminal and in the message; log.jsonl has null."""
    options = [*text, *TINY, "--lr", "1e30", "--schedule", "constant", "--grad-clip", 0, "--steps", 50]
    for evaluation in (["--eval-every", 1, "--val-data", text[1], "--eval-tokens", 200], []):
        messages = []
        for program in (original, twin):
            out = tmp_path / f"{program.__name__}{len(evaluation)}"
            code, output, error = program(last_wins([*options, *evaluation, "--out", out]))
            assert code == 4 and "nan" in error and "-nan" not in output + error
            messages.append(re.sub(r"loss [0-9.e+]+,|step \d+", "", error))
            event, key = ("eval", "val_loss") if evaluation else ("train", "grad_norm")
            assert log(out, event)[-1][key] is None
        assert messages[0] == messages[1]
