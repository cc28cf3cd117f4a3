"""Checkpoints as other programs read them: config.json stands beside weights only where they are a plain GPT-2, and the
metadata says what stays outside of them."""

import json

import pytest
import torch
from program import run as run_program
from reference_tools import ALL
from reference_tools import run as run_reference
from safetensors import safe_open
from shards import random_text, write_text_shards

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


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_transformers_loads_a_plain_checkpoint(checkpoint, name):
    """transformers 5.24.0: the same logits. 4.57.1 takes a bare lm_head.weight only beside names with transformer."""
    transformers = pytest.importorskip("transformers", reason="the package transformers is not installed")
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
