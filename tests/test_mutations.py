"""Tests of the coordinate check: rules are broken one at a time in a copy of llmc/mup/parametrization.cpp. The check of
each broken program must fail, with a slope and a cause that name the mistake. The correct program must pass.
"""

import shutil
import subprocess

import pytest
from program import BINARY, ROOT, run
from shards import random_text, write_text_shards

from llmc.mup.check import check
from llmc.mup.check_csv import read_csv

pytestmark = pytest.mark.skipif(
    not BINARY.exists() or not shutil.which("make"), reason="not built: run make train_gpt2"
)

SOURCE = ROOT / "llmc" / "mup" / "parametrization.cpp"
HIDDEN, OUTPUT = "kHidden  = {0,    -0.5, -1,", "kOutput8 = {-1,   0,    0,"
ATTENTION = "mup_.attn_mult.value_or(std::sqrt(base_head_dim_)) / geometry_.head_dim"
LR = "    r.lr = optimizer_.lr * width_factor * depth_factor;"

# name: (text in parametrization.cpp, text in its place, the kind of number that shows it, words of the cause)
MUTATIONS = {
    "hidden lr not divided": (HIDDEN, "kHidden  = {0,    -0.5, 0,", "update", "hidden learning rate not divided"),
    "hidden init not divided": (HIDDEN, "kHidden  = {0,    0,    -1,", "init", "hidden init not divided"),
    "readout multiplier missing": (OUTPUT, "kOutput8 = {0,    0,    0,", "update", "readout multiplier missing"),
    "readout lr divided twice": (OUTPUT, "kOutput8 = {-1, 0, -1,", "update", "readout learning rate divided twice"),
    "attention by 1/sqrt(d)": (ATTENTION, "1 / std::sqrt(geometry_.head_dim)", "activation", "1/sqrt(d), not 1/d"),
    "embedding lr divided": (
        '"mup", .input = kInput8', '"mup", .input = {0, 0, -1, 1, -1}', "update", "embedding learning rate divided",
    ),
    "layer norm lr divided": (
        ".output = kOutput8, .vector = kInput8}", ".output = kOutput8, .vector = {0, 0, -1, 1, -1}}", "update",
        "layer norm and bias learning rates divided",
    ),
    "logit gradient wrong by m^2": (
        LR, f"    if (spec.role == Role::output) r.dinp_multiplier *= float(power(2));\n{LR}", "gradient",
        "the gradient through the readout multiplier is wrong by width_mult^2",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(30_000), shards=1, prefix="train")


def variables(*names):
    printed = subprocess.run(
        ["make", "-s", *(f"print-{name}" for name in names)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return dict(zip(names, printed, strict=True))


def build(folder, source):
    """train_gpt2 with another parametrization.cpp."""
    v = variables("CXX", "FLAGS", "COMMON_OBJECTS", "CPU_OBJECTS")
    (folder / "parametrization.cpp").write_text(source)
    objects = v["COMMON_OBJECTS"].replace("build/llmc/mup/parametrization.o", str(folder / "parametrization.o"))
    assert str(folder) in objects
    flags = v["FLAGS"].replace("-O3", "-O1")
    compile_it = f"{v['CXX']} {flags} -Illmc -c {folder}/parametrization.cpp -o {folder}/parametrization.o"
    link = f"{v['CXX']} {flags} build/train_gpt2.o {objects} {v['CPU_OBJECTS']} -o {folder}/train_gpt2 -ldnnl -lpthread"
    subprocess.run(f"{compile_it} && {link}", shell=True, cwd=ROOT, check=True)
    return folder / "train_gpt2"


def verdict(program, corpus, folder, *extra):
    """The verdict of a coordinate check: four widths, two seeds, five steps, a fixed number of heads."""
    rows = []
    for width in (64, 128, 256, 512):
        for seed in (1, 2):
            out = folder / f"{width}_{seed}.csv"
            run(
                *"--depth 2 --heads 4 --seq-len 32 --batch-size 8 --steps 5 --lr 0.005 --schedule constant".split(),
                *"--parametrization mup --base-width 64 --base-heads 4 --overfit-single-batch --threads 1".split(),
                *"--grad-clip 0".split(),  # with a clip the forms of muP are not equivalent
                *["--train-data", corpus, "--width", width, "--seed", seed, "--coord-check", out, *extra],
                program=[program],
            )
            rows += read_csv([out])
    return check(rows)


@pytest.mark.parametrize("scheme", ["mup", "mup-table3", "mup-table9"])
def test_the_right_rules_pass(corpus, tmp_path, scheme):
    result = verdict(BINARY, corpus, tmp_path, "--parametrization", scheme)
    assert result.passed, [(f.kind, f.tensor, f.slope, f.cause) for f in result.failures]


def test_the_standard_parametrization_fails(corpus, tmp_path):
    result = verdict(BINARY, corpus, tmp_path, *"--parametrization sp --base-width 0 --base-heads 0".split(),
                     *"--no-tie-embeddings --zero-init-head --zero-init-query".split())  # fmt: skip
    failed = {f.tensor for f in result.failures if f.kind == "activation"}
    assert {"h.1.mlp.c_fc", "h.1.mlp.c_proj", "h.1.resid_mlp", "logits"} <= failed


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_rule_is_caught(corpus, tmp_path, name):
    text, replacement, kind, cause = MUTATIONS[name]
    source = SOURCE.read_text()
    assert source.count(text) >= 1, f"{name}: parametrization.cpp no longer contains {text!r}"
    result = verdict(build(tmp_path, source.replace(text, replacement, 1)), corpus, tmp_path)
    assert not result.passed
    assert any(f.kind == kind and cause in f.cause for f in result.failures), sorted(
        {(f.kind, f.tensor, round(f.slope, 2), f.cause) for f in result.failures}
    )
