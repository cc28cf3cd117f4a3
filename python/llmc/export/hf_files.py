"""The small files of a model for transformers: config.json, generation_config.json, and those of its tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmc.bpe_table import END_OF_TEXT
from llmc.checkpoint import Checkpoint, Rules, Shape
from llmc.config_json import DTYPE_NAMES, gpt2_config
from llmc.export.vocabulary import Vocabulary
from llmc.extras import load
from llmc.json_file import read_json


def write_config(folder: Path, shape: Shape, dtype: str, tokenizer: str, more: dict[str, Any]) -> None:
    """config.json and generation_config.json. tokenizer: byte, gpt2 or unknown; more: other keys of config.json"""
    config = gpt2_config(shape.to_json(), dtype, tokenizer)
    # As in GPT-2's published files, no token is padding: generate would take an <|endoftext|> at the beginning for it.
    config |= {"pad_token_id": None}
    config |= {"dtype": DTYPE_NAMES[dtype]}  # transformers from 4.56 on; others read torch_dtype
    config |= more
    _write(folder / "config.json", config)
    ids = {key: config[key] for key in ("bos_token_id", "eos_token_id") if config[key] is not None}
    _write(folder / "generation_config.json", ids)


def published_tokens(checkpoint: Checkpoint) -> dict[str, Any]:
    """The special tokens that the config.json beside another project's weights says: generation ends at one of them.
    {} for checkpoints of this project."""
    said = read_json(checkpoint.path.parent / "config.json") if checkpoint.foreign else None
    keys = ("bos_token_id", "eos_token_id", "pad_token_id")
    return {key: said[key] for key in keys if said.get(key) is not None} if isinstance(said, dict) else {}


def folded_parametrization(rules: Rules) -> dict[str, Any]:
    """For config.json: the multipliers that are in the weights. They are within an object, because some programs apply
    those keys where they find them at the top. The names mup_* are Cerebras's: its logits have the factor
    mup_output_alpha * mup_width_scale."""
    scales, width_mult = rules["scales"], rules["width_mult"]
    return {
        "folded_parametrization": {
            "scheme": rules["scheme"],
            "base_width": rules["base_width"],
            "width_mult": width_mult,
            "depth_mult": rules["depth_mult"],
            "mup_embeddings_scale": scales["embedding"],
            "mup_output_alpha": scales["output"] * scales["loss"] * width_mult,
            "mup_width_scale": 1 / width_mult,
            "attention_scale": scales["attention"],
            "attention_out_scale": scales["attention_out"],
            "gelu_scale": scales["gelu"],
            "residual_skip_and_branch": [branch[:2] for branch in scales["residual"]],
        }
    }


def write_tokenizer(folder: Path, vocabulary: Vocabulary, positions: int) -> None:
    """The files that AutoTokenizer reads as a GPT2Tokenizer: tokenizer.json and tokenizer_config.json, and vocab.json
    and merges.txt for programs without the library tokenizers. positions: of the model."""
    tokenizers = load("tokenizers", "export")
    ids = {text: number for number, text in enumerate(vocabulary.texts())}
    merges = vocabulary.merges()
    model = tokenizers.models.BPE(ids, [tuple(merge.split(" ")) for merge in merges])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens([END_OF_TEXT])
    # not by its save(), which takes no path that is not UTF-8
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    (folder / "vocab.json").write_text(json.dumps(ids, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokens = dict.fromkeys(("bos_token", "eos_token", "pad_token", "unk_token"), END_OF_TEXT)
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "model_max_length": positions,
        "padding_side": "left",  # generate continues the end of every row
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
    }
    _write(folder / "tokenizer_config.json", config | tokens)


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
