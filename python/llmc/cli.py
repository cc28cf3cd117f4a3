"""The command `llmc`."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple, NoReturn

from llmc.errors import Error, ExitCode, UsageError, run_main
from llmc.paths import native_program

Main = Callable[[list[str], str], int]  # the rest of the command line, and the command's name


class Command(NamedTuple):
    summary: str
    run: Main


def module(name: str) -> Main:
    """The main function of a module, which is imported when the command runs."""

    def run(argv: list[str], prog: str) -> int:
        main: Callable[[list[str], str], int] = importlib.import_module(name).main
        return main(argv, prog)

    return run


# --- Runs, then figures of their results ---


def check(argv: list[str], prog: str) -> int:
    from llmc.mup.check_runs import run_checks
    from llmc.plot.check import main
    from llmc.report.command import after_results

    arguments = run_checks(argv, prog, os.environ)
    status = main(arguments)
    after_results(Path(arguments[0]))
    return status


def sweep(argv: list[str], prog: str, env: Mapping[str, str] = os.environ) -> int:
    from llmc.mup.sweep import run_sweep
    from llmc.plot.sweep import main
    from llmc.report.command import after_results

    finished = run_sweep(argv, prog, env)
    if finished is None:
        return ExitCode.DONE
    status = main(finished.plot_arguments)
    if "--out" in finished.plot_arguments:  # with figures
        after_results(Path(finished.plot_arguments[0]))
    return ExitCode.FAILED if finished.failed else status


def transfer(argv: list[str], prog: str) -> int:
    from llmc.mup.transfer import __doc__, environment, transfer_help

    if {"-h", "--help"} & set(argv):
        print(f"{__doc__}\n{transfer_help()}".strip())
        return ExitCode.DONE
    from llmc.progress import duration  # needs tqdm, which --help does not

    begin = time.monotonic()
    status = sweep(["lr", "--verdict", *argv], prog, environment(os.environ))
    print(f"took {duration(time.monotonic() - begin)}")
    return status


# --- The native program ---


def train(argv: list[str], prog: str) -> int:
    program = native_program()
    if program is None:
        raise Error("train_gpt2 is not built: run make in the clone of the project")
    sys.stdout.flush()
    os.execv(program, [str(program), *argv])


def sample(argv: list[str], prog: str) -> int:
    return train(["sample", *argv], prog)


def evaluate(argv: list[str], prog: str) -> int:
    return train(["eval", *argv], prog)


def info(argv: list[str], prog: str) -> int:
    return train(["info", *argv], prog)


# --- The table of commands ---

GROUPS = {
    "data": {
        "pystdlib": Command("the standard library of this Python; needs no network", module("llmc.data.pystdlib")),
        "text": Command("your own files or folders", module("llmc.data.text")),
        "tinyshakespeare": Command("Shakespeare's plays, 1 MB", module("llmc.data.tinyshakespeare")),
        "tinystories": Command("short stories in simple English, 1.6 GB", module("llmc.data.tinystories")),
        "fineweb": Command("English web pages, 10 or 100 billion tokens", module("llmc.data.fineweb")),
        "hellaswag": Command("multiple choice for --hellaswag, as llm.c's eval file", module("llmc.data.hellaswag")),
        "synthetic": Command("symbols from a random source with known entropy", module("llmc.data.synthetic")),
        "tokenizer": Command(
            "GPT-2's vocabulary, for samples of other projects' weights", module("llmc.data.tokenizer")
        ),
    },
    "plot": {
        "loss": Command("the loss of runs from their logs", module("llmc.plot.loss")),
        "check": Command("a coordinate check: figures, table and verdict", module("llmc.plot.check")),
        "sweep": Command("a sweep: figures, tables and verdict", module("llmc.plot.sweep")),
    },
    "export": {
        "gguf": Command("one GGUF file for llama.cpp", module("llmc.export.gguf_tool")),
        "hf": Command("a folder for Hugging Face's transformers", module("llmc.export.hf")),
    },
    "import": {
        "hf": Command("GPT-2 weights of other projects, also pytorch_model.bin", module("llmc.export.import_hf")),
    },
    "log": {
        "export": Command("curves to TensorBoard, Weights & Biases or CSV", module("llmc.track.export")),
        "follow": Command("the same while runs train", module("llmc.track.follow")),
    },
    "bench": {
        "cpu": Command("train_gpt2 and train_gpt2.py on this machine", module("llmc.bench.cpu")),
        "gpu": Command("the CUDA kernels and whole steps, compared with PyTorch", module("llmc.bench.gpu")),
        "gpu-check": Command("build, test and benchmark on this GPU", module("llmc.bench.gpu_check")),
    },
}
GROUP_SUMMARIES = {
    "data": "make token shards, files of examples, and GPT-2's vocabulary",
    "plot": "draw losses, coordinate checks and sweeps",
    "export": "a checkpoint as a model for other programs",
    "import": "weights of other projects",
    "log": "curves of runs for trackers",
    "bench": "measure speed, in a clone of the project",
}
COMMANDS = {
    "train": Command("train a model: the native program with its options", train),
    "sample": Command("text from a checkpoint", sample),
    "eval": Command("the loss of a checkpoint on a data set, and its accuracy on HellaSwag", evaluate),
    "lm-eval": Command("lm-evaluation-harness on an exported model or a checkpoint", module("llmc.harness")),
    "info": Command("what a checkpoint holds", info),
    "check": Command("coordinate check: is the parametrization right?", check),
    "report": Command("one HTML page about runs, checks and sweeps", module("llmc.report.command")),
    "verdict": Command("the verdict on CSVs of a coordinate check, without figures", module("llmc.mup.check_report")),
    "sweep": Command("sweep a hyperparameter over model sizes", sweep),
    "transfer": Command("does the learning rate transfer from small to wide models?", transfer),
}


def usage(prog: str, summaries: dict[str, str]) -> str:
    lines = [f"usage: {prog} COMMAND ...", ""]
    lines += [f"  {name:<16}{summary}" for name, summary in summaries.items()]
    return "\n".join([*lines, "", f"{prog} COMMAND --help shows the options of a command."])


def choose(prog: str, commands: dict[str, Command], groups: dict[str, dict[str, Command]], argv: list[str]) -> int:
    """Runs the command named by the first word; the second word names a command of a group."""
    summaries = {name: f"{GROUP_SUMMARIES[name]}: {', '.join(group)}" for name, group in groups.items()}
    summaries |= {name: command.summary for name, command in commands.items()}
    if not argv or argv[0] in ("-h", "--help"):
        print(usage(prog, summaries))
        return ExitCode.DONE if argv else ExitCode.USAGE
    name, rest = argv[0], argv[1:]
    if name in groups:
        return choose(f"{prog} {name}", groups[name], {}, rest)
    if name not in commands:
        raise UsageError(f"there is no command {prog} {name}: choose {', '.join(summaries)}")
    return commands[name].run(rest, f"{prog} {name}")


def main(argv: list[str]) -> int:
    return choose("llmc", COMMANDS, GROUPS, argv)


def entry() -> NoReturn:
    """Called by the installed command and by `python -m llmc`."""
    argv = sys.argv[1:]
    run_main(lambda: main(argv), os_error=ExitCode.DATA if argv[:1] == ["data"] else ExitCode.FAILED)
