"""GPT-2 weights as other projects write them, and the loss that they have."""

import json
import struct

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

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


def write(folder, weights, config=None, name="model.safetensors", metadata=None):
    folder.mkdir(exist_ok=True)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / name, metadata)
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def prefixed(weights):
    return {"transformer." + name: value for name, value in weights.items()}


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
