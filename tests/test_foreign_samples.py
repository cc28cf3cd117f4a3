"""Weights of other projects outside of training runs: their samples, in both programs, and llmc.load."""

import json
import warnings

import pytest
import torch
from both_programs import original, twin
from program import BINARY
from weight_tools import CONFIG, LENGTH, VOCAB, WIDTH, random_weights, reference_loss, write

import llmc

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
]


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_a_sample_that_is_not_finite_is_no_success(tmp_path, temperature):
    """As the sample of a checkpoint, and as that of a run, which has then diverged."""
    weights = random_weights() | {"ln_f.weight": torch.full((WIDTH,), 3e38)}
    model = write(tmp_path / "model", weights, CONFIG)
    options = ["--tokenizer", "byte", "--threads", "1", "--temperature", temperature]
    for program in (original, twin):
        out = tmp_path / program.__name__
        code, printed, text = program(["sample", str(model), *options])
        assert (code, printed) == (4, "")
        assert text == f"the logits of {model}/model.safetensors are not finite"
        code, _, text = program(
            ["--init", str(model), "--steps", "0", "--sample-every", "1", "--out", str(out), *options]
        )
        assert code == 4
        assert text.endswith("training diverged at step 0: the logits of the sample are not finite")
        final = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        assert (final["event"], final["reason"]) == ("final", "diverged")
    loaded = llmc.load(model, batch_size=2)
    for _ in range(2):
        with pytest.raises(llmc.Error, match="the model's logits are not finite") as caught:
            loaded.generate([256], 3, temperature=float(temperature))
        assert caught.value.code == 4
    usable = write(tmp_path / "usable", random_weights(), CONFIG)  # the model is as before: no keys and values are kept
    loaded.load(usable)
    batch = torch.randint(0, VOCAB, (2, 2, LENGTH), generator=torch.Generator().manual_seed(1)).numpy()
    assert loaded.forward(*batch) == llmc.load(usable, batch_size=2).forward(*batch)


@pytest.mark.parametrize("program", [original, twin])
def test_heads_of_a_sample(tmp_path, program):
    model = write(tmp_path / "model", random_weights(), CONFIG)
    words = [
        "sample",
        str(model),
        "--tokenizer",
        "byte",
        "--temperature",
        "0",
        "--sample-tokens",
        "8",
        "--threads",
        "1",
    ]
    code, four, note = program(words)
    assert (code, note) == (0, "")
    (model / "config.json").unlink()
    code, two, note = program(words)
    assert code == 0
    assert two != four
    assert note == (
        f"heads assumed 2 x 64, as in GPT-2, because neither {model}/model.safetensors nor a config.json beside it "
        "says them: give --heads"
    )
    assert program([*words, "--heads", "4"]) == (0, four, "")
    assert program([*words, "--heads", "2"]) == (0, two, "")


def test_heads_in_python(tmp_path):
    weights = random_weights()
    model = write(tmp_path / "model", weights)
    tokens = torch.arange(LENGTH + 1) * 7 % VOCAB
    batch = [part[None].numpy() for part in (tokens[:-1], tokens[1:])]
    two, four = (pytest.approx(reference_loss(weights, tokens, heads), abs=1e-4) for heads in (2, 4))
    for make in (llmc.load, lambda path, **options: llmc.GPT2(init=path, **options)):
        with pytest.warns(UserWarning, match="heads assumed 2 x 64, as in GPT-2, because neither .*: give --heads"):
            assert make(model).forward(*batch) == two
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert make(model, heads=4).forward(*batch) == four
            assert make(model, head_dim=32).forward(*batch) == four
    write(tmp_path / "model", weights, CONFIG)
    with pytest.raises(llmc.DataError, match="--heads 2 does not fit the checkpoint"):
        llmc.load(model, heads=2)
