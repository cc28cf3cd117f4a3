"""train_gpt2emu, which runs the CUDA kernels and the CUDA host code on the CPU, as a program: the trajectory of the CPU
program, resume, recorded micro-batches, memory, and messages about unusable GPUs.

Tolerances against the CPU program: fp32 adds in another order, 1e-5 relative on ten losses; bf16 rounds at other places
(a fused epilogue rounds once, the CPU twice), 2e-3.
"""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from measures import relative_error
from program import ROOT, checkpoints, log, losses, run, tensors
from shards import random_text, write_text_shards

EMULATED = ROOT / "train_gpt2emu"
pytestmark = pytest.mark.skipif(not EMULATED.exists(), reason="train_gpt2emu is not built: run make train_gpt2emu")

TINY = "--depth 2 --width 48 --heads 3 --seq-len 40 --batch-size 3 --threads 1".split()
TRAINING = "--lr 0.003 --warmup-steps 3 --weight-decay 0.1 --eval-every 0 --steps 10".split()
SCHEMES = {"sp": [], "mup": "--parametrization mup --base-width 16 --output-mult 3 --embed-mult 2".split()}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train = write_text_shards(folder, random_text(40_000), shards=3, prefix="train")
    val = write_text_shards(folder, random_text(8_000, seed=1), shards=1, prefix="val")
    return ["--train-data", train, "--val-data", val]


def emulate(*arguments, emulator="", **kwargs):
    return run(*arguments, program=[EMULATED], env=dict(os.environ, LLMC_EMULATOR=emulator), **kwargs)


def same(a, b):
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    different = [name for name in left if not np.array_equal(left[name].view(np.uint32), right[name].view(np.uint32))]
    assert not different, f"differ: {different}"


@pytest.mark.parametrize("scheme, dtype", list(itertools.product(SCHEMES, ["fp32", "bf16"])))
def test_ten_steps_follow_the_cpu_program(data, tmp_path, scheme, dtype):
    options = [
        *data,
        *TINY,
        *TRAINING,
        *SCHEMES[scheme],
        "--dtype",
        dtype,
        "--total-batch-size",
        240,
        "--eval-every",
        5,
    ]
    run(*options, "--out", tmp_path / "cpu")
    emulate(*options, "--out", tmp_path / "emulated")
    tolerance = 1e-5 if dtype == "fp32" else 2e-3
    np.testing.assert_allclose(losses(tmp_path / "emulated"), losses(tmp_path / "cpu"), rtol=tolerance)
    assert losses(tmp_path / "emulated")[-1] < losses(tmp_path / "emulated")[0] - 0.1, "it learned something"
    for event, key, rtol in (("train", "grad_norm", 20 * tolerance), ("eval", "val_loss", tolerance)):
        a, b = ([e[key] for e in log(tmp_path / name, event)] for name in ("emulated", "cpu"))
        np.testing.assert_allclose(a, b, rtol=rtol, err_msg=key)
    provenance = log(tmp_path / "emulated", "config")[0]["provenance"]
    assert provenance["backend"] == "emulated" and "emulated GPU" in provenance["device"]
    if dtype == "fp32":
        a, b = (tensors(checkpoints(tmp_path / name)[-1]) for name in ("emulated", "cpu"))
        for name in (n for n in a if not n.startswith(("m.", "v."))):
            np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=2e-4, err_msg=name)


def test_ten_steps_with_wgmma_follow_the_cpu_program(data, tmp_path):
    options = [*data, *TINY, *TRAINING, "--dtype", "bf16", "--total-batch-size", 240]
    run(*options, "--matmul-kernel", "wgmma", "--out", tmp_path / "cpu")  # which ignores it
    emulate(*options, "--matmul-kernel", "wgmma", "--out", tmp_path / "wgmma")
    emulate(*options, "--matmul-kernel", "mma", "--out", tmp_path / "mma", emulator="capability=86")
    np.testing.assert_allclose(losses(tmp_path / "wgmma"), losses(tmp_path / "cpu"), rtol=2e-3)
    np.testing.assert_allclose(losses(tmp_path / "wgmma"), losses(tmp_path / "mma"), rtol=2e-3)


