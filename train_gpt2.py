"""train_gpt2.py: the PyTorch reference of train_gpt2 (C++). Trains a GPT-2 under the standard or a maximal update
parametrization. Same options, same files in and out (doc/formats.md), same numbers up to rounding. One file, in order:
errors, schemes, options, random numbers, parametrization, model, data, optimizer, checkpoints, text, coordinate check,
trainer, main.

    python train_gpt2.py --train-data 'data/*_train_*.bin' --parametrization mup --base-width 256 --out runs/a
    torchrun --nproc-per-node 8 train_gpt2.py ...          # data parallel
    python train_gpt2.py sample runs/a --prompt "def "

On the CPU, equal inputs and an equal number of threads give equal bits, also across --resume. On a GPU, PyTorch's flash
attention adds its gradients in no fixed order.
"""

import argparse
import contextlib
import functools
import glob
import json
import math
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

# ----------------------------------------------------------------------------------------------------------------------
# Errors. Each says what is wrong, names the value and what to do; its class decides the exit code.

FAILURE, USAGE, DATA, DIVERGED = 1, 2, 3, 4  # 0: done; 128 + signal: stopped by it, after saving


class Error(Exception):
    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def check(condition, code, message):
    if not condition:
        raise Error(code, message)


# ----------------------------------------------------------------------------------------------------------------------
# Schemes: how a tensor's numbers follow the width, as powers of m = width / base width by the tensor's role. The weight
# that acts is A w with w ~ N(0, (B std)^2), learning rate C lr, Adam's epsilon E eps.

#               A    B    C of AdamW, of SGD    E
TABLE_8 = {
    "input": (0.0, 0.0, 0.0, 1.0, -1.0),  # wte, wpe
    "hidden": (0.0, -0.5, -1.0, 0.0, -1.0),  # a block's matrices
    "output": (-1.0, 0.0, 0.0, 1.0, -1.0),  # the head
    "vector": (0.0, 0.0, 0.0, 1.0, -1.0),  # biases, and layer norm gains, which start at B
}
MIDDLE = (0.5, -0.5, -0.5, 0.0, -0.5)


class Scheme(NamedTuple):
    powers: dict | None  # None: absolute numbers, unit_rule below
    based: bool = True  # is relative to a base model
    deep: bool = False  # follows the depth too
    tie: bool = False  # head tied by default
    may_tie: bool = True
    zero_init: bool = True  # of queries and an untied head, by default
    grad_clip: float = 1.0  # by default


SCHEMES = {
    "sp": Scheme(dict.fromkeys(TABLE_8, (0.0,) * 5), based=False, tie=True, zero_init=False),
    # Yang, Hu et al., "Tensor Programs V", arXiv 2203.03466: Table 8, and the same function in two other coordinates
    "mup": Scheme(TABLE_8),
    "mup-table3": Scheme(TABLE_8 | {"output": (0.0, -1.0, -1.0, -1.0, 0.0)}, may_tie=False),
    "mup-table9": Scheme(TABLE_8 | {"input": MIDDLE, "vector": MIDDLE, "output": (-0.5, -0.5, -0.5, 0.0, -0.5)}),
    "completep": Scheme(TABLE_8, deep=True),  # Dey et al., arXiv 2505.01618
    "u-mup": Scheme(None, based=False, may_tie=False, zero_init=False, grad_clip=0.0),  # Blake et al., arXiv 2407.17465
}
UNIT_MULTS = ("ffn-act-mult", "attn-softmax-mult", "residual-mult", "residual-attn-ratio", "loss-softmax-mult")

# ----------------------------------------------------------------------------------------------------------------------
# Options: (name, type, default, what is allowed, help). Allowed: a unit; a list of choices; or (low, high, unit).

ANY, MANY = math.inf, 2**60
# Depth, width, heads, positions. Radford et al. 2019; Brown et al. 2020, Table 2.1 (13B: 5120 for the paper's 5140).
PRESETS = {
    "gpt2": (12, 768, 12, 1024),
    "gpt2-medium": (24, 1024, 16, 1024),
    "gpt2-large": (36, 1280, 20, 1024),
    "gpt2-xl": (48, 1600, 25, 1024),
    "gpt3-125m": (12, 768, 12, 2048),
    "gpt3-350m": (24, 1024, 16, 2048),
    "gpt3-760m": (24, 1536, 16, 2048),
    "gpt3-1.3b": (24, 2048, 16, 2048),
    "gpt3-2.7b": (32, 2560, 32, 2048),
    "gpt3-6.7b": (32, 4096, 32, 2048),
    "gpt3-13b": (40, 5120, 40, 2048),
}
OPTIONS = {
    "Data": [
        ("train-data", str, "", "GLOB", "token shards to train on (dev/data/*.py make them)"),
        ("val-data", str, "", "GLOB", "token shards to evaluate on; without it nothing is evaluated"),
        ("tokenizer", str, "auto", ["auto", "byte", "gpt2"], "how tokens become text; auto: as the shards say"),
        ("shuffle", bool, True, "", "visit shards and windows in random order (--no-shuffle: file order)"),
        (
            "overfit-single-batch",
            bool,
            False,
            "",
            "train on the first batch in file order only, to see the loss go to 0",
        ),
    ],
    "Model": [
        (
            "preset",
            str,
            "",
            list(PRESETS),
            "depth, width, heads, sequence length of a published model; options below override it",
        ),
        (
            "init",
            str,
            "",
            "CHECKPOINT",
            "start from the weights of this checkpoint (folder, .safetensors, or llm.c .bin)",
        ),
        ("depth", int, 12, (1, 10000, "BLOCKS"), "transformer blocks"),
        ("width", int, 768, (1, 1000000, "CHANNELS"), "channels of the residual stream"),
        ("heads", int, 12, (1, 1000000, "HEADS"), "attention heads; must divide the width"),
        ("head-dim", int, 0, (0, 1000000, "CHANNELS"), "head size, instead of --heads"),
        ("seq-len", int, 1024, (1, 10000000, "TOKENS"), "tokens per sequence, and learned positions of a new model"),
        ("vocab-size", int, 0, (0, 2**30, "TOKENS"), "vocabulary; 0: as the training data says"),
        ("tie-embeddings", bool, None, "", "head shares wte's weights [on for sp, else off]"),
    ],
    "Batch and length": [
        ("batch-size", int, 4, (1, 1000000, "SEQUENCES"), "sequences per micro-batch (and rank)"),
        (
            "total-batch-size",
            int,
            0,
            (0, MANY, "TOKENS"),
            "tokens per optimizer step, a multiple of batch size x sequence length; 0: one micro-batch",
        ),
        (
            "steps",
            int,
            -1,
            (-1, MANY, "STEPS"),
            "optimizer steps to run; 0 writes the initial checkpoint; -1: one epoch",
        ),
        ("tokens", int, -1, (-1, MANY, "TOKENS"), "length of the run in tokens, instead of --steps"),
        ("epochs", float, -1.0, (-1, 1e9, "EPOCHS"), "length of the run in passes over the data, instead of --steps"),
        ("dtype", str, "fp32", ["fp32", "bf16"], "weights and activations; bf16 keeps fp32 master weights"),
        (
            "recompute",
            str,
            "none",
            ["none", "gelu", "block"],
            "what the backward pass computes again instead of keeping it: less memory, more time",
        ),
        ("rounding", str, "nearest", ["nearest", "stochastic"], "of bf16 weights from their masters"),
    ],
    "Parametrization (mup.md)": [
        (
            "parametrization",
            str,
            "sp",
            list(SCHEMES),
            "how init, learning rates and multipliers follow width and depth",
        ),
        (
            "base-width",
            int,
            0,
            (0, 1000000, "CHANNELS"),
            "width at which the scheme is the standard parametrization "
            "(all but sp and u-mup need it); width_mult = width / base width",
        ),
        ("base-heads", int, 0, (0, 1000000, "HEADS"), "heads of the base model [what keeps the head size]"),
        ("base-depth", int, 0, (0, 10000, "BLOCKS"), "completep: depth at which it is the standard parametrization"),
        (
            "depth-alpha",
            float,
            1.0,
            (0.5, 1, "EXPONENT"),
            "completep: residual branches are multiplied by (depth / base depth)^-alpha",
        ),
        (
            "attn-mult",
            float,
            None,
            (0, ANY, "FACTOR"),
            "attention logits = attn_mult / head_dim * q.k [sqrt of the base head size]",
        ),
        ("output-mult", float, 1.0, (0, ANY, "FACTOR"), "multiplies the logits"),
        ("embed-mult", float, 1.0, (0, ANY, "FACTOR"), "multiplies the sum of the embeddings"),
        ("init-std", float, 0.02, (0, ANY, "STD"), "of every weight at the base width"),
        ("zero-init-query", bool, None, "", "start the query weights at 0 [off for sp and u-mup, else on]"),
        ("zero-init-head", bool, None, "", "start an untied head at 0 [off for sp and u-mup, else on]"),
        ("scale-eps", bool, True, "", "the scheme scales Adam's epsilon too"),
        ("ffn-act-mult", float, 1.0, (0, ANY, "FACTOR"), "u-mup: gelu(x) becomes gelu(mult x) / mult"),
        ("attn-softmax-mult", float, 1.0, (0, ANY, "FACTOR"), "u-mup: attention logits = mult / head_dim * q.k"),
        ("residual-mult", float, 1.0, (0, ANY, "FACTOR"), "u-mup: all branches against the embedding"),
        ("residual-attn-ratio", float, 1.0, (0, ANY, "FACTOR"), "u-mup: attention branches against the MLPs'"),
        ("loss-softmax-mult", float, 1.0, (0, ANY, "FACTOR"), "u-mup: multiplies the logits in the loss"),
    ],
    "Optimizer": [
        ("optimizer", str, "adamw", ["adamw", "sgd"], "the update rule"),
        ("lr", float, 3e-4, (0, ANY, "RATE"), "peak learning rate of the base model"),
        ("warmup-steps", int, 0, (0, MANY, "STEPS"), "linear warm-up"),
        (
            "schedule",
            str,
            "cosine",
            ["cosine", "linear", "constant", "wsd"],
            "after the warm-up; wsd: constant, then 1-sqrt over the last fifth",
        ),
        ("final-lr-frac", float, 0.0, (0, 1, "FRACTION"), "learning rate at the end, as a part of the peak"),
        ("weight-decay", float, 0.0, (0, ANY, "LAMBDA"), "of matrices and embeddings (not of biases and layer norms)"),
        (
            "weight-decay-mode",
            str,
            "scaled",
            ["scaled", "independent"],
            "scaled: lr x lambda alike at every width; independent: schedule x lambda, not x lr",
        ),
        ("beta1", float, 0.9, (0, 0.999999999, ""), "AdamW, first moment"),
        ("beta2", float, 0.95, (0, 0.999999999, ""), "AdamW, second moment"),
        ("eps", float, 1e-8, (0, ANY, ""), "AdamW, of the base model"),
        ("momentum", float, 0.9, (0, 0.999999999, ""), "SGD"),
        (
            "grad-clip",
            float,
            None,
            (0, ANY, "NORM"),
            "largest global gradient norm; 0: no clipping [1; 0 for u-mup, "
            "whose gradients have unit scale tensor by tensor]",
        ),
        (
            "skip-loss-zscore",
            float,
            0.0,
            (0, ANY, "Z"),
            "skip updates whose loss is this many deviations above the last 128; 0: never",
        ),
        ("skip-grad-zscore", float, 0.0, (0, ANY, "Z"), "the same for the gradient norm; 0: never"),
    ],
    "Evaluation and samples": [
        (
            "eval-every",
            int,
            100,
            (0, MANY, "STEPS"),
            "validate at every so many steps and at the end; 0: at the end only",
        ),
        ("eval-batches", int, 20, (0, MANY, "BATCHES"), "validation batches; 0: all of --val-data"),
        ("sample-every", int, 0, (0, MANY, "STEPS"), "generate text at every so many steps and at the end; 0: never"),
        ("prompt", str, "", "TEXT", "text to continue; empty: start of a document"),
        ("temperature", float, 0.8, (0, 1000, ""), "0: always the likeliest token"),
        ("top-k", int, 0, (0, 2**30, "K"), "choose among the k likeliest tokens; 0: all"),
        ("sample-tokens", int, 256, (1, 2**30, "TOKENS"), "length of a sample"),
    ],
    "Output": [
        ("out", str, "", "FOLDER", "folder for log.jsonl and checkpoints; without it nothing is written"),
        ("overwrite", bool, False, "", "delete an earlier run's log and checkpoints in --out"),
        ("resume", bool, False, "", "go on from the newest checkpoint in --out; start afresh where there is none"),
        (
            "checkpoint-every",
            int,
            0,
            (0, MANY, "STEPS"),
            "checkpoint at every so many steps and at the end; 0: at the end only",
        ),
        ("keep", int, 2, (1, 2**30, "COUNT"), "checkpoints that stay"),
        (
            "coord-check",
            str,
            "",
            "FILE",
            "write size and change of every activation, parameter and gradient at every "
            "step to this CSV; needs --overfit-single-batch",
        ),
        ("profile", bool, False, "", "print where the time of the steps goes, without the first: PyTorch's profiler"),
    ],
    "Machine": [
        ("seed", int, 42, (0, 2**64 - 1, "SEED"), "of initial weights, data order, rounding and samples"),
        ("threads", int, 0, (0, 4096, "THREADS"), "CPU threads; 0: one per core"),
        ("device", str, "auto", ["auto", "cpu", "cuda"], "where to compute; auto: cuda if there is one"),
        ("compile", bool, False, "", "torch.compile the forward and backward pass"),
    ],
}
BY_NAME = {option[0]: option for group in OPTIONS.values() for option in group}
SAMPLE_OPTIONS = ["prompt", "temperature", "top-k", "sample-tokens", "seed", "threads", "device", "tokenizer"]


