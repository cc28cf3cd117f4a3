"""The Python package: messages before it is built, options of GPT2, help and completion."""

import ast
import inspect
import json
import pydoc
import re
import subprocess
import sys

import numpy as np
import pytest
from program import ROOT, TINY, checkpoints, run
from shards import random_text, write_text_shards

import llmc

SHAPE = {"depth": 1, "width": 32, "heads": 2, "seq_len": 16, "batch_size": 2, "vocab_size": 257}


def python(code, cwd, **environment):
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, env=environment)
    return done.stdout.strip(), done.stderr.strip()


@pytest.fixture
def unbuilt(tmp_path):
    """The package without native modules, in a folder laid out like a clone."""
    (tmp_path / "llmc").mkdir()
    (tmp_path / "llmc" / "__init__.py").write_text((ROOT / "llmc" / "__init__.py").read_text())
    for path in (ROOT / "python" / "llmc").rglob("*"):
        if path.suffix in (".py", ".json"):
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return tmp_path


def test_without_a_build_the_package_says_what_to_run(unbuilt):
    for use in ("llmc.GPT2()", "llmc.parametrization()", "llmc.load('x')", "llmc.backend('cpu')", "llmc.cpu"):
        _, error = python(f"import llmc; print(llmc.backends()); {use}", unbuilt)
        assert "make module" in error.splitlines()[-1] and "pip install ." in error.splitlines()[-1], error
    for name, target in (("cpu", "module"), ("cuda", "module-cuda"), ("emulated", "module-emu")):
        for use in (f"from llmc import {name}", f"import llmc.{name}"):
            _, error = python(use, unbuilt)
            assert f"ImportError: the {name} backend of llmc is not built: run `make {target}`" in error, error
    out, _ = python("import llmc; print(llmc.backends(), llmc.__version__, hasattr(llmc, 'cuda'))", unbuilt)
    assert out == "[] 0.1.0 False"


def test_import_from_the_folder_of_the_clone_finds_the_package(unbuilt):
    out, error = python("import llmc, llmc.errors; print(llmc.__file__); print(llmc.errors.Error)", unbuilt)
    assert str(unbuilt / "python" / "llmc" / "__init__.py") in out, error


