"""Weights of other projects, read by both programs: transformers' files as they exist in the world (config.json, heads,
prefixes, heads that are tied or not, masks, fp16, several files with an index), and what must be refused by name."""

import json
import math
import subprocess

import pytest
import torch
from program import BINARY, run
from safetensors.torch import save_file
from shards import write_shard
from weight_tools import (
    CONFIG,
    DEPTH,
    HEADS,
    LENGTH,
    VOCAB,
    WIDTH,
    prefixed,
    random_weights,
    reference_loss,
    write,
)

import llmc
from train_gpt2 import main

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(0, VOCAB, (LENGTH + 1,), generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=["train_gpt2", "train_gpt2.py"])
def evaluate(request, tokens, tmp_path, capfd):
    """Evaluates weights with one of the programs: (exit code, validation loss, standard output and error)."""
    write_shard(tmp_path / "val.bin", tokens.numpy(), VOCAB)
    count, twin = 0, request.param == "train_gpt2.py"

    def go(path, *options):
        nonlocal count
        count += 1
        out = tmp_path / f"run{count}"
        words = ["--init", path, "--val-data", tmp_path / "val.bin", "--steps", 0, "--out", out, *options]
        words = [str(word) for word in [*words, "--threads", 1, "--batch-size", 1]]
        capfd.readouterr()
        code = main(words) if twin else subprocess.run([str(BINARY), *words]).returncode
        texts = "".join(capfd.readouterr())
        if code:
            return code, math.nan, texts
        final = json.loads((out / "log.jsonl").read_text().splitlines()[-1])
        return code, final["val_loss"], texts

    return go


def test_heads_of_config_json(evaluate, tokens, tmp_path):
    weights = random_weights()
    model = write(tmp_path / "model", weights, CONFIG)
    four, two = reference_loss(weights, tokens, 4), reference_loss(weights, tokens, 2)
    assert abs(four - two) > 0.01
    code, loss, text = evaluate(model)
    assert (code, loss) == (0, pytest.approx(four, abs=1e-4))
    assert "assumed" not in text
    assert evaluate(model, "--heads", 2)[0] == 3, "config.json says 4"
    (model / "config.json").unlink()
    code, loss, text = evaluate(model)
    assert (code, loss) == (0, pytest.approx(two, abs=1e-4)), "GPT-2's head size of 64"
    assert "heads assumed 2 x 64" in text
    assert "give --heads" in text
    code, loss, text = evaluate(model, "--heads", 4)
    assert (code, loss) == (0, pytest.approx(four, abs=1e-4))
    assert "assumed" not in text


def test_unscaled_attention(evaluate, tokens, tmp_path):
    weights = {name: 0.3 * value if "c_attn" in name else value for name, value in random_weights().items()}
    model = write(tmp_path / "model", weights, CONFIG | {"scale_attn_weights": False})
    wanted = reference_loss(weights, tokens, scale=1.0)
    assert abs(wanted - reference_loss(weights, tokens)) > 0.01
    assert evaluate(model)[:2] == (0, pytest.approx(wanted, abs=1e-4))
    code, _, text = evaluate(model, "--attn-mult", 3)
    assert code == 3
    assert "scale attention is 1.0, this run's is 0.09375" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx = true"),
        ({"activation_function": "relu"}, 'activation_function = "relu"'),
        ({"activation_function": "gelu"}, 'activation_function = "gelu"'),
        ({"layer_norm_epsilon": 0.01}, "layer_norm_epsilon = 0.01"),
        ({"n_inner": 256}, "n_inner = 256"),
        ({"model_type": "gpt_neo"}, 'model_type = "gpt_neo"'),
        ({"add_cross_attention": True}, "add_cross_attention = true"),
        ({"n_layer": 3}, "n_layer = 3, the weights beside it have 2 blocks"),
        ({"n_embd": 64}, "n_embd = 64, the weights beside it have 128 channels"),
        ({"vocab_size": 300}, "vocab_size = 300, the weights beside it have 257 rows of wte.weight"),
        ({"n_positions": 8}, "n_positions = 8, the weights beside it have 16 positions"),
        ({"n_head": 3}, "n_head = 3, which does not divide the width 128"),
        ({"n_head": "4"}, 'n_head = "4", which is not a whole number'),
        ({"n_head": 4.0}, "n_head = 4.0, which is not a whole number"),
        ({"num_attention_heads": 8}, "n_head = 4 and num_attention_heads = 8, which are names of the same number"),
        ({"n_positions": None, "n_ctx": 8}, "n_ctx = 8, the weights beside it have 16 positions"),
        ({"model_type": None, "architectures": ["OPTForCausalLM"]}, "model_type = null"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings = false, but"),
        ({"tie_word_embeddings": "no"}, 'tie_word_embeddings = "no", which is not true or false'),
    ],
)
def test_another_model_is_refused_by_its_configs_value(evaluate, tmp_path, change, words):
    model = write(tmp_path / "model", random_weights(), CONFIG | change)
    code, _, text = evaluate(model)
    assert code == 3
    assert "config.json says " + words in text


