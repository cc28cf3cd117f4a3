"""A model of this project for llama.cpp: one GGUF file with weights and vocabulary.

CHECKPOINT is a run's folder, for its newest checkpoint, one of its checkpoints, or GPT-2 weights of transformers. The
factors of its parametrization are folded into the weights, so that they are a plain GPT-2's. OUT.gguf is written
completely or not at all.
"""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

from llmc.atomic import replacing
from llmc.checkpoint import naming_intact, open_checkpoint
from llmc.config import Config
from llmc.data.options import count
from llmc.errors import DataError, Error, ExitCode, UsageError
from llmc.export.fold import PlainGPT2, fold
from llmc.export.gguf_file import DTYPES, write_gguf
from llmc.export.vocabulary import vocabulary
from llmc.extras import load
from llmc.run_setup import assumptions, take_shape


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    args = _arguments(argv, prog)
    _check_out(args.out, args.overwrite)
    load("gguf", "export")  # before the weights are read
    given = frozenset({"heads"} if args.heads else ())
    checkpoint = open_checkpoint(args.checkpoint)
    _, checkpoint.shape = take_shape(Config(heads=args.heads or checkpoint.shape.heads), given, checkpoint)
    if args.tokenizer != "auto":
        checkpoint.tokenizer = args.tokenizer
    plain = fold(checkpoint)
    words = vocabulary(checkpoint)
    if words is None:
        raise DataError(
            f"{checkpoint.path} does not say which tokenizer its tokens are of, and llama.cpp loads no model without "
            "their text: give --tokenizer"
        )
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        with naming_intact(checkpoint.path), replacing(args.out) as temporary:
            write_gguf(plain, words, temporary, args.dtype)
    except OSError as error:
        raise Error(f"cannot write {args.out}: {error}; free some space, or choose another place") from None
    print("\n".join(_summary(args.out, args.dtype, plain, assumptions(checkpoint, given))))
    return ExitCode.DONE


def _arguments(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a run, a checkpoint, or weights of transformers")
    parser.add_argument("out", type=Path, metavar="OUT.gguf", help="the file to write")
    parser.add_argument("--dtype", choices=DTYPES, default="f32", help="of the matrices; all else is f32 [f32]")
    parser.add_argument(
        "--tokenizer", choices=["auto", "byte", "gpt2"], default="auto", help="auto: the one in the checkpoint [auto]"
    )
    parser.add_argument(
        "--heads", type=count(1, 1 << 20), metavar="N", help="of weights without a config.json [width / 64]"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT.gguf")
    return parser.parse_args(argv)


def _check_out(out: Path, overwrite: bool) -> None:
    if out.suffix != ".gguf":
        raise UsageError(f"{out} has not the suffix of a GGUF file: name it {out.with_suffix('.gguf').name}")
    if out.is_dir():
        raise UsageError(f"{out} is a folder: name a file, such as {out / 'model.gguf'}")
    if out.exists() and not overwrite:
        raise UsageError(f"{out} exists: replace it (--overwrite), or choose another name")


def _summary(out: Path, dtype: str, plain: PlainGPT2, notes: list[str]) -> list[str]:
    """What was written, and how to use it."""
    shape, rules = plain.shape, plain.checkpoint.parametrization
    folded = f", with the factors of {rules['scheme']} folded in" if rules else ""
    tokens = min(100, max(1, shape.max_seq_len // 2))
    return [
        f"file    {out}, {out.stat().st_size:,} bytes, {dtype}",
        f"weights {plain.checkpoint.path}{folded}",
        *(f"note    {note}" for note in [*notes, plain.epsilon_note()] if note),
        f"length  {shape.max_seq_len} tokens at most, with the one that begins a text: llama.cpp aborts beyond",
        f"text    llama-completion -m {shlex.quote(str(out))} -c {shape.max_seq_len} -n {tokens} -p 'The '",
        "Python  from llama_cpp import Llama",
        f"        model = Llama({str(out)!r}, n_ctx={shape.max_seq_len}, verbose=False)",
        f"        print(model('The ', max_tokens={tokens})['choices'][0]['text'])",
    ]