# --- GPT2 takes the options of train_gpt2, with the same checks ------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"optimizer": "adam"}, "optimizer: 'adam' is not one of adamw|sgd"),
        ({"dtype": "fp16"}, "dtype: 'fp16' is not one of fp32|bf16"),
        ({"recompute": "all"}, "recompute: 'all'"),
        ({"lr": -1}, "lr: '-1' is out of range: at least 0"),
        ({"lr": float("inf")}, "lr: 'inf' is not a finite number"),
        ({"lr": float("nan")}, "lr: 'nan' is not a finite number"),
        ({"lr": "fast"}, "lr: 'fast' is not a number"),
        ({"lr": True}, "lr: 'true' is not a number"),
        ({"lr": [1e-3]}, "lr is a list"),
        ({"beta1": 2}, "beta1: '2' is out of range"),
        ({"depth": 1.5}, "depth: '1.5' is not a whole number"),
        ({"width": 0}, "width: '0' is out of range: between 1 and"),
        ({"seed": 2**64 - 1}, "seed=18446744073709551615 is out of range"),
        ({"seed": -1}, "seed: '-1' is out of range"),
        ({"heads": 3}, "--heads 3 does not divide --width 32"),
        ({"head_dim": 16}, "--head-dim excludes --heads"),
        ({"base_width": 16}, "--base-width 16 has no meaning under --parametrization sp"),
        ({"parametrization": "mup"}, "--parametrization mup needs --base-width"),
        ({"out": "runs/x"}, "out is an option of a training run"),
        ({"steps": 10}, "steps is an option of a training run"),
        ({"threads": 1}, "threads is an option of a training run"),
        (
            {"learning_rate": 1},
            "there is no option 'learning_rate': the names are train_gpt2's long options with underscores; "
            "did you mean lr?",
        ),
        ({"n_ctx": 1}, "did you mean seq_len?"),
        ({"seqlen": 1}, "did you mean seq_len?"),
        ({"weight_deacy": 1}, "did you mean weight_decay?"),
        ({"total_batch_size": 33}, "--total-batch-size 33 is not a multiple"),
        ({"preset": "gpt5"}, "preset: 'gpt5' is not one of gpt2|"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused(options, says):
    with pytest.raises(llmc.UsageError) as error:
        llmc.GPT2(**(SHAPE | options))
    assert says in str(error.value)
    assert error.value.code == 2 and "\n" not in str(error.value)


def test_a_missing_or_foreign_checkpoint_is_a_data_error(tmp_path):
    with pytest.raises(llmc.DataError, match="no checkpoint at"):
        llmc.GPT2(init=str(tmp_path / "none"))
    (tmp_path / "model.safetensors").write_bytes(b"hello, this is text")
    with pytest.raises(llmc.DataError, match="safetensors"):
        llmc.load(tmp_path / "model.safetensors")


def test_numpy_numbers_none_and_paths_are_taken(tmp_path):
    numbers = {"width": np.int64(64), "depth": np.array(1), "lr": np.float32(0.5), "scale_eps": np.bool_(False)}
    model = llmc.GPT2(**(SHAPE | numbers | {"attn_mult": None, "optimizer": np.str_("sgd"), "seed": np.uint8(7)}))
    config = model.config
    assert (config["width"], config["depth"], config["lr"], config["seed"]) == (64, 1, 0.5, 7)
    assert config["scale_eps"] is False and config["optimizer"] == "sgd"


def test_head_dim_and_preset():
    assert llmc.GPT2(depth=1, width=64, head_dim=16, vocab_size=257, seq_len=8).config["heads"] == 4
    rules = llmc.parametrization(preset="gpt2-medium", depth=2)
    assert rules["tensors"][0]["shape"] == [50257, 1024] and len(rules["tensors"]) == 2 + 2 * 12 + 2


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([[0.7, 1.0]], "type float64: give integers"),
        ([[1 + 2j]], "type complex128"),
        ([[2**32 + 1]], "token ids are int32, at least 0"),
        ([[-1]], "token -1 is outside the vocabulary of 257"),
        ([[257]], "outside the vocabulary of 257"),
        ([1, 2], "have the shape (2,): give (B, T)"),
        ([[1, 2], [3]], "tokens are not an array: give rows of integers of the same length"),
        (np.array([[True]]), "type bool: give integers"),
        (np.array([["1"]]), "give integers"),
        (np.array([[2**32]], np.uint64), "range from 4294967296 to 4294967296: token ids are int32"),
        (np.array([[-(2**40)]]), "token ids are int32"),
    ],
)
def test_tokens_are_checked(tokens, says):
    model = llmc.GPT2(**SHAPE)
    for call in (
        lambda: model.forward(tokens),
        lambda: model._model.forward(tokens),
        lambda: model.activations(tokens, tokens),
    ):
        with pytest.raises(llmc.UsageError) as error:
            call()
        assert says in str(error.value)
    with pytest.raises(llmc.UsageError, match="targets"):
        model.forward([[1, 2]], [[1, 2, 3]])


@pytest.mark.parametrize("ids", [[0.7], [2**32], [1 + 2j], [[1]], ["a"]])
def test_tokens_to_continue_from_are_checked(ids):
    with pytest.raises(llmc.UsageError, match="tokens"):
        llmc.GPT2(**SHAPE).generate(ids, 1)


# --- A model trained in Python; loading a checkpoint of the program ---------------------------------------------------


def test_the_training_loop_of_the_docstring():
    rng = np.random.default_rng(0)
    steps, losses = 30, []
    model = llmc.GPT2(**SHAPE, parametrization="mup", base_width=16, lr=0.02)
    tokens = rng.integers(0, 257, (2, 17))
    for step in range(steps):
        model.zero_grad()
        losses.append(model.forward(tokens[:, :-1], tokens[:, 1:]))
        assert model.backward() == pytest.approx(losses[-1], rel=1e-6)
        assert model.step(schedule=1 - step / steps) > 0
    assert losses[-1] < 0.1 * losses[0]
    assert set(model.gradients()) == set(model.parameters())
    assert len(model.generate([256], 5)) == 5


