"""Checkpoints as other programs read them: config.json stands beside weights only where they are a plain GPT-2, and the
metadata says what stays outside of them."""

import json
import re

import numpy as np
import pytest
import torch
from program import run as run_program
from reference_tools import ALL
from reference_tools import run as run_reference
from safetensors import safe_open
from shards import random_text, write_shard, write_text_shards

MODEL = "--depth 2 --width 32 --heads 2 --seq-len 16 --batch-size 2 --threads 1 --steps 2".split()
PLAIN = {
    "sp": ["--parametrization", "sp"],
    "untied": ["--parametrization", "sp", "--no-tie-embeddings"],
    "bf16": ["--parametrization", "sp", "--dtype", "bf16"],
    "no multipliers": ALL["mup-table3"],
    "mup at the base width": "--parametrization mup --base-width 32 --base-heads 2".split(),
}
WIDER = {
    "mup": "--parametrization mup --base-width 16 --base-heads 2".split(),
    "sp with a multiplier": ["--parametrization", "sp", "--output-mult", "2"],
    **{scheme: options for scheme, options in ALL.items() if scheme not in ("mup", "mup-table3")},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(9000), shards=1)


@pytest.fixture(params=["train_gpt2", "train_gpt2.py"])
def checkpoint(request, data, tmp_path, one_thread):
    def make(*options):
        words = ["--train-data", data, *MODEL, *options]
        if request.param == "train_gpt2":
            run_program(*words, "--out", tmp_path / "run")
        else:
            run_reference(tmp_path / "run", *words)
        return next((tmp_path / "run/checkpoints").iterdir())

    return make


def metadata_of(folder):
    with safe_open(folder / "model.safetensors", "pt") as file:
        return file.metadata()


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_gpt2_has_a_config_json(checkpoint, name):
    folder = checkpoint(*PLAIN[name])
    assert metadata_of(folder)["format"] == "pt"
    assert metadata_of(folder)["plain_gpt2"] == "yes"
    config = json.loads((folder / "config.json").read_text())
    assert config == {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 32,
        "n_positions": 16,
        "n_inner": None,
        "vocab_size": 257,
        "tie_word_embeddings": name in ("sp", "bf16"),
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": 256,
        "eos_token_id": 256,
        "torch_dtype": "bfloat16" if name == "bf16" else "float32",
    }


@pytest.mark.parametrize("name", WIDER)
def test_another_function_has_none(checkpoint, name):
    folder = checkpoint(*WIDER[name])
    metadata = metadata_of(folder)
    assert metadata["plain_gpt2"].startswith("no: ")
    assert metadata["format"] == "pt"
    assert not (folder / "config.json").exists()
    if name == "mup":
        assert "scale output 0.5 (GPT-2: 1)" in metadata["plain_gpt2"]


def test_both_programs_say_the_same(data, tmp_path, one_thread):
    for number, options in enumerate([*PLAIN.values(), *WIDER.values()]):
        words = ["--train-data", data, *MODEL[:-1], 0, *options]
        run_program(*words, "--out", tmp_path / f"c{number}")
        run_reference(tmp_path / f"p{number}", *words)
        here, there = (tmp_path / f"{program}{number}/checkpoints/step_00000000" for program in "cp")
        assert metadata_of(here)["plain_gpt2"] == metadata_of(there)["plain_gpt2"]
        assert {path.name for path in here.iterdir()} == {path.name for path in there.iterdir()}
        if (here / "config.json").exists():
            assert json.loads((here / "config.json").read_text()) == json.loads((there / "config.json").read_text())


@pytest.mark.parametrize("name", PLAIN)
def test_transformers_loads_a_plain_checkpoint(checkpoint, name):
    """transformers 5.24.0: the same logits. 4.57.1 takes a bare lm_head.weight only beside names with transformer."""
    import transformers

    import llmc

    folder = checkpoint(*PLAIN[name])
    if transformers.__version__.startswith("4.") and name not in ("sp", "bf16"):  # an untied head
        with pytest.raises(ValueError, match="corrupted"):
            transformers.AutoModelForCausalLM.from_pretrained(folder)
        return
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.arange(97, 113)[None]
    with torch.no_grad():
        theirs = model(tokens).logits
    ours = torch.from_numpy(llmc.load(folder, dtype="fp32").forward(tokens.numpy()))
    assert (ours - theirs).abs().max() <= 1e-4


# --- Weights that transformers wrote ---

MAKE = {  # options of GPT2Config; of save_pretrained
    "plain": ({}, {}),
    "untied": ({"tie_word_embeddings": False}, {}),
    "eight heads": ({"n_head": 8}, {}),
    "no scale": ({"scale_attn_weights": False}, {}),
    "upcast": ({"reorder_and_upcast_attn": True}, {}),
    "several files": ({}, {"max_shard_size": "100KB"}),
    "fp16": ({"dtype": "float16"}, {}),
    "bf16": ({"dtype": "bfloat16"}, {}),
}
REFUSED = {
    "inverse": {"scale_attn_by_inverse_layer_idx": True},
    "relu": {"activation_function": "relu"},
    "epsilon": {"layer_norm_epsilon": 1e-2},
    "inner": {"n_inner": 128},
    "cross": {"add_cross_attention": True},
}


def written_by_transformers(transformers, folder, options, how):
    """The loss of tokens 0 to 16."""
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 16, "vocab_size": 257, "initializer_range": 0.2}
    options = sizes | options
    dtype = getattr(torch, options.pop("dtype", "float32"))
    torch.manual_seed(0)
    # 4.57.1 ignores both options of the scale under its default attention: findings/transformers_4_sdpa_...
    config = transformers.GPT2Config(**options, attn_implementation="eager")
    model = transformers.GPT2LMHeadModel(config).eval().to(dtype)
    model.save_pretrained(folder, **how)
    with torch.no_grad():
        logits = model.float()(torch.arange(16)[None]).logits[0]
    return torch.nn.functional.cross_entropy(logits, torch.arange(1, 17)).item()


@pytest.mark.parametrize("name", MAKE)
def test_what_transformers_writes_is_the_same_model_here(name, tmp_path, capsys):
    """transformers 4.57.1 and 5.24.0, in both programs and in Python."""
    import transformers

    import llmc
    import train_gpt2

    loss = written_by_transformers(transformers, tmp_path, *MAKE[name])
    val = write_shard(tmp_path / "val.bin", np.arange(17), 257)
    words = ["eval", str(tmp_path), "--val-data", str(val), "--threads", "1"]
    capsys.readouterr()
    assert train_gpt2.main(words) == 0
    for text in (capsys.readouterr().out, run_program(*words)[0]):
        assert float(re.search("loss    (.*) nats", text)[1]) == pytest.approx(loss, abs=1e-4)
    tokens = np.arange(17)[None]
    assert llmc.load(tmp_path).forward(tokens[:, :-1], tokens[:, 1:]) == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize("name", REFUSED)
def test_another_model_of_transformers_is_refused(name, tmp_path):
    import transformers

    written_by_transformers(transformers, tmp_path, REFUSED[name], {})
    error = run_program("info", tmp_path, expect=3)[1]
    assert f"config.json says {next(iter(REFUSED[name]))} = " in error
