"""`info CHECKPOINT`: both programs say the same of a checkpoint of either, and of other projects' weights."""

import json

import pytest
from program import run
from reference_tools import ALL
from reference_tools import run as run_reference
from safetensors.torch import load_file, save_file
from shards import random_text, write_text_shards
from weight_tools import CONFIG, random_weights, write

import train_gpt2

MODEL = "--depth 2 --width 32 --heads 2 --seq-len 16 --batch-size 2 --threads 1 --steps 2".split()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(9000), shards=1)


@pytest.fixture
def both(capsys):
    def texts(*words):
        capsys.readouterr()
        assert train_gpt2.main(["info", *map(str, words)]) == 0
        there = capsys.readouterr().out
        assert run("info", *words)[0] == there
        return there

    return texts


@pytest.mark.parametrize("options", [["--parametrization", "sp"], *ALL.values(), ["--dtype", "bf16", "--lr", 1e-5]])
def test_of_a_run_of_either_program(data, tmp_path, both, one_thread, options):
    words = ["--train-data", data, *MODEL, *options]
    run(*words, "--out", tmp_path / "c")
    run_reference(tmp_path / "p", *words)
    for out in (tmp_path / "c", tmp_path / "p"):
        text = both(out)
        assert f"{out}/checkpoints/step_00000002/model.safetensors" in text, "a run's folder: its newest checkpoint"
        assert "depth 2, width 32, heads 2 x 16, positions 16, vocabulary 257" in text
        assert "step    2\n" in text
        assert "2 updates of adamw, 64 tokens" in text
        assert "depth = 2, width = 32" in text
        assert "tokenizer byte" in text
        assert ("plain   yes" in text) == (out / "checkpoints/step_00000002/config.json").exists()
        for name in ("checkpoints/step_00000002", "checkpoints", "checkpoints/"):
            assert both(f"{out}/{name}") == text
        state = out / "checkpoints/step_00000002/optimizer.safetensors"
        message = f"{state} holds the state of an optimizer: name model.safetensors, or the folder of both"
        assert message in run("info", state, expect=3)[1]
        assert train_gpt2.main(["info", str(state)]) == 3


def test_of_other_projects_weights(data, tmp_path, both, one_thread):
    run("--train-data", data, *MODEL, "--out", tmp_path / "run")
    weights = load_file(next((tmp_path / "run/checkpoints").iterdir()) / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")
    text = both(tmp_path / "model.safetensors")
    assert "none in the file: a standard GPT-2" in text
    assert "heads assumed 1 x 32" in text


def test_of_several_files_and_of_attention_without_scale(tmp_path, both):
    weights = random_weights()
    names = sorted(weights)
    parts = {"a.safetensors": names[:5], "b.safetensors": names[5:]}
    for file, inside in parts.items():
        write(tmp_path, {name: weights[name] for name in inside}, CONFIG | {"scale_attn_weights": False}, file)
    places = {name: file for file, inside in parts.items() for name in inside}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    text = both(tmp_path)
    assert f"{sum((tmp_path / file).stat().st_size for file in parts):,} bytes" in text
    assert "a standard GPT-2, but attention logits without 1/sqrt(head size)" in text


def test_what_is_no_checkpoint(tmp_path, capsys):
    for words, code, message in (
        (["info"], 2, "CHECKPOINT is required"),
        (["info", tmp_path], 3, "holds no model.safetensors"),
        (["info", tmp_path / "gone"], 3, "there is no checkpoint at"),
        (["info", "a", "--lr", "1"], 2, "unknown argument: --lr; info takes a checkpoint only"),
        (["--lr", "1", "info"], 2, "'info' comes first: train_gpt2"),
    ):
        assert message in run(*words, expect=code)[1]
        assert train_gpt2.main([str(word) for word in words]) == code
        assert message in capsys.readouterr().err
