"""config.json, in which transformers keeps what a model's tensors do not say."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.errors import DataError
from llmc.json_file import read_json
from llmc.tokenizer import BYTE_VOCAB_SIZE, GPT2_VOCAB_SIZE

# Keys that have one value here: the values that mean it, and what this program has. An absent key has transformers'
# default, which is that value.
ONLY: dict[str, tuple[list[Any], str]] = {
    "model_type": (["gpt2"], "GPT-2"),
    "activation_function": (
        ["gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"],
        "the GELU by tanh (gelu_new)",
    ),
    "layer_norm_epsilon": ([1e-5], "layer norms with epsilon 1e-5"),
    "scale_attn_by_inverse_layer_idx": ([False], "the same attention scale in all blocks"),
    "add_cross_attention": ([False, None], "attention within one sequence"),
    "pruned_heads": ([{}, None], "all heads"),
}
# Other names of the same numbers, which transformers takes, too.
ALIASES = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}
DEFAULT_HEADS = 12  # transformers', without n_head


@dataclass(frozen=True)
class PublishedConfig:
    """What a config.json beside weights says of a GPT-2."""

    path: Path
    heads: int | None
    vocab_size: int | None  # at most the rows of wte
    tied: bool | None
    scale_attention: bool  # False: logits q.k, without 1/sqrt(head size)


def read_config_json(folder: Path, sizes: dict[str, int]) -> PublishedConfig | None:
    """The config.json of the folder, None if there is none. DataError naming file, key and value for a model that this
    program does not have (another architecture or activation, for example), or a value that disagrees with the
    tensors' sizes: a vocabulary may be smaller than the rows of wte, which are then padded.

    sizes: n_layer, n_embd, n_positions, vocab_size
    """
    path = folder / "config.json"
    if not path.is_file():
        return None
    said = read_json(path)
    if not isinstance(said, dict):
        raise DataError(f"{path} is damaged: it is not a JSON object")
    _resolve_aliases(path, said)
    for key, (allowed, have) in ONLY.items():
        if key in said and not any(said[key] == value and type(said[key]) is type(value) for value in allowed):
            raise DataError(
                f"{path} says {key} = {_json(said[key])}: this program has {have} and would compute another function"
            )
    _check_architectures(path, said)
    if said.get("quantization_config") is not None:
        raise DataError(f"{path} has a quantization_config: this program reads weights that are not quantized")
    positions = "n_positions" if said.get("n_positions") is not None else "n_ctx"
    sizes = sizes | {positions: sizes["n_positions"]}
    what = {"n_layer": "blocks", "n_embd": "channels", positions: "positions", "vocab_size": "rows of wte.weight"}
    for key, noun in what.items():
        number = _whole(path, said, key)
        padded = key == "vocab_size" and number is not None and number < sizes[key]
        if number is not None and number != sizes[key] and not padded:
            raise DataError(
                f"{path} says {key} = {number}, the weights beside it have {sizes[key]} {noun}: it belongs to another "
                "model, or the weights do"
            )
    width, inner, heads = sizes["n_embd"], _whole(path, said, "n_inner"), _whole(path, said, "n_head")
    if inner is not None and inner != 4 * width:
        raise DataError(
            f"{path} says n_inner = {inner}: this program has MLPs of 4 x {width} channels and would compute another "
            "function"
        )
    if heads is not None and width % heads:
        raise DataError(f"{path} says n_head = {heads}, which does not divide the width {width}")
    if heads is None and width % DEFAULT_HEADS == 0:
        heads = DEFAULT_HEADS
    scaled = _flag(path, said, "scale_attn_weights")
    tied, vocab_size = _flag(path, said, "tie_word_embeddings"), _whole(path, said, "vocab_size")
    return PublishedConfig(path, heads, vocab_size, tied, scaled is not False)


def _resolve_aliases(path: Path, said: dict[str, Any]) -> None:
    for alias, key in ALIASES.items():
        value, other = said.get(alias), said.get(key)
        if value is None:
            continue
        if other is not None and other != value:
            raise DataError(
                f"{path} says {key} = {_json(other)} and {alias} = {_json(value)}, which are names of the same number"
            )
        said[key] = value


def _check_architectures(path: Path, said: dict[str, Any]) -> None:
    """model_type decides where it is said."""
    names = said.get("architectures")
    if said.get("model_type") is not None or names is None:
        return
    if not all(
        isinstance(name, str) and name.startswith("GPT2") for name in (names if isinstance(names, list) else [names])
    ):
        raise DataError(
            f"{path} says architectures = {_json(names)}: this program has GPT-2 and would compute another function"
        )


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, sort_keys=True)


def _whole(path: Path, said: dict[str, Any], key: str) -> int | None:
    value = said.get(key)
    if value is not None and (type(value) is not int or not 1 <= value <= 1 << 30):
        raise DataError(f"{path} says {key} = {_json(value)}, which is not a whole number above 0")
    return value


def _flag(path: Path, said: dict[str, Any], key: str) -> bool | None:
    value = said.get(key)
    if value is not None and type(value) is not bool:
        raise DataError(f"{path} says {key} = {_json(value)}, which is not true or false")
    return value


# --- Writing it, for weights that are a plain GPT-2 ---


def factors_outside(rules: dict[str, Any], head_dim: int) -> str:
    """The factors of the forward pass that stay outside of the weights, with GPT-2's: "scale attention 0.125 (GPT-2:
    0.25), scale output 0.5 (GPT-2: 1)". "": the weights are a plain GPT-2. rules: the rule table (doc/formats.md)"""
    return ", ".join(
        f"{name} {has:g} (GPT-2: {wanted:g})" for name, has, wanted in factors_that_differ(rules, head_dim)
    )