def test_load_takes_the_options_of_the_checkpoint(tmp_path):
    data = write_text_shards(tmp_path / "data", random_text(5000), shards=1)
    options = [*TINY, *"--parametrization mup --base-width 24 --base-heads 3 --lr 0.01 --output-mult 2".split()]
    run("--train-data", data, *options, "--steps", 2, "--out", tmp_path / "run")
    for path in (tmp_path / "run", checkpoints(tmp_path / "run")[0]):
        model = llmc.load(path, batch_size=1)
        assert model.config["output_mult"] == 2 and model.config["base_width"] == 24
        assert model.config["batch_size"] == 1 and model.config["width"] == 48
    stored = llmc.GPT2(init=checkpoints(tmp_path / "run")[0], parametrization="mup", base_width=24, base_heads=3,
                       output_mult=2)  # fmt: skip
    for name, values in stored.parameters().items():
        np.testing.assert_array_equal(values, model.parameters()[name])
    with pytest.raises(llmc.DataError, match="another parametrization"):
        llmc.GPT2(init=str(tmp_path / "run"), parametrization="sp")
    taken = llmc.GPT2(init=str(tmp_path / "run"))  # as llmc.load: the parametrization of the checkpoint
    assert [taken.config[key] for key in ("parametrization", "base_width", "output_mult")] == ["mup", 24, 2]
    with pytest.raises(llmc.DataError, match="--width 64 does not fit"):
        llmc.load(tmp_path / "run", width=64)


# --- Help -------------------------------------------------------------------------------------------------------------


def test_help_and_completion_list_every_option():
    table = json.loads((ROOT / "python/llmc/options.json").read_text())["options"]
    names = {o["name"].replace("-", "_") for o in table if "model" in o["scope"]}
    signature = inspect.signature(llmc.GPT2)
    assert set(signature.parameters) == names | {"backend", "logits_rows", "tokenizer"}
    assert signature.parameters["lr"].default == 0.0003
    text = pydoc.render_doc(llmc.GPT2, renderer=pydoc.plaintext)
    assert all(name in text for name in names)
    assert max(map(len, (llmc.GPT2.__doc__ or "").splitlines())) <= 120
    for name in ("forward", "backward", "step", "parameters", "gradients", "generate", "logits", "loss", "load"):
        assert inspect.getdoc(getattr(llmc.GPT2, name))
    assert {"GPT2", "load", "parametrization", "cpu", "backends", "options"} <= set(dir(llmc))
    code = "import llmc, llmc.model, llmc.cpu; print(*dir(llmc))"
    names = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "python", capture_output=True, text=True).stdout
    assert set(names.split()) == {*llmc.__all__, "options", "__version__"}  # no imports such as os and sys


# --- Stubs ------------------------------------------------------------------------------------------------------------


def parameters_of(function):
    """Names of the parameters, from the first line of a pybind11 docstring: "f(a: int, *, b: float = 1.0) -> int"."""
    line = function.__doc__.splitlines()[0]
    tree = ast.parse(re.sub(r"<[^>]*>", "...", f"def {line}: ..."))
    return [a.arg for a in [*tree.body[0].args.args, *tree.body[0].args.kwonlyargs] if a.arg != "self"]


def test_the_stubs_describe_the_native_module():
    """After a change in llmc/bind: make stubs."""
    stub = ast.parse((ROOT / "python/llmc/_cpu.pyi").read_text())
    described = {f.name: [a.arg for a in [*f.args.args, *f.args.kwonlyargs]] for f in stub.body
                 if isinstance(f, ast.FunctionDef)}  # fmt: skip
    native = {name: f for name, f in vars(llmc.cpu).items() if callable(f) and not isinstance(f, type)}
    assert described == {name: parameters_of(f) for name, f in native.items()}
    (model,) = [c for c in stub.body if isinstance(c, ast.ClassDef) and c.name == "GPT2"]
    methods = {f.name for f in model.body if isinstance(f, ast.FunctionDef)}
    assert {name for name in vars(llmc.cpu.GPT2) if not name.startswith("_")} == methods - {"__init__"}


# --- What a model refuses after its batch or its weights have changed ---


def refused(model, tokens):
    with pytest.raises(llmc.Error):
        model.forward(tokens)


