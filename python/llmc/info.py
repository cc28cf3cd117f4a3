"""`train_gpt2.py info CHECKPOINT`: what a model file holds. The same text as of train_gpt2 info."""

from __future__ import annotations

import json

from llmc.checkpoint import Checkpoint, naming_intact, open_checkpoint
from llmc.config import Config
from llmc.config_json import factors_outside
from llmc.errors import DamageError
from llmc.options import stored_options
from llmc.run_setup import assumptions
from llmc.weight_files import open_safetensors
from llmc.wording import plural


def describe_checkpoint(given: str) -> str:
    """A fact per line. DataError if the file cannot be read."""
    checkpoint = open_checkpoint(given)
    shape, rules, path = checkpoint.shape, checkpoint.parametrization, checkpoint.path
    lines = [
        f"file    {path}, {checkpoint.files.bytes:,} bytes",
        f"model   depth {shape.depth}, width {shape.width}, heads {shape.heads} x {shape.head_dim}, positions "
        f"{shape.max_seq_len}, vocabulary {shape.vocab_size}, head {'tied' if shape.tie_embeddings else 'untied'}: "
        f"{_parameters(checkpoint):,} parameters",
        *(f"note    {note}" for note in assumptions(checkpoint, frozenset())),
        f"tokens  of the tokenizer {checkpoint.tokenizer}",
    ]
    if rules is None:
        scaled = not checkpoint.foreign or checkpoint.foreign.scaled_attention
        but = "" if scaled else ", but attention logits without 1/sqrt(head size)"
        return "\n".join([*lines, f"rules   none in the file: a standard GPT-2{but}"])
    outside = factors_outside(rules, shape.head_dim)
    with naming_intact(path):
        optimizer = _optimizer_line(checkpoint)
    return "\n".join(
        [
            *lines,
            f"rules   {rules['scheme']}, width_mult {rules['width_mult']:g}, depth_mult {rules['depth_mult']:g}",
            f"plain   {'no: ' + outside if outside else 'yes: its weights are a GPT-2 for every program'}",
            f"step    {checkpoint.step:,}",
            *optimizer,
            f"options {_changed_options(checkpoint)}",
        ]
    )


def _parameters(checkpoint: Checkpoint) -> int:
    s = checkpoint.shape
    block = 12 * s.width**2 + 13 * s.width
    head = 0 if s.tie_embeddings else s.vocab_size * s.width
    return (s.vocab_size + s.max_seq_len + 2) * s.width + s.depth * block + head


def _optimizer_line(checkpoint: Checkpoint) -> list[str]:
    path = checkpoint.path.parent / "optimizer.safetensors"
    if not path.exists():
        return []
    try:
        state = json.loads((open_safetensors(path).metadata() or {})["state"])
    except (KeyError, ValueError):
        raise DamageError(
            f"{path} was not written by this project, or is damaged: its metadata has no 'state'"
        ) from None
    return [
        f"state   {plural(state.get('updates', 0), 'update')} of {state.get('optimizer', 'an unknown optimizer')}, "
        f"{plural(state.get('tokens', 0), 'token')}; {path.stat().st_size:,} bytes"
    ]


def _changed_options(checkpoint: Checkpoint) -> str:
    """The options of the run that differ from the defaults: "depth = 2, lr = 0.01"."""
    usual = json.loads(json.dumps(stored_options(Config())))
    stored = {key: value for key, value in checkpoint.config.items() if key in usual}
    return ", ".join(
        f"{key} = {json.dumps(value, separators=(',', ':'), ensure_ascii=False)}"
        for key, value in sorted(stored.items(), key=lambda item: list(usual).index(item[0]))
        if value is not None and value != usual[key]
    )