@pytest.mark.parametrize("capability", [80, 89, 100, 120])
def test_wgmma_is_refused_where_there_is_none(data, capability):
    options = [*data, *TINY, *TRAINING, "--dry-run", "--matmul-kernel", "wgmma"]
    _, errors = emulate(*options, expect=2, emulator=f"capability={capability}")
    assert "wgmma is an instruction of compute capability 9.0, this GPU has" in errors


@pytest.mark.parametrize(
    "scheme",
    [
        {"parametrization": "mup", "base_width": 16, "zero_init_query": False, "zero_init_head": False},
        {"parametrization": "u-mup", "ffn_act_mult": 1.3, "loss_softmax_mult": 1.2},
    ],
    ids=["mup", "u-mup"],
)
def test_first_gradients_agree_with_the_cpu(scheme):
    """With the module: raw gradients of every tensor, because an optimizer can hide a wrong scale."""
    import llmc

    options = {"depth": 2, "width": 48, "heads": 3, "seq_len": 40, "batch_size": 3, "vocab_size": 257} | scheme
    rng = np.random.default_rng(0)
    tokens, targets = rng.integers(0, 257, (2, 3, 33), dtype=np.int32)
    for dtype, tolerance in (("fp32", 1e-5), ("bf16", 2e-2)):
        gradients = []
        for name in ("cpu", "emulated"):
            model = llmc.backend(name).GPT2(logits_rows=64, dtype=dtype, **options)
            model.forward(tokens, targets)
            model.backward()
            gradients.append(model.gradients())
        for name, expected in gradients[0].items():
            error = relative_error(gradients[1][name], expected)
            assert error < tolerance, f"{dtype} {name}: {error:.2e}"


@pytest.mark.parametrize(
    "extra",
    [["--dtype", "fp32"], ["--dtype", "bf16", "--rounding", "stochastic", *SCHEMES["mup"]], ["--optimizer", "sgd"]],
    ids=["fp32", "bf16-stochastic-mup", "sgd"],
)
def test_resume_is_bit_exact(data, tmp_path, extra):
    options = [*data, *TINY, *TRAINING, *extra, "--total-batch-size", 240]
    emulate(*options, "--out", tmp_path / "whole")
    emulate(*options, "--checkpoint-every", 5, "--keep", 9, "--out", tmp_path / "halves")
    checkpoints(tmp_path / "halves")[1].rename(tmp_path / "set-aside")
    emulate(*options, "--resume", "--out", tmp_path / "halves")
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    same(checkpoints(tmp_path / "whole")[-1], checkpoints(tmp_path / "halves")[-1])


def test_same_bits_under_any_schedule(data, tmp_path):
    options = [*data, *TINY, *TRAINING, "--dtype", "bf16", "--rounding", "stochastic", "--steps", 2]
    schedules = ["", "shuffle=1 seed=5 workers=1", "shuffle=1 seed=6 workers=2"]
    for i, schedule in enumerate(schedules):
        emulate(*options, "--out", tmp_path / str(i), emulator=schedule)
        same(checkpoints(tmp_path / "0")[0], checkpoints(tmp_path / str(i))[0])


@pytest.mark.parametrize("program, dtype", [("train_gpt2", "fp32"), ("train_gpt2", "bf16"), ("train_gpt2emu", "bf16")])
def test_recompute_changes_nothing_but_memory(data, tmp_path, program, dtype):
    options = [*data, *TINY, *TRAINING, "--steps", 4, "--dtype", dtype, "--total-batch-size", 240]
    memory = {}
    for mode in ("none", "gelu", "block"):
        out, _ = run(*options, "--recompute", mode, "--out", tmp_path / mode, program=[ROOT / program])
        memory[mode] = float(out.split("activations ")[1].split(" ")[0])
        assert losses(tmp_path / mode) == losses(tmp_path / "none")
        same(checkpoints(tmp_path / mode)[0], checkpoints(tmp_path / "none")[0])
    assert memory["block"] < memory["gelu"] < memory["none"]