def with_targets(**options):
    model = llmc.GPT2(
        **({"width": 32, "depth": 1, "heads": 2, "seq_len": 16, "batch_size": 2, "vocab_size": 50} | options)
    )
    tokens = np.random.default_rng(0).integers(0, 50, (2, 16))
    model.forward(tokens, tokens)
    return model, tokens


@pytest.mark.parametrize(
    "between",
    [
        lambda model: model.generate([1, 2], 3),
        lambda model: model.forward(np.zeros((1, 4), int)),
        lambda model: model.set_parameter("h.0.ln_1.weight", np.ones(32)),
        lambda model: model.load(model.save(model.scratch)),
        lambda model: refused(model, np.zeros((3, 16), int)),
        lambda model: refused(model, np.full((2, 16), 50)),
    ],
)
def test_backward_needs_the_forward_pass_of_its_batch_and_weights(between, tmp_path):
    model, tokens = with_targets()
    model.scratch = tmp_path
    between(model)
    with pytest.raises(llmc.UsageError, match="forward"):
        model.backward()
    model.zero_grad()
    loss = model.forward(tokens, tokens)
    assert model.backward() == pytest.approx(loss, rel=1e-6)


def test_refused_activations_leave_no_observer():
    model, tokens = with_targets()
    with pytest.raises(llmc.UsageError, match="vocabulary"):
        model.activations(tokens, tokens + 50)
    with pytest.raises(llmc.Error, match="3 x 16"):
        model.activations(np.zeros((3, 16), int), np.zeros((3, 16), int))
    assert model.forward(tokens, tokens) > 0


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.generate([1], 3, temperature=-1), "temperature"),
        (lambda m: m.generate([1], 3, temperature=float("nan")), "temperature"),
        (lambda m: m.generate([1], 3, top_k=-1), "top_k"),
        (lambda m: m.generate([1], -3), "count is -3"),
        (lambda m: m.generate([1], 3, seed=-1), "seed is -1"),
        (lambda m: m.generate([], 3), "give at least one"),
        (lambda m: m.backward(-5), "total_tokens is -5"),
        (lambda m: m.step(-1), "schedule is -1"),
        (lambda m: m.step(float("nan")), "schedule is nan"),
        (lambda m: m.step(float("inf")), "schedule is inf"),
        (lambda m: m.step(), "step\\(\\) needs a backward\\(\\) before it"),
        (lambda m: (m.backward() and m.zero_grad()) or m.step(), "step\\(\\) needs a backward\\(\\) before it"),
        (lambda m: m.load(None), "checkpoint is None"),
        (lambda m: m.save(None), "folder is None"),
        (lambda m: m.save(""), "folder is empty"),
        (lambda m: m.set_parameter("h.0.ln_1.weight", np.ones(32) * 1j), "type complex128: give real numbers"),
        (lambda m: m.set_parameter("h.0.ln_1.weight", "ones"), "give real numbers"),
        (lambda m: m.set_parameter("h.0.ln_1.weight", [[1], [1, 2]]), "is not an array"),
        (lambda m: llmc.load(None), "checkpoint is None"),
        (lambda m: llmc.load("runs", init="x"), "init: llmc.load takes"),
        (lambda m: llmc.load("runs", preset="gpt2"), "preset: llmc.load takes"),
        (lambda m: with_targets(logits_rows=-1), "logits_rows is -1"),
        (lambda m: with_targets(dtype=np.float32), "dtype is a type"),
        (lambda m: llmc.cpu.choose_token([], 0.8, 0, 0.5), "logits are empty"),
        (lambda m: llmc.cpu.choose_token([1.0], -1, 0, 0.5), "temperature"),
    ],
)
def test_arguments_of_methods_are_checked(call, message):
    model, _ = with_targets()
    before = model.parameters()
    with pytest.raises(llmc.UsageError, match=message):
        call(model)
    for name, values in model.parameters().items():
        assert np.array_equal(values, before[name]), name


@pytest.mark.parametrize(
    "text", [(ROOT / "README.md").read_text(), llmc.parametrization.__doc__], ids=["README", "help"]
)
def test_examples_of_parametrization_run(text):
    found = re.findall(r"llmc\.parametrization\([^)]+\)", text)
    assert found
    for example in found:
        assert eval(example, {"llmc": llmc})["tensors"]


def test_options_is_the_table():
    assert llmc.options.__name__ == "llmc.options"
