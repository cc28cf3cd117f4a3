"""The jobs of a sweep: the commands for given environment variables.

Every function takes the environment as a mapping; nothing reads os.environ here.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from llmc.errors import UsageError
from llmc.mup.job_options import numbers_of, read_config, read_options
from llmc.mup.jobs import FINISHED
from llmc.mup.sweep_run import SweepJob, number, plain
from llmc.mup.variables import Env, merged, schemes_of, seeds_of, whole_number, words
from llmc.options import Setting
from llmc.paths import trainer
from llmc.wording import plural

# the base model of a sweep: scripts/mup_sweep.toml in a clone
DEFAULT_CONFIG = Path(__file__).with_name("mup_sweep.toml")

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
LR_OF = {"u-mup": "2^-5 2^-4 2^-3 2^-2 2^-1 2^0 2^1 2^2 2^3"}  # its learning rates are not relative to a base model
SCALES = {
    "width": "32 64 128 256",
    "depth": "2 4 8 16",
    "batch_size": "4 8 16 32",
    "seq_len": "32 64 128 256",
    "tokens": "2^16 2^17 2^18 2^19",
}
HAVE_BASE = ("mup", "mup-table3", "mup-table9", "completep")
# sp: the same model as the others at the base width, so that only the rules differ. u-mup has its own init.
SCHEME_OPTIONS = {
    "sp": "--no-tie-embeddings --zero-init-query --zero-init-head",
    "u-mup": "--init-std 0.02 --output-mult 1",
}
TAKEN = {"out", "seed", "parametrization", "resume", "overwrite", "config"}  # not in EXTRA
U_MUP_NAMES = {"attn_mult": "attn-softmax-mult", "output_mult": "loss-softmax-mult"}  # u-mup's names for these options


# --- The grid ---


def env_list(env: Env, name: str, default: str) -> list[str]:
    return words(env.get(name, "")) or words(default)


def scheme_env(env: Env, name: str, scheme: str) -> str:
    """VALUES_U_MUP for (VALUES, u-mup)."""
    return env.get(f"{name}_{scheme.upper().replace('-', '_')}", "")


def check_validation(settings: Sequence[Setting], env: Env) -> None:
    """UsageError if the losses of different scales would be of different text. settings: those of CONFIG"""
    scale = env.get("SCALE", "width")
    extra = [word for name, text in env.items() if name.startswith("EXTRA") for word in shlex.split(text)]
    given = any(setting.option.name == "eval-batches" for setting in settings) or any(
        word.split("=")[0] == "--eval-batches" for word in extra
    )
    if given and scale in ("batch_size", "seq_len"):
        raise UsageError(
            f"SCALE={scale} with --eval-batches would compare losses of different text: give --eval-tokens instead"
        )


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
            raise UsageError(
                f"{name} has {text}: give {'whole numbers, at least 1' if integers else 'no negative numbers'}"
            )
        seen[value] = text
    return texts


def values_of(axis: str, scheme: str, env: Env) -> list[str]:
    default = LR_OF.get(scheme, LR) if axis == "lr" else AXES[axis]
    texts = words(scheme_env(env, "VALUES", scheme)) or env_list(env, "VALUES", default)
    if axis != "schedule":
        return checked_numbers("VALUES", texts)
    unknown = sorted(set(texts) - set(AXES["schedule"].split()))
    if unknown:
        raise UsageError(f"VALUES has the schedule {unknown[0]!r}: there are {AXES['schedule']}")
    return list(dict.fromkeys(texts))


def base_options(scheme: str, scale_axis: str, scales: list[str], default_config: bool, env: Env) -> list[str]:
    """--base-width and --base-depth of a scheme that has a base model."""
    if scheme not in HAVE_BASE:
        return []
    smallest = plain(min(scales, key=number))
    width = env.get("BASE_WIDTH") or (smallest if scale_axis == "width" else "32" if default_config else "")
    if not width:
        raise UsageError(
            f"BASE_WIDTH is not given, and {scheme} needs it: set BASE_WIDTH to the width the options "
            f"of CONFIG were tuned at"
        )
    depth = env.get("BASE_DEPTH") or (smallest if scale_axis == "depth" else "2" if default_config else "")
    if scheme == "completep" and not depth:
        raise UsageError(
            "BASE_DEPTH is not given, and completep needs it: set it to the depth the options of CONFIG were tuned at"
        )
    return ["--base-width", width] + (["--base-depth", depth] if scheme == "completep" else [])


def make_jobs(
    axis: str, out: str, config: str, settings: Sequence[Setting], default_config: bool, env: Env
) -> list[SweepJob]:
    """All jobs, the longest first.

    config, settings  the file of options of all runs, and what it has
    default_config    CONFIG is the default, whose base width is known
    """
    scale_axis = env.get("SCALE") or "width"
    if axis not in AXES:
        raise UsageError(f"there is no axis {axis!r} to sweep: choose one of {', '.join(AXES)}")
    if scale_axis not in SCALES:
        raise UsageError(f"SCALE is {scale_axis!r}: choose one of {', '.join(SCALES)}")
    scales = checked_numbers("SCALES", env_list(env, "SCALES", SCALES[scale_axis]), integers=True)
    seeds = [str(seed) for seed in seeds_of(env)]
    program, known = trainer(env), numbers_of(settings)
    jobs = []
    for scheme in schemes_of(env, "sp mup"):
        if scheme == "u-mup" and axis in ("embed_mult", "init_std"):
            raise UsageError(f"u-mup has no {axis}: leave it out of PARAMETRIZATIONS")
        option = U_MUP_NAMES.get(axis, axis) if scheme == "u-mup" else axis
        option, scale_option = option.replace("_", "-"), scale_axis.replace("_", "-")
        fixed = ["--config", config, *scheme_options(scheme, scale_axis, scales, default_config, env)]
        extra = shlex.split(env.get("EXTRA", "")) + shlex.split(scheme_env(env, "EXTRA", scheme))
        for scale in scales:
            for value in values_of(axis, scheme, env):
                swept = [f"--{scale_option}", plain(scale), f"--{option}", plain(value)]
                options = merged([*without(fixed, option), *swept], extra, TAKEN | {scale_option, option}, "the sweep")
                for seed in seeds:
                    folder = f"{out}/{scheme}/{scale_axis}={scale}/{axis}={value}/seed={seed}"
                    command = [*program, *options, "--seed", seed, "--out", folder, "--overwrite"]
                    jobs.append(SweepJob(shlex.join(command), work(command, known)))
    return sorted(jobs, key=lambda job: -job.work)  # stable: jobs with equal work stay in the order of the grid


def scheme_options(scheme: str, scale_axis: str, scales: list[str], default_config: bool, env: Env) -> list[str]:
    """The options that are the same for all runs of a scheme."""
    base = base_options(scheme, scale_axis, scales, default_config, env)
    own = SCHEME_OPTIONS.get(scheme, "").split()
    options = ["--parametrization", scheme, *base, *own, "--threads", str(whole_number(env, "THREADS", 1))]
    steps = whole_number(env, "STEPS", 0, least=0 if not env.get("STEPS") else 1)
    if steps and scale_axis != "tokens":
        options += ["--steps", str(steps)]
    return options


def without(options: list[str], name: str) -> list[str]:
    """The options without --name VALUE: the swept value replaces the scheme's."""
    if f"--{name}" not in options:
        return options
    at = options.index(f"--{name}")
    return options[:at] + options[at + 2 :]


