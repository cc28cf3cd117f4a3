"""Weights of other projects, read by both programs: transformers' files as they exist in the world (config.json, heads,
prefixes, heads that are tied or not, masks, fp16, several files with an index), and what must be refused by name."""

import json
import math
import struct
import subprocess

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from program import BINARY, run
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from shards import write_shard

import llmc
from train_gpt2 import main

pytestmark = pytest.mark.usefixtures("one_thread")
DEPTH, WIDTH, HEADS, LENGTH, VOCAB = 2, 128, 4, 16, 257
CONFIG = {
    "model_type": "gpt2",
    "architectures": ["GPT2LMHeadModel"],
    "activation_function": "gelu_new",
    "n_embd": WIDTH,
    "n_head": HEADS,
    "n_layer": DEPTH,
    "n_positions": LENGTH,
    "n_ctx": LENGTH,
    "n_inner": None,
    "vocab_size": VOCAB,
    "layer_norm_epsilon": 1e-05,
    "scale_attn_weights": True,
    "resid_pdrop": 0.1,
}


def random_weights(seed=0):
    """Tensors by Hugging Face's names, matrices (in, out); large enough for the head's count to matter."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape, std=0.2):
        return std * torch.randn(*shape, generator=generator)

    out = {"wte.weight": normal(VOCAB, WIDTH), "wpe.weight": normal(LENGTH, WIDTH)}
    for i in range(DEPTH):
        for name in ("ln_1", "ln_2"):
            out |= {f"h.{i}.{name}.weight": 1 + normal(WIDTH), f"h.{i}.{name}.bias": normal(WIDTH)}
        for name, inputs, outputs in (("attn.c_attn", 1, 3), ("attn.c_proj", 1, 1), ("mlp.c_fc", 1, 4)):
            out[f"h.{i}.{name}.weight"] = normal(inputs * WIDTH, outputs * WIDTH)
            out[f"h.{i}.{name}.bias"] = normal(outputs * WIDTH)
        out |= {f"h.{i}.mlp.c_proj.weight": normal(4 * WIDTH, WIDTH), f"h.{i}.mlp.c_proj.bias": normal(WIDTH)}
    return out | {"ln_f.weight": 1 + normal(WIDTH), "ln_f.bias": normal(WIDTH)}


def reference_loss(weights, tokens, heads=HEADS, head=None, scale=None):
    """Mean loss of a GPT-2 in float64 of the first LENGTH + 1 tokens."""
    w = {name: value.double() for name, value in weights.items()}
    x = w["wte.weight"][tokens[:-1]] + w["wpe.weight"]

    def norm(x, name):
        return F.layer_norm(x, (WIDTH,), w[name + ".weight"], w[name + ".bias"], 1e-5)

    def linear(x, name):
        return x @ w[name + ".weight"] + w[name + ".bias"]

    for i in range(DEPTH):
        q, k, v = (
            part.view(LENGTH, heads, -1).transpose(0, 1)
            for part in linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").split(WIDTH, -1)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale)
        x = x + linear(y.transpose(0, 1).reshape(LENGTH, WIDTH), f"h.{i}.attn.c_proj")
        inner = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate="tanh")
        x = x + linear(inner, f"h.{i}.mlp.c_proj")
    head = w["wte.weight"] if head is None else head.double()
    return F.cross_entropy(norm(x, "ln_f") @ head.T, tokens[1:]).item()


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


def write(folder, weights, config=None, name="model.safetensors", metadata=None):
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name, metadata)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def prefixed(weights):
    return {"transformer." + name: value for name, value in weights.items()}


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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h.0.crossattention.c_attn.weight", "which a GPT-2 does not have: it is another model"),
        ("h.1.attn.c_attn.lora_A", "which a GPT-2 does not have: it is another model"),
        ("h.x.ln_1.weight", "which a GPT-2 does not have: it is another model"),
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
    refused({"weight_map": places | {names[0]: 3}}, "is 3, which is not a file name")
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


# --- The header of a safetensors file: both programs accept and refuse what safetensors 0.8.0 does ---


def header_of(tensors, **changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} | tensors | changes


def raw_file(text, data):
    text = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(text)) + text + data


def library_accepts(path):
    try:
        with safe_open(path, "np") as file:
            file.keys()
        return True
    except SafetensorError:
        return False


def program_accepts(path):
    """Whether the header passes: then both are only missing GPT-2's tensors."""
    error = run("--init", path, "--steps", 0, expect=3)[1]
    passed = "has no matrix 'wte.weight'" in error
    assert passed or "is no safetensors file" in error or "damaged" in error or "format" in error
    return passed