def parse_value(name, raw):
    """The value of one option, from the command line (text) or a TOML file (any type)."""
    _, kind, default, allowed, _ = BY_NAME[name]
    if kind is bool:
        check(isinstance(raw, bool), USAGE, f"--{name}: '{raw}' is not true or false")
        return raw
    try:
        check(
            not isinstance(raw, bool) and (kind is not str or isinstance(raw, str)),
            USAGE,
            f"--{name}: {raw!r} is no {kind.__name__}",
        )
        value = kind(raw) if kind is not int or isinstance(raw, int) else int(str(raw))
    except ValueError:
        raise Error(USAGE, f"--{name}: '{raw}' is not {'a whole number' if kind is int else 'a number'}") from None
    if isinstance(allowed, list):
        check(value in allowed or value == default, USAGE, f"--{name}: '{value}' is not one of {'|'.join(allowed)}")
    elif isinstance(allowed, tuple):
        low, high, _ = allowed
        check(
            not math.isnan(value) and low <= value <= high,
            USAGE,
            f"--{name}: '{raw}' is out of range: "
            + (f"at least {low}" if high >= 1e9 else f"between {low} and {high}"),
        )
    return value


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Error(USAGE, f"{message}; --help lists the options")


def add_options(parser, names=None):
    for group, options in OPTIONS.items():
        shown = [option for option in options if names is None or option[0] in names]
        section = parser.add_argument_group(group) if shown else None
        for name, kind, default, allowed, text in shown:
            if kind is bool:
                text += "" if default is None else f" [{'on' if default else 'off'}]"
                section.add_argument(
                    f"--{name}", help=text, default=argparse.SUPPRESS, action=argparse.BooleanOptionalAction
                )
            else:
                unit = allowed[2] if isinstance(allowed, tuple) else allowed
                unit = "|".join(unit) if isinstance(unit, list) else unit or "NUMBER"
                text += "" if default in (None, "") else f" [{default}]"
                section.add_argument(f"--{name}", help=text, metavar=unit, default=argparse.SUPPRESS)


def read_config_file(path):
    try:
        import tomllib
    except ImportError:  # Python 3.10
        try:
            import tomli as tomllib
        except ImportError:
            raise Error(USAGE, "--config needs Python 3.11 or newer, or 'pip install tomli'") from None
    try:
        table = tomllib.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise Error(USAGE, f"--config {path} cannot be read: {error}") from None
    names = {key.replace("_", "-"): value for key, value in table.items()}
    for name in names:
        check(name in BY_NAME, USAGE, f"unknown key in the config file {path}: '{name}'; --help lists the options")
    return names


def parse_args(argv=None):
    """Options from defaults < preset < --config file < command line. `given`: the names set by the last two."""
    argv = list(sys.argv[1:] if argv is None else argv)
    sampling = argv[:1] == ["sample"]
    parser = Parser(
        prog="train_gpt2.py" + (" sample" if sampling else ""),
        allow_abbrev=False,
        description="Trains a GPT-2 with a maximal update parametrization (muP), in PyTorch; "
        "'train_gpt2.py sample CHECKPOINT' generates text from a checkpoint.",
        formatter_class=functools.partial(argparse.HelpFormatter, max_help_position=46, width=140),
    )
    if sampling:
        parser.add_argument(
            "checkpoint", metavar="CHECKPOINT", help="checkpoint folder, .safetensors file, or a run's --out"
        )
    else:
        parser.add_argument(
            "--version", action="version", version=f"llmc-mup train_gpt2.py, PyTorch {torch.__version__}"
        )
        parser.add_argument("--config", metavar="FILE", help="read options from a TOML file; the command line wins")
        parser.add_argument("--print-config", action="store_true", help="print the resolved options as TOML and exit")
        parser.add_argument(
            "--dry-run", action="store_true", help="print shapes, tokens and the rule of every tensor, and exit"
        )
    add_options(parser, SAMPLE_OPTIONS if sampling else None)
    flags = vars(parser.parse_args(argv[1:] if sampling else argv))
    extra = {key: flags.pop(key, None) for key in ("checkpoint", "config", "print_config", "dry_run")}
    given = read_config_file(extra["config"]) if extra["config"] else {}
    given |= {key.replace("_", "-"): value for key, value in flags.items()}
    given = {name: parse_value(name, value) for name, value in given.items()}

    values = {name: option[2] for name, option in BY_NAME.items()}
    if given.get("preset"):
        values |= dict(zip(("depth", "width", "heads", "seq-len"), PRESETS[given["preset"]], strict=True))
    args = argparse.Namespace(
        **{name.replace("-", "_"): value for name, value in (values | given).items()}, **extra, given=set(given)
    )
    if not sampling:
        validate(args)
    if args.print_config:
        print(to_toml(args), end="")
        raise SystemExit(0)
    return args


def validate(args):
    """What no single option can see; fills in what follows from other options."""
    for pair in (("heads", "head-dim"), ("steps", "tokens"), ("steps", "epochs"), ("tokens", "epochs")):
        check(not set(pair) <= args.given, USAGE, f"--{pair[0]} excludes --{pair[1]}: give one of the two")
    args.source = str((args.resume and newest_checkpoint(args.out)) or args.init)  # of the initial weights
    if args.source:
        take_shape(args, open_checkpoint(args.source))
    if args.head_dim:
        check(
            args.width % args.head_dim == 0, USAGE, f"--head-dim {args.head_dim} does not divide --width {args.width}"
        )
        args.heads = args.width // args.head_dim
    check(
        args.width % args.heads == 0,
        USAGE,
        f"--heads {args.heads} does not divide --width {args.width}; choose a divisor",
    )
    args.head_dim = args.width // args.heads
    if not args.source:
        args.max_seq_len = args.seq_len
    check_scheme(args)
    base_shape(args)
    check(
        not (args.zero_init_head and args.tie_embeddings),
        USAGE,
        "--zero-init-head with tied embeddings would start "
        "all token embeddings at zero: add --no-tie-embeddings, or drop it",
    )
    micro = args.batch_size * args.seq_len * world_size()
    args.total_batch_size = args.total_batch_size or micro
    times = args.total_batch_size // micro
    check(
        args.total_batch_size == micro * times,
        USAGE,
        f"--total-batch-size {args.total_batch_size} is not a "
        f"multiple of --batch-size x --seq-len x ranks = {micro} tokens; the nearest are {max(1, times) * micro} and "
        f"{(times + 1) * micro}",
    )
    check(args.out or not args.resume, USAGE, "--resume needs --out, the folder of the run to go on with")
    check(
        not (args.resume and args.overwrite),
        USAGE,
        "--resume and --overwrite contradict each other: keep the earlier run, or delete it?",
    )
    check(
        args.out or not args.checkpoint_every,
        USAGE,
        f"--checkpoint-every {args.checkpoint_every} needs --out, a folder to write to",
    )
    if args.coord_check:
        check_coord_check(args)


def check_scheme(args):
    """Refuses options that have no meaning under the scheme, and fills in its defaults."""
    scheme, under = SCHEMES[args.parametrization], f"under --parametrization {args.parametrization}"
    if args.tie_embeddings is None:
        args.tie_embeddings = scheme.tie
    if args.grad_clip is None:
        args.grad_clip = scheme.grad_clip
    check(
        scheme.may_tie or not args.tie_embeddings,
        USAGE,
        f"tied embeddings have no meaning {under}, whose embedding "
        "and head follow different rules: give --no-tie-embeddings, or choose mup",
    )
    check(
        args.base_depth or not scheme.deep,
        USAGE,
        f"--parametrization {args.parametrization} needs --base-depth: "
        "the depth at which your learning rate was tuned (equal to --depth for the base model itself)",
    )
    check(
        scheme.deep or not args.base_depth,
        USAGE,
        f"--base-depth {args.base_depth} has no meaning {under}: leave it out, or choose completep",
    )
    check(
        scheme.deep or args.depth_alpha == 1,
        USAGE,
        f"--depth-alpha {args.depth_alpha:g} has no meaning {under}: leave it out, or choose completep",
    )
    relative = scheme.powers is not None
    for name in UNIT_MULTS:
        value = getattr(args, name.replace("-", "_"))
        check(0 < value < ANY, USAGE, f"--{name} {value:g} is out of range: give a number above 0")
        check(
            value == 1 or not relative,
            USAGE,
            f"--{name} {value:g} has no meaning {under}: leave it out, or choose u-mup",
        )
    for name in ("attn-mult", "output-mult", "embed-mult", "init-std"):
        value = getattr(args, name.replace("-", "_"))
        check(
            relative or value == BY_NAME[name][2],
            USAGE,
            f"--{name} {value} has no meaning {under}, which has "
            f"multipliers of its own (--{', --'.join(UNIT_MULTS)}): leave it out",
        )


def check_coord_check(args):
    check(
        args.overfit_single_batch,
        USAGE,
        f"--coord-check {args.coord_check} needs the same tokens at every step: add --overfit-single-batch",
    )
    check(not args.resume, USAGE, "--coord-check excludes --resume: changes are measured from the initial model")
    check(
        not args.compile, USAGE, "--coord-check excludes --compile: what was compiled does not announce its activations"
    )
    micro = args.batch_size * args.seq_len
    check(
        args.total_batch_size == micro,
        USAGE,
        f"--coord-check needs one micro-batch a step on one rank, {micro} "
        f"tokens, not --total-batch-size {args.total_batch_size}: raise --batch-size instead",
    )


def options_dict(args):
    """All options by their long name with underscores, as the log and checkpoints keep them."""
    return {key: getattr(args, key) for key in (name.replace("-", "_") for name in BY_NAME) if key != "head_dim"}


def to_toml(args):
    unset = {key for key, value in options_dict(args).items() if value is None or value == ""}
    unset |= {key for key in ("steps", "tokens", "epochs") if getattr(args, key) < 0}  # they exclude each other
    return "".join(
        f"{key.replace('_', '-')} = {json.dumps(value)}\n"
        for key, value in options_dict(args).items()
        if key not in unset
    )


# ----------------------------------------------------------------------------------------------------------------------
# Random numbers: Philox4x32-10, a function of (seed, purpose, stream, index) and of nothing else.

INIT, SHARD_ORDER, WINDOW_ORDER, ROUNDING, SAMPLING = 1, 2, 3, 4, 5  # purposes
MASK = 0xFFFFFFFF