def test_evaluation_between_micro_batches_changes_nothing(data, tmp_path):
    """Micro-batches are recorded and replayed; batches of another shape in between must not disturb that."""
    options = [*data, *TINY, *TRAINING, "--steps", 4, "--total-batch-size", 360, "--dtype", "bf16"]
    emulate(*options, "--out", tmp_path / "plain")
    more = ["--eval-every", 1, "--eval-batches", 2, "--sample-every", 4, "--sample-tokens", 3]
    emulate(*options, *more, "--out", tmp_path / "busy")
    assert losses(tmp_path / "plain") == losses(tmp_path / "busy")


# --- Unusable GPUs: one sentence, the right exit code ---


@pytest.mark.parametrize(
    "emulator, words",
    [
        ("driver=none", ["no usable GPU", "no NVIDIA driver", "train_gpt2"]),
        ("driver=old", ["no usable GPU", "driver supports CUDA 11.4", "built with 13.0", "update the driver"]),
        ("capability=75", ["no usable GPU", "compute capability 7.5", "8.0"]),
        ("driver=12080", ["no usable GPU", "driver supports CUDA 12.8", "built with 13.0", "580"]),
    ],
)
def test_no_usable_gpu(emulator, words):
    out, error = emulate("--preset", "gpt2", "--dry-run", emulator=emulator, expect=5)
    assert not out and len(error.splitlines()) == 1 and error.startswith("train_gpt2emu: ")
    assert all(word in error for word in words), error


def test_the_first_start_on_a_gpu_without_code_is_announced():
    """Compiled for 8.0 and 9.0a: that runs on 8.6 too; for 12.0 the driver compiles PTX first, in silence."""
    for capability, announced in ((80, False), (86, False), (90, False), (100, True), (120, True)):
        _, error = emulate("--preset", "gpt2", "--dry-run", emulator=f"capability={capability}")
        assert ("note: this program has code for compute capabilities 80 90a" in error) == announced, error
        assert not announced or (f"CUDA_ARCH={capability}" in error and "minutes" in error)


@pytest.mark.parametrize(
    "name, dtype, tflops",
    [
        ("NVIDIA_H100_80GB_HBM3", "bf16", 989.4),
        ("NVIDIA_A100-SXM4-80GB", "fp32", 19.5),
        ("NVIDIA_GeForce_RTX_4090_Laptop_GPU", "bf16", None),
        ("NVIDIA_RTX_A1000", "bf16", None),
    ],
)
def test_the_peak_is_compared_with_the_datasheet(data, name, dtype, tflops):
    model = [*data, *TINY, "--dtype", dtype, "--steps", 1, "--eval-every", 0]
    out, _ = emulate(*model, emulator=f"name={name}")
    (peak,) = [line for line in out.splitlines() if line.startswith("peak")]
    assert peak.endswith(f"% of the datasheet's {1000 * tflops:.0f}" if tflops else "measured just now"), peak


def test_too_large_a_batch_says_which_would_fit(data, tmp_path):
    model = "--depth 2 --width 64 --heads 2 --seq-len 64 --dtype bf16".split()
    run_it = lambda batch, *more, **kw: emulate(  # noqa: E731
        *data, *model, "--batch-size", batch, "--steps", 1, *more, emulator="memory_mib=24", **kw
    )
    _, error = run_it(4096, expect=1)
    assert "out of memory: --batch-size 4096 needs" in error and "--recompute block" in error, error
    fits = int(error.split("--batch-size ")[2].split(" ")[0])
    with_recompute = int(error.split("or ")[1].split(" ")[0])
    assert 1 <= fits < with_recompute < 4096
    run_it(fits)
    run_it(with_recompute, "--recompute", "block")
    run_it(fits + 1, expect=1)
    _, error = emulate(*data, *model, "--width", 512, "--steps", 1, emulator="memory_mib=24", expect=1)
    assert "not even --batch-size 1 fits" in error
    dry, _ = emulate(*data, *model, "--dry-run", emulator="memory_mib=24")
    assert f"batch size {fits} fits" in dry


