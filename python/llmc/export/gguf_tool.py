"""A checkpoint as a GGUF file for llama.cpp: weights and vocabulary.

CHECKPOINT is a checkpoint's folder or file, a run's folder, for its newest checkpoint, or a GPT-2 of another project.
All multipliers of the parametrization are folded into the weights. OUT.gguf is written completely or not at all.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.atomic import replacing
from llmc.data.options import count
from llmc.errors import DataError, Error, ExitCode, UsageError
from llmc.extras import load

if TYPE_CHECKING:
    from llmc.checkpoint import Checkpoint
    from llmc.export.fold import PlainGPT2

DTYPES = ("f32", "f16", "bf16")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("out", type=Path, metavar="OUT.gguf", help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of the matrices; vectors are f32 [f32]")
    parser.add_argument(
        "--tokenizer", choices=["auto", "byte", "gpt2"], default="auto", help="auto: the checkpoint's [auto]"
    )
    parser.add_argument(
        "--heads", type=count(1, 1 << 20), metavar="N", help="if no config.json beside the weights says them"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.gguf")
    args = parser.parse_args(argv)
    _check_out(args.out, args.overwrite)
    for package in ("torch", "safetensors", "gguf"):
        load(package, "export")
    # imported here: --help works without torch
    from llmc.checkpoint import naming_intact, open_checkpoint
    from llmc.config import Config
    from llmc.export.fold import fold
    from llmc.run_setup import assumptions, take_shape

    checkpoint, given = open_checkpoint(args.checkpoint), frozenset({"heads"} if args.heads else ())
    _, checkpoint.shape = take_shape(Config(heads=args.heads or checkpoint.shape.heads), given, checkpoint)
    if checkpoint.foreign and not checkpoint.foreign.heads_known and not given:  # they would be a guess
        raise UsageError(f"no config.json beside {checkpoint.path} says the number of heads: give --heads")
    _take_tokenizer(checkpoint, args.tokenizer)
    with naming_intact(checkpoint.path):
        plain = fold(checkpoint)
    _write(plain, args.out, args.dtype)
    print("\n".join(_report(plain, args.out, args.dtype, assumptions(checkpoint, given))))
    return ExitCode.DONE


def _take_tokenizer(checkpoint: Checkpoint, given: str) -> None:
    """UsageError for another than the checkpoint's: the text of its tokens would be wrong."""
    if given == "auto":
        return
    if checkpoint.tokenizer not in ("unknown", given):
        raise UsageError(
            f"--tokenizer {given}: the tokens of {checkpoint.path} are of {checkpoint.tokenizer}: leave the option out"
        )
    checkpoint.tokenizer = given


def _check_out(out: Path, overwrite: bool) -> None:
    """UsageError unless the file may be written. The suffix keeps a checkpoint from being overwritten."""
    if out.suffix != ".gguf":
        raise UsageError(f"{out} has not the suffix of a GGUF file: name it {out.with_suffix('.gguf').name}")
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name a file, such as {out / 'model.gguf'}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: replace it (--overwrite), or choose another name")


def _write(plain: PlainGPT2, out: Path, dtype: str) -> None:
    from llmc.checkpoint import naming_intact
    from llmc.export.gguf_file import write_gguf
    from llmc.export.vocabulary import vocabulary

    words, path = vocabulary(plain.checkpoint), plain.checkpoint.path
    if words is None:
        raise DataError(
            f"{path} does not say which tokenizer its tokens are of, and llama.cpp loads no model without their text: "
            "give --tokenizer"
        )
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with naming_intact(path), replacing(out) as temporary:
            write_gguf(plain, words, temporary, dtype)
    except OSError as error:
        raise Error(f"cannot write {out}: {error}; free some space, or choose another place") from None


def _report(plain: PlainGPT2, out: Path, dtype: str, notes: list[str]) -> list[str]:
    """What was written, and how to use it."""
    shape, file = plain.shape, str(out)
    head = "tied" if shape.tie_embeddings else "untied"
    tokens = min(100, max(1, shape.max_seq_len // 2))
    return [
        *plain.summary(notes),
        f"wrote   {out}: {dtype}, {out.stat().st_size:,} bytes, head {head}",
        f"length  {shape.max_seq_len} tokens at most, with the one that begins a text: llama.cpp does not check",
        "use it in llama.cpp:",
        f"    llama-completion -m {shlex.quote(file)} -c {shape.max_seq_len} -n {tokens} -p 'The '",
        "use it in Python (pip install llama-cpp-python):",
        "    from llama_cpp import Llama",
        f"    model = Llama({file!r}, n_ctx={shape.max_seq_len}, verbose=False)",
        f"    print(model('The ', max_tokens={tokens})['choices'][0]['text'])",
    ]