def philox(counter, key):
    """Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.

    counter: four, key: two 32-bit numbers. Works alike on Python ints, numpy uint64 and torch int64 (whose products
    wrap: the masks undo the sign).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def draw(seed, purpose, stream, index):
    return philox((index & MASK, index >> 32, purpose, stream), (seed & MASK, seed >> 32))


def stream_of(name):
    """FNV-1a, 32 bits: a tensor's values do not depend on which other tensors exist."""
    value = 2166136261
    for byte in name.encode():
        value = ((value ^ byte) * 16777619) & MASK
    return value


def uniform(x):
    return (x + 0.5) / 2**32  # in (0, 1), neither 0 nor 1


def normals(seed, name, count):
    """The first `count` standard normals of a tensor, by Box-Muller in double. In pieces that fit the cache."""
    out = np.empty((-(-count // 4), 4))
    for begin in range(0, len(out), 1 << 15):
        index = np.arange(begin, min(begin + (1 << 15), len(out)), dtype=np.uint64)
        x = [uniform(bits.astype(np.float64)) for bits in draw(seed, INIT, stream_of(name), index)]
        for i in (0, 2):
            radius, angle = np.sqrt(-2 * np.log(x[i])), 2 * math.pi * x[i + 1]
            out[begin : begin + len(index), i] = radius * np.cos(angle)
            out[begin : begin + len(index), i + 1] = radius * np.sin(angle)
    return out.reshape(-1)[:count]


def random_order(count, seed, purpose, stream):
    x0, x1, _, _ = draw(seed, purpose, stream & MASK, np.arange(count, dtype=np.uint64))
    return np.argsort(x0 | (x1 << np.uint64(32)), kind="stable")


def stochastic_bf16(master, seed, name, step):
    """bf16 neighbours of fp32 values, the upper with probability equal to the discarded fraction."""
    index = torch.arange(-(-master.numel() // 4), device=master.device) + (step << 40)
    bits = (
        torch.stack(draw(seed, ROUNDING, stream_of(name), index), 1).view(-1)[: master.numel()].view(master.shape)
        & 0xFFFF
    )
    raised = ((master.view(torch.int32) + bits.int()) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(master.isfinite(), raised, master.bfloat16())  # inf and NaN have no neighbour


# ----------------------------------------------------------------------------------------------------------------------
# Parametrization: (scheme, role of the tensor, shape) -> init, multipliers of both passes, learning rate, decay, eps.


def base_shape(config):
    """Width and head size of the base model, at which the scheme is the standard parametrization."""
    if not SCHEMES[config.parametrization].based:
        check(
            not (config.base_width or config.base_heads),
            USAGE,
            "--base-width and --base-heads have no meaning "
            f"under --parametrization {config.parametrization}: leave them out, or choose mup",
        )
        return config.width, config.head_dim
    check(
        config.base_width,
        USAGE,
        f"--parametrization {config.parametrization} needs --base-width: the width at "
        "which your learning rate was tuned (equal to --width for the base model itself)",
    )
    heads = config.base_heads
    if not heads:  # what keeps the head size
        heads, rest = divmod(config.base_width, config.head_dim)
        check(
            rest == 0,
            USAGE,
            f"the head size {config.head_dim} does not divide --base-width {config.base_width}: give --base-heads",
        )
    check(
        config.base_width % heads == 0, USAGE, f"--base-heads {heads} does not divide --base-width {config.base_width}"
    )
    return config.base_width, config.base_width // heads


def tensor_shapes(config):
    """(name, role, shape) of every tensor, in the order of the files."""
    C, V = config.width, config.vocab_size
    out = [("wte.weight", "input", [V, C]), ("wpe.weight", "input", [config.max_seq_len, C])]
    for i in range(config.depth):
        for name, shape in (
            ("ln_1", [C]),
            ("attn.c_attn", [3 * C, C]),
            ("attn.c_proj", [C, C]),
            ("ln_2", [C]),
            ("mlp.c_fc", [4 * C, C]),
            ("mlp.c_proj", [C, 4 * C]),
        ):
            out.append((f"h.{i}.{name}.weight", "hidden" if len(shape) == 2 else "vector", shape))
            out.append((f"h.{i}.{name}.bias", "vector", shape[:1]))
    out += [("ln_f.weight", "vector", [C]), ("ln_f.bias", "vector", [C])]
    return out if config.tie_embeddings else [*out, ("lm_head.weight", "output", [V, C])]


class Rule(NamedTuple):
    """One tensor's numbers: init std and mean; multipliers of the forward pass, of the gradient that goes on and of its
    own gradient; factors of lr; what divides lambda in the mode "scaled"; eps."""

    std: float
    mean: float
    multiplier: float
    dinp: float
    dweight: float
    rate: float
    decay: float
    eps: float


def times_power(value, m, exponent):
    """value * m^exponent, dividing where the exponent is negative: exact for powers of 2, and at m = 1 the value."""
    power = {0.0: 1.0, 0.5: math.sqrt(m), 1.0: m}[abs(exponent)]
    return value * power if exponent > 0 else value / power


def relative_rule(config, m, depth_mult, name, role):
    """The rule of a scheme that is a table of powers of m. CompleteP's depth rule acts on what is inside a block."""
    a, b, c_adamw, c_sgd, e = SCHEMES[config.parametrization].powers[role]
    adamw, alpha, inside = config.optimizer == "adamw", config.depth_alpha, name.startswith("h.")
    std = 0.0 if role == "vector" else times_power(config.init_std, m, b)
    if name.endswith("c_proj.weight"):  # GPT-2's, and alike at all depths where the branches are scaled
        std /= math.sqrt(2 * (config.base_depth or config.depth))
    multiplier = times_power(config.output_mult if role == "output" else 1.0, m, a)
    width_rate = times_power(1.0, m, c_adamw if adamw else c_sgd)
    depth_rate = depth_mult ** (alpha - 1 if adamw else 2 * alpha - 1) if inside else 1.0
    eps = times_power(config.eps, m, e) * (depth_mult**-alpha if inside else 1.0) if config.scale_eps else config.eps
    gain = role == "vector" and name.endswith("weight")
    return Rule(
        std,
        times_power(1.0, m, b) if gain else 0.0,
        multiplier,
        multiplier,
        multiplier,
        width_rate * depth_rate,
        width_rate,
        eps,
    )


def relative_scales(config, m, base_head_dim, depth_mult):
    """Factors of the forward pass; the backward pass is its derivative. Attention logits are attn_mult / head_dim q.k
    with attn_mult = sqrt(base head size), so that the base model is exactly sp."""
    powers = SCHEMES[config.parametrization].powers
    embedding = times_power(config.embed_mult, m, powers["input"][0])
    output = times_power(config.output_mult, m, powers["output"][0])
    attn_mult = math.sqrt(base_head_dim) if config.attn_mult is None else config.attn_mult
    branch = depth_mult**-config.depth_alpha
    return {
        "embedding": embedding,
        "wte_grad": embedding,
        "wpe_grad": embedding,
        "attention": attn_mult / config.head_dim,
        "attention_out": 1.0,
        "gelu": 1.0,
        "loss": 1.0,
        "loss_grad": 1.0,
        "output": output,
        "output_dinp": output,
        "output_dweight": output,
        "residual": [[1.0, branch, 1.0, branch, 1.0]] * (2 * config.depth),
    }


def gelu_rms(mult):
    """Root mean square of gelu(mult z) / mult, z standard normal."""
    z = np.linspace(-12, 12, 4001)
    x = mult * z
    y = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / mult
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return math.sqrt((y * y * density).sum() * (z[1] - z[0]))  # trapezoids: the ends are 0


def unit_rule(config, name, role, shape):
    """u-muP: weights, activations and gradients have unit scale at the start, whatever the shape. The factors of the
    backward pass are its own: they are constant per tensor, to which Adam does not respond."""
    d, inside = config.width, config.depth**-0.5 if name.startswith("h.") else 1.0
    own = 1 / math.sqrt(config.total_batch_size)  # gradients of weights are sums over the tokens
    fan_in = 4 * d if "mlp.c_proj" in name else d
    std, mean, dinp = 1.0, 0.0, None
    if role == "input":
        multiplier, own, rate = 1.0, 1.0, d**-0.5
    elif role == "hidden":
        carried = 1 / gelu_rms(config.ffn_act_mult) if "mlp.c_proj" in name else 1.0  # the activation's unit scale
        multiplier, own, rate = carried * fan_in**-0.5, carried * own, inside * fan_in**-0.5
        dinp = carried * (shape[0] if "mlp" in name else fan_in) ** -0.5
    elif role == "output":
        multiplier, dinp, rate = 1 / d, config.vocab_size**-0.5, 1.0
    elif "ln_" in name:
        std, mean, multiplier, rate = 0.0, float(name.endswith("weight")), 1.0, inside * d**-0.5
    else:
        std, multiplier, rate = 0.0, fan_in**-0.5, inside
    return Rule(std, mean, multiplier, multiplier if dinp is None else dinp, own, rate, rate, config.eps)


def unit_scales(config):
    """u-muP's factors of both passes."""
    d, V, S, tokens = config.width, config.vocab_size, config.seq_len, config.total_batch_size
    softmax = config.attn_softmax_mult
    a = 1 / (1 + 4 * config.head_dim / softmax**2)  # 1: one key gets all attention; 0: all get the same
    attention_std = math.exp((1 - a) * math.log(math.sqrt(math.log(S) / S))) if S > 1 else 1.0
    a_mlp = config.residual_mult * math.sqrt(2 / (1 + config.residual_attn_ratio**2))
    a_attn = config.residual_attn_ratio * a_mlp
    residual = []
    for i in range(2 * config.depth):  # attention, mlp, attention, ...
        before = config.depth + (i + 1) // 2 * a_attn**2 + i // 2 * a_mlp**2
        tau2 = (a_mlp if i % 2 else a_attn) ** 2 / before
        skip, branch = 1 / math.sqrt(1 + tau2), math.sqrt(tau2 / (1 + tau2))
        residual.append([skip, branch, skip, 1.0, branch])
    return {
        "embedding": 2**-0.5,
        "wte_grad": math.sqrt(V / tokens),
        "wpe_grad": math.sqrt(S / tokens),
        "attention": softmax / config.head_dim,
        "attention_out": 1 / attention_std,
        "gelu": config.ffn_act_mult,
        "loss": config.loss_softmax_mult,
        "loss_grad": tokens * V / math.sqrt(max(1, V - 1)) / config.loss_softmax_mult,
        "output": 1 / d,
        "output_dinp": V**-0.5,
        "output_dweight": tokens**-0.5,
        "residual": residual,
    }


def parametrization(config):
    """The rule of every tensor and the factors of both passes, as a plain JSON table. What the numbers do:

        x0 = embedding (wte[token] + wpe[t])          dwte = wte_grad sum dx0, dwpe = wpe_grad sum dx0
        y = multiplier x W^T + (bias's) multiplier b  dx = dinp dy W, dW = dweight dy^T x, db = (bias's) dweight sum dy
        y = skip x + branch f(x)                      dskip on the stream's gradient; the branch's: dbranch where it
                                                      enters f (at its end), dsplit where it leaves f
        attention_out softmax(attention q k^T) v,  gelu(gelu x) / gelu,  cross entropy(loss output_multiplier ln_f W^T),
        whose gradient is multiplied by loss_grad

    Weight decay "scaled": lambda / (the rate's factor of the width), so that rate x decay, a step's shrink, is alike
    everywhere; "independent": schedule x lambda.
    """
    scheme = SCHEMES[config.parametrization]
    base_width, base_head_dim = base_shape(config)
    base_depth = config.base_depth or config.depth
    m, depth_mult = config.width / base_width, config.depth / base_depth
    zero_query = scheme.zero_init if config.zero_init_query is None else config.zero_init_query
    zero_head = scheme.zero_init if config.zero_init_head is None else config.zero_init_head
    tensors = []
    for name, role, shape in tensor_shapes(config):
        rule = (
            relative_rule(config, m, depth_mult, name, role) if scheme.powers else unit_rule(config, name, role, shape)
        )
        decay = 0.0 if role == "vector" else config.weight_decay
        tensors.append(
            {
                "name": name,
                "role": role,
                "shape": shape,
                "init_mean": rule.mean,
                "init_std": 0.0 if role == "output" and zero_head else rule.std,
                # rows: width of queries, of keys, of values
                "zero_rows": config.width if zero_query and "c_attn.weight" in name else 0,
                "multiplier": as_float32(rule.multiplier),
                "dinp_multiplier": as_float32(rule.dinp),
                "dweight_multiplier": as_float32(rule.dweight),
                "lr": config.lr * rule.rate,
                "weight_decay": decay / rule.decay if config.weight_decay_mode == "scaled" else decay,
                "eps": rule.eps if config.optimizer == "adamw" else 0.0,
            }
        )
    scales = relative_scales(config, m, base_head_dim, depth_mult) if scheme.powers else unit_scales(config)
    return {
        "scheme": config.parametrization,
        "base_width": base_width,
        "base_head_dim": base_head_dim,
        "width_mult": m,
        "base_depth": base_depth,
        "depth_mult": depth_mult,
        "tensors": tensors,
        "scales": {key: as_float32(value) for key, value in scales.items()},
    }


def as_float32(value):
    """The number that C++ computes with; also of lists."""
    return [as_float32(v) for v in value] if isinstance(value, list) else float(np.float32(value))


# Factors that --dry-run names where they are not the ordinary ones: (title, what else is ordinary; None: 1)
FORWARD_FACTORS = {"attention_out": ("attention output", None), "gelu": ("gelu", None), "loss": ("loss logits", None)}
GRADIENT_FACTORS = {
    "loss_grad": ("loss", None),
    "output_dinp": ("head's input", "output"),
    "output_dweight": ("head", "output"),
    "wte_grad": ("wte", "embedding"),
    "wpe_grad": ("wpe", "embedding"),
}


def rule_table(rules):
    """The table for people, as --dry-run prints it."""
    scales, tensors = rules["scales"], rules["tensors"]
    out = (
        f"parametrization {rules['scheme']}: width_mult {rules['width_mult']:.10g} (base width "
        f"{rules['base_width']}, base head size {rules['base_head_dim']})"
    )
    if SCHEMES[rules["scheme"]].deep:
        out += f", depth_mult {rules['depth_mult']:.10g} (base depth {rules['base_depth']})"
    forward, gradients = (
        [f"{title} {scales[key]:g}" for key, (title, usual) in factors.items() if scales[key] != scales.get(usual, 1)]
        for factors in (FORWARD_FACTORS, GRADIENT_FACTORS)
    )
    out += (
        "\nscales: "
        + ", ".join(
            [
                f"embedding {scales['embedding']:g}, attention logits {scales['attention']:g}, "
                f"output logits {scales['output']:g}",
                *forward,
            ]
        )
        + "\n"
    )
    out += f"gradient scales: {', '.join(gradients)}\n" if gradients else ""
    lines = [
        f"skip {r[0]:g}, branch {r[1]:g}; gradients: stream {r[2]:g}, into the branch {r[3]:g}, out of it {r[4]:g}"
        for r in scales["residual"]
    ]
    if len(set(lines)) > 1:
        out += "".join(f"residual h.{i // 2}.{('attn', 'mlp ')[i % 2]}: {line}\n" for i, line in enumerate(lines))
    elif set(scales["residual"][0]) != {1.0}:
        out += f"residual: {lines[0]}\n"
    columns = [
        "init_mean",
        "init_std",
        "multiplier",
        "dinp_multiplier",
        "dweight_multiplier",
        "lr",
        "weight_decay",
        "eps",
    ]
    if all(t["init_mean"] in (0, 1) for t in tensors):
        columns.remove("init_mean")
    for key in ("dinp_multiplier", "dweight_multiplier"):
        if all(t[key] == t["multiplier"] for t in tensors):
            columns.remove(key)
    titles = " ".join(f"{c.removeprefix('weight_').removesuffix('_multiplier'):>10}" for c in columns)
    out += f"{'tensor':<26} {'role':<7} {'shape':<14} {titles}\n"
    for t in tensors:
        shape = " x ".join(map(str, t["shape"]))
        out += f"{t['name']:<26} {t['role']:<7} {shape:<14} " + " ".join(f"{t[c]:>10.4g}" for c in columns) + "\n"
        if t["zero_rows"]:
            out += f"    (its first {t['zero_rows']} rows, the queries, start at zero)\n"
    return out


# ----------------------------------------------------------------------------------------------------------------------
# The model: GPT-2 (Radford et al., 2019). B batch, T sequence length, C channels, H heads, D = C / H, V vocabulary, Vp
# padded vocabulary.


class Rounded(torch.autograd.Function):
    """Computes with a tensor's bf16 copy; the gradient goes to its fp32 master, where micro-batches add up."""

    @staticmethod
    def forward(ctx, master, copy):
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx, grad):
        return grad.float(), None


class Scaled(torch.autograd.Function):
    """forward * x, whose gradient is multiplied by a number of its own."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.backward_factor = backward
        return x.view_as(x) if forward == 1 else x * forward

    @staticmethod
    def backward(ctx, grad):
        return grad if ctx.backward_factor == 1 else grad * ctx.backward_factor, None, None


def scaled(x, forward, backward):
    if forward == backward:
        return x if forward == 1 else x * forward
    return Scaled.apply(x, forward, backward)


def ratio(backward, forward):
    """What the backward pass needs beyond the derivative of a multiplication by `forward` (which may be 0)."""
    return 1.0 if backward == forward else backward / forward


class Observed(nn.Module):
    """A module that announces its activations, by the names of doc/formats.md, to an observer: for --coord-check."""

    observer, path = None, ""

    def announce(self, name, x):
        if self.observer is not None:
            self.observer("activation", self.path + name, x)


class Weights(nn.Module):
    """A weight and, mostly, a bias: always fp32. A bf16 model computes with copies that every update refreshes."""

    def __init__(self, config, *shape, bias=True):
        super().__init__()
        self.bf16 = config.dtype == "bf16"
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.factors = {"weight": (1.0, 1.0), "bias": (1.0, 1.0)}  # multiplier, of the gradient
        self.input_gradient = 1.0  # beyond the weight's multiplier
        if self.bf16:
            self.register_buffer("weight_bf16", torch.zeros(shape, dtype=torch.bfloat16), persistent=False)
            if bias:
                self.register_buffer("bias_bf16", torch.zeros(shape[0], dtype=torch.bfloat16), persistent=False)

    def use_rule(self, kind, rule):
        self.factors[kind] = rule["multiplier"], rule["dweight_multiplier"]
        if kind == "weight":
            self.input_gradient = ratio(rule["dinp_multiplier"], rule["multiplier"])

    def tensors(self):
        """Weight and bias, times their multipliers."""
        weight, bias = self.weight, self.bias
        if not self.bf16:
            bias = None if bias is None else scaled(bias, *self.factors["bias"])
            return scaled(weight, *self.factors["weight"]), bias
        bias = None if bias is None else self.rounded(bias, self.bias_bf16, *self.factors["bias"])
        return self.rounded(weight, self.weight_bf16, *self.factors["weight"]), bias

    @staticmethod
    def rounded(master, copy, forward, backward):
        return scaled(Rounded.apply(scaled(master, 1, backward), copy), forward, 1)  # the gradient's factor in fp32


class Linear(Weights):  # weight (out, in)
    def forward(self, x):
        return F.linear(scaled(x, 1, self.input_gradient), *self.tensors())


class LayerNorm(Weights):
    def forward(self, x):
        return F.layer_norm(x, x.shape[-1:], *self.tensors(), eps=1e-5)


class Embedding(Weights):
    """Rows of a table; also the head's matrix, by tensors(), whose factors are then the head's."""

    rows_gradient = 1.0  # beyond the embedding's multiplier

    def forward(self, index):
        rows = scaled(F.embedding(index, self.weight), 1, self.rows_gradient)
        return (
            Rounded.apply(rows, F.embedding(index, self.weight_bf16)) if self.bf16 else rows
        )  # the gradient's sums are fp32


class Attention(Observed):
    def __init__(self, config):
        super().__init__()
        self.heads, self.scale, self.out_scale = config.heads, 1.0, 1.0
        self.c_attn = Linear(config, 3 * config.width, config.width)
        self.c_proj = Linear(config, config.width, config.width)

    def forward(self, x):
        B, T, C = x.shape
        # (B, H, T, D) each
        q, k, v = (a.view(B, T, self.heads, -1).transpose(1, 2) for a in self.c_attn(x).split(C, dim=2))
        if self.observer is not None:
            self.announce_logits(q, k, v)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        y = scaled(y.transpose(1, 2).reshape(B, T, C), self.out_scale, self.out_scale)
        self.announce("", y)
        y = self.c_proj(y)
        self.announce(".c_proj", y)
        return y

    @torch.no_grad()
    def announce_logits(self, q, k, v):
        for name, x in ((".q", q), (".k", k), (".v", v)):
            self.announce(name, x)
        past = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).tril()
        self.announce(".logits", (q.float() @ k.float().transpose(2, 3) * self.scale)[..., past])


def recomputed(function, x):
    """function(x), of which the backward pass keeps only x."""
    return torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False)


class MLP(Observed):
    def __init__(self, config):
        super().__init__()
        self.c_fc = Linear(config, 4 * config.width, config.width)
        self.c_proj = Linear(config, config.width, 4 * config.width)
        self.recompute, self.mult = config.recompute == "gelu", 1.0

    def project(self, x):
        x = F.gelu(scaled(x, self.mult, self.mult), approximate="tanh")
        x = x if self.mult == 1 else x / self.mult
        self.announce(".gelu", x)
        return self.c_proj(x)

    def forward(self, x):
        x = self.c_fc(x)
        self.announce(".c_fc", x)
        x = recomputed(self.project, x) if self.recompute else self.project(x)
        self.announce(".c_proj", x)
        return x


class Block(Observed):
    def __init__(self, config):
        super().__init__()
        self.ln_1 = LayerNorm(config, config.width)
        self.attn = Attention(config)
        self.ln_2 = LayerNorm(config, config.width)
        self.mlp = MLP(config)
        self.residual = [[1.0] * 5] * 2  # of attention, of the MLP

    def add_branch(self, x, norm_name, layer, factors):
        skip, branch, dskip, dbranch, dsplit = factors
        y = getattr(self, norm_name)(scaled(x, 1, dsplit))
        self.announce("." + norm_name, y)
        return scaled(x, skip, dskip) + scaled(layer(y), branch, dbranch)

    def forward(self, x):
        x = self.add_branch(x, "ln_1", self.attn, self.residual[0])
        self.announce(".resid_attn", x)
        x = self.add_branch(x, "ln_2", self.mlp, self.residual[1])
        self.announce(".resid_mlp", x)
        return x


class GPT2(Observed):
    """Parameters have the names and the order of the rule table. `config` needs a vocab_size."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        padded = -(-config.vocab_size // 128) * 128  # whole tiles for the matrix units; the extra rows stay 0
        self.wte = Embedding(config, padded, config.width, bias=False)
        self.wpe = Embedding(config, config.max_seq_len, config.width, bias=False)
        self.h = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.ln_f = LayerNorm(config, config.width)
        self.lm_head = None if config.tie_embeddings else Embedding(config, padded, config.width, bias=False)
        self.use_rules(parametrization(config))

    def use_rules(self, rules):
        """Takes every number of the table that acts in a forward or backward pass."""
        self.rules, self.scales = rules, rules["scales"]
        scales, modules = self.scales, dict(self.named_modules())
        for rule in rules["tensors"]:
            name, kind = rule["name"].rsplit(".", 1)
            modules[name].use_rule(kind, rule)
        for i, block in enumerate(self.h):
            block.attn.scale, block.attn.out_scale = scales["attention"], scales["attention_out"]
            block.mlp.mult, block.residual = scales["gelu"], scales["residual"][2 * i : 2 * i + 2]
        # what is looked up or multiplies logits is scaled once, in forward(): sums and products of logits are fp32
        self.wte.rows_gradient = ratio(scales["wte_grad"], scales["embedding"])
        self.wpe.rows_gradient = ratio(scales["wpe_grad"], scales["embedding"])
        head = self.lm_head or self.wte
        head.factors["weight"] = 1.0, ratio(scales["output_dweight"], scales["output"])
        head.input_gradient = ratio(scales["output_dinp"], scales["output"])

    def set_observer(self, observer):
        """observer(kind, name, activation), called in forward passes; None: nobody."""
        for name, module in self.named_modules():
            if isinstance(module, Observed):
                module.observer, module.path = observer, name

    def forward(self, tokens, targets=None):
        """tokens, targets: (B, T). Mean loss (nats/token, fp32); without targets the last position's logits, (B, V)."""
        scales, head = self.scales, self.lm_head or self.wte
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))  # (B, T, C)
        x = scaled(x, scales["embedding"], scales["embedding"])
        self.announce("embedding", x)
        for block in self.h:
            x = recomputed(block, x) if self.config.recompute == "block" else block(x)
        x = self.ln_f(x if targets is not None else x[:, -1:])
        self.announce("ln_f", x)
        logits = F.linear(scaled(x, 1, head.input_gradient), head.tensors()[0])  # (B, T, Vp)
        logits = logits[..., : self.config.vocab_size].float()
        logits = scaled(logits, scales["output"], scales["output"])
        self.announce("logits", logits)
        logits = scaled(logits, scales["loss"], scales["loss"] * scales["loss_grad"])
        if targets is None:
            return logits[:, -1]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())

    def named_rules(self):
        """(rule, parameter) pairs; a parameter may have padding rows below the rule's shape."""
        parameters = dict(self.named_parameters())
        return [(rule, parameters[rule["name"]]) for rule in self.rules["tensors"]]

    @functools.cached_property
    def copies(self):
        """(name, fp32 master, bf16 copy) of every parameter of a bf16 model."""
        buffers = dict(self.named_buffers())
        return [
            (name, p.detach(), buffers[name + "_bf16"])
            for name, p in self.named_parameters()
            if name + "_bf16" in buffers
        ]

    @torch.no_grad()
    def round_copies(self, stochastic_step=None):
        for name, master, copy in self.copies:
            nearest = stochastic_step is None
            copy.copy_(master if nearest else stochastic_bf16(master, self.config.seed, name, stochastic_step))

    @torch.no_grad()
    def set_weights(self, values):
        """values: rule -> tensor of the rule's shape."""
        for rule, parameter in self.named_rules():
            parameter[: rule["shape"][0]].copy_(values(rule))
            if self.config.dtype == "bf16":
                parameter.copy_(parameter.bfloat16())  # a master starts at what the model computes with
        self.round_copies()


def initialise(model, seed):
    """Initial weights of doc/formats.md: normal with the rule's mean and std; constant where that is 0."""

    def values(rule):
        if rule["init_std"] == 0:
            return torch.full(rule["shape"], rule["init_mean"])
        value = rule["init_mean"] + rule["init_std"] * normals(seed, rule["name"], math.prod(rule["shape"]))
        value = torch.from_numpy(value.astype(np.float32)).view(rule["shape"])
        value[: rule["zero_rows"]] = 0
        return value

    model.set_weights(values)


# ----------------------------------------------------------------------------------------------------------------------
# Data: token shards and the order in which training reads them.


class Dataset:
    """All shards of a glob pattern, sorted by path, as windows of seq_len tokens and their successors."""

    def __init__(self, pattern, seq_len, option="--train-data", seed=0, shuffle=True):
        self.seq_len, self.seed, self.shuffle = seq_len, seed, shuffle
        self.paths = sorted(glob.glob(pattern))
        check(
            self.paths,
            DATA,
            f"{option} '{pattern}' matches no file: make shards with dev/data/*.py, or correct the "
            "pattern (quoted, so that the shell leaves it alone)",
        )
        self.shards, headers = [], []
        for path in self.paths:
            shard, header = self.open_shard(path)
            self.shards.append(shard)
            headers.append(header)
            check(
                (header[3:5] == headers[0][3:5]).all(),
                DATA,
                f"{option}: {path} was made with another tokenizer or vocabulary than {self.paths[0]}",
            )
        self.vocab_size = int(headers[0][3])  # 0: unknown
        self.tokenizer = {1: "byte", 2: "gpt2"}.get(int(headers[0][4]), "unknown")
        self.sha256 = headers[0][8:16].tobytes().hex() if headers[0][8:16].any() else ""
        self.tokens = sum(len(shard) for shard in self.shards)
        sizes = [int(header[5].view(np.uint32)) + (int(header[6].view(np.uint32)) << 32) for header in headers]
        self.tokens_per_byte = self.tokens / sum(sizes) if all(sizes) else None
        self.windows_of = [(len(shard) - 1) // seq_len for shard in self.shards]
        self.windows = sum(self.windows_of)
        check(
            self.windows,
            DATA,
            f"{option} '{pattern}' holds {self.tokens} tokens, fewer than one sequence of "
            f"{seq_len} and its target: shorten --seq-len or use more text",
        )
        self.shard_order = functools.lru_cache(2)(self.shard_order)
        self.window_order = functools.lru_cache(2)(self.window_order)

    @staticmethod
    def open_shard(path):
        try:
            size = os.path.getsize(path)
            check(size >= 1024, DATA, f"{path} is no token shard: {size} bytes, where the header alone has 1024")
            header = np.fromfile(path, dtype="<i4", count=256)
        except OSError as error:
            raise Error(DATA, f"cannot open the token shard {path}: {error.strerror}") from None
        check(
            header[0] == 20240520,
            DATA,
            f"{path} is no token shard: its magic number is {header[0]}, not 20240520; make one with dev/data/text.py",
        )
        check(
            header[1] in (1, 2),
            DATA,
            f"{path} has shard version {header[1]}; this program reads 1 (uint16) and 2 (uint32)",
        )
        count, width = int(header[2].view(np.uint32)), 2 * int(header[1])
        check(
            size == 1024 + width * count,
            DATA,
            f"{path} is truncated or damaged: {count} tokens need "
            f"{1024 + width * count} bytes, the file has {size}; make it again",
        )
        check(count >= 2, DATA, f"{path} holds {count} tokens: too few for an input and its target")
        return np.memmap(path, dtype=f"<u{width}", mode="r", offset=1024, shape=(count,)), header

    def shard_order(self, epoch):
        """Shards in the epoch's order, and the epoch's sample at which each begins."""
        count = len(self.shards)
        order = random_order(count, self.seed, SHARD_ORDER, epoch) if self.shuffle else np.arange(count)
        return order, np.concatenate(([0], np.cumsum(np.array(self.windows_of)[order])))

    def window_order(self, epoch, shard):
        return random_order(self.windows_of[shard], self.seed, WINDOW_ORDER, epoch * 65536 + shard)

    def locate(self, sample):
        """(shard, window) of sample number 0, 1, 2, ..."""
        epoch, within = divmod(sample, self.windows)
        order, begins = self.shard_order(epoch)
        visit = int(np.searchsorted(begins, within, side="right")) - 1
        shard, window = int(order[visit]), within - int(begins[visit])
        return shard, int(self.window_order(epoch, shard)[window]) if self.shuffle else window

    def batch(self, samples, vocab_size, device="cpu"):
        """tokens and targets, (rows, T) int64 each, of the given sample numbers."""
        rows = np.empty((len(samples), self.seq_len + 1), dtype=np.int64)
        for row, sample in zip(rows, samples, strict=True):
            shard, window = self.locate(sample)
            row[:] = self.shards[shard][window * self.seq_len : (window + 1) * self.seq_len + 1]
            check(
                row.max() < vocab_size,
                DATA,
                f"{self.paths[shard]}: a token in window {window} is {row.max()}, but "
                f"the vocabulary has {vocab_size} entries: give the --vocab-size that the shard was made with",
            )
        rows = torch.from_numpy(rows)
        rows = rows.pin_memory().to(device, non_blocking=True) if "cuda" in str(device) else rows
        return rows[:, :-1], rows[:, 1:]


# ----------------------------------------------------------------------------------------------------------------------
# Optimizer: torch's fused AdamW or SGD. Tensors whose rules agree form one group: an update is a few launches.


def lr_factor(config, t, steps):
    """Learning rate at step t (from 0), as a part of the peak. wsd: Hu et al., "MiniCPM"; Haegele et al., both 2024."""
    warmup, f = config.warmup_steps, config.final_lr_frac
    if t < warmup:
        return (t + 1) / warmup
    x = min(1.0, (t - warmup) / max(1, steps - warmup))
    if config.schedule == "cosine":
        return f + (1 - f) * 0.5 * (1 + math.cos(math.pi * x))
    if config.schedule == "linear":
        return 1 - (1 - f) * x
    if config.schedule == "wsd" and x >= 0.8:
        return f + (1 - f) * (1 - math.sqrt(min(1.0, (x - 0.8) / 0.2)))
    return 1.0


class Optimizer:
    """AdamW: m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2;
              w = (1 - decay) w - lr (m/(1-beta1^n)) / (sqrt(v/(1-beta2^n)) + eps)
    SGD:   m = momentum m + g; w = (1 - decay) w - lr m
    Loshchilov, Hutter, "Decoupled weight decay regularization", 2019.

    `set_rates` computes each group's rate from its rule at every step: writing one rate to all groups would undo muP.
    """

    def __init__(self, model, config):
        self.model, self.config, self.updates = model, config, 0
        self.adam = config.optimizer == "adamw"
        groups = {}
        for rule, parameter in model.named_rules():
            groups.setdefault((rule["lr"], rule["weight_decay"], rule["eps"]), []).append(parameter)
        groups = [
            {"params": parameters, "lr": lr, "peak_lr": lr, "rule_decay": decay} | ({"eps": eps} if self.adam else {})
            for (lr, decay, eps), parameters in groups.items()
        ]
        if self.adam:
            self.torch = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), weight_decay=0.0, fused=True)
        else:
            self.torch = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=True)
        self.names = {"m": "exp_avg", "v": "exp_avg_sq"} if self.adam else {"m": "momentum_buffer"}
        for parameter in model.parameters():
            state = {key: torch.zeros_like(parameter) for key in self.names.values()}
            step = {"step": torch.zeros((), device=parameter.device)} if self.adam else {}
            self.torch.state[parameter] = state | step
        self.parameters = list(model.parameters())

    def set_rates(self, factor):
        """Rates of this step: factor = lr_t / lr_peak."""
        for group in self.torch.param_groups:
            group["lr"] = group["peak_lr"] * factor
            decay = group["rule_decay"] * (group["lr"] if self.config.weight_decay_mode == "scaled" else factor)
            if self.adam and group["lr"] > 0:
                group["weight_decay"] = decay / group["lr"]  # torch multiplies it by the rate
            elif decay > 0:
                torch._foreach_mul_([p.data for p in group["params"]], 1 - decay)

    def norm(self):
        return nn.utils.get_total_norm([p.grad for p in self.parameters])

    def step(self, factor, norm):
        """One update; norm: of the gradient, which is clipped here."""
        self.updates += 1
        self.set_rates(factor)
        if 0 < self.config.grad_clip < norm:
            torch._foreach_mul_([p.grad for p in self.parameters], self.config.grad_clip / norm)
        self.torch.step()
        if self.config.dtype == "bf16":
            self.model.round_copies(self.updates if self.config.rounding == "stochastic" else None)

    def state(self):
        """Tensors of the checkpoint by name, parameter by parameter."""
        out = {}
        for name, parameter in self.model.named_parameters():
            out |= {f"{short}.{name}": self.torch.state[parameter][long] for short, long in self.names.items()}
            if self.config.dtype == "bf16":
                out["master." + name] = parameter.detach()
        return out

    def set_updates(self, updates):
        self.updates = updates
        for state in self.torch.state.values():
            if self.adam:
                state["step"].fill_(updates)


