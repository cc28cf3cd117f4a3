"""A checkpoint as a plain GPT-2: the factors of its parametrization folded into the weights.

With x the residual stream of the trained model, whose branches are x <- skip x + branch f(x), the plain GPT-2 has the
stream x' = x / c, where c is the product of the skips so far. Layer norms give the same for x and x', but for epsilon.
So, with the rule table's names (doc/formats.md), and A the multiplier of a tensor:

    wte, wpe          embedding
    ln_*              A
    c_attn            A; its queries also attention * sqrt(head size), because GPT-2 divides logits by that root
    attn.c_proj       A branch / c; its weight also attention_out
    mlp.c_fc          A gelu
    mlp.c_proj        A branch / c; its weight also 1 / gelu
    ln_f              if the head is tied, also output loss / embedding
    lm_head           output loss

Factors are multiplied in float64, and each weight is rounded once to float32.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from llmc.checkpoint import Checkpoint, Rule, Rules, Shape
from llmc.config_json import factors_that_differ
from llmc.errors import DamageError, DataError
from llmc.foreign import HEAD
from llmc.tokenizer import VOCAB_SIZES

EPSILON = 1e-5  # of all layer norms, ours and GPT-2's


def tensor_rules(shape: Shape) -> list[Rule]:
    """Name, role and shape (out, in) of every tensor of a GPT-2, in the order of the rule table."""
    C, V = shape.width, shape.vocab_size
    block = [
        ("ln_1.weight", "vector", [C]),
        ("ln_1.bias", "vector", [C]),
        ("attn.c_attn.weight", "hidden", [3 * C, C]),
        ("attn.c_attn.bias", "vector", [3 * C]),
        ("attn.c_proj.weight", "hidden", [C, C]),
        ("attn.c_proj.bias", "vector", [C]),
        ("ln_2.weight", "vector", [C]),
        ("ln_2.bias", "vector", [C]),
        ("mlp.c_fc.weight", "hidden", [4 * C, C]),
        ("mlp.c_fc.bias", "vector", [4 * C]),
        ("mlp.c_proj.weight", "hidden", [C, 4 * C]),
        ("mlp.c_proj.bias", "vector", [C]),
    ]
    table: list[tuple[str, str, list[int]]] = [
        ("wte.weight", "input", [V, C]),
        ("wpe.weight", "input", [shape.max_seq_len, C]),
        *((f"h.{i}.{name}", role, size) for i in range(shape.depth) for name, role, size in block),
        ("ln_f.weight", "vector", [C]),
        ("ln_f.bias", "vector", [C]),
        *([] if shape.tie_embeddings else [(HEAD, "output", [V, C])]),
    ]
    return [{"name": name, "role": role, "shape": size} for name, role, size in table]


@dataclass(frozen=True)
class PlainGPT2:
    """The plain GPT-2 of a checkpoint. Its tensors are read and folded one by one."""

    checkpoint: Checkpoint
    shape: Shape  # with the tokenizer's vocabulary
    factors: dict[str, float]  # by name; 1 is left out
    query_factor: float  # of the query rows of every c_attn, besides
    streams: list[float]  # c at ln_1, ln_2 of every block, and at ln_f

    def rules(self) -> list[Rule]:
        return tensor_rules(self.shape)

    def read(self, rule: Rule) -> torch.Tensor:
        """A tensor, (out, in), float32. DataError if a folded number is too large for it."""
        name, (rows, *_) = rule["name"], rule["shape"]
        whole = rule
        if name in ("wte.weight", HEAD):  # the file has all rows
            whole = rule | {"shape": [self.checkpoint.shape.vocab_size, self.shape.width]}
        stored = self.checkpoint.values(whole)[:rows]
        value = stored.double() * self.factors.get(name, 1.0)
        if ".c_attn." in name:
            value[: self.shape.width] *= self.query_factor
        folded = value.float()
        if not torch.isfinite(folded).all():
            raise DataError(f"{self.checkpoint.path}: {name} with its factors folded in is too large for fp32")
        return folded

    def tensors(self) -> Iterator[tuple[Rule, torch.Tensor]]:
        for rule in self.rules():
            yield rule, self.read(rule)

    def description(self) -> str:
        """The factors that are in the weights, those of all blocks together: "mup: scale output 0.5 (GPT-2: 1)"."""
        rules, size = self.checkpoint.parametrization, self.shape.head_dim
        if rules is None:
            return "" if self.query_factor == 1 else f"scale attention 1 (GPT-2: {1 / math.sqrt(size):g})"
        groups: dict[str, list[float]] = {}
        plain = {}
        for name, has, wanted in factors_that_differ(rules, size):
            group = re.sub(r"multiplier of h\..*", "multipliers of the blocks' tensors", name)
            group = re.sub(r" of block \d+", " of the blocks", group)
            groups.setdefault(group, []).append(has)
            plain[group] = wanted
        texts = []
        for group, values in groups.items():
            least, most = (f"{value:g}" for value in (min(values), max(values)))
            value = least if least == most else f"{least} to {most}"
            texts.append(f"{group} {value} (GPT-2: {plain[group]:g})")
        return f"{rules['scheme']}: {', '.join(texts)}" if texts else ""

    @property
    def epsilon_ratio(self) -> float:
        """The largest |1 - 1 / c^2|: how far the trained model's epsilon is from the plain GPT-2's, in units of it."""
        return max(abs(1 - 1 / c**2) for c in self.streams)

    def summary(self, assumed: Sequence[str]) -> list[str]:
        """The first lines of an export's report: the weights, what is folded into them, and notes with `assumed`."""
        rows, tokens = self.checkpoint.shape.vocab_size, self.shape.vocab_size
        cut = f"vocabulary cut from {rows} rows to the {tokens} tokens of {self.checkpoint.tokenizer}"
        return [
            f"weights {self.checkpoint.path}",
            f"folded  {self.description() or 'nothing: the weights are those of a plain GPT-2'}",
            *(f"note    {note}" for note in [self.epsilon_note(), *assumed, cut if rows > tokens else ""] if note),
        ]

    def epsilon_note(self) -> str:
        """The effect of layer norm's epsilon; "" if there is none. The outputs of a layer norm are
        (x - mean) / sqrt(v + epsilon), and sqrt(v + a) / sqrt(v + b) differs from 1 by less than |a - b| / v."""
        ratio = self.epsilon_ratio
        if ratio < 1e-12:
            return ""
        return (
            "layer norms have the epsilon 1e-05, which in the trained model is up to "
            f"{EPSILON * (1 + ratio):.3g} in the same units: their outputs differ by less than the fraction "
            f"{EPSILON * ratio:.2g} / variance of the residual stream"
        )


