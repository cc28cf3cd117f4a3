"""The jobs of a sweep: which commands scripts/mup_sweep.sh makes of its environment variables.

A job is one command of OUT/jobs.txt. Its --out, OUT/SCHEME/SCALE_AXIS=SCALE/AXIS=VALUE/seed=SEED, says what it is.
"""

from __future__ import annotations

import math
import os
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_CONFIG = "scripts/mup_sweep.toml"

LR = "2^-12 2^-11 2^-10 2^-9 2^-8 2^-7 2^-6 2^-5 2^-4"
AXES = {  # default values of the swept option
    "lr": LR,
    "attn_mult": "2^-1 2^0 2^1 2^2 2^3 2^4 2^5",
    "output_mult": "2^-2 2^-1 2^0 2^1 2^2 2^3 2^4 2^5",
    "embed_mult": "2^-3 2^-2 2^-1 2^0 2^1 2^2 2^3 2^4",
    "init_std": "2^-7 2^-6 2^-5 2^-4 2^-3 2^-2 2^-1 2^0",
    "weight_decay": "0 2^-6 2^-5 2^-4 2^-3 2^-2 2^-1 2^0",
    "schedule": "constant linear cosine wsd",
}
LR_OF = {"u-mup": "2^-5 2^-4 2^-3 2^-2 2^-1 2^0 2^1 2^2 2^3"}  # its rates are not relative to a base model
SCALES = {
    "width": "32 64 128 256",
    "depth": "2 4 8 16",
    "batch_size": "4 8 16 32",
    "seq_len": "32 64 128 256",
    "tokens": "2^16 2^17 2^18 2^19",
}
HAVE_BASE = ("mup", "mup-table3", "mup-table9", "completep")
# sp: the same model as the others' at the base width, so that only the rules differ. u-mup has its own init.
SCHEME_OPTIONS = {
    "sp": "--no-tie-embeddings --zero-init-query --zero-init-head",
    "u-mup": "--init-std 0.02 --output-mult 1",
}
U_MUP_NAMES = {"attn_mult": "attn-softmax-mult", "output_mult": "loss-softmax-mult"}  # what these options are there


class UsageError(Exception):
    """A sweep that cannot be made. The message names what is wrong and says what to do."""


@dataclass(frozen=True)
class Job:
    command: str

    @property
    def words(self) -> list[str]:
        return shlex.split(self.command)

    @property
    def out(self) -> Path:
        return ROOT / self.words[self.words.index("--out") + 1]

    def labels(self) -> dict[str, str]:
        """What the folder's name says: parametrization, scale_axis, scale, axis, value, seed."""
        scheme, scale, axis, seed = self.out.parts[-4:]
        scale_axis, scale = scale.split("=")
        axis, value = axis.split("=")
        return {
            "parametrization": scheme,
            "scale_axis": scale_axis,
            "scale": plain(scale),
            "axis": axis,
            "value": plain(value),
            "seed": seed.split("=")[1],
        }

    def option(self, name: str, default: float) -> float:
        words = self.words
        return float(words[words.index(name) + 1]) if name in words else default


def number(text: str) -> float | int:
    """2^-7, 0.0078125 or 64; what is written as an integer stays one."""
    power = re.fullmatch(r"(\d+)\^([+-]?\d+(?:\.\d+)?)", text)
    value = float(power[1]) ** float(power[2]) if power else float(text)
    if not math.isfinite(value):
        raise ValueError
    whole = power or re.fullmatch(r"\d+", text)
    return int(value) if whole and value == int(value) and value < 2**53 else value


def plain(text: str) -> str:
    """The value as the program gets it: decimal, with all digits that a double has; names stay as they are."""
    try:
        return repr(number(text))
    except ValueError:
        return text


def env_list(name: str, default: str) -> list[str]:
    return os.environ.get(name, "").split() or default.split()


def scheme_env(name: str, scheme: str) -> str:
    """VALUES_U_MUP for (VALUES, u-mup)."""
    return os.environ.get(f"{name}_{scheme.upper().replace('-', '_')}", "")


