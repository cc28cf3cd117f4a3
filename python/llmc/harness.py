"""lm-evaluation-harness (https://github.com/EleutherAI/lm-evaluation-harness) on a model of this project.

MODEL is an exported folder (llmc export hf), or a checkpoint, which is exported first. All other options are passed on
to lm_eval: --limit, --num_fewshot, --batch_size, --include_path, --log_samples, --device, ... Without a network, tasks
need data sets that are on this machine: a task file whose dataset_path is json, or a cached one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from llmc.data.download import unreachable
from llmc.errors import DataError, Error, ExitCode
from llmc.extras import load
from llmc.paths import PACKAGE

HUB = "https://huggingface.co"
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--tasks", nargs="+", required=True, metavar="TASK", help="of lm_eval, or task files (.yaml)")
    parser.add_argument("--model_args", nargs="*", default=[], metavar="ARG=VALUE", help="more arguments of the model")
    parser.add_argument("--export", type=Path, metavar="FOLDER", help="keep the export of a checkpoint in this folder")
    parser.add_argument(
        "--out", type=Path, default=Path("lm_eval_results"), metavar="FOLDER", help="for the results [%(default)s]"
    )
    args, passed_on = parser.parse_known_args(argv)
    path = Path(args.model)
    if not path.exists():
        raise DataError(f"there is no folder {path}: name an exported folder or a checkpoint")
    for package in ("lm_eval", "accelerate"):  # lm_eval does not bring the second
        load(package, "eval")
    with _exported(path, args.export) as folder:
        model_args = ",".join([f"pretrained={folder}", *args.model_args])
        options = ["--model", "hf", "--model_args", model_args, "--tasks", *args.tasks, *passed_on]
        results = _evaluate(options, args.out / f"{path.resolve().name}.json")
    print(f"results {results}")
    return ExitCode.DONE


def is_exported(folder: Path) -> bool:
    """Whether transformers finds a model and its tokenizer there. A checkpoint has no tokenizer for it."""
    return (folder / "config.json").is_file() and (folder / "tokenizer_config.json").is_file()


@contextmanager
def _exported(model: Path, keep: Path | None) -> Iterator[Path]:
    """The folder for transformers; a temporary one if a checkpoint is exported and `keep` names no other."""
    if is_exported(model):
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="llmc-export-") as temporary:
        folder = keep or Path(temporary) / "model"
        _run([sys.executable, "-m", "llmc", "export", "hf", str(model), str(folder)], {}, "the export")
        yield folder


def _evaluate(options: list[str], output: Path) -> Path:
    """Runs lm_eval; returns the file with its results, whose name is that of `output` with the time."""
    before = _results(output)
    command = [sys.executable, "-m", "lm_eval", *options, "--output_path", str(output)]
    _run(command, offline_variables(os.environ), "lm_eval")
    new = _results(output) - before
    if not new:  # it only logs what goes wrong there
        raise Error(f"lm_eval wrote no results to {output.parent}: its messages are above")
    return max(new)


def _results(output: Path) -> set[Path]:
    return set(output.parent.glob(f"{output.stem}_*.json"))


def offline_variables(env: Mapping[str, str]) -> dict[str, str]:
    """What makes the libraries of Hugging Face look only at files of this machine, if their hub cannot be reached: they
    would try for minutes."""
    if any(name in env for name in OFFLINE):
        return {}
    reason = unreachable(HUB)
    if not reason:
        return {}
    print(f"offline: huggingface.co cannot be reached ({reason}), so only data sets of this machine are used")
    return dict.fromkeys(OFFLINE, "1")


def _run(command: list[str], variables: Mapping[str, str], what: str) -> None:
    """Error if the command fails, after its own messages."""
    sys.stdout.flush()
    package = os.pathsep.join(filter(None, [str(PACKAGE.parent), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, **variables, "PYTHONPATH": package}, check=False)
    if done.returncode:
        raise Error(f"{what} failed with exit code {done.returncode}: its messages are above")