def test_the_same_model_in_other_words(evaluate, tokens, tmp_path):
    weights = random_weights()
    for change in (
        {"activation_function": "gelu_pytorch_tanh"},
        {"n_inner": 4 * WIDTH},
        {"reorder_and_upcast_attn": True},
        {"tie_word_embeddings": True},
    ):
        model = write(tmp_path / "model", weights, CONFIG | change)
        assert evaluate(model)[:2] == (0, pytest.approx(reference_loss(weights, tokens), abs=1e-4))
    (model / "config.json").write_text("{")
    assert "config.json is damaged" in evaluate(model)[2]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(CONFIG | {"summary_first_dropout": math.nan}).encode(),
        json.dumps(CONFIG | {"summary_first_dropout": -math.inf}).encode(),
        json.dumps(CONFIG)[:-1].encode() + b', "initializer_range": 1e999}',
        json.dumps(CONFIG)[:-1].encode() + b', "initializer_range": 1' + b"0" * 400 + b"}",
        json.dumps(CONFIG)[:-1].encode() + b', "name": "\\ud800"}',
        json.dumps(CONFIG)[:-1].encode() + b', "name": "\xff"}',
        json.dumps(CONFIG).encode() + b"\0",
        json.dumps(CONFIG).encode("utf-16"),
        json.dumps(CONFIG).encode("utf-32"),
    ],
    ids="nan infinity large-float large-int surrogate bytes zero utf-16 utf-32".split(),
)
def test_what_is_no_json(evaluate, tmp_path, text):
    """Python's json reads most of these."""
    model = write(tmp_path / "model", random_weights())
    (model / "config.json").write_bytes(text)
    code, _, said = evaluate(model)
    assert code == 3
    assert "config.json is damaged: it is not a JSON object" in said
    (model / "config.json").write_bytes(json.dumps(CONFIG).encode("utf-8-sig"))
    assert evaluate(model)[0] == 0, "a byte order mark"