def read_flat_toml(path: Path) -> dict[str, float]:
    """The numbers in a config file, by option name: enough to know how long a run takes."""
    found = re.findall(r"^\s*([\w-]+)\s*=\s*([-+\d._eE]+)\s*(?:#.*)?$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {name.replace("_", "-"): float(value.replace("_", "")) for name, value in found}


def without_length(text: str) -> str:
    """The config less its length of the run where the sweep sets one: the programs refuse to have both."""
    if os.environ.get("SCALE") == "tokens":
        names = "steps|tokens|epochs"
    elif os.environ.get("STEPS"):
        names = "tokens|epochs"
    else:
        return text
    return re.sub(rf"^(\s*(?:{names})\s*=)", r"# the sweep sets it: \1", text, flags=re.MULTILINE)


def checked_numbers(name: str, texts: list[str], integers: bool = False) -> list[str]:
    seen: dict[float, str] = {}
    for text in texts:
        try:
            value = number(text)
        except (ValueError, OverflowError):
            raise UsageError(f"{name} has {text!r}: give numbers like 0.001, 64 or 2^-7") from None
        if value in seen:
            raise UsageError(f"{name} has the same value twice, {seen[value]} and {text}: leave one out")
        if value < 0 or (integers and (value != int(value) or value < 1)):
            raise UsageError(f"{name} has {text}: give {'whole numbers from 1 on' if integers else 'no negative ones'}")
        seen[value] = text
    return texts


def values_of(axis: str, scheme: str) -> list[str]:
    default = LR_OF.get(scheme, LR) if axis == "lr" else AXES[axis]
    texts = scheme_env("VALUES", scheme).split() or env_list("VALUES", default)
    if axis != "schedule":
        return checked_numbers("VALUES", texts)
    unknown = sorted(set(texts) - set(AXES["schedule"].split()))
    if unknown:
        raise UsageError(f"VALUES has the schedule {unknown[0]!r}: there are {AXES['schedule']}")
    return list(dict.fromkeys(texts))


def base_options(scheme: str, scale_axis: str, scales: list[str], default_config: bool) -> list[str]:
    """--base-width and --base-depth of a scheme that has a base model."""
    if scheme not in HAVE_BASE:
        return []
    smallest = plain(min(scales, key=number))
    width = os.environ.get("BASE_WIDTH") or (smallest if scale_axis == "width" else "32" if default_config else "")
    if not width:
        raise UsageError(
            f"BASE_WIDTH is not given, and {scheme} needs it: set BASE_WIDTH to the width the options "
            f"of CONFIG were tuned at"
        )
    depth = os.environ.get("BASE_DEPTH") or (smallest if scale_axis == "depth" else "2" if default_config else "")
    if scheme == "completep" and not depth:
        raise UsageError(
            "BASE_DEPTH is not given, and completep needs it: set it to the depth the options of CONFIG were tuned at"
        )
    return ["--base-width", width] + (["--base-depth", depth] if scheme == "completep" else [])


def merged(options: list[str], extra: list[str], swept: set[str]) -> list[str]:
    """The options, those of EXTRA instead of equal ones. --x and --no-x are the same option."""

    def key(word):
        return word.split("=")[0].removeprefix("--").removeprefix("no-")

    given = {key(word) for word in extra if word.startswith("--")}
    taken = given & (swept | {"out", "seed", "parametrization", "resume", "overwrite", "config"})
    if taken:
        raise UsageError(f"EXTRA has --{min(taken)}, which the sweep sets itself: leave it out")
    kept, keep = [], True
    for word in options:
        if word.startswith("--"):
            keep = key(word) not in given
        if keep:
            kept.append(word)
    return kept + extra


def make_jobs(axis: str, out: str, config: str, default_config: bool) -> list[Job]:
    scale_axis = os.environ.get("SCALE") or "width"
    if axis not in AXES:
        raise UsageError(f"there is no axis {axis!r} to sweep: choose one of {', '.join(AXES)}")
    if scale_axis not in SCALES:
        raise UsageError(f"SCALE is {scale_axis!r}: choose one of {', '.join(SCALES)}")
    scales = checked_numbers("SCALES", env_list("SCALES", SCALES[scale_axis]), integers=True)
    seeds = [plain(seed) for seed in checked_numbers("SEEDS", env_list("SEEDS", "1 2 3"), integers=True)]
    program = shlex.split(os.environ.get("PROGRAM") or "./train_gpt2")
    jobs = []
    for scheme in dict.fromkeys(env_list("PARAMETRIZATIONS", "sp mup")):
        if scheme == "u-mup" and axis in ("embed_mult", "init_std"):
            raise UsageError(f"u-mup has no {axis}: leave it out of PARAMETRIZATIONS")
        option = U_MUP_NAMES.get(axis, axis) if scheme == "u-mup" else axis
        option, scale_option = option.replace("_", "-"), scale_axis.replace("_", "-")
        fixed = [
            "--config",
            config,
            "--parametrization",
            scheme,
            *base_options(scheme, scale_axis, scales, default_config),
            *SCHEME_OPTIONS.get(scheme, "").split(),
            "--threads",
            os.environ.get("THREADS") or "1",
        ]
        if os.environ.get("STEPS") and scale_axis != "tokens":
            fixed += ["--steps", os.environ["STEPS"]]
        extra = shlex.split(os.environ.get("EXTRA", "")) + shlex.split(scheme_env("EXTRA", scheme))
        for scale in scales:
            for value in values_of(axis, scheme):
                swept = [f"--{scale_option}", plain(scale), f"--{option}", plain(value)]
                options = merged([*without(fixed, option), *swept], extra, {scale_option, option})
                for seed in seeds:
                    folder = f"{out}/{scheme}/{scale_axis}={scale}/{axis}={value}/seed={seed}"
                    jobs.append(Job(shlex.join([*program, *options, "--seed", seed, "--out", folder, "--overwrite"])))
    known = read_flat_toml(Path(config))
    return sorted(jobs, key=lambda job: -work(job, known))  # stable: equal ones stay in the order of the grid


def without(options: list[str], name: str) -> list[str]:
    """The options less --name VALUE: the swept one replaces what the scheme would set."""
    if f"--{name}" not in options:
        return options
    at = options.index(f"--{name}")
    return options[:at] + options[at + 2 :]


def work(job: Job, known: dict[str, float]) -> float:
    """How long a run takes, in some unit: multiplications of its tokens, and what small matrices cost besides."""
    width, depth, length, batch, steps, tokens, total = (
        job.option(f"--{name}", known.get(name, default))
        for name, default in [
            ("width", 768),
            ("depth", 12),
            ("seq-len", 1024),
            ("batch-size", 4),
            ("steps", -1),
            ("tokens", -1),
            ("total-batch-size", 0),
        ]
    )
    if tokens <= 0:
        tokens = max(steps, 1) * (total or batch * length)
    return tokens * width * (depth * (12 * width + 2 * length + 2500) + 257)


def read_jobs(path: Path) -> list[Job]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}: scripts/mup_sweep.sh writes it") from None
    return [Job(line) for line in lines if line.strip()]
