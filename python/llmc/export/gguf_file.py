"""A plain GPT-2 as a GGUF file of llama.cpp's architecture gpt2, by the package gguf.

Names are the package's (blk.0.attn_qkv.weight), matrices (out, in), as GPT-2 computes with them. Only the matrices of
the blocks, the embedding of tokens and the head have the chosen type; the others stay F32: llama.cpp adds vectors in
F32, and its own converter leaves the embedding of positions so, too. A tied head is left out: llama.cpp then takes the
embedding of tokens.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmc.checkpoint import Checkpoint, Rule
from llmc.errors import DataError
from llmc.export.fold import EPSILON, PlainGPT2
from llmc.export.run_facts import read_events_of, training_facts
from llmc.export.vocabulary import Vocabulary
from llmc.extras import load

TYPES = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16"}  # gguf.LlamaFileType


def write_gguf(plain: PlainGPT2, vocabulary: Vocabulary, path: Path, dtype: str) -> None:
    """dtype: a key of TYPES. Tensors are read and written one by one. DataError for a number beyond the type."""
    gguf = load("gguf", "export")
    writer = gguf.GGUFWriter(path, "gpt2")
    try:
        _add_facts(gguf, writer, plain, dtype)
        _add_shape(writer, plain)
        _add_vocabulary(gguf, writer, vocabulary)
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GPT2, plain.shape.depth)
        for rule in plain.rules():
            stored = _stored_type(rule, dtype)
            size = math.prod(rule["shape"]) * TYPES[stored].itemsize
            name = names.get_name(rule["name"], (".weight", ".bias"))
            raw = gguf.GGMLQuantizationType[stored.upper()]
            writer.add_tensor_info(name, rule["shape"], np.dtype(np.float32), size, raw_dtype=raw)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for rule, value in plain.tensors():
            writer.write_tensor_data(_rounded(plain.checkpoint, rule, value, _stored_type(rule, dtype)))
    finally:
        writer.close()


def _stored_type(rule: Rule, dtype: str) -> str:
    return "f32" if rule["role"] == "vector" or rule["name"] == "wpe.weight" else dtype


def _rounded(checkpoint: Checkpoint, rule: Rule, value: torch.Tensor, dtype: str) -> Any:
    """To the nearest, halves to even; two-byte types as their bits, because NumPy has no bfloat16."""
    rounded = value.to(TYPES[dtype])
    if not torch.isfinite(rounded).all():
        largest = value.abs().max().item()
        raise DataError(
            f"{checkpoint.path}: {rule['name']} with its factors folded in has {largest:.3g}, which is too large for "
            f"{dtype}: choose --dtype {'bf16' if dtype == 'f16' else 'f32'}"
        )
    bits = rounded if dtype == "f32" else rounded.view(torch.int16)
    return bits.contiguous().numpy()


def _add_facts(gguf: Any, writer: Any, plain: PlainGPT2, dtype: str) -> None:
    """What is known of the model. general.name has no word of the user's: llama.cpp derives properties of tokens from
    it (of a "phi3", for example)."""
    checkpoint = plain.checkpoint
    facts = training_facts(checkpoint, read_events_of(checkpoint))
    parameters = sum(math.prod(rule["shape"]) for rule in plain.rules())
    size = gguf.size_label(parameters, parameters, 0, 0)
    writer.add_type("model")
    writer.add_name(f"GPT-2 {size} {facts.get('parametrization', '')}".strip())
    writer.add_size_label(size)
    writer.add_file_type(gguf.LlamaFileType[FILE_TYPES[dtype]])
    if folded := plain.description():
        writer.add_description(f"GPT-2 with these factors folded into its weights: {folded}")
    add = {str: writer.add_string, int: writer.add_uint64, float: writer.add_float64}
    for name, value in facts.items():
        add[type(value)](f"llmc.{name.replace(' ', '_').lower()}", value)


def _add_shape(writer: Any, plain: PlainGPT2) -> None:
    shape = plain.shape
    writer.add_context_length(shape.max_seq_len)
    writer.add_embedding_length(shape.width)
    writer.add_feed_forward_length(4 * shape.width)
    writer.add_block_count(shape.depth)
    writer.add_head_count(shape.heads)
    writer.add_layer_norm_eps(EPSILON)


def _add_vocabulary(gguf: Any, writer: Any, vocabulary: Vocabulary) -> None:
    """The end of a document is the first token of every text, as in training and in train_gpt2 sample; without its
    keys llama.cpp would take token 11 for it."""
    texts, end = vocabulary.texts(), vocabulary.end
    types = [gguf.TokenType.NORMAL] * len(texts)
    types[end] = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(texts)
    writer.add_token_types(types)
    # The package drops an empty list, and llama.cpp loads no file without one. This merge never applies: its parts are
    # not made of the alphabet of bytes, into whose single characters every text is taken apart.
    writer.add_token_merges(vocabulary.merges() or [f"{texts[end]} {texts[end]}"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(True)
