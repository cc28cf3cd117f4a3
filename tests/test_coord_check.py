"""--coord-check: the CSV of the C++ program and of its emulated CUDA kernels against that of train_gpt2.py, number by
number; usage errors.
"""

import csv

import numpy as np
import pytest
from measures import mean_abs
from program import BACKEND, BINARY, DEVICE, ROOT, TINY, last_wins, run
from shards import random_text, write_text_shards

import train_gpt2 as reference

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")

SCHEMES = {
    "sp": "--parametrization sp",
    "mup": "--parametrization mup --base-width 16 --output-mult 3",
    "table 9": "--parametrization mup-table9 --base-width 16 --no-zero-init-head",
    "u-mup": "--parametrization u-mup --lr 0.1",
}
# SGD: the true gradient of the key biases is zero; Adam would move them by the sign of the rounding error.
CHECK = "--overfit-single-batch --optimizer sgd --lr 0.05 --schedule constant --steps 4 --eval-every 0".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return ["--train-data", write_text_shards(tmp_path_factory.mktemp("data"), random_text(5_000), shards=1)]


def rows_of(path):
    """{(step, kind, tensor): row}"""
    with open(path) as file:
        rows = list(csv.DictReader(file))
    by_key = {(row["step"], row["kind"], row["tensor"]): row for row in rows}
    assert len(by_key) == len(rows), "every row is there once"
    return by_key


def assert_same_numbers(ours, theirs, tolerance):
    assert ours.keys() == theirs.keys()
    for key, row in ours.items():
        other = theirs[key]
        for column in row.keys() - {"program", "mean_abs", "std", "delta"}:
            assert row[column] == other[column], (key, column)
        for column in ("mean_abs", "std", "delta"):
            assert (row[column] == "") == (other[column] == "") == (key[1] == "gradient" and column == "delta"), key
            if row[column]:
                a, b, scale = float(row[column]), float(other[column]), float(other["mean_abs"])
                assert a == pytest.approx(b, rel=tolerance, abs=tolerance * scale + 1e-9), (key, column)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_both_programs_write_the_same(data, tmp_path, scheme):
    # --grad-clip is given, because the default of u-mup is no clip
    options = [*data, *TINY, *CHECK, *SCHEMES[scheme].split()]
    run(*options, "--coord-check", tmp_path / "ours" / "check.csv")
    theirs = [*options, "--device", DEVICE, "--coord-check", tmp_path / "theirs.csv"]
    assert reference.main(last_wins(theirs)) == 0
    ours, theirs = rows_of(tmp_path / "ours" / "check.csv"), rows_of(tmp_path / "theirs.csv")
    assert {row["program"] for row in theirs.values()} == {"train_gpt2.py"}
    parameters = len([key for key in ours if key[0] == "1" and key[1] == "parameter"])
    assert parameters == (28 if scheme == "sp" else 29) and len(ours) == 4 * (2 * parameters + 2 * 13 + 3)
    assert_same_numbers(ours, theirs, 1e-3)


def test_the_emulated_kernels_write_the_same(data, tmp_path):
    emulated = ROOT / "train_gpt2emu"
    if BACKEND != "cpu" or not emulated.exists():
        pytest.skip("not built: run make train_gpt2emu")
    options = [*data, *TINY, *CHECK, *SCHEMES["u-mup"].split()]
    run(*options, "--coord-check", tmp_path / "cpu.csv")
    run(*options, "--coord-check", tmp_path / "emulated.csv", program=[emulated])
    assert {row["program"] for row in rows_of(tmp_path / "emulated.csv").values()} == {"train_gpt2emu"}
    assert_same_numbers(rows_of(tmp_path / "emulated.csv"), rows_of(tmp_path / "cpu.csv"), 1e-3)


def test_numbers_are_what_they_say(data, tmp_path):
    """The initial weights and the first step's activations, computed from the module's own arrays."""
    import llmc

    run(*data, *TINY, *CHECK, "--seed", 5, "--coord-check", tmp_path / "check.csv")
    rows = rows_of(tmp_path / "check.csv")
    options = {"depth": 2, "width": 48, "heads": 3, "seq_len": 40, "batch_size": 4, "vocab_size": 257, "seed": 5}
    gpt = llmc.backend(BACKEND).GPT2(**options)
    for name, weight in gpt.parameters().items():
        row = rows["1", "parameter", name]
        assert float(row["mean_abs"]) == pytest.approx(np.abs(weight).mean(dtype=np.float64), rel=1e-5)
        assert float(row["std"]) == pytest.approx(weight.std(dtype=np.float64), rel=1e-5, abs=1e-6)
    shard = np.fromfile(data[1].replace("*", "000"), "<u2")[512:]
    windows = shard[: 160 + 1].astype(np.int32)
    seen = gpt.activations(windows[:-1].reshape(4, 40), windows[1:].reshape(4, 40))
    qkv = seen["h.1.attn.c_attn"].astype(np.float64).reshape(4, 40, 3, 3, 16)
    i, j = np.tril_indices(40)
    logits = np.einsum("bihd,bjhd->bhij", qkv[:, :, 0], qkv[:, :, 1])[:, :, i, j] / 4
    expected = {"h.1.mlp.gelu": seen["h.1.mlp.gelu"], "h.0.attn.v": seen["h.0.attn.c_attn"][:, 96:],
                "logits": seen["logits"][:, :257], "h.1.attn.logits": logits}  # fmt: skip
    expected["h.1.mlp.c_proj"] = seen["h.1.resid_mlp"] - seen["h.1.resid_attn"]
    for name, value in expected.items():
        assert float(rows["1", "activation", name]["mean_abs"]) == pytest.approx(mean_abs(value), rel=1e-4), name


def test_updates_of_a_bf16_model_are_its_masters(data, tmp_path):
    """Adam's first step moves every weight by about the learning rate: less than bf16 can represent."""
    adam = "--overfit-single-batch --dtype bf16 --lr 1e-6 --schedule constant --steps 2 --eval-every 0".split()
    run(*data, *TINY, *adam, "--coord-check", tmp_path / "check.csv")
    row = rows_of(tmp_path / "check.csv")["2", "parameter", "h.0.mlp.c_fc.weight"]
    assert float(row["delta"]) == pytest.approx(1e-6, rel=0.05)


REFUSED = [
    (["--steps", 2], 2, "needs --overfit-single-batch"),
    (["--overfit-single-batch", "--steps", 2, "--total-batch-size", 320], 2, "one micro-batch a step"),
    (["--overfit-single-batch", "--steps", 2, "--out", "{tmp}/out", "--resume"], 2, "excludes --resume"),
]


@pytest.mark.parametrize("options, code, message", REFUSED, ids=lambda x: x if isinstance(x, str) else "")
def test_refused(data, tmp_path, options, code, message):
    options = [str(word).replace("{tmp}", str(tmp_path)) for word in options]
    _, errors = run(*data, *TINY, *options, "--coord-check", tmp_path / "check.csv", expect=code)
    assert message in errors and not (tmp_path / "check.csv").exists()


def test_a_file_that_cannot_be_written(data, tmp_path):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / "check.csv"
    _, errors = run(*data, *TINY, *CHECK, "--out", tmp_path / "out", "--coord-check", path, expect=1)
    assert f"cannot write --coord-check {path}" in errors and not (tmp_path / "out").exists()
