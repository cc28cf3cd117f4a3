"""README.md of an exported model, which has what its checkpoint and the log beside it say, and nothing else."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from llmc.export.fold import PlainGPT2
from llmc.export.run_facts import Facts, RunEvents, read_events_of, training_facts
from llmc.version import VERSION
from llmc.wording import plural


def model_card(plain: PlainGPT2, dtype: str, name: str, usage: str) -> str:
    """Markdown with YAML front matter. usage: the lines of Python that load the model"""
    checkpoint = plain.checkpoint
    events = read_events_of(checkpoint)
    model, training = _model_facts(plain, dtype), training_facts(checkpoint, events)
    about = "trained with" if training else "of another project, exported by"
    parts = [
        _front_matter(checkpoint.tokenizer, name, model | training, events),
        f"# {_text(name)}\n\nA GPT-2 of {plural(model['parameters'], 'parameter')}, {about} llmc-mup. Its weights are "
        "those of a plain `GPT2LMHeadModel`: they contain all multipliers of its parametrization.",
        f"## Use\n\n```python\n{usage}\n```",
        f"## Model\n\n{_table(model)}",
    ]
    if note := plain.epsilon_note():
        parts.append(f"Its {note}.")
    parts.append(f"Exported by llmc-mup {VERSION}.")
    if training:
        parts.append(f"## Training\n\n{_table(training)}\n\nLosses are in nats per token.")
    if events.command:
        parts.append("Command:\n\n" + "\n".join(f"    {line}" for line in events.command.splitlines()))
    return "\n\n".join(parts) + "\n"


def _model_facts(plain: PlainGPT2, dtype: str) -> Facts:
    shape = plain.shape
    return {
        "parameters": sum(math.prod(rule["shape"]) for rule in plain.rules()),
        "depth": shape.depth,
        "width": shape.width,
        "heads": shape.heads,
        "positions": shape.max_seq_len,
        "vocabulary": shape.vocab_size,
        "head": "tied" if shape.tie_embeddings else "untied",
        "weights": dtype,
        "tokenizer": plain.checkpoint.tokenizer,
    }


def _front_matter(tokenizer: str, name: str, facts: Mapping[str, Any], events: RunEvents) -> str:
    """JSON texts and numbers are YAML, too."""
    lines = ["library_name: transformers", "pipeline_tag: text-generation", "tags:", "- gpt2"]
    scheme = facts.get("parametrization", "sp")
    lines += [] if scheme == "sp" else [f"- {scheme}"]
    lines += ["llmc_mup:", *(f"  {key.replace(' ', '_').lower()}: {_yaml(value)}" for key, value in facts.items())]
    metrics = {"loss": events.val_loss, "bits_per_byte": events.bits_per_byte}
    found = [f"    - {{type: {kind}, value: {_yaml(value)}}}" for kind, value in metrics.items() if value is not None]
    if found:
        lines += [
            "model-index:",
            f"- name: {_yaml(name)}",
            "  results:",
            "  - task: {type: text-generation}",
            f"    dataset: {{name: validation data, type: {_yaml(f'tokens of the tokenizer {tokenizer}')}}}",
            "    metrics:",
            *found,
        ]
    return "\n".join(["---", *lines, "---"])


def _yaml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _table(facts: Facts) -> str:
    rows = [f"| {name} | {_text(_number(value))} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _number(value: Any) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _text(text: str) -> str:
    """For a table: in one line, without its separator."""
    return " ".join(text.split()).replace("|", "\\|")
