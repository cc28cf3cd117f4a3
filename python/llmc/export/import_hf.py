"""GPT-2 weights of other projects as a folder that this project's programs, llmc.load and transformers take.

SOURCE is a folder or a file: model.safetensors, pytorch_model.bin, or several of either with their index; names with or
without "transformer.", with or without lm_head.weight, attention masks, fp32, bf16 or fp16, vocabularies with rows of
padding. The weights keep their dtype and their bits. OUT is written completely or not at all.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.errors import DataError, ExitCode, UsageError
from llmc.export.arguments import SHARD_SIZE, parse_size
from llmc.extras import load

if TYPE_CHECKING:
    from llmc.checkpoint import Checkpoint
    from llmc.export.weights import Written

SOURCES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
NO_IMPORT = "which needs no import: dev/export_hf.py makes a model for transformers of it"


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, metavar="SOURCE")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder to write")
    parser.add_argument("--heads", type=int, help="if no config.json beside the weights says them")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT, if this project wrote it")
    args = parser.parse_args(argv)
    for package in ("torch", "safetensors"):
        load(package, "export")
    from llmc.export.folder import check_source, check_unused  # imported here: --help works without torch

    check_unused(args.out, args.overwrite)
    checkpoint = open_source(args.source)
    check_source(args.out, checkpoint.path)
    take_heads(checkpoint, args.heads)
    written = write(checkpoint, args.out, args.overwrite)
    print("\n".join(_report(checkpoint, args.out, written)))
    return ExitCode.DONE


def open_source(source: Path) -> Checkpoint:
    """DataError for weights that are missing, of another architecture, or a checkpoint of this project."""
    from llmc.checkpoint import Checkpoint
    from llmc.export.torch_files import open_any
    from llmc.weight_files import WeightFiles

    path = source
    if source.is_dir():
        path = next((source / name for name in SOURCES if (source / name).is_file()), source)
        if path == source and (source / "checkpoints").is_dir():
            raise DataError(f"{source} is the folder of a run, {NO_IMPORT}")
        if path == source:
            raise DataError(f"the folder {source} holds none of {', '.join(SOURCES)}: name the file")
    if not path.is_file():
        raise DataError(f"there is no file or folder {source}")
    checkpoint = Checkpoint(path, WeightFiles(path, open_any))
    if not checkpoint.foreign:
        raise DataError(f"{path} is a checkpoint of this project, {NO_IMPORT}")
    return checkpoint


def take_heads(checkpoint: Checkpoint, heads: int | None) -> None:
    """UsageError if neither config.json nor the user says them: they would be a guess, written as a fact."""
    foreign, shape = checkpoint.foreign, checkpoint.shape
    if foreign is None or (foreign.heads_known and heads in (None, shape.heads)):
        return
    if foreign.heads_known:
        raise UsageError(f"--heads {heads}: the config.json beside {checkpoint.path} says {shape.heads}")
    if heads is None:
        raise UsageError(f"no config.json beside {checkpoint.path} says the number of heads: give --heads")
    if heads < 1 or shape.width % heads:
        raise UsageError(f"--heads {heads} does not divide the width {shape.width} of {checkpoint.path}")
    checkpoint.shape = replace(shape, heads=heads)


def write(checkpoint: Checkpoint, out: Path, overwrite: bool) -> Written:
    from llmc.bpe_table import byte_table, find_table, read_table
    from llmc.export.fold import tensor_rules
    from llmc.export.folder import EXPORTED_BY, new_folder
    from llmc.export.hf_files import published_tokens, write_config
    from llmc.export.weights import stored_dtype, write_weights

    rules = tensor_rules(checkpoint.shape)
    dtype = stored_dtype(checkpoint, rules)
    scaled = not checkpoint.foreign or checkpoint.foreign.scaled_attention
    with new_folder(out, overwrite) as folder:
        written = write_weights(folder, rules, checkpoint.values, dtype, parse_size(SHARD_SIZE), EXPORTED_BY)
        more = published_tokens(checkpoint) | ({} if scaled else {"scale_attn_weights": False})
        write_config(folder, checkpoint.shape, dtype, checkpoint.tokenizer, more)
        table = find_table(checkpoint.path.parent)
        if checkpoint.tokenizer == "byte":
            byte_table().save(folder / "tokenizer.bin")
        elif checkpoint.tokenizer == "gpt2" and table:
            read_table(table).save(folder / "tokenizer.bin")
    return written


def _report(checkpoint: Checkpoint, out: Path, written: Written) -> list[str]:
    from llmc.run_setup import assumptions

    shape = checkpoint.shape
    lines = [
        f"weights {checkpoint.path}",
        f"model   depth {shape.depth}, width {shape.width}, heads {shape.heads} x {shape.head_dim}, positions "
        f"{shape.max_seq_len}, vocabulary {shape.vocab_size}, head {'tied' if shape.tie_embeddings else 'untied'}",
        *(f"note    {note}" for note in assumptions(checkpoint, frozenset({"heads"}))),
    ]
    has_table = (out / "tokenizer.bin").exists()
    if not has_table:
        lines.append("note    no tokenizer.bin: no vocabulary of GPT-2 is beside the weights, which samples need")
    lines.append(f"wrote   {out}: {', '.join(written.files)}, {written.dtype}, {written.bytes:,} bytes")
    return [*lines, f"use it: ./train_gpt2 {f'sample {out}' if has_table else f'--init {out} ...'}"]