def fold(checkpoint: Checkpoint) -> PlainGPT2:
    """DataError for a model that no plain GPT-2 equals, or a damaged rule table."""
    vocabulary = VOCAB_SIZES.get(checkpoint.tokenizer)
    shape = checkpoint.shape
    if vocabulary is not None:
        shape = replace(shape, vocab_size=min(vocabulary, shape.vocab_size))
    rules = checkpoint.parametrization
    if rules is None:  # a GPT-2 of another project, perhaps with attention logits q.k
        scaled = not checkpoint.foreign or checkpoint.foreign.scaled_attention
        query = 1.0 if scaled else math.sqrt(shape.head_dim)
        return PlainGPT2(checkpoint, shape, {}, query, [1.0])
    try:
        factors, query, streams = _factors(checkpoint, rules), _query_factor(rules, shape), _streams(rules)
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DamageError(f"{checkpoint.path} is damaged: its metadata cannot be read ({error})") from None
    return PlainGPT2(checkpoint, shape, factors, query, streams)


def _query_factor(rules: Rules, shape: Shape) -> float:
    """Exactly 1 for GPT-2's own scale, which the table has as float32."""
    plain = float(np.float32(math.sqrt(shape.head_dim) / shape.head_dim))
    attention: float = rules["scales"]["attention"]
    return 1.0 if abs(attention - plain) <= 1e-7 * plain else attention * math.sqrt(shape.head_dim)


def _streams(rules: Rules) -> list[float]:
    streams = [1.0]
    for skip, *_ in rules["scales"]["residual"]:
        streams.append(streams[-1] * skip)
    return streams


def _factors(checkpoint: Checkpoint, rules: Rules) -> dict[str, float]:
    scales: dict[str, Any] = rules["scales"]
    _refuse_zeros(checkpoint, scales)
    multipliers = {rule["name"]: rule["multiplier"] for rule in rules["tensors"]}
    factors = {
        rule["name"]: multipliers[rule["name"]] for rule in rules["tensors"] if rule["role"] in ("hidden", "vector")
    }
    streams, residual = _streams(rules), scales["residual"]
    for i in range(checkpoint.shape.depth):
        # branches 2 i and 2 i + 1; c after each
        attention, mlp = (residual[j][1] / streams[j + 1] for j in (2 * i, 2 * i + 1))
        for name, factor in {
            "attn.c_proj.weight": attention * scales["attention_out"],
            "attn.c_proj.bias": attention,
            "mlp.c_fc.weight": scales["gelu"],
            "mlp.c_fc.bias": scales["gelu"],
            "mlp.c_proj.weight": mlp / scales["gelu"],
            "mlp.c_proj.bias": mlp,
        }.items():
            factors[f"h.{i}.{name}"] *= factor
    for name in ("wte.weight", "wpe.weight"):
        factors[name] = scales["embedding"]
    head = scales["output"] * scales["loss"]
    if checkpoint.shape.tie_embeddings:
        for name in ("ln_f.weight", "ln_f.bias"):
            factors[name] *= head / scales["embedding"]
    else:
        factors[HEAD] = head
    return {name: factor for name, factor in factors.items() if factor != 1}


def _refuse_zeros(checkpoint: Checkpoint, scales: dict[str, Any]) -> None:
    if checkpoint.shape.tie_embeddings and scales["embedding"] == 0:
        raise DataError(
            f"{checkpoint.path} has the embedding multiplier 0 and a tied head: a plain GPT-2 cannot have the head "
            "without the embedding"
        )
    if any(skip == 0 for skip, *_ in scales["residual"]):
        raise DataError(
            f"{checkpoint.path} has a residual branch with the skip factor 0: a plain GPT-2 adds every branch to its "
            "stream"
        )