def test_what_transformers_takes_for_granted(evaluate, tokens, tmp_path):
    """transformers 4.57.1 and 5.24.0: other names of n_head and n_layer, 12 heads without n_head, n_ctx unused."""
    weights = random_weights()

    def without(*keys):
        return {key: value for key, value in CONFIG.items() if key not in keys}

    def loss_of(config):
        code, loss, text = evaluate(write(tmp_path / "model", weights, config))
        assert "assumed" not in text
        return code, loss

    wanted = 0, pytest.approx(reference_loss(weights, tokens, 8), abs=1e-4)
    assert loss_of(without("n_head", "n_layer") | {"num_attention_heads": 8, "num_hidden_layers": DEPTH}) == wanted
    assert loss_of(without("model_type") | {"n_ctx": 99})[0] == 0, "GPT2LMHeadModel, as files before model_type"
    code, _, text = evaluate(write(tmp_path / "model", weights, without("n_head")))
    assert "heads assumed 2 x 64" in text, "12 do not divide 128"
    code, _, text = evaluate(
        write(tmp_path / "model", weights, without("model_type") | {"architectures": ["OPTForCausalLM"]})
    )
    assert code == 3
    assert 'architectures = ["OPTForCausalLM"]: this program has GPT-2' in text
    narrow = {"wte.weight": torch.ones(9, 24), "wpe.weight": torch.ones(4, 24), "h.0.ln_1.weight": torch.ones(24)}
    save_file(narrow | {"h.0.ln_1.bias": torch.ones(24)}, tmp_path / "narrow.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    out = run("info", tmp_path / "narrow.safetensors")[0]
    assert "heads 12 x 2" in out
    assert main(["info", str(tmp_path / "narrow.safetensors")]) == 0


def test_forms_of_transformers_files(evaluate, tokens, tmp_path):
    """transformers 4.57 and 5.24 write and read all of these."""
    weights, other = random_weights(), random_weights(1)["wte.weight"]
    tied, untied = reference_loss(weights, tokens), reference_loss(weights, tokens, head=other)
    mask = torch.ones(LENGTH, LENGTH).tril()[None, None]
    extras = {
        "h.0.attn.bias": mask.bool(),
        "h.1.attn.bias": mask.to(torch.uint8),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "position": torch.tensor(7),  # I64, without dimensions
        "empty": torch.zeros(0, 3, dtype=torch.float64),
        "counts": torch.arange(3),
        "scalar": torch.tensor([0.5]),
    }
    head, wte = {"lm_head.weight": other}, {"lm_head.weight": weights["wte.weight"].clone()}
    for number, (file, config, wanted) in enumerate(
        [
            (prefixed(weights) | head, CONFIG | {"tie_word_embeddings": False}, untied),
            (prefixed(weights) | head, CONFIG, untied),
            (weights | head, CONFIG, untied),
            (weights | wte, CONFIG, tied),
            (prefixed(weights) | wte, CONFIG | {"tie_word_embeddings": False}, tied),
            (weights | extras, CONFIG, tied),
            (prefixed(weights | extras), CONFIG, tied),
        ]
    ):
        model = write(tmp_path / f"model{number}", file, config, metadata={"format": "pt"})
        assert evaluate(model)[:2] == (0, pytest.approx(wanted, abs=1e-4)), number
    contradiction = write(tmp_path / "no", weights | head, CONFIG | {"tie_word_embeddings": True})
    assert "lm_head.weight that differs from wte.weight" in evaluate(contradiction)[2]
    # a head that equals wte may be trained as tied (the default) or as untied
    model = write(tmp_path / "model", weights | wte, CONFIG)
    assert "head tied" in evaluate(model)[2]
    assert "head untied" in evaluate(model, "--no-tie-embeddings")[2]


def test_a_lone_head_is_the_embedding_too(evaluate, tokens, tmp_path):
    """What safetensors.torch.save_model writes of a tied model; transformers 5.24 loads it as one."""
    weights = random_weights()
    file = {
        "lm_head.weight" if name == "wte.weight" else "transformer." + name: value for name, value in weights.items()
    }
    wanted = 0, pytest.approx(reference_loss(weights, tokens), abs=1e-4)
    said = {"transformer.wte.weight": "lm_head.weight"}
    for config, metadata in (
        (CONFIG, None),
        (CONFIG | {"tie_word_embeddings": True}, None),
        (None, said),
        (None, None),
    ):
        model = write(tmp_path / "model", file, config, metadata=metadata)
        code, loss, text = evaluate(model, "--heads", HEADS)
        assert (code, loss) == wanted
        assert "head tied" in text
        assert ("embedding assumed tied to lm_head.weight, because" in text) == (config is None and metadata is None)
        (model / "config.json").unlink(missing_ok=True)
    bare = {"lm_head.weight" if name == "wte.weight" else name: value for name, value in weights.items()}
    assert evaluate(write(tmp_path / "model", bare, CONFIG))[:2] == wanted
    code, _, text = evaluate(write(tmp_path / "model", file, CONFIG | {"tie_word_embeddings": False}))
    assert code == 3
    assert "tie_word_embeddings = false, but" in text
    assert "has no tensor 'transformer.wte.weight': its embedding is missing" in text


ANOTHER = "which a GPT-2 does not have: it is another model"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h.0.crossattention.c_attn.weight", ANOTHER),
        ("h.1.attn.c_attn.lora_A", ANOTHER),
        ("h.x.ln_1.weight", ANOTHER),
        *((name, ANOTHER) for name in ("wte.lora_A.weight", "wpe.scale", "ln_f.weight_scale", "lm_head.lora_B.weight")),
        *((name, ANOTHER) for name in ("ln_emb.weight", "h_extra.0.ln_1.weight", "score.weight")),
        ("h.3.ln_1.weight", "but no 'transformer.h.2.ln_1.weight': a block is missing"),
        ("lm_head.bias", "a GPT-2's head has no bias, it is another model"),
    ],
)
def test_tensors_of_another_function(evaluate, tmp_path, name, words):
    """They would be left out in silence; without a config.json nothing else says so."""
    more = {"transformer." + name: torch.ones(3)}
    code, _, text = evaluate(write(tmp_path / "model", prefixed(random_weights()) | more))
    assert code == 3
    assert f"has a tensor 'transformer.{name}'" in text
    assert words in text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("score.weight", torch.ones(2, WIDTH, dtype=torch.float16)),
        ("wte.lora_A.weight", torch.ones(2, 3)),
        ("ln_f.absmax", torch.ones(3, dtype=torch.uint8)),
        ("transformer.lm_head.weight", torch.ones(VOCAB, WIDTH)),  # beside lm_head.weight
        ("h.0.ln_1.weight", torch.ones(WIDTH)),  # without the prefix
    ],
)
def test_tensors_of_another_function_without_the_prefix(evaluate, tmp_path, name, value):
    weights = prefixed(random_weights()) | {"lm_head.weight": random_weights(1)["wte.weight"]}
    code, _, text = evaluate(write(tmp_path / "model", weights | {name: value}))
    assert code == 3
    assert f"has a tensor '{name}', {ANOTHER}" in text


