"""What a user should know about the options of a run although it can be done. The same as llmc/train/warnings.cpp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

from llmc.checkpoint import Start
from llmc.config import Config
from llmc.cpus import threads_warning
from llmc.data.windows import shared_shards
from llmc.options import OPTIONS, of_type
from llmc.run_setup import Setup, length_in_steps
from llmc.wording import plural

Factor = Callable[[Config, int, int], float]  # of the learning rate at a step, from 0, of a number of steps


def warnings_of(setup: Setup, factor: Factor) -> list[str]:
    """Of a setup that is complete. A sentence each."""
    warnings = (
        threads_warning(setup.config.threads),
        _of_shared_shards(setup),
        _of_warmup(setup, factor),
        _of_resumed_rate(setup, factor),
    )
    return [warning for warning in warnings if warning]


def _of_shared_shards(setup: Setup) -> str:
    shared = shared_shards(setup.train, setup.val) if setup.train and setup.val else []
    if not setup.val or not shared:
        return ""
    val, train = shared[0]
    return (
        f"--val-data: {val} is in --train-data too"
        + ("" if val == train else f", as {train}")
        + (f" (and {len(shared) - 1} more of {plural(len(setup.val.shards), 'shard')})" if len(shared) > 1 else "")
        + ": the validation loss says nothing about text that the model has not seen"
    )


def _of_warmup(setup: Setup, factor: Factor) -> str:
    config, steps = setup.config, setup.steps
    if not config.warmup_steps or not steps or config.warmup_steps < steps:
        return ""
    return (
        f"--warmup-steps {config.warmup_steps} is not shorter than the run of {plural(steps, 'step')}: the learning "
        f"rate still rises when it ends, at {factor(config, steps - 1, steps):.3g} of --lr"
    )


def _of_resumed_rate(setup: Setup, factor: Factor) -> str:
    """The schedule of a longer run starts again at a higher rate than that at which the checkpoint's run ended."""
    config, step = setup.config, setup.start.step
    if not setup.resume_from or not setup.weights or not 0 < step < setup.steps:
        return ""
    stored = {f.name: setup.weights.config[f.name] for f in fields(Config) if f.name in setup.weights.config}
    options = {option.key: option for option in OPTIONS.values()}
    before = Config(**{key: of_type(options[key], value) for key, value in stored.items()})
    if not before.total_batch_size:
        return ""
    steps = length_in_steps(before, setup.train, Start())
    then = before.lr * factor(before, step - 1, steps)
    now = config.lr * factor(config, step, setup.steps)
    if now <= 1.5 * then or step < config.warmup_steps:
        return ""
    return (
        f"--resume: the learning rate jumps from {then:.3g} to {now:.3g} at step {step + 1}, because the schedule is "
        f"now one of {plural(setup.steps, 'step')}, not {steps:,}: --schedule constant and wsd can be extended without "
        "a jump"
    )
