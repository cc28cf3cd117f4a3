"""The command line wins over --config: for every pair of an option of the file and one of the command line."""

import itertools
import json

import pytest
from both_programs import original, twin
from program import BINARY, TINY, checkpoints, run
from shards import random_text, write_text_shards

import train_gpt2
from llmc.checkpoint import Shape
from llmc.errors import UsageError
from llmc.options import OPTIONS, Setting, has_effect, make_config, resolve_batch, resolve_heads, shown
from llmc.precedence import leave_out

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]

EXTRA = train_gpt2.PROGRAM.options
TABLE = OPTIONS | {option.name: option for option in EXTRA}
# Numbers that fit each other: what is tested are options that exclude or need each other, or mean nothing together.
VALUES = {"preset": "gpt2", "total-batch-size": 2**20, "head-dim": 64, "base-width": 768, "base-heads": 12}
VALUES |= {"base-depth": 12, "checkpoint-minutes": 5.0, "attn-mult": 8.0, "grad-clip": 1.0, "depth-alpha": 0.5}
# What else is in the file or on the command line so that an option has a meaning there, if the table does not say it.
UNTIED = [{"tie-embeddings": False}, {"parametrization": "mup"}]


def used(option):
    """A value with an effect."""
    if option.type in ("integer", "number"):
        value = VALUES.get(option.name, option.default)
        return value if value is not None and has_effect(option, value) else 3
    return True if option.type == "flag" else VALUES.get(option.name, option.choices[-1] if option.choices else "x")


def unused(option):
    """A value that turns an option off."""
    return {"flag": False, "text": ""}.get(option.type, option.off)


def complete(values):
    """With what these options need."""
    scheme, out = values.get("parametrization", "sp"), dict(values)
    for name, value in values.items():
        option = TABLE[name]
        if not has_effect(option, value):
            continue
        if option.needs:
            out = complete({option.needs: used(TABLE[option.needs])}) | out
        if option.schemes and scheme not in option.schemes:
            scheme = out["parametrization"] = option.schemes[0]
    required = [name for name, option in TABLE.items() if scheme in option.required_by]
    return {name: used(TABLE[name]) for name in required} | out


def settings(values):
    return [Setting(TABLE[name], value, f"--{name}") for name, value in values.items()]


def config_of(given):
    """The configuration of settings. UsageError if a run would be refused, as far as options alone say it."""
    config = make_config(given, EXTRA).config
    if config.init or config.resume:
        return config
    scheme = train_gpt2.SCHEMES[config.parametrization]
    config = resolve_batch(resolve_heads(config), scheme.grad_clip)
    tied = scheme.tie if config.tie_embeddings is None else config.tie_embeddings
    shape = Shape(config.depth, config.width, config.heads, config.seq_len, config.vocab_size or 50257, tied)
    train_gpt2.parametrization(config, shape)
    return config


def accepted(given):
    try:
        return bool(config_of(given))
    except UsageError:
        return False


def contexts(with_unused):
    """Every option with its values, each with what it needs, if this is accepted alone."""
    found = []
    for name, option in TABLE.items():
        values = option.choices if name == "parametrization" else [used(option)]
        values = [*values, *([unused(option)] if with_unused and unused(option) is not None else [])]
        beside = UNTIED if name == "zero-init-head" else [{}]
        found += [complete(more | {name: value}) for value, more in itertools.product(values, beside)]
    return [values for values in found if accepted(settings(values))]


FILES, LINES = contexts(with_unused=False), contexts(with_unused=True)


def scheme_of_the_file_forbids(file, line):
    """The parametrization of the file is not exchanged in passing, for an option that does not suit it."""
    scheme = file.get("parametrization", "sp")
    return "parametrization" not in line and any(
        scheme in option.required_by if not has_effect(option, value) else scheme not in (option.schemes or [scheme])
        for option, value, _ in settings(line)
    )


def test_the_command_line_wins_in_every_pair():
    """What is accepted in a file and what is accepted on the command line is accepted together; the values of the
    command line are those of the run, and what the file loses is said."""
    assert {name for values in FILES for name in values} == set(TABLE)
    for file, line in itertools.product(FILES, LINES):
        given = settings(line)
        kept, notes = leave_out(settings(file), given, "a.toml", train_gpt2.PROGRAM.tying)
        if scheme_of_the_file_forbids(file, line):
            with pytest.raises(UsageError, match="parametrization"):
                config_of(kept + given)
            continue
        try:
            config_of(kept + given)
        except UsageError as error:
            pytest.fail(f"{file} and {line}: {error}")
        names = {option.name: value for option, value, _ in kept + given}
        assert names | line == names
        for name, value in file.items():
            assert name in names or any(f"{name} = {shown(value)}" in note for note in notes)


def words(values):
    out = []
    for name, value in values.items():
        flag = isinstance(value, bool)
        out += [f"--{'' if value else 'no-'}{name}"] if flag else [f"--{name}", shown(value)]
    return out


def test_both_programs_leave_out_the_same(tmp_path):
    """All pairs of which the file loses something, in the form of TOML and words."""
    ours, path = {option.name for option in EXTRA}, tmp_path / "a.toml"
    count = 0
    for file, line in itertools.product(FILES, LINES):
        file = dict(sorted(file.items()))  # as both programs read it
        _, notes = leave_out(settings(file), settings(line), f"--config {path}", train_gpt2.PROGRAM.tying)
        if not notes or ours & (set(file) | set(line)):
            continue
        path.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in file.items()))
        arguments = ["--print-config", "--config", str(path), *words(line)]
        code, printed, said = original(arguments)
        assert (code, printed, said) == twin(arguments), arguments
        assert code == 0 and sorted(said.splitlines()) == sorted(f"note: {note}" for note in notes), said
        count += 1
    assert count > 150


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    data = write_text_shards(folder / "data", random_text(5_000), shards=1)
    run("--train-data", data, *TINY, "--steps", 0, "--out", folder / "out")
    return checkpoints(folder / "out")[0]


@pytest.mark.parametrize("name", OPTIONS["init"].replaces)
def test_a_checkpoint_given_on_the_command_line_has_its_own_shape(tmp_path, checkpoint, name):
    """Both programs refuse the option beside --init if both are in the file."""
    value = {"preset": "gpt2", "tie-embeddings": False, "vocab-size": 1000, "head-dim": 3}.get(name, 7)
    path, text = tmp_path / "a.toml", f"{name} = {json.dumps(value)}\n"
    path.write_text(text)
    arguments = ["--dry-run", "--config", str(path), "--init", str(checkpoint)]
    note = f"note: --config {path}: {name} = {shown(value)} left out: --init {checkpoint} is given"
    for program in (original, twin):
        code, printed, said = program(arguments)
        assert (code, said) == (0, note) and "depth 2, width 48, heads 3 x 16" in printed
    path.write_text(f"{text}init = {json.dumps(str(checkpoint))}\n")
    for program in (original, twin):
        assert program(arguments)[0] == 3  # repeated, not displaced
        assert program(arguments[:3])[0] == 3