def test_quantized_weights_are_refused_by_their_config(evaluate, tmp_path):
    model = write(tmp_path / "model", random_weights(), CONFIG | {"quantization_config": {"load_in_8bit": True}})
    code, _, text = evaluate(model)
    assert code == 3
    assert "config.json has a quantization_config: this program reads weights that are not quantized" in text
    assert evaluate(write(tmp_path / "model", random_weights(), CONFIG | {"quantization_config": None}))[0] == 0


def test_embeddings_alone_are_no_gpt2(evaluate, tmp_path):
    weights = {name: value for name, value in random_weights().items() if not name.startswith("h.")}
    code, _, text = evaluate(write(tmp_path / "model", weights))
    assert code == 3
    assert "has no tensor 'h.0.ln_1.weight': it is not a GPT-2 checkpoint" in text


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(evaluate, tokens, tmp_path, dtype):
    weights = {name: value.to(dtype) for name, value in random_weights().items()}
    weights["ln_f.bias"][:3] = torch.tensor([6e-8, -6.1e-5, 1.5]).to(dtype)  # subnormal numbers of float16
    loss = evaluate(write(tmp_path / "model", weights, CONFIG))[1]
    assert loss == pytest.approx(reference_loss(weights, tokens), abs=1e-4)
    weights["h.0.ln_1.bias"] = weights["h.0.ln_1.bias"].double()
    code, _, text = evaluate(write(tmp_path / "model", weights, CONFIG))
    assert code == 3
    assert "tensor h.0.ln_1.bias has dtype F64" in text