def factors_that_differ(rules: dict[str, Any], head_dim: int) -> list[tuple[str, float, float]]:
    """Name, value, and GPT-2's value of the factors that factors_outside describes."""
    scales = rules["scales"]
    plain = dict.fromkeys(("embedding", "attention", "attention_out", "gelu", "loss", "output"), 1.0)
    plain["attention"] = math.sqrt(head_dim) / head_dim
    pairs = [(f"scale {key}", scales[key], value) for key, value in plain.items()]
    for i, factors in enumerate(scales["residual"]):
        pairs += [(f"{('attention', 'mlp')[i % 2]} branch of block {i // 2}", factor, 1.0) for factor in factors[:2]]
    pairs += [
        (f"multiplier of {rule['name']}", rule["multiplier"], 1.0)
        for rule in rules["tensors"]
        if rule["role"] in ("hidden", "vector")  # those of the others are in the scales
    ]
    return [(name, has, wanted) for name, has, wanted in pairs if abs(has - wanted) > 1e-6 * wanted]


# transformers' names
DTYPE_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def config_json(model: dict[str, Any], dtype: str, tokenizer: str) -> str:
    """transformers' config.json of a plain GPT-2. model: a checkpoint's metadata `model`"""
    return json.dumps(gpt2_config(model, dtype, tokenizer), indent=2) + "\n"


def gpt2_config(model: dict[str, Any], dtype: str, tokenizer: str) -> dict[str, Any]:
    """What config_json writes."""
    end = {"gpt2": GPT2_VOCAB_SIZE - 1, "byte": BYTE_VOCAB_SIZE - 1}.get(tokenizer)
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "n_layer": model["num_layers"],
        "n_head": model["num_heads"],
        "n_embd": model["channels"],
        "n_positions": model["max_seq_len"],
        "n_inner": None,
        "vocab_size": model["vocab_size"],
        "tie_word_embeddings": model["tie_embeddings"],
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "resid_pdrop": 0.0,
        "bos_token_id": end,
        "eos_token_id": end,
        "torch_dtype": DTYPE_NAMES[dtype],
    }
