"""HellaSwag: how does the text go on? 10,042 examples for validation, four endings each (Zellers et al. 2019,
arXiv:1905.07830).

Source: FILE, JSON lines with ctx, endings and label; without it they are downloaded from
https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl to a folder `download` beside --out.
Licence: MIT.
Format: llm.c's eval file (doc/formats.md), for --hellaswag. That option also reads the JSON lines themselves, and then
also normalises by the bytes of the endings, which an eval file does not have.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llmc.atomic import write_atomically
from llmc.data.download import download
from llmc.data.multiple_choice import ModelTokens, eval_file, read_examples
from llmc.errors import DataError, ExitCode
from llmc.tokenizer import GPT2_VOCAB_SIZE, TextTokenizer
from llmc.wording import plural

URL = "https://raw.githubusercontent.com/rowanz/hellaswag/master/data/hellaswag_val.jsonl"
OUT = Path("data/hellaswag/hellaswag_val.bin")
HINT = "give a copy of hellaswag_val.jsonl as FILE, or "


def model_tokens(name: str) -> ModelTokens:
    """name: byte or gpt2."""
    if name == "byte":
        return ModelTokens(name, 257, TextTokenizer)
    from llmc.data.tokenizers import load_gpt2  # imported here: it may look for a network

    return ModelTokens(name, GPT2_VOCAB_SIZE, lambda: TextTokenizer(load_gpt2()))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, nargs="?", metavar="FILE", help="the JSON lines, instead of the download")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE", help="[%(default)s]")
    parser.add_argument("--tokenizer", choices=["byte", "gpt2"], default="gpt2", help="[%(default)s]")
    args = parser.parse_args(argv)
    out = args.out
    source = args.file or download(URL, out.parent / "download" / Path(URL).name, HINT)
    if not source.is_file():
        raise DataError(f"{source} does not exist: give a copy of {URL}")
    examples = read_examples(source, 0, model_tokens(args.tokenizer))
    if not all(example.bytes for example in examples):
        raise DataError(f"{source} is an eval file already: give the JSON lines")
    there = _write(out, eval_file(examples, args.tokenizer))
    tokens = sum(len(ending) for example in examples for ending in example.endings)
    print(f"{out}: " + ("already there, made from the same text (nothing written)" if there else "written"))
    print(f"{plural(len(examples), 'example')}, {plural(tokens, 'token')} in their endings, tokenizer {args.tokenizer}")
    print(f"evaluate with: --hellaswag {out}")
    return ExitCode.DONE


def _write(path: Path, content: bytes) -> bool:
    """Whether the file was there already. DataError if there is another one."""
    if path.exists():
        if path.is_file() and path.read_bytes() == content:
            return True
        raise DataError(f"{path} exists and has other content: delete it, or give another --out")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return False
