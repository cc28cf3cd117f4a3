"""A checkpoint as a folder for Hugging Face's transformers.

AutoModelForCausalLM.from_pretrained(OUT) loads it as a plain GPT-2, AutoTokenizer.from_pretrained(OUT) its tokenizer.
CHECKPOINT is a checkpoint's folder or file, a run's folder, for its newest checkpoint, or a GPT-2 of another project.
All multipliers of the parametrization are folded into the weights. OUT is written completely or not at all.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import ExitCode, UsageError
from llmc.export.arguments import DTYPES, SHARD_SIZE, parse_size
from llmc.extras import load

if TYPE_CHECKING:
    from llmc.export.fold import PlainGPT2
    from llmc.export.weights import Written


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, help="of the weights [the checkpoint's]")
    parser.add_argument(
        "--max-shard-size", default=SHARD_SIZE, metavar="SIZE", help="of a file: 500MB, 2GiB [%(default)s]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, if it is an export of this project")
    args = parser.parse_args(argv)
    for package in ("torch", "safetensors", "tokenizers"):
        load(package, "export")
    # imported here: --help works without torch
    from llmc.checkpoint import naming_intact, open_checkpoint
    from llmc.export.fold import fold
    from llmc.export.folder import check_source, check_unused
    from llmc.export.weights import stored_dtype

    shard_size = parse_size(args.max_shard_size)
    check_unused(args.out, args.overwrite)
    checkpoint = open_checkpoint(args.checkpoint)
    check_source(args.out, checkpoint.path)
    if checkpoint.foreign and not checkpoint.foreign.heads_known:
        raise UsageError(
            f"no config.json beside {checkpoint.path} says the number of heads: dev/import_hf.py with --heads makes a "
            "folder that does"
        )
    with naming_intact(checkpoint.path):
        plain = fold(checkpoint)
        dtype = args.dtype or stored_dtype(checkpoint, plain.rules())
        written = export(plain, args.out, dtype, shard_size, args.overwrite)
    print("\n".join(_report(plain, args.out, dtype, written)))
    return ExitCode.DONE


def export(plain: PlainGPT2, out: Path, dtype: str, shard_size: int, overwrite: bool) -> Written:
    """UsageError for a folder that must stay, DataError for what cannot be exported."""
    from llmc.export.card import model_card
    from llmc.export.folder import EXPORTED_BY, new_folder
    from llmc.export.hf_files import folded_parametrization, published_tokens, write_config, write_tokenizer
    from llmc.export.vocabulary import vocabulary
    from llmc.export.weights import write_weights

    checkpoint = plain.checkpoint
    words, rules = vocabulary(checkpoint), checkpoint.parametrization
    with new_folder(out, overwrite) as folder:
        written = write_weights(folder, plain.rules(), plain.read, dtype, shard_size, EXPORTED_BY)
        more = folded_parametrization(rules) if rules else published_tokens(checkpoint)
        write_config(folder, plain.shape, dtype, checkpoint.tokenizer, more)
        if words:
            write_tokenizer(folder, words, plain.shape.max_seq_len)
        usage = "\n".join(_usage(".", plain))
        name = os.fsencode(out.resolve().name).decode(errors="replace")
        (folder / "README.md").write_text(model_card(plain, dtype, name, usage), encoding="utf-8")
    return written


def _usage(folder: str, plain: PlainGPT2) -> list[str]:
    has_tokenizer = plain.checkpoint.tokenizer != "unknown"
    count = max(1, min(40, plain.shape.max_seq_len - len("?The")))  # the prompt has at most four tokens
    lines = [
        "from transformers import AutoModelForCausalLM" + (", AutoTokenizer" if has_tokenizer else ""),
        f"model = AutoModelForCausalLM.from_pretrained({folder!r})",
    ]
    if has_tokenizer:  # in training, each document is after this token
        lines += [
            f"tokenizer = AutoTokenizer.from_pretrained({folder!r})",
            'tokens = tokenizer("<|endoftext|>The", return_tensors="pt")',
            f"print(tokenizer.decode(model.generate(**tokens, max_new_tokens={count})[0]))",
        ]
    return lines


def _report(plain: PlainGPT2, out: Path, dtype: str, written: Written) -> list[str]:
    from llmc.run_setup import assumptions

    checkpoint = plain.checkpoint
    tied = "tied" if plain.shape.tie_embeddings else "untied"
    lines = plain.summary(assumptions(checkpoint, frozenset({"heads"})))
    if written.rounded:
        lines.append(f"note    {dtype} has rounded numbers, first of {written.rounded}: --dtype fp32 keeps them")
    if checkpoint.tokenizer == "unknown":
        lines.append("note    no tokenizer files: the checkpoint does not say which tokenizer made its tokens")
    lines.append(f"wrote   {out}: {', '.join(written.files)}, {dtype}, {written.bytes:,} bytes, head {tied}")
    return [
        *lines,
        "use it in Python:",
        *(f"    {line}" for line in _usage(str(out), plain)),
    ]