def test_an_unknown_emulator_option_is_refused():
    _, error = emulate("--preset", "gpt2", "--dry-run", emulator="sead=1", expect=1)
    assert "sead" in error and "seed" in error


# --- Scratch memory: the ops' own, part of the estimate ---


# With rows of 500 bytes, the copies at aligned addresses need more than what is left free for CUDA itself.
@pytest.mark.parametrize("model, least", [("--width 256 --heads 4 --dtype fp32", 0),
                                          ("--width 250 --heads 5 --dtype bf16", 4)])  # fmt: skip
def test_a_batch_that_fits_also_runs(data, model, least):
    emulator = "memory_mib=64 multiprocessors=132"
    options = [*data, *f"--depth 1 {model} --seq-len 64 --threads 2 --eval-every 0".split()]
    dry, _ = emulate(*options, "--dry-run", emulator=emulator)
    fits = int(dry.split("batch size ")[1].split(" ")[0])
    dry, _ = emulate(*options, "--dry-run", "--batch-size", fits, emulator=emulator)
    assert float(dry.split(", scratch ")[1].split(" MiB")[0]) > least and fits > 1
    emulate(*options, "--batch-size", fits, "--steps", 1, emulator=emulator)
    _, error = emulate(*options, "--batch-size", fits + 1, "--steps", 1, emulator=emulator, expect=1)
    assert f"--batch-size {fits} fits" in error


STEP = """
import sys
sys.path[:0] = ["python"]
import json, numpy as np, llmc
emulated, options = llmc.backend("emulated"), json.loads(sys.argv[1])
model = emulated.GPT2(depth=1, vocab_size=300, **options)
planned = emulated.scratch_reserved()
for batch in (options["batch_size"], 1):
    tokens, targets = np.random.default_rng(0).integers(0, 300, (2, batch, options["seq_len"]), dtype=np.int32)
    model.forward(tokens, targets)
    model.backward()
    model.step()
print(planned, emulated.scratch_reserved())
"""
# Each with another op whose scratch memory is the largest: column sums, layer norm, copies of rows, attention's dq and
# delta, embeddings, the gradient norm.
LARGEST = {
    "column sums": {"width": 64, "heads": 2, "seq_len": 32, "batch_size": 8},
    "layer norm": {"width": 64, "heads": 2, "seq_len": 32, "batch_size": 8, "dtype": "bf16"},
    "rows of 126 bytes": {"width": 63, "heads": 3, "seq_len": 17, "batch_size": 3, "dtype": "bf16"},
    "attention's dq": {"width": 64, "heads": 8, "seq_len": 200, "batch_size": 4, "dtype": "bf16"},
    "many heads": {"width": 48, "heads": 48, "seq_len": 20, "batch_size": 2, "dtype": "bf16"},
    "one token": {"width": 32, "heads": 2, "seq_len": 1, "batch_size": 1},
    "few logits": {"width": 40, "heads": 5, "seq_len": 30, "batch_size": 2, "logits_rows": 7},
}


@pytest.mark.parametrize("multiprocessors", [1, 132])
@pytest.mark.parametrize("name", LARGEST)
def test_a_step_takes_the_scratch_memory_that_was_planned(name, multiprocessors):
    environment = dict(os.environ, LLMC_EMULATOR=f"multiprocessors={multiprocessors}")
    command = [sys.executable, "-c", STEP, json.dumps(LARGEST[name])]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    planned, taken = map(int, done.stdout.split())
    assert 0 < taken == planned
