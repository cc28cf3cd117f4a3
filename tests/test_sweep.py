"""scripts/mup_sweep.sh before anything runs: its jobs, and wrong use."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from program import BINARY
from sweep_tools import (
    ROOT,
    fake_sweep,
    job_list,
    option,
    runs,
    sweep,
)

from llmc.errors import UsageError
from llmc.mup import sweep_jobs
from llmc.mup.check_settings import read_settings
from llmc.mup.job_options import read_options
from llmc.mup.sweep import run_sweep
from llmc.mup.sweep_jobs import make_plan, read_jobs
from llmc.mup.transfer import environment


@pytest.fixture
def fake(tmp_path):
    """A folder with a fake trainer; environment for a small sweep with it."""
    return fake_sweep(tmp_path)


# ---- the job list


def test_job_list_is_runnable_exact_and_longest_first(fake):
    folder, env = fake
    env["SEEDS"] = "1 2"
    done = sweep(env, "--dry-run")
    jobs = job_list(env)
    assert "24 runs" in done.stdout
    assert len(jobs) == len({option(words, "--out") for words in jobs}) == 2 * 2 * 3 * 2
    assert runs(folder) == []
    assert [option(words, "--width") for words in jobs] == ["16"] * 12 + ["8"] * 12
    for words in jobs:
        scheme, width, value, seed = option(words, "--out").split("/")[-4:]
        assert scheme == option(words, "--parametrization")
        assert width == f"width={option(words, '--width')}"
        assert seed == f"seed={option(words, '--seed')}"
        assert float(option(words, "--lr")) == 2.0 ** int(value.removeprefix("lr=2^"))
        assert "--overwrite" in words
        assert ("--base-width" in words) == (scheme == "mup")
        # the same model at the base width
        assert ("--zero-init-head" in words and "--no-tie-embeddings" in words) == (scheme == "sp")
    assert {option(words, "--base-width") for words in jobs if "mup" in words} == {"8"}
    first = (Path(env["OUT"]) / "jobs.txt").read_text().splitlines()[0]
    subprocess.run(first, shell=True, check=True, cwd=ROOT)
    assert len(runs(folder)) == 1


def test_values_keep_all_their_digits(fake):
    _, env = fake
    sweep(env | {"VALUES": "2^-7.5 0.0030000000000000001 1e-05", "SCALES": "8"}, "--dry-run")
    found = {option(words, "--out").split("/")[-2]: float(option(words, "--lr")) for words in job_list(env)}
    assert found == {"lr=2^-7.5": 2.0**-7.5, "lr=0.0030000000000000001": 0.003, "lr=1e-05": 1e-5}


@pytest.mark.parametrize(
    ("axis", "wanted"),
    [
        ("attn_mult", "--attn-mult 4"),
        ("output_mult", "--output-mult 4"),
        ("embed_mult", "--embed-mult 4"),
        ("init_std", "--init-std 4"),
        ("weight_decay", "--weight-decay 4"),
    ],
)
def test_axes_set_their_option(fake, axis, wanted):
    _, env = fake
    sweep(env | {"VALUES": "2^2", "SCALES": "8"}, "--dry-run", axis=axis)
    assert all(f" {wanted} " in " ".join(words) for words in job_list(env))


@pytest.mark.parametrize(
    ("scale", "scales", "wanted"),
    [
        ("depth", "2 4", {"2", "4"}),
        ("batch_size", "2 8", {"2", "8"}),
        ("seq_len", "2^3 16", {"8", "16"}),
        ("tokens", "2^10 2^11", {"1024", "2048"}),
    ],
)
def test_scales_set_their_option(fake, scale, scales, wanted):
    _, env = fake
    sweep(env | {"SCALE": scale, "SCALES": scales, "BASE_WIDTH": "8", "STEPS": "5"}, "--dry-run")
    jobs = job_list(env)
    assert {option(words, "--" + scale.replace("_", "-")) for words in jobs} == wanted
    assert option(jobs[0], "--" + scale.replace("_", "-")) == max(wanted, key=int)
    assert (Path(env["OUT"]) / "config.toml").read_text() == Path(env["CONFIG"]).read_text()
    if scale == "tokens":  # the programs refuse two lengths, and --tokens displaces steps of CONFIG
        assert not any("--steps" in words for words in jobs)
    else:
        assert {option(words, "--steps") for words in jobs} == {"5"}


@pytest.mark.parametrize("change", [{"STEPS": "1e3"}, {"STEPS": "1_000"}, {"STEPS": " 1000.0"}])
def test_numbers_are_those_of_the_programs(fake, change):
    _, env = fake
    plan = make_plan("lr", env["OUT"], env | change | {"SCALES": "1.6e1 8", "SEEDS": "1e1-1_1", "VALUES": "1_0e-3"})
    assert {job.option("--steps") for job in plan.jobs} == {"1000"}
    assert {float(job.option("--width")) for job in plan.jobs} == {8, 16}
    assert {job.option("--seed") for job in plan.jobs} == {"10", "11"}
    assert {job.option("--lr") for job in plan.jobs} == {"0.01"}
    settings = read_settings(change | {"PROGRAM": "x", "WIDTHS": "6.4e1 128", "LR": "1_0e-3"})
    assert (settings.steps, settings.widths) == (1000, [64, 128])


def test_a_quoted_number_and_a_preset_count_for_the_order(fake):
    _, env = fake
    env |= {"SCALE": "depth", "SCALES": "8 2", "BASE_WIDTH": "64", "VALUES": "2^-7"}
    work = []
    for width in ("width = 64", 'width = "64"', "width = '6_4'", "preset = 'gpt2'\nwidth = 64"):
        text = width + "\ntrain-data = 'x'\nseq-len = 4\nbatch-size = 2\nheads = 1\nsteps = 8\n"
        Path(env["CONFIG"]).write_text(text)
        work.append([job.work for job in make_plan("lr", env["OUT"], env).jobs])
    assert work == [work[0]] * 4
    text = Path(env["CONFIG"]).read_text()
    Path(env["CONFIG"]).write_text(text.replace("steps = 8", "tokens = 1_000_000"))
    assert [job.work for job in make_plan("lr", env["OUT"], env | {"STEPS": "8"}).jobs] == work[0]
    Path(env["CONFIG"]).write_text(text.replace("width = 64\n", "").replace("heads = 1\n", ""))
    assert make_plan("lr", env["OUT"], env).jobs[0].work > 10 * work[0][0]  # gpt2: 768


def test_schemes_have_their_own_options_and_grids(fake):
    _, env = fake
    env |= {
        "PARAMETRIZATIONS": "sp mup completep u-mup",
        "BASE_DEPTH": "2",
        "VALUES_U_MUP": "2^0 2^1",
        "EXTRA": "--threads 3",
        "EXTRA_SP": "--tie-embeddings",
    }
    sweep(env, "--dry-run")
    jobs = {
        scheme: [w for w in job_list(env) if option(w, "--parametrization") == scheme]
        for scheme in env["PARAMETRIZATIONS"].split()
    }
    assert {option(words, "--lr") for words in jobs["u-mup"]} == {"1", "2"}
    assert {option(words, "--lr") for words in jobs["mup"]} == {"0.00390625", "0.0078125", "0.015625"}
    for words in jobs["u-mup"]:
        assert "--base-width" not in words
        assert (option(words, "--init-std"), option(words, "--output-mult")) == ("0.02", "1")
    assert all(option(words, "--base-depth") == "2" for words in jobs["completep"])
    for words in jobs["sp"]:  # a tied head cannot start at 0
        assert "--tie-embeddings" in words and not {"--no-tie-embeddings", "--zero-init-head"} & set(words)
    assert all(words.count("--threads") == 1 and option(words, "--threads") == "3" for words in job_list(env))
    sweep(env | {"OUT": env["OUT"] + "2", "PARAMETRIZATIONS": "u-mup"}, "--dry-run", axis="output_mult")
    second = job_list(env | {"OUT": env["OUT"] + "2"})
    assert {option(words, "--loss-softmax-mult") for words in second} == {"1", "2"}
    assert {option(words, "--output-mult") for words in second} == {"1"}  # u-mup accepts no other value


@pytest.mark.parametrize(
    ("change", "axis", "message"),
    [
        ({}, "momentum", "no axis 'momentum'"),
        ({}, "", "no axis is given"),
        ({"SCALE": "heads"}, "lr", "SCALE is 'heads'"),
        ({"VALUES": "fast"}, "lr", "'fast'"),
        ({"VALUES": "2^-7 0.0078125"}, "lr", "same value twice"),
        ({"SCALES": "8.5"}, "lr", "whole numbers"),
        ({"SEEDS": "0"}, "lr", "SEEDS is '0': give how many (SEEDS=3), the seeds themselves"),
        ({"SEEDS": "6-4"}, "lr", "SEEDS is '6-4'"),
        ({"SEEDS": "1 2-3 2"}, "lr", "SEEDS has 2 twice"),
        ({"STEPS": "0"}, "lr", "STEPS is '0': give one whole number, at least 1"),
        ({"PARAMETRIZATIONS": "mup ntk"}, "lr", "PARAMETRIZATIONS has 'ntk': there are sp, mup,"),
        ({"CONFIG": "none.toml"}, "lr", "none.toml"),
        ({"SCALE": "depth"}, "lr", "BASE_WIDTH"),
        ({"VALUES": "sine"}, "schedule", "'sine'"),
        ({"EXTRA": "--lr 1"}, "lr", "--lr"),
        ({"EXTRA": "--out x"}, "lr", "--out"),
        ({"PARAMETRIZATIONS": "u-mup"}, "init_std", "u-mup has no init_std"),
        ({"JOBS": "many"}, "lr", "JOBS is 'many'"),
        ({"LOSS": "test"}, "lr", "LOSS is test"),
        ({"SCALE": "batch_size", "EXTRA": "--eval-batches=3"}, "lr", "different text: give --eval-tokens"),
        ({"SCALE": "seq_len", "EXTRA_MUP": "--eval-batches 3"}, "lr", "different text: give --eval-tokens"),
        ({"PROGRAM": "./no_such_program"}, "lr", "no_such_program is missing"),
        ({"PROGRAM": "python3 no_such.py"}, "lr", "no_such.py is missing"),
        ({"PROGRAM": "a 'b"}, "lr", "quote it as in a shell"),
        ({"EXTRA": "cosine"}, "lr", "EXTRA begins with 'cosine'"),
        ({"WIDTHS": "8 16"}, "lr", "WIDTHS is set, and it is no variable of llmc sweep: give SCALES"),
        ({"WIDTH": "8"}, "lr", "give SCALES"),
        ({"SEED": "8"}, "lr", "is it SEEDS?"),
        ({"VALUE": "2^-3"}, "lr", "is it VALUES?"),
        ({"VALUES_MU": "2^-3"}, "lr", "is it VALUES_MUP?"),
        ({"EXTRA_NTK": "--lr 3"}, "lr", "there is no parametrization ntk"),
        # what every run would refuse
        ({"SCALES": "8 12"}, "lr", "--head-dim 8 does not divide --width 12"),
        (
            {"SCALES": "8 32", "EXTRA": "--heads 2"},
            "lr",
            "the head size 16 does not divide --base-width 8: give --base",
        ),
        ({"EXTRA_MUP": "--base-heads 3"}, "lr", "--base-heads 3 does not divide --base-width 8"),
        ({"EXTRA": "--lrr 1"}, "lr", "unknown argument: --lrr; did you mean --lr?"),
        ({"EXTRA_MUP": "--lrr 1"}, "lr", "unknown argument: --lrr"),
        ({"EXTRA": "--beta1 2"}, "lr", "--beta1: '2' is out of range"),
        ({"EXTRA": "--total-batch-size 12"}, "lr", "--total-batch-size 12 is not a multiple of"),
        ({"EXTRA": "--dry-run"}, "lr", "with which nothing is trained"),
        ({"EXTRA": "-h"}, "lr", "with which nothing is trained"),
        ({"LOSS": "val"}, "lr", "LOSS is val, and --val-data is missing"),
        ({"PROGRAM": "./train_gpt2 --widht 3"}, "lr", "unknown argument: --widht"),
        ({"PROGRAM": "./train_gpt2", "EXTRA": "--compile"}, "lr", "unknown argument: --compile"),
    ],
)
def test_wrong_use_is_one_sentence(fake, change, axis, message):
    _, env = fake
    with pytest.raises(UsageError) as error:
        run_sweep([axis] if axis else [], None, env | change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert not Path(env["OUT"]).exists()  # nothing is written
    assert runs(fake[0]) == []


@pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")
@pytest.mark.parametrize(
    "words",
    [
        "--width 12 --head-dim 8",
        "--width 256 --heads 4 --base-width 32 --parametrization mup",
        "--width 64 --heads 4 --base-width 32 --base-heads 3 --parametrization mup",
        "--width 32 --heads 4 --parametrization u-mup --tie-embeddings",
        "--width 32 --heads 4 --parametrization completep --base-width 16",
        "--width 32 --heads 4 --total-batch-size 5",
    ],
)
def test_shapes_are_refused_in_the_words_of_the_program(words):
    done = subprocess.run([BINARY, *words.split(), "--dry-run"], capture_output=True, text=True, check=False)
    with pytest.raises(UsageError) as error:
        read_options(["./train_gpt2"], [*words.split(), "--train-data", "x"])
    assert (done.returncode, done.stderr) == (2, f"{BINARY.name}: {error.value}\n")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("lr = 1-2", 'line 7: "lr = 1-2" is not TOML: give one number'),
        ("lr = 2026-01-02", "--lr is a date or time: give a number"),
        ("lrr = 1", "unknown key 'lrr'; did you mean lr?"),
        ("beta1 = 'x'", "--beta1: 'x' is not a number"),
        ("[a]", "[a] is a table"),
        ("val-data = 3", "--val-data: '3' is not a text"),
    ],
)
def test_config_is_read_as_the_programs_read_it(fake, line, message):
    _, env = fake
    Path(env["CONFIG"]).write_text(Path(env["CONFIG"]).read_text() + line + "\n")
    done = sweep(env, "--dry-run", expect=2)
    assert done.stderr.startswith(f"error: --config {env['CONFIG']}")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not Path(env["OUT"]).exists()


def test_the_config_of_a_job_list_is_read_so_too(fake):
    _, env = fake
    sweep(env, "--dry-run")
    (Path(env["OUT"]) / "config.toml").write_text("lr = 1-2\n")
    with pytest.raises(UsageError, match='line 1: "lr = 1-2" is not TOML'):
        read_jobs(Path(env["OUT"]) / "jobs.txt")


def test_options_that_the_programs_take_are_taken(fake):
    _, env = fake
    own = {"PROGRAM": "torchrun --nproc-per-node 2 train_gpt2.py --dtype bf16", "EXTRA": "--compile --device cpu"}
    assert make_plan("lr", env["OUT"], env | own).jobs
    assert make_plan("lr", env["OUT"], env | {"PROGRAM": "./train_gpt2cu --dtype bf16"}).jobs
    assert make_plan("lr", env["OUT"], env | {"LOSS": "val", "EXTRA": "--val-data a b"}).jobs


def test_a_long_list_is_checked_by_few_runs(fake, monkeypatch):
    _, env = fake
    read, count = sweep_jobs.read_options, []
    monkeypatch.setattr(sweep_jobs, "read_options", lambda *words: count.append(0) or read(*words))
    scales, values = (" ".join(str(8 * n) for n in range(1, 31)), " ".join(f"{n}e-4" for n in range(1, 31)))
    assert len(make_plan("lr", env["OUT"], env | {"SCALES": scales, "VALUES": values}).jobs) == 2 * 30 * 30
    assert len(count) < 2 * (30 + 30)


def test_a_wrong_axis_leaves_no_folder(fake):
    done = sweep(fake[1], axis="momentum", expect=2)
    assert done.stderr.startswith("error: there is no axis 'momentum' to sweep")
    assert not Path(fake[1]["OUT"]).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"SCALES": "8"}, "SCALES has one scale, which gives no verdict: give at least two"),
        (
            {"VALUES": "2^-7 2^-6"},
            "VALUES has 2 values for sp, and an optimum at the edge of the grid gives no verdict",
        ),
        ({"SCALE": "depth", "BASE_WIDTH": "8"}, "SCALE is depth, and a transfer compares widths"),
    ],
)
def test_a_transfer_without_a_verdict_is_refused_before_it_runs(fake, change, message):
    _, env = fake
    with pytest.raises(UsageError) as error:
        run_sweep(["lr", "--verdict"], None, environment(env | change))
    assert str(error.value).startswith(message)
    assert not Path(env["OUT"]).exists()
    assert runs(fake[0]) == []


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("2", [1, 2]), ("1", [1]), ("3-5", [3, 4, 5]), ("7-7", [7]), ("2 9", [2, 9]), ("2,9", [2, 9]), ("", [1, 2, 3])],
)
def test_seeds_mean_the_same_in_all_scripts(fake, text, seeds):
    _, env = fake
    plan = make_plan("lr", env["OUT"], env | {"SEEDS": text, "SCALES": "8", "VALUES": "2^-7"})
    assert sorted({int(job.option("--seed")) for job in plan.jobs}) == seeds
    assert read_settings({"SEEDS": text, "PROGRAM": "x"}).seeds == seeds


def test_lists_may_have_commas(fake):
    _, env = fake
    plan = make_plan("lr", env["OUT"], env | {"SCALES": "8,16", "VALUES": "2^-7, 0.5", "PARAMETRIZATIONS": "sp,mup"})
    assert len(plan.jobs) == 2 * 2 * 2


def test_the_transfer_script_compares_like_with_like(tmp_path):
    env = os.environ | {"PYTHON": sys.executable, "OUT": str(tmp_path / "out"), "CONFIG": "", "PROGRAM": ""}
    subprocess.run([ROOT / "scripts/mup_transfer.sh", "--dry-run"], env=env, check=True, capture_output=True)
    jobs = job_list(env)
    assert len(jobs) == 2 * 4 * 9 * 3
    points = {
        scheme: {
            tuple(option(words, name) for name in ("--width", "--lr", "--seed"))
            for words in jobs
            if option(words, "--parametrization") == scheme
        }
        for scheme in ("sp", "mup")
    }
    assert points["sp"] == points["mup"]  # the same grid for both, at every width
    assert {option(words, "--base-width") for words in jobs if "mup" in words} == {"32"}
    config = (tmp_path / "out/config.toml").read_text()
    assert config == (ROOT / "scripts/mup_sweep.toml").read_text()


@pytest.mark.parametrize("script", ["mup_sweep.sh", "mup_transfer.sh"])
def test_help_is_the_comment_at_the_top(script):
    done = subprocess.run([ROOT / "scripts" / script, "--help"], capture_output=True, text=True, check=True)
    assert f"scripts/{script}" in done.stdout
    assert "Exit codes" in done.stdout
    assert "set -euo" not in done.stdout