def test_several_files_with_an_index(evaluate, tokens, tmp_path):
    weights, model = random_weights(), tmp_path / "model"
    names = sorted(weights)
    parts = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
    for file, inside in parts.items():
        write(model, {name: weights[name] for name in inside}, CONFIG, file, {"format": "pt"})
    index = {"metadata": {"total_size": 1}, "weight_map": {n: file for file, inside in parts.items() for n in inside}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    wanted = reference_loss(weights, tokens)
    assert evaluate(model)[:2] == (0, pytest.approx(wanted, abs=1e-4))
    assert evaluate(model / "model.safetensors.index.json")[:2] == (0, pytest.approx(wanted, abs=1e-4))
    assert llmc.load(model).forward(*(t[None].numpy() for t in (tokens[:-1], tokens[1:]))) == pytest.approx(
        wanted, abs=1e-4
    )

    def refused(change, words):
        (model / "model.safetensors.index.json").write_text(json.dumps(change))
        code, _, text = evaluate(model)
        assert code == 3
        assert words in text

    places = index["weight_map"]
    refused({"weight_map": places | {names[0]: "model-00002-of-00002.safetensors"}}, f"has no tensor '{names[0]}'")
    refused({"weight_map": places | {names[0]: "sub/other.safetensors"}}, "must be in the index's folder")
    for name in (3, "", ".", "..", "a\0.safetensors"):
        refused({"weight_map": places | {names[0]: name}}, f"is {json.dumps(name)}, which is not a file name")
    refused({"weight_map": {}}, "has no object 'weight_map'")
    refused({"weight_map": places | {names[0]: "gone.safetensors"}}, "gone.safetensors")


def test_nanogpts_layout_is_named(evaluate, tmp_path):
    weights = {n: v.T if v.ndim == 2 and n.startswith("h.") else v for n, v in random_weights().items()}
    no_biases = {name: value for name, value in random_weights().items() if not name.endswith("bias")}
    for file, words in (
        (prefixed(weights), "the layout of nanoGPT: transformer.h.0.attn.c_attn.weight is (out, in), 384 x 128"),
        ({"_orig_mod." + n: v for n, v in prefixed(weights).items()}, "names that begin with _orig_mod.transformer."),
        ({"_orig_mod." + n: v for n, v in prefixed(weights).items()}, "as in nanoGPT"),
        ({"_orig_mod." + n: v for n, v in random_weights().items()}, "names that begin with _orig_mod."),
        (no_biases, "a GPT-2 without biases"),
    ):
        code, _, text = evaluate(write(tmp_path / "model", file))
        assert code == 3
        assert words in text


@pytest.mark.parametrize(
    ("prefix", "module"),
    [
        ("module.", "module."),
        ("module.transformer.", "module."),
        ("_orig_mod.transformer.", "_orig_mod."),
        ("module._orig_mod.transformer.", "module._orig_mod."),
        ("model.transformer.", "model."),
    ],
)
def test_names_of_a_module_around_the_gpt2(evaluate, tmp_path, prefix, module):
    code, _, text = evaluate(write(tmp_path / "model", {prefix + n: v for n, v in random_weights().items()}))
    assert code == 3
    assert f"has names that begin with {prefix}, as the checkpoints of" in text
    assert text.endswith(f"save model.{module}state_dict()\n")


@pytest.mark.parametrize(("value", "kind"), [(math.nan, "NaN"), (-math.inf, "infinity")])
def test_numbers_that_are_not_finite(evaluate, tmp_path, value, kind):
    weights = random_weights()
    weights["h.1.mlp.c_fc.weight"].view(-1)[5] = value
    code, _, text = evaluate(write(tmp_path / "model", weights, CONFIG))
    assert code == 3
    assert f"tensor h.1.mlp.c_fc.weight has {kind} at element 5 of 65536" in text
    assert "model.safetensors" in text


def test_an_evaluation_that_is_not_finite_is_no_success(evaluate, tmp_path):
    """Finite weights, but logits that overflow."""
    weights = random_weights() | {"ln_f.weight": torch.full((WIDTH,), 3e38)}
    code, _, text = evaluate(write(tmp_path / "model", weights, CONFIG))
    assert code == 4
    assert "training diverged at step 0: validation loss nan" in text


# --- The parametrization of a checkpoint of this project ---


def test_init_takes_the_checkpoints_parametrization(evaluate, tokens, tmp_path):
    from reference_tools import run as train

    shard = write_shard(tmp_path / "train.bin", tokens.repeat(9).numpy(), VOCAB)
    options = "--parametrization mup --base-width 16 --base-heads 1 --output-mult 2 --depth 1 --width 32 --heads 2"
    small = ["--seq-len", 16, "--batch-size", 1]
    train(tmp_path / "run", "--train-data", shard, *options.split(), *small, "--steps", 2)
    checkpoint = next((tmp_path / "run/checkpoints").iterdir())
    code, loss, text = evaluate(tmp_path / "run")
    assert (code, evaluate(checkpoint, *options.split(), "--seq-len", 16)[:2]) == (0, (0, loss))
    assert f"parametrization of {checkpoint}/model.safetensors: --parametrization mup --base-width 16" in text
    assert "--output-mult 2" in text
    for same in (["--parametrization", "mup"], ["--base-width", 16]):  # the rest is taken
        assert evaluate(checkpoint, *same)[:2] == (0, loss)
    code, _, text = evaluate(checkpoint, "--base-width", 32)
    assert code == 3
    assert "its width_mult is 2.0, this run's is 1.0" in text
    code, _, text = evaluate(checkpoint, "--parametrization", "completep")
    assert code == 2
    assert "--parametrization completep needs --base-width" in text
    code, _, text = evaluate(checkpoint, "--residual-mult", 2)
    assert code == 2
    assert "--residual-mult 2 has no meaning under --parametrization mup" in text
    code, _, text = evaluate(checkpoint, "--parametrization", "sp")
    assert code == 3
    assert 'its scheme is "mup", this run\'s is "sp"' in text
    code, _, text = evaluate(checkpoint, "--output-mult", 3)
    assert code == 3
    assert "its scale output is 1.0, this run's is 1.5" in text
    assert len(text.splitlines()[-1]) < 400, "two numbers, not the whole table"