PLAIN = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HEADERS = {
    "plain": (PLAIN, 8, True),
    "spaces in front": ("  " + PLAIN, 8, True),
    "newlines behind": (PLAIN + " \n\n", 8, True),
    "metadata null": (PLAIN.replace("{", '{"__metadata__":null,', 1), 8, True),
    "metadata with a number": (PLAIN.replace("{", '{"__metadata__":{"a":1},', 1), 8, False),
    "an extra key": (PLAIN.replace('"dtype"', '"more":[1],"dtype"'), 8, True),
    "not aligned": (PLAIN + "   ", 8, True),
    "a tensor without elements": (
        PLAIN.replace("{", '{"z":{"dtype":"F64","shape":[0,9],"data_offsets":[0,0]},', 1),
        8,
        True,
    ),
    "no tensor": ("{}", 0, True),
    "bytes behind": (PLAIN, 9, False),
    "a hole": (PLAIN.replace("[0,8]", "[4,12]"), 12, False),
    "a zero byte behind": (PLAIN + "\0\0", 8, False),
    "a byte order mark": ("\ufeff" + PLAIN, 8, False),
    "a shape of 2.0": (PLAIN.replace("[2]", "[2.0]"), 8, False),
    "a negative shape": (PLAIN.replace("[2]", "[-2]"), 8, False),
    "offsets of -0": (PLAIN.replace("[0,8]", "[0.0,8]"), 8, False),
    "three offsets": (PLAIN.replace("[0,8]", "[0,8,8]"), 8, False),
    "an unknown dtype": (PLAIN.replace("F32", "F33"), 8, False),
    "fp8": (PLAIN.replace("F32", "F8_E4M3").replace("[2]", "[8]"), 8, True),
    "a huge shape": (PLAIN.replace("[2]", "[4294967296,4294967296,2]"), 8, False),
    "an overflowing shape of no elements": (
        '{"a":{"dtype":"F64","shape":[18446744073709551615,18446744073709551615,0],"data_offsets":[0,0]}}',
        0,
        False,
    ),
    "a dtype twice": (PLAIN.replace('"dtype"', '"dtype":"F32","dtype"'), 8, False),
    "metadata twice": (PLAIN.replace("{", '{"__metadata__":null,"__metadata__":{},', 1), 8, False),
    "a key of the metadata twice": (PLAIN.replace("{", '{"__metadata__":{"dtype":"a","dtype":"b"},', 1), 8, True),
    "an entry as an array": ('{"a":["F32",[2],[0,8]]}', 8, True),
    "deep": (PLAIN.replace('"dtype"', f'"more":{"[" * 125}{"]" * 125},"dtype"'), 8, True),
    "too deep": (PLAIN.replace('"dtype"', f'"more":{"[" * 126}{"]" * 126},"dtype"'), 8, False),
    "far too deep": (PLAIN.replace('"dtype"', f'"more":{"[" * 1000000}{"]" * 1000000},"dtype"'), 8, False),
    "not UTF-8": (PLAIN.encode().replace(b'"a"', b'"\xff"'), 8, False),
    "an array": ("[]", 0, False),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path, name):
    text, count, accepted = HEADERS[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_file(text, bytes(count)))
    assert library_accepts(path) == accepted, "the library's own line"
    assert program_accepts(path) == accepted


NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 16, -1, 2.0, 2**63, "2", None])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "BOOL", "I64", "U8", "F64", "f32", 7]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=2), NUMBERS),
        "data_offsets": st.one_of(st.sampled_from([[0, 8], [8, 16], [0, 16], [0, 0]]), st.lists(NUMBERS, max_size=3)),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES, max_size=2), size=st.integers(0, 2)
)
def test_any_header(tmp_path_factory, entries, size):
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    path.write_bytes(raw_file(json.dumps(entries), bytes(8 * size)))
    assert program_accepts(path) == library_accepts(path)


def test_arrays_that_are_not_contiguous_are_written_as_they_are(tmp_path):
    """safetensors.numpy.save 0.8.0 writes other data for a transpose, in silence; safetensors.torch refuses it. What
    this project writes goes through stored(), which makes contiguous copies."""
    from llmc.checkpoint import stored

    matrix = torch.arange(6.0).view(2, 3)
    save_file({"w": stored(matrix, {"shape": [2, 3], "role": "hidden"})}, tmp_path / "w.safetensors")
    assert np.array_equal(load_file(tmp_path / "w.safetensors")["w"], matrix.T)


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