class Outliers:
    """z-scores against the last 128 values. An outlier is not added: it must not widen the window for the next."""

    def __init__(self, threshold):
        self.threshold, self.window = threshold, []

    def sees(self, value):
        if self.threshold > 0 and len(self.window) == 128:
            mean, deviation = np.mean(self.window), np.std(self.window)
            if deviation > 0 and (value - mean) / deviation > self.threshold:
                return True
        self.window = [*self.window, value][-128:]
        return False


# ----------------------------------------------------------------------------------------------------------------------
# Checkpoints: OUT/checkpoints/step_*/model.safetensors and optimizer.safetensors, in Hugging Face's names and layout.


class Checkpoint:
    """A model file opened for reading: its shape, metadata and tensors."""

    def __init__(self, path):
        self.path, self.prefix, self.config = str(path), "", {}
        self.parametrization, self.tokenizer = None, "unknown"
        self.llmc = self.path.endswith(".bin")
        if self.llmc:
            self.open_llmc()
            return
        try:
            self.file = safe_open(path, "pt")
        except (OSError, SafetensorError) as error:
            raise Error(DATA, f"{path} cannot be read as safetensors: {error}") from None
        metadata, names = self.file.metadata() or {}, set(self.file.keys())
        self.heads_known = "model" in metadata
        try:
            if self.heads_known:
                self.shape = json.loads(metadata["model"])
                self.parametrization = complete_rules(json.loads(metadata["parametrization"]))
                self.config, self.tokenizer = json.loads(metadata["config"]), metadata["tokenizer"]
                return
        except (ValueError, KeyError) as error:
            raise Error(DATA, f"{path} is damaged: its metadata cannot be read ({error})") from None
        self.prefix = "transformer." if "transformer.wte.weight" in names else ""  # a file of Hugging Face's
        check(
            {self.prefix + "wte.weight", self.prefix + "wpe.weight"} <= names,
            DATA,
            f"{path} has no matrix 'wte.weight' or 'wpe.weight': it is no GPT-2 checkpoint",
        )
        V, C = self.file.get_slice(self.prefix + "wte.weight").get_shape()
        depth = sum(name.endswith(".ln_1.weight") for name in names)
        self.shape = {
            "num_layers": depth,
            "num_heads": max(1, C // 64),
            "channels": C,
            "vocab_size": V,
            "max_seq_len": self.file.get_slice(self.prefix + "wpe.weight").get_shape()[0],
            "tie_embeddings": "lm_head.weight" not in names,
        }

    def open_llmc(self):
        """llm.c's: 256 int32 (magic, version 3 fp32 or 5 bf16, T, V, L, H, C, Vp), then each tensor for all layers."""
        header = np.fromfile(self.path, dtype="<i4", count=256)
        check(
            len(header) == 256 and header[0] == 20240326 and header[1] in (3, 5),
            DATA,
            f"{self.path} is no llm.c model of version 3 or 5 (magic 20240326)",
        )
        T, V, L, H, C, Vp = (int(x) for x in header[2:8])
        self.shape = {
            "num_layers": L,
            "num_heads": H,
            "channels": C,
            "max_seq_len": T,
            "vocab_size": V,
            "tie_embeddings": True,
        }
        self.heads_known, self.tokenizer, self.width, self.offsets = True, "gpt2", 4 if header[1] == 3 else 2, {}
        end = 0
        for name, size in [
            ("wte.weight", Vp * C),
            ("wpe.weight", T * C),
            ("ln_1.weight", C),
            ("ln_1.bias", C),
            ("attn.c_attn.weight", 3 * C * C),
            ("attn.c_attn.bias", 3 * C),
            ("attn.c_proj.weight", C * C),
            ("attn.c_proj.bias", C),
            ("ln_2.weight", C),
            ("ln_2.bias", C),
            ("mlp.c_fc.weight", 4 * C * C),
            ("mlp.c_fc.bias", 4 * C),
            ("mlp.c_proj.weight", 4 * C * C),
            ("mlp.c_proj.bias", C),
            ("ln_f.weight", C),
            ("ln_f.bias", C),
        ]:
            for full in [name] if name.startswith(("wte", "wpe", "ln_f")) else [f"h.{i}.{name}" for i in range(L)]:
                self.offsets[full] = end
                end += size
        check(
            os.path.getsize(self.path) == 1024 + end * self.width,
            DATA,
            f"{self.path} is truncated or damaged: its header's shape has {1024 + end * self.width} bytes",
        )

    def values(self, rule):
        """The tensor of a rule, fp32, (out, in)."""
        name, shape = rule["name"], rule["shape"]
        if self.llmc:
            raw = np.fromfile(
                self.path,
                dtype=f"<u{self.width}",
                count=math.prod(shape),
                offset=1024 + self.offsets[name] * self.width,
            )
            if self.width == 2:
                return torch.from_numpy(raw.view(np.int16)).view(torch.bfloat16).view(shape).float()
            return torch.from_numpy(raw.view(np.float32)).view(shape)
        return read_tensor(self.file, self.path, self.prefix + name if name != "lm_head.weight" else name, rule).float()


def read_tensor(file, path, name, rule):
    stored = rule["shape"][::-1] if rule["role"] == "hidden" else rule["shape"]
    check(name in set(file.keys()), DATA, f"{path} has no tensor '{name}'")
    value = file.get_tensor(name)
    check(
        list(value.shape) == stored, DATA, f"{path}: the tensor '{name}' has shape {list(value.shape)}, wanted {stored}"
    )
    return value.T if rule["role"] == "hidden" else value


def newest_checkpoint(out):
    found = sorted(Path(out).glob("checkpoints/step_*")) if out else []
    return found[-1] if found else None


def open_checkpoint(path):
    path = Path(path)
    if path.is_dir() and not (path / "model.safetensors").exists():
        path = newest_checkpoint(path) or path
    path = path / "model.safetensors" if path.is_dir() else path
    check(
        path.is_file(),
        DATA,
        f"there is no checkpoint at {path}: name a checkpoint, such as OUT/checkpoints/step_00000100",
    )
    return Checkpoint(path)


def take_shape(args, checkpoint):
    """The checkpoint's shape is the model's; options that were given must agree with it."""
    shape = checkpoint.shape
    given = args.given | ({"depth", "width", "heads"} if args.preset else set())
    if "head-dim" in given:
        args.heads = max(1, args.width // args.head_dim)
    if not checkpoint.heads_known and given & {"heads", "head-dim"}:
        shape["num_heads"] = args.heads
    for name, key in (
        ("depth", "num_layers"),
        ("width", "channels"),
        ("heads", "num_heads"),
        ("vocab-size", "vocab_size"),
        ("tie-embeddings", "tie_embeddings"),
    ):
        option = name.replace("-", "_")
        check(
            name not in given or getattr(args, option) in (shape[key], 0 if name == "vocab-size" else None),
            DATA,
            f"--{name} {getattr(args, option)} does not fit the checkpoint {checkpoint.path}, which has "
            f"{shape[key]}: leave the option out, or choose another checkpoint",
        )
        setattr(args, option, shape[key])
    args.head_dim = args.width // args.heads
    args.max_seq_len = shape["max_seq_len"]
    args.seq_len = args.seq_len if "seq-len" in given else shape["max_seq_len"]
    check(
        args.seq_len <= args.max_seq_len,
        DATA,
        f"--seq-len {args.seq_len} is longer than the {args.max_seq_len} "
        f"learned positions of {checkpoint.path}: shorten it",
    )


def complete_rules(rules):
    """A table from before schemes had factors of their own for the backward pass, which then was the derivative."""
    scales, tensors = rules["scales"], rules["tensors"]
    depth = sum(".ln_1.weight" in t["name"] for t in tensors)
    old = {
        "wte_grad": scales["embedding"],
        "wpe_grad": scales["embedding"],
        "attention_out": 1.0,
        "gelu": 1.0,
        "loss": 1.0,
        "loss_grad": 1.0,
        "output_dinp": scales["output"],
        "output_dweight": scales["output"],
        "residual": [[1.0] * 5] * (2 * depth),
    }
    tensors = [{"dinp_multiplier": t["multiplier"], "dweight_multiplier": t["multiplier"]} | t for t in tensors]
    return {"base_depth": depth, "depth_mult": 1.0} | rules | {"scales": old | scales, "tensors": tensors}


def numbers_of(rules, training):
    """What of a table makes the model another function, by name; training: also what acts in the backward pass."""
    scales = dict(rules["scales"])
    out = {
        f"{('attention', 'mlp')[i % 2]} branch of block {i // 2}": tuple(r if training else r[:2])
        for i, r in enumerate(scales.pop("residual"))
    }
    forward = ("embedding", "attention", "attention_out", "gelu", "loss", "output")
    out |= {f"scale {key}": (value,) for key, value in scales.items() if training or key in forward}
    keys = ("multiplier", "dinp_multiplier", "dweight_multiplier") if training else ("multiplier",)
    return out | {
        f"multiplier of {t['name']}": tuple(t[key] for key in keys)
        for t in rules["tensors"]
        if t["role"] in ("hidden", "vector")
    }  # the others' are among the scales


def check_rules(checkpoint, rules, head_dim, training):
    """Refuses weights that this run's options would make another function of (training: or go on with otherwise)."""
    theirs = checkpoint.parametrization
    if theirs is None:  # a standard GPT-2, with as many heads as this run: its file may not say
        scales = {"embedding": 1.0, "attention": as_float32(math.sqrt(head_dim) / head_dim), "output": 1.0}
        theirs = complete_rules(
            rules | {"scales": scales, "tensors": [t | {"multiplier": 1.0} for t in rules["tensors"]]}
        )

    def compare(key, a, b, same):
        check(
            same,
            DATA,
            f"{checkpoint.path} was trained under another parametrization: its {key} is {json.dumps(a)}, "
            f"this run's is {json.dumps(b)}; give the options it was trained with",
        )

    for key in ("scheme", "width_mult"):
        compare(key, theirs[key], rules[key], theirs[key] == rules[key])
    a, b = numbers_of(theirs, training), numbers_of(rules, training)
    for key in b:
        x, y = a.get(key, ()), b[key]
        same = len(x) == len(y) and all(math.isclose(u, v, rel_tol=1e-6) for u, v in zip(x, y, strict=True))
        compare(key, *((x[0], y[0]) if len(x) == len(y) == 1 else (x, y)), same)


def stored(tensor, rule):
    """As the files have it: without padding rows; a block's matrices as (in, out)."""
    tensor = tensor.detach()[: rule["shape"][0]]
    return (tensor.T if rule["role"] == "hidden" else tensor).contiguous().cpu()


def save_checkpoint(out, keep, step, model, optimizer, state, metadata, tokenizer_file=None):
    """Writes a temporary folder, syncs it to the disk, then renames it: a folder named step_* is complete."""
    folder = Path(out) / "checkpoints"
    final, temporary = folder / f"step_{step:08d}", folder / f".tmp-step_{step:08d}"
    rules = {rule["name"]: rule for rule in model.rules["tensors"]}
    source = dict(model.named_parameters()) | {name: copy for name, _, copy in model.copies}
    moments = {name: stored(value, rules[name.split(".", 1)[1]]) for name, value in optimizer.state().items()}
    head = {"format": "llmc-mup 1", "step": str(step)}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(
            {name: stored(source[name], rule) for name, rule in rules.items()},
            temporary / "model.safetensors",
            head | metadata,
        )
        save_file(moments, temporary / "optimizer.safetensors", head | {"state": json.dumps(state)})
        if tokenizer_file:
            shutil.copyfile(tokenizer_file, temporary / "tokenizer.bin")
        for path in [*temporary.iterdir(), temporary]:
            path.chmod(0o755 if path.is_dir() else 0o644)  # safetensors leaves files that only their owner can read
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
        sync(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise Error(
            FAILURE, f"cannot write the checkpoint {final}: {error}; free some space, or choose another --out"
        ) from None
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
    return str(final)


def sync(path):
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)


@torch.no_grad()
def load_optimizer(folder, model, optimizer):
    """Restores moments and masters; returns (step, state)."""
    path = Path(folder) / "optimizer.safetensors"
    rules = {rule["name"]: rule for rule in model.rules["tensors"]}
    try:
        with safe_open(path, "pt") as file:
            step, state = int(file.metadata()["step"]), json.loads(file.metadata()["state"])
            for name, value in optimizer.state().items():
                rule = rules[name.split(".", 1)[1]]
                value[: rule["shape"][0]].copy_(read_tensor(file, path, name, rule))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise Error(DATA, f"{path} is missing or damaged: {error}") from None
    optimizer.set_updates(state["updates"])
    return step, state


# ----------------------------------------------------------------------------------------------------------------------
# Text


class Tokenizer:
    """byte: the 256 byte values and 256 = end of document. gpt2: byte-pair encoding by tiktoken."""

    def __init__(self, kind):
        check(
            kind in ("byte", "gpt2"),
            USAGE,
            "text cannot be sampled: the data does not say which tokenizer made it (give --tokenizer)",
        )
        self.end, self.bpe = 256, None
        if kind == "gpt2":
            try:
                import tiktoken

                self.bpe = tiktoken.get_encoding("gpt2")
            except Exception as error:  # not installed, or its table is neither cached nor downloadable
                raise Error(
                    FAILURE,
                    "the gpt2 tokenizer needs tiktoken and, once, the network to fetch its table "
                    f"({type(error).__name__}); run it once online, or set TIKTOKEN_CACHE_DIR to a folder that "
                    "holds the table",
                ) from None
            self.end = self.bpe.eot_token

    def encode(self, text):
        return self.bpe.encode_ordinary(text) if self.bpe else list(text.encode())

    def decode(self, tokens):
        return self.bpe.decode(tokens) if self.bpe else bytes(t for t in tokens if t < 256).decode(errors="replace")


def choose_token(logits, temperature, top_k, u):
    """Index drawn from softmax(logits / temperature) among the top_k largest, by a uniform u. Ties: lower first."""
    logits = logits.astype(np.float64)
    if temperature == 0:
        return int(np.argmax(logits))
    order = np.argsort(-logits, kind="stable")[:top_k] if 0 < top_k < len(logits) else np.arange(len(logits))
    cumulative = np.cumsum(np.exp((logits[order] - logits.max()) / temperature))
    return int(order[min(np.searchsorted(cumulative, u * cumulative[-1]), len(order) - 1)])


@torch.no_grad()
def generate(model, tokenizer, args, stream=0):
    """The continuation of args.prompt. Longer contexts than the model's slide: it sees the last max_seq_len tokens."""
    tokens = [tokenizer.end, *tokenizer.encode(args.prompt)]  # documents start after it in training
    begin, device = len(tokens), model.wte.weight.device
    check(
        max(tokens) < model.config.vocab_size,
        DATA,
        f"the tokenizer's token {max(tokens)} is beyond the model's "
        f"vocabulary of {model.config.vocab_size}: give the right --tokenizer",
    )
    for _ in range(args.sample_tokens):
        logits = model(torch.tensor([tokens[-model.config.seq_len :]], device=device))[0].cpu().numpy()
        u = uniform(draw(args.seed, SAMPLING, stream, len(tokens))[0])
        token = choose_token(logits, args.temperature, args.top_k, u)
        if token == tokenizer.end:
            break
        tokens.append(token)
    return tokenizer.decode(tokens[begin:])


# ----------------------------------------------------------------------------------------------------------------------
# Coordinate check: does every activation, parameter and gradient keep its size, and change alike, at every width?


class CoordCheck:
    """--coord-check: a CSV row per tensor and step. The tokens are the same at every step, so that the change of an
    activation is the weights' doing alone."""

    COLUMNS = (
        "program,parametrization,base_width,width,base_depth,depth,heads,seed,lr,step,kind,tensor,role,"
        "multiplier,mean_abs,std,delta"
    )

    def __init__(self, args, rules):
        self.step, self.first = 0, {}
        self.run = (
            f"train_gpt2.py,{rules['scheme']},{rules['base_width']},{args.width},{rules['base_depth']},"
            f"{args.depth},{args.heads},{args.seed},{args.lr:.7g}"
        )
        try:
            self.file = open(args.coord_check, "w")  # noqa: SIM115 - open as long as the run
        except OSError as error:
            raise Error(FAILURE, f"cannot write to --coord-check {args.coord_check}: {error.strerror}") from None
        print(self.COLUMNS, file=self.file, flush=True)

    @contextlib.contextmanager
    def watch(self, model):
        """The forward passes in here are a step's; a backward pass that recomputes activations belongs outside."""
        self.step += 1
        model.set_observer(self.add)
        try:
            yield
        finally:
            model.set_observer(None)

    @torch.no_grad()
    def add(self, kind, name, x, role="", multiplier=1.0):
        x = x.detach().double()
        size, mean, square = x.abs().mean().item(), x.mean().item(), x.square().mean().item()
        delta = ""
        if kind != "gradient":
            first = self.first.setdefault((kind, name), x.float())
            delta = f"{(x - first.double()).abs().mean().item():.7g}"
        print(
            f"{self.run},{self.step},{kind},{name},{role},{multiplier:.7g},{size:.7g},"
            f"{math.sqrt(max(0.0, square - mean * mean)):.7g},{delta}",
            file=self.file,
        )

    def add_parameters(self, model):
        """The weights of this step's pass, and their gradients; without padding rows."""
        for kind in ("parameter", "gradient"):
            for rule, parameter in model.named_rules():
                x = parameter if kind == "parameter" else parameter.grad
                self.add(kind, rule["name"], x[: rule["shape"][0]], rule["role"], rule["multiplier"])
        self.file.flush()


# ----------------------------------------------------------------------------------------------------------------------
# The trainer


def world_size():
    return int(os.environ.get("WORLD_SIZE", 1))


def pick_device(args):
    cuda = torch.cuda.is_available()
    check(cuda or args.device != "cuda", USAGE, "--device cuda: PyTorch finds no CUDA device; use --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    if args.threads:
        torch.set_num_threads(args.threads)
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda and args.device != "cpu" else "cpu")


def provenance(dataset, device):
    try:
        command = ["git", "rev-parse", "HEAD"]
        commit = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else f"CPU, {torch.get_num_threads()} threads"
    return {
        "program": "train_gpt2.py",
        "commit": commit or "unknown",
        "torch": torch.__version__,
        "backend": device.type,
        "device": name,
        "host": socket.gethostname(),
        "data_sha256": dataset.sha256 if dataset else "",
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


class Logger:
    """OUT/log.jsonl: one JSON object a line. A resumed run first drops what was written past its checkpoint."""

    def __init__(self, out, resume_step):
        path, kept = Path(out) / "log.jsonl", ""
        if resume_step >= 0 and path.exists():
            for line in path.read_text().splitlines(keepends=True):
                with contextlib.suppress(ValueError, KeyError, TypeError):  # a line that a crash cut short
                    event = json.loads(line)
                    whole = line.endswith("\n") and event["event"] != "final"
                    kept += line if whole and event["step"] <= resume_step else ""
        path.with_suffix(".tmp").write_text(kept)
        path.with_suffix(".tmp").rename(path)
        self.file = open(path, "a")  # noqa: SIM115 - open as long as the run

    def write(self, event, step, fields):
        bad = [key for key, value in fields.items() if isinstance(value, float) and not math.isfinite(value)]
        clean = fields | dict.fromkeys(bad)  # JSON has no NaN
        self.file.write(json.dumps({"event": event, "step": step} | clean) + "\n")
        self.file.flush()


class Trainer:
    def __init__(self, args):
        self.args, self.rank, self.world = args, int(os.environ.get("RANK", 0)), world_size()
        self.device = pick_device(args)
        self.begin, self.step, self.samples, self.tokens_done, self.last = time.perf_counter(), 0, 0, 0, {}
        self.saved_at = self.evaluated_at = self.sampled_at = -1
        self.received = 0  # signal
        resume_from = args.source if args.resume and args.source != args.init else None
        checkpoint = open_checkpoint(args.source) if args.source else None
        self.open_data(checkpoint)
        self.steps = self.length_in_steps()
        used = args.out and (newest_checkpoint(args.out) or (Path(args.out) / "log.jsonl").exists())
        check(
            not used or args.resume or args.overwrite or args.dry_run,
            USAGE,
            f"--out {args.out} holds an earlier "
            "run: go on with it (--resume), delete it (--overwrite), or choose another folder",
        )
        self.rules = parametrization(args)
        if args.dry_run:
            return
        if checkpoint:
            check_rules(checkpoint, self.rules, args.head_dim, training=bool(resume_from))
        for key in ("optimizer", "dtype", "seq_len", "parametrization") if resume_from else ():
            then, now = checkpoint.config.get(key), getattr(args, key)
            check(
                then == now,
                DATA,
                f"--resume: the checkpoint {resume_from} has {key} = {then}, this run {now}: give "
                "the same, or start a new run with --init and another --out",
            )
        self.build(checkpoint)
        if resume_from:
            self.step, state = load_optimizer(resume_from, self.model, self.optimizer)
            self.samples, self.tokens_done, self.saved_at = state["samples"], state["tokens"], self.step
            self.loss_outliers.window = state["outlier"]["loss"]
            self.norm_outliers.window = state["outlier"]["grad_norm"]
            check(
                self.step <= self.steps,
                USAGE,
                f"the checkpoint is at step {self.step}, beyond the {self.steps} steps asked for: raise --steps",
            )
        self.first_step = self.step
        self.announce(resume_from)

    def open_data(self, checkpoint):
        args = self.args
        check(
            args.train_data or args.dry_run or args.steps == 0,
            USAGE,
            "--train-data is missing: name token shards, such as 'data/*_train_*.bin' (dev/data/*.py make them)",
        )
        self.train_set = self.val_set = None
        if args.train_data:
            self.train_set = Dataset(args.train_data, args.seq_len, "--train-data", args.seed, args.shuffle)
        if args.val_data:
            self.val_set = Dataset(args.val_data, args.seq_len, "--val-data", shuffle=False)
        a, b = self.train_set, self.val_set
        check(
            not (a and b) or (a.vocab_size, a.tokenizer) == (b.vocab_size, b.tokenizer),
            DATA,
            "--train-data and --val-data were made with different tokenizers or vocabularies",
        )
        data_vocab = a.vocab_size if a else 0
        args.vocab_size = args.vocab_size or data_vocab or 50257
        check(
            data_vocab <= args.vocab_size,
            DATA,
            f"the training data has a vocabulary of {data_vocab} tokens, the "
            f"model of {args.vocab_size}: raise --vocab-size, or choose other data",
        )
        if args.overfit_single_batch and a:
            check(
                a.windows >= args.batch_size,
                DATA,
                f"--overfit-single-batch needs {args.batch_size} sequences, the training data holds {a.windows}",
            )
            a.shuffle = False
        source = a or checkpoint
        self.tokenizer_name = source.tokenizer if source else "unknown"
        if args.tokenizer != "auto":
            self.tokenizer_name = args.tokenizer
        elif self.tokenizer_name == "unknown" and args.vocab_size == 50257:
            self.tokenizer_name = "gpt2"  # llm.c's own shards do not say
        self.tokenizer = Tokenizer(self.tokenizer_name) if args.sample_every else None
        beside = [a.paths[0]] if a else []
        beside += [checkpoint.path] if checkpoint else []
        self.tokenizer_file = next((p for p in (Path(p).parent / "tokenizer.bin" for p in beside) if p.exists()), None)

    def length_in_steps(self):
        args = self.args
        if args.steps >= 0:
            return args.steps
        if args.tokens >= 0:
            return -(-args.tokens // args.total_batch_size)
        epochs = args.epochs if args.epochs >= 0 else 1.0
        windows = self.train_set.windows if self.train_set else 0
        return max(int(epochs > 0 and windows > 0), int(epochs * windows / (args.total_batch_size // args.seq_len)))

    def build(self, checkpoint):
        args = self.args
        self.model = GPT2(args).to(self.device)
        if checkpoint:
            self.model.set_weights(checkpoint.values)
        else:
            initialise(self.model, args.seed)
        self.optimizer = Optimizer(self.model, args)
        self.loss_outliers, self.norm_outliers = Outliers(args.skip_loss_zscore), Outliers(args.skip_grad_zscore)
        self.network = torch.compile(self.model, dynamic=False) if args.compile else self.model
        self.parallel = self.network
        self.coord_check = CoordCheck(args, self.rules) if args.coord_check else None
        if self.world > 1:
            self.parallel = DistributedDataParallel(self.network, broadcast_buffers=False)

    def announce(self, resumed_from):
        args, self.log = self.args, None
        count = sum(math.prod(rule["shape"]) for rule in self.rules["tensors"])
        shape = {
            "num_layers": args.depth,
            "num_heads": args.heads,
            "channels": args.width,
            "max_seq_len": args.max_seq_len,
            "vocab_size": args.vocab_size,
            "tie_embeddings": args.tie_embeddings,
        }
        record = {
            "config": options_dict(args),
            "model": shape,
            "parametrization": self.rules,
            "provenance": provenance(self.train_set, self.device),
        }
        self.metadata = {key: json.dumps(value) for key, value in record.items()} | {"tokenizer": self.tokenizer_name}
        if self.rank == 0 and args.out:
            try:
                Path(args.out).mkdir(parents=True, exist_ok=True)
                if args.overwrite:
                    shutil.rmtree(Path(args.out) / "checkpoints", ignore_errors=True)
                self.log = Logger(args.out, self.step if resumed_from else -1)
            except OSError as error:
                raise Error(FAILURE, f"cannot write to --out {args.out}: {error.strerror}") from None
        self.write(
            "config",
            record
            | {"parameters": count, "command": shlex.join(sys.argv)}
            | ({"resumed_from": str(resumed_from)} if resumed_from else {}),
        )
        self.note(self.describe())
        if resumed_from:
            self.note(f"resumed from {resumed_from} at step {self.step}")
        elif args.resume:
            self.note(f"nothing to resume in {args.out}: starting afresh")

    def describe(self):
        args = self.args
        count = sum(math.prod(rule["shape"]) for rule in self.rules["tensors"])
        ranks = f" x {self.world} ranks" if self.world > 1 else ""
        return (
            f"device  {self.device}, {args.dtype}{', compiled' if args.compile else ''}\n"
            f"model   depth {args.depth}, width {args.width}, heads {args.heads} x {args.head_dim}, positions "
            f"{args.max_seq_len}, vocabulary {args.vocab_size}, head "
            f"{'tied' if args.tie_embeddings else 'untied'}: {count:,} parameters\n"
            + (
                f"data    {self.train_set.tokens:,} training tokens in {len(self.train_set.shards)} shard(s), "
                f"tokenizer {self.tokenizer_name}\n"
                if self.train_set
                else ""
            )
            + f"run     {self.steps:,} steps of {args.total_batch_size:,} tokens ({self.micro_steps()} x "
            f"{args.batch_size} x {args.seq_len}{ranks})\n"
            f"rules   {args.parametrization}, width_mult {self.rules['width_mult']:g}, "
            + (f"depth_mult {self.rules['depth_mult']:g}, " if SCHEMES[args.parametrization].deep else "")
            + "attention scale "
            f"{self.rules['scales']['attention']:g}, output scale {self.rules['scales']['output']:g} (--dry-run "
            "shows every tensor)"
        )

    def micro_steps(self):
        return self.args.total_batch_size // (self.args.batch_size * self.args.seq_len * self.world)

    def elapsed(self):
        return time.perf_counter() - self.begin

    def note(self, text):
        if text and self.rank == 0:
            print(text, flush=True)

    def write(self, event, fields):
        if self.log:
            self.log.write(event, self.step, fields)

    def batches(self):
        """All the run's micro-batches of this rank: of each R * B samples the r-th B."""
        B, first = self.args.batch_size, self.samples
        for i in range((self.steps - self.step) * self.micro_steps()):
            begin = 0 if self.args.overfit_single_batch else first + (i * self.world + self.rank) * B
            yield self.train_set.batch(range(begin, begin + B), self.args.vocab_size, self.device)

    def train_step(self):
        """One optimizer step. It waits for the device once, for loss and norm; the next batch is ready by then."""
        args, micro_steps, start = self.args, self.micro_steps(), time.perf_counter()
        factor = lr_factor(args, self.step, self.steps)
        self.optimizer.torch.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for micro in range(micro_steps):
            last = micro == micro_steps - 1  # ranks exchange gradients once a step
            with contextlib.nullcontext() if last or self.world == 1 else self.parallel.no_sync():
                with self.coord_check.watch(self.model) if self.coord_check else contextlib.nullcontext():
                    loss = self.parallel(*self.batch) / micro_steps
                self.batch = next(self.stream, None)
                loss.backward()
            total += loss.detach()
        if self.coord_check:
            self.coord_check.add_parameters(self.model)
        stop = self.received
        if self.world > 1:  # mean loss; and all ranks stop at the same step
            shared = torch.stack([total / self.world, torch.tensor(float(stop > 0), device=self.device)])
            dist.all_reduce(shared)
            total, stop = shared[0], stop or (signal.SIGTERM if shared[1] > 0 else 0)
        loss, norm = torch.stack([total, self.optimizer.norm()]).tolist()
        skipped = False
        finite = math.isfinite(loss) and math.isfinite(norm)
        if finite:
            skipped = self.loss_outliers.sees(loss) | self.norm_outliers.sees(norm)
            if not skipped:
                self.optimizer.step(factor, norm)
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # for the clock; the update is short
        self.step += 1
        self.samples += args.total_batch_size // args.seq_len
        self.tokens_done += args.total_batch_size
        self.record(loss, norm, args.lr * factor, skipped, args.total_batch_size / (time.perf_counter() - start))
        if not finite:
            self.finish("diverged")
            kept = f" (the checkpoint of step {self.saved_at} is intact)" if self.saved_at >= 0 else ""
            raise Error(
                DIVERGED,
                f"training diverged at step {self.step}: loss {loss}, gradient norm {norm}; lower "
                f"--lr or raise --warmup-steps{kept}",
            )
        return stop

    def record(self, loss, norm, lr, skipped, rate):
        fields = {
            "loss": loss,
            "grad_norm": norm,
            "lr": lr,
            "tokens": self.tokens_done,
            "tokens_per_second": round(rate),
            "elapsed": self.elapsed(),
        }
        self.write("train", fields | ({"skipped": True} if skipped else {}))
        self.last |= {key: fields[key] for key in ("loss", "lr", "grad_norm", "tokens_per_second")}

    def show(self):
        done, now = self.step - self.first_step, self.elapsed()
        important = done == 1 or self.step in (self.steps, self.evaluated_at)
        if not important and now - self.shown < (0.5 if sys.stdout.isatty() else 5):
            return
        self.shown, last = now, self.last
        val = f" | val {last['val_loss']:.4f}" if "val_loss" in last else ""
        val += f" ({last['bits_per_byte']:.3f} bits/byte)" if "bits_per_byte" in last else ""
        eta = (now - self.loop_begin) / done * (self.steps - self.step)
        self.note(
            f"step {self.step:{len(str(self.steps))}d}/{self.steps} | loss {last['loss']:.4f}{val} | norm "
            f"{last['grad_norm']:.3f} | lr {last['lr']:.2e} | {last['tokens_per_second']:.0f} tok/s | ETA "
            f"{eta:.0f}s"
        )

    @torch.no_grad()
    def evaluate(self):
        if not self.val_set or self.evaluated_at == self.step:
            return
        self.evaluated_at, B = self.step, self.args.batch_size
        windows = min(self.val_set.windows, self.args.eval_batches * B or self.val_set.windows)
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for first in list(range(0, windows, B))[self.rank :: self.world]:
            rows = range(first, min(first + B, windows))
            total += self.network(*self.val_set.batch(rows, self.args.vocab_size, self.device)).double() * len(rows)
        if self.world > 1:
            dist.all_reduce(total)
        fields = {"val_loss": total.item() / windows}
        if self.val_set.tokens_per_byte:
            fields["bits_per_byte"] = fields["val_loss"] / math.log(2) * self.val_set.tokens_per_byte
        self.last |= fields
        self.write("eval", fields | {"elapsed": self.elapsed()})

    def sample_text(self):
        if not self.tokenizer or self.sampled_at == self.step or self.rank:
            return
        self.sampled_at = self.step
        text = generate(self.model, self.tokenizer, self.args, self.step)
        self.write("sample", {"prompt": self.args.prompt, "text": text})
        self.note(f"---- sample at step {self.step} ----\n{self.args.prompt}{text}\n----")

    def checkpoint(self):
        if not self.args.out or self.saved_at == self.step:
            return
        self.saved_at = self.step
        if self.rank:
            return
        state = {
            "samples": self.samples,
            "tokens": self.tokens_done,
            "updates": self.optimizer.updates,
            "seed": self.args.seed,
            "optimizer": self.args.optimizer,
            "outlier": {"loss": self.loss_outliers.window, "grad_norm": self.norm_outliers.window},
        }
        path = save_checkpoint(
            self.args.out,
            self.args.keep,
            self.step,
            self.model,
            self.optimizer,
            state,
            self.metadata,
            self.tokenizer_file,
        )
        self.write("checkpoint", {"path": path})

    def finish(self, reason):
        self.write("final", self.last | {"elapsed": self.elapsed(), "reason": reason})

    def run(self):
        """Returns the exit code."""
        args, due = self.args, lambda every: every > 0 and self.step % every == 0
        self.stream = self.batches()
        self.batch = next(self.stream, None)
        self.loop_begin = self.shown = self.elapsed()
        stop = 0
        profiler, first = None, self.step
        while self.step < self.steps and not stop:
            if args.profile and self.step == first + 1:
                profiler = torch.profiler.profile()
                profiler.start()
            stop = self.train_step()
            if due(args.eval_every):
                self.evaluate()
            self.show()
            if stop:
                break
            if due(args.sample_every):
                self.sample_text()
            if due(args.checkpoint_every):
                self.checkpoint()
        if profiler:
            profiler.stop()
            sort = "self_cuda_time_total" if self.device.type == "cuda" else "self_cpu_time_total"
            self.note(profiler.key_averages().table(sort_by=sort, row_limit=20))
        if not stop:
            self.evaluate()
            self.sample_text()
        self.checkpoint()
        self.finish("signal" if stop else "done")
        if stop:
            self.note(
                f"stopped by signal {stop} after step "
                f"{self.step}{'; --resume goes on from here' if args.out else '; nothing was saved (no --out)'}"
            )
        elif "val_loss" in self.last:
            self.note(f"done in {self.elapsed():.0f}s: validation loss {self.last['val_loss']:.4f} nats/token")
        return 128 + stop if stop else 0


def train(args):
    """Runs; returns the exit code. SIGINT and SIGTERM let the step finish and save; a second one kills."""
    group = world_size() > 1 and not dist.is_initialized()
    handlers = {}
    try:
        if group:
            device = pick_device(args)
            if device.type == "cuda":
                torch.cuda.set_device(device)
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        trainer = Trainer(args)
        if args.dry_run:
            trainer.note(trainer.describe() + "\n" + rule_table(trainer.rules).rstrip("\n"))
            return 0

        def handle(number, frame):
            trainer.received = number
            signal.signal(number, signal.SIG_DFL)

        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        code = trainer.run()
        if group:
            dist.barrier()  # no rank takes the group down while another still speaks to it
        return code
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if group and dist.is_initialized():
            dist.destroy_process_group()


def sample(args):
    """The sample command: the shape and the rules are the checkpoint's."""
    checkpoint, device = open_checkpoint(args.checkpoint), pick_device(args)
    take_shape(args, checkpoint)
    args.dtype = checkpoint.config.get("dtype", "fp32")
    tokenizer = Tokenizer(args.tokenizer if args.tokenizer != "auto" else checkpoint.tokenizer)
    model = GPT2(args).to(device)
    if checkpoint.parametrization:
        model.use_rules(checkpoint.parametrization)
    model.set_weights(checkpoint.values)
    print(args.prompt + generate(model, tokenizer, args))
    return 0


def main(argv=None):
    try:
        args = parse_args(argv)
        return sample(args) if args.checkpoint else train(args)
    except Error as error:
        print(f"train_gpt2.py: {error}", file=sys.stderr)
        return error.code
    except OSError as error:  # a full disk, a lost file system
        print(f"train_gpt2.py: {error}", file=sys.stderr)
        return FAILURE
    except torch.OutOfMemoryError:
        print("train_gpt2.py: out of device memory: lower --batch-size (and keep --total-batch-size)", file=sys.stderr)
        return FAILURE


if __name__ == "__main__":
    status = main()
    if world_size() > 1:  # all is written, and PyTorch's threads now and then abort a rank that ends in the usual way
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