def work(command: Sequence[str], known: Mapping[str, float]) -> float:
    """The duration of a run in an arbitrary unit: its multiplications, with an extra cost for small matrices."""

    def option(name: str, default: float) -> float:
        return float(command[command.index(name) + 1]) if name in command else default

    width, depth, length, batch, steps, tokens, total = (
        option(f"--{name}", known.get(name, default))
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
    if tokens <= 0 or ("--steps" in command and "--tokens" not in command):  # the command wins over the file
        tokens = max(steps, 1) * (total or batch * length)
    return tokens * width * (depth * (12 * width + 2 * length + 2500) + 257)


def read_jobs(path: Path) -> list[SweepJob]:
    """The jobs of OUT/jobs.txt; options that are not in the commands are in OUT/config.toml."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}: scripts/mup_sweep.sh writes it") from None
    known = numbers_of(read_config(path.with_name("config.toml"), [""]))  # any program's
    return [SweepJob(line, work(shlex.split(line), known)) for line in lines if line.strip()]


# --- OUT/jobs.txt ---


class Plan(NamedTuple):
    """A sweep before anything is written."""

    axis: str
    folder: Path
    config: Path  # CONFIG
    text: str  # of OUT/config.toml
    jobs: list[SweepJob]


def make_plan(axis: str, out: str, env: Env, verdict: bool = False) -> Plan:
    """UsageError for wrong variables. verdict: refuses also what cannot give one."""
    config, folder = Path(env.get("CONFIG") or DEFAULT_CONFIG), Path(out)
    try:
        text = config.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"CONFIG is {config}: {error.strerror}: give a TOML file of options") from None
    except UnicodeDecodeError:
        raise UsageError(f"CONFIG is {config}, which is not text: give a TOML file of options") from None
    settings = read_config(config, trainer(env))
    check_validation(settings, env)
    is_default = config.resolve() == DEFAULT_CONFIG.resolve()
    jobs = make_jobs(axis, out, str(folder / "config.toml"), settings, is_default, env)
    if verdict:
        refuse_too_little(axis, jobs)
    refuse_what_cannot_run(jobs, config, env)
    return Plan(axis, folder, config, text, jobs)


def refuse_too_little(axis: str, jobs: Sequence[SweepJob]) -> None:
    """UsageError for a grid without a verdict: one scale, or values that are all at the edge."""
    for scheme, values in grid_of(jobs).items():
        if len({scale for scale, _ in values}) < 2:
            raise UsageError("SCALES has one scale, which gives no verdict: give at least two")
        numbers = {value for _, value in values}
        if axis != "schedule" and len(numbers) < 3:
            raise UsageError(
                f"VALUES has {plural(len(numbers), 'value')} for {scheme}, and an optimum at the edge of the grid "
                f"gives no verdict: give at least three"
            )


def refuse_what_cannot_run(jobs: Sequence[SweepJob], config: Path, env: Env) -> None:
    """UsageError for options that the trainer would refuse, or that leave nothing to compare, before all runs have
    failed. Of each scheme, the runs with another scale or another value than those before: seeds make no difference,
    and in a large grid these are few."""
    program = trainer(env)
    seen: set[tuple[str, str, str]] = set()
    for job in jobs:
        label = job.labels()
        new = {(label["parametrization"], kind, label[kind]) for kind in ("scale", "value")} - seen
        if not new:
            continue
        seen |= new
        words = job.words[len(program) :]
        words[words.index("--config") + 1] = str(config)  # OUT/config.toml is not written yet
        options = read_options(program, words)
        if env.get("LOSS") == "val" and not options.val_data:
            raise UsageError(
                "LOSS is val, and --val-data is missing: name token shards to evaluate on in CONFIG or EXTRA, or give "
                "LOSS=train"
            )


def grid_of(jobs: Sequence[SweepJob]) -> dict[str, set[tuple[str, str]]]:
    """The pairs of scale and value of each scheme."""
    grid: dict[str, set[tuple[str, str]]] = {}
    for job in jobs:
        label = job.labels()
        grid.setdefault(label["parametrization"], set()).add((label["scale"], label["value"]))
    return grid


def write_job_list(plan: Plan, overwrite: bool) -> list[SweepJob]:
    """Writes OUT/jobs.txt and OUT/config.toml, the options that it uses, and prints a summary."""
    folder, jobs = plan.folder, plan.jobs
    copy_config(plan.config, plan.text, folder, overwrite)
    states = [job.state() for job in jobs]
    if "other" in states and not overwrite:
        job = jobs[states.index("other")]
        raise UsageError(
            f"{job.out} holds a finished run of other options than this sweep's: choose another OUT, or --overwrite"
        )
    (folder / "jobs.txt").write_text("".join(job.command + "\n" for job in jobs), encoding="utf-8")
    describe(plan.axis, jobs)
    finished = sum(state in FINISHED for state in states)
    print(
        f"{plural(len(jobs), 'run')} in {folder / 'jobs.txt'}, one command a line, longest first"
        + (f"; {finished} {'is' if finished == 1 else 'are'} finished" if finished else "")
    )
    return jobs


def copy_config(config: Path, text: str, folder: Path, overwrite: bool) -> None:
    """Writes OUT/config.toml, the options of the first call. UsageError if CONFIG is different now."""
    own = folder / "config.toml"
    folder.mkdir(parents=True, exist_ok=True)
    if own.exists() and own.read_text(encoding="utf-8") == text:
        return
    if own.exists():
        if not overwrite:
            raise UsageError(
                f"{own} differs from CONFIG {config}: {folder} holds a sweep of other options; choose another "
                f"OUT, or --overwrite"
            )
        for log in folder.glob("*/*=*/*=*/seed=*/log.jsonl"):  # same commands, other options: these runs are outdated
            log.unlink()
    own.write_text(text, encoding="utf-8")


def describe(axis: str, jobs: list[SweepJob]) -> None:
    """Prints one line per scheme: scales, values and seeds."""
    labels = [(job.labels(), job.out.parts[-3:]) for job in jobs]
    for scheme in dict.fromkeys(label["parametrization"] for label, _ in labels):
        mine = [parts for label, parts in labels if label["parametrization"] == scheme]
        scales, values, seeds = (sorted({parts[i].split("=")[1] for parts in mine}, key=in_order) for i in range(3))
        print(
            f"{scheme}: {labels[0][0]['scale_axis']} {' '.join(scales)} | {axis} {' '.join(values)} | "
            f"seeds {' '.join(seeds)}"
        )


def in_order(text: str) -> tuple[float, str]:
    """Sort key: numbers by size, names by the alphabet."""
    try:
        return number(text), ""
    except ValueError:
        return 0, text
