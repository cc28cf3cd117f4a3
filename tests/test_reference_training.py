"""Runs of train_gpt2.py: identities between schemes, resume, micro-batches, ranks, compiled."""

import io
import subprocess
import sys

import pytest
import torch
from measures import relative_error
from program import ROOT, last_wins
from ranks import finish, free_port
from reference_tools import ALL, COMPLETEP, MUP, ODD_UNIT, TINY, assert_same, log, losses, main, run, tensors
from safetensors.torch import load_file

pytestmark = pytest.mark.usefixtures("one_thread")
SWITCHES = "--no-tie-embeddings --zero-init-query --zero-init-head".split()


def test_base_identity(data, tmp_path):
    """At the base width mup is sp, bit for bit."""
    common = [*data, *TINY, "--steps", 6, "--weight-decay", "0.1", "--eval-every", 3]
    for kind in ("adamw", "sgd"):
        sp = run(
            tmp_path / f"sp{kind}",
            *common,
            "--optimizer",
            kind,
            "--no-tie-embeddings",
            "--zero-init-query",
            "--zero-init-head",
        )
        mup = run(
            tmp_path / f"mup{kind}", *common, "--optimizer", kind, "--parametrization", "mup", "--base-width", "32"
        )
        assert losses(sp) == losses(mup)
        assert_same(tensors(tmp_path / f"sp{kind}"), tensors(tmp_path / f"mup{kind}"))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_base_model_is_sp(data, tmp_path, optimizer):
    """Bit for bit: losses, weights and moments."""
    common = [*data, *TINY, "--steps", 10, "--weight-decay", "0.1", "--optimizer", optimizer]
    sp = run(tmp_path / "sp", *common, *SWITCHES)
    for scheme in ("mup", "mup-table3", "mup-table9", "completep"):
        more = ["--base-depth", 2, "--depth-alpha", 0.5] if scheme == "completep" else []
        assert losses(
            run(tmp_path / scheme, *common, "--parametrization", scheme, "--base-width", 32, *more)
        ) == losses(sp)
        for file in ("model", "optimizer"):
            assert_same(tensors(tmp_path / scheme, file), tensors(tmp_path / "sp", file))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_tables_3_8_and_9_are_one_function(data, tmp_path, optimizer):
    """At m = 4 every factor is a power of 2 and the losses are equal bit for bit: init, multipliers, rates, decay and
    epsilon together. Clipping is off: the norm of all gradients differs between the three."""
    common = [
        *data,
        *TINY,
        "--width",
        64,
        "--heads",
        4,
        "--steps",
        10,
        "--weight-decay",
        0.3,
        "--optimizer",
        optimizer,
        "--grad-clip",
        0,
        "--eps",
        1e-5,
        "--init-std",
        0.1,
        "--no-zero-init-head",
        "--no-zero-init-query",
    ]
    runs = {scheme: run(tmp_path / scheme, *common, *options) for scheme, options in MUP.items()}
    assert losses(runs["mup"]) == losses(runs["mup-table3"]) == losses(runs["mup-table9"])
    assert len(set(losses(runs["mup"]))) == 10
    norms = [[line["grad_norm"] for line in lines] for lines in runs.values()]
    assert norms[0] != norms[1] != norms[2] != norms[0]
    w = {scheme: tensors(tmp_path / scheme)["h.1.ln_2.weight"] for scheme in MUP}
    assert torch.equal(w["mup"], 2 * w["mup-table9"])


def test_bf16_learns_like_fp32(data, tmp_path):
    fp32 = losses(run(tmp_path / "a", *data, *TINY, "--steps", 15))
    bf16 = losses(run(tmp_path / "b", *data, *TINY, "--steps", 15, "--dtype", "bf16"))
    assert bf16 == pytest.approx(fp32, abs=0.05)
    assert bf16 != fp32
    model, state = tensors(tmp_path / "b"), tensors(tmp_path / "b", "optimizer")
    for name, value in model.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(state["master." + name].bfloat16(), value)
    assert model["h.0.mlp.c_fc.weight"].shape == (32, 128)  # (in, out), as in Hugging Face's files
    assert model["wte.weight"].shape == (257, 32)


def test_u_mup_learns(data, tmp_path):
    """Also in bf16, with all kinds of recomputation, and in micro-batches."""
    common = [*data, *TINY, "--batch-size", 8, *ODD_UNIT, "--lr", 0.25, "--steps", 30]
    fp32 = losses(run(tmp_path / "fp32", *common))
    assert fp32[-1] < fp32[0] - 1.5
    for mode in ("gelu", "block"):
        assert losses(run(tmp_path / mode, *common, "--recompute", mode)) == fp32
    for rounding in ("nearest", "stochastic"):
        bf16 = run(tmp_path / rounding, *common, "--dtype", "bf16", "--rounding", rounding)
        assert losses(bf16) == pytest.approx(fp32, abs=0.1)
    parts = run(tmp_path / "parts", *common, "--batch-size", 2, "--total-batch-size", 8 * 16)
    assert losses(parts) == pytest.approx(fp32, rel=1e-3)
    assert parts[0]["grad_norm"] == pytest.approx(log(tmp_path / "fp32")[0]["grad_norm"], rel=1e-4)


def test_accumulation(data, tmp_path):
    common = [*data, *TINY[:-4], "--steps", 4, "--total-batch-size", 16 * 8]
    a = run(tmp_path / "a", *common, "--batch-size", 1)
    b = run(tmp_path / "b", *common, "--batch-size", 8)
    assert losses(a) == pytest.approx(losses(b), rel=1e-5)
    assert [x["grad_norm"] for x in a] == pytest.approx([x["grad_norm"] for x in b], rel=1e-4)
    assert [x["tokens"] for x in a] == [128, 256, 384, 512]


def test_overfits_a_batch(data, tmp_path):
    assert run(tmp_path, *data, *TINY, "--steps", 60, "--overfit-single-batch")[-1]["loss"] < 0.3


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_recompute_changes_nothing(data, tmp_path, dtype):
    runs = {
        mode: run(tmp_path / mode, *data, *TINY, "--steps", 4, "--dtype", dtype, "--recompute", mode)
        for mode in ("none", "gelu", "block")
    }
    assert losses(runs["none"]) == losses(runs["gelu"]) == losses(runs["block"])


@pytest.mark.parametrize(
    "more",
    [["--dtype", "fp32"], ["--dtype", "bf16"], ["--dtype", "bf16", "--rounding", "stochastic"], ["--optimizer", "sgd"]],
)
def test_resume_is_bit_exact(data, tmp_path, more):
    common = [
        *data,
        *TINY,
        *MUP["mup"],
        *more,
        "--steps",
        8,
        "--weight-decay",
        "0.1",
        "--eval-every",
        4,
        "--warmup-steps",
        3,
    ]
    whole = run(tmp_path / "whole", *common, "--checkpoint-every", 5, "--keep", 3)
    folders = sorted((tmp_path / "whole/checkpoints").iterdir())
    assert [f.name for f in folders] == ["step_00000005", "step_00000008"]
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part/checkpoints/step_00000008")  # like a run that was killed after step 5
    part = run(tmp_path / "part", *common, "--resume")
    assert [(x["step"], x["loss"], x["grad_norm"], x["lr"]) for x in part] == [
        (x["step"], x["loss"], x["grad_norm"], x["lr"]) for x in whole
    ]
    assert [x["val_loss"] for x in log(tmp_path / "part", "eval")] == [
        x["val_loss"] for x in log(tmp_path / "whole", "eval")
    ]
    assert "resumed_from" in log(tmp_path / "part", "config")[1]
    for name in ("model", "optimizer"):
        assert_same(tensors(tmp_path / "whole", name), tensors(tmp_path / "part", name))


@pytest.mark.parametrize(
    "more",
    [
        [*MUP["mup-table9"], "--dtype", "bf16"],
        [*COMPLETEP, "1"],
        ODD_UNIT,
        [*ODD_UNIT, "--dtype", "bf16", "--optimizer", "sgd"],
    ],
    ids=lambda x: x[1],
)
def test_resume_is_bit_exact_under_every_scheme(data, tmp_path, more):
    common = [*data, *TINY, *more, "--weight-decay", "0.1", "--schedule", "constant"]
    whole = run(tmp_path / "whole", *common, "--steps", 8)
    run(tmp_path / "part", *common, "--steps", 5)
    assert losses(run(tmp_path / "part", *common, "--steps", 8, "--resume")) == losses(whole)
    for name in ("model", "optimizer"):
        assert_same(tensors(tmp_path / "whole", name), tensors(tmp_path / "part", name))


def test_two_ranks_are_one(data, tmp_path):
    common = [*map(str, data), *TINY, *MUP["mup"], "--steps", "4", "--total-batch-size", str(16 * 8), "--threads", "1"]
    one = run(tmp_path / "one", *common)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(ROOT / "train_gpt2.py"),
    ]
    done = subprocess.run(
        [*command, *common, "--out", str(tmp_path / "two")], cwd=tmp_path, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    two = log(tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert [x["grad_norm"] for x in two] == pytest.approx([x["grad_norm"] for x in one], rel=1e-4)
    assert log(tmp_path / "two", "eval")[-1]["val_loss"] == pytest.approx(
        log(tmp_path / "one", "eval")[-1]["val_loss"], rel=1e-5
    )


def test_two_ranks_are_one_under_every_scheme(data, tmp_path):
    """u-mup's factors count the tokens of all ranks."""
    common = [*map(str, data), *TINY, *ODD_UNIT, "--steps", "3", "--total-batch-size", "128", "--threads", "1"]
    one = run(tmp_path / "one", *common)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        str(ROOT / "train_gpt2.py"),
    ]
    done = subprocess.run(
        [*command, *common, "--out", str(tmp_path / "two")], cwd=tmp_path, timeout=120, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for key in ("loss", "grad_norm"):
        assert [x[key] for x in log(tmp_path / "two")] == pytest.approx([x[key] for x in one], rel=1e-4)


def two_ranks(launcher, *options):
    """Trains in two processes, started by torchrun or by hand; what they print."""
    words = [str(ROOT / "train_gpt2.py"), *map(str, options)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    place = ["--world-size", "2", "--master", f"127.0.0.1:{free_port()}", "--rank"]
    commands = [[*torchrun, *words]] if launcher == "torchrun" else [[*words, *place, str(rank)] for rank in (0, 1)]
    results = finish(
        [
            subprocess.Popen(
                [sys.executable, *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            for command in commands
        ],
        timeout=120,
    )
    assert all(status == 0 for status, _, _ in results), results
    return "".join(out + err for _, out, err in results)


def test_zero_1_is_zero_0(data, tmp_path):
    """Also where 2 ranks have saved and 1 goes on, and back, and where no launcher started them."""
    common = [*data, *TINY, "--parametrization", "mup", "--base-width", 16]
    common += ["--dtype", "bf16", "--rounding", "stochastic", "--grad-clip", "0.5", "--weight-decay", "0.1"]
    common += ["--schedule", "constant", "--total-batch-size", 16 * 8, "--threads", 1, "--device", "cpu"]
    common = last_wins(map(str, common))
    whole, part = tmp_path / "whole", tmp_path / "part"
    text = two_ranks("torchrun", *common, "--steps", 4, "--checkpoint-every", 2, "--out", whole)
    assert "2 processes by gloo" in text and "part of the optimizer's state" not in text
    text = two_ranks("torchrun", *common, "--steps", 2, "--zero-stage", 1, "--out", part)
    assert "each with its part of the optimizer's state" in text and "Warning" not in text
    for key in ("loss", "grad_norm"):
        first = [x[key] for x in log(whole)[:2]]
        assert [x[key] for x in log(part)] == pytest.approx(first, rel=1e-6)
    for name in ("model", "optimizer"):
        file = f"checkpoints/step_00000002/{name}.safetensors"
        then, now = load_file(whole / file), load_file(part / file)
        assert list(then) == list(now)
        assert all(relative_error(now[name].float().numpy(), then[name].float().numpy()) < 1e-6 for name in then)
    run(part, *common, "--steps", "3", "--resume")
    two_ranks("hand", *common, "--steps", 4, "--resume", "--zero-stage", 1, "--out", part)
    assert losses(log(part)) == pytest.approx(losses(log(whole)), rel=1e-5)


def test_the_plan_of_several_processes(capsys):
    plan = [*TINY, "--dry-run", "--world-size", "4", "--total-batch-size", str(2 * 2 * 16 * 4)]
    assert main(plan) == 0
    assert "(2 x 2 x 16 x 4 processes)" in capsys.readouterr().out


def test_compiling_is_announced(data, tmp_path, monkeypatch):
    """Before the first use of the compiled model, which takes minutes, and not left in a buffer."""
    before_use = []

    class Screen(io.StringIO):
        flushed = ""

        def flush(self):
            self.flushed = self.getvalue()

    def compile_nothing(model, **_):
        return lambda *batch: before_use.append(screen.flushed) or model(*batch)

    screen = Screen()
    monkeypatch.setattr(torch, "compile", compile_nothing)
    monkeypatch.setattr(sys, "stdout", screen)
    note = "compiling at the first step and at the first evaluation: a minute or more each\n"
    run(tmp_path / "compiled", *data, *TINY, "--steps", 1, "--compile")
    assert before_use[0].count(note) == 1
    run(tmp_path / "eager", *data, *TINY, "--steps", 1)
    assert screen.getvalue().count(note) == 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_compiled_is_eager(data, tmp_path, dtype):
    common = [*data, *TINY, *MUP["mup"], "--steps", 5, "--total-batch-size", 64, "--dtype", dtype]
    eager = run(tmp_path / "eager", *common)
    compiled = run(tmp_path / "compiled", *common, "--compile")
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-5 if dtype == "fp32" else 1e-2)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dtype"), [("mup-table9", "fp32"), ("u-mup", "fp32"), ("u-mup", "bf16")])
def test_compiled_is_eager_under_every_scheme(data, tmp_path, scheme, dtype):
    torch._dynamo.reset()  # otherwise models compiled before count against its limit, and this one would stay eager
    torch._dynamo.utils.counters.clear()
    common = [*data, *TINY, *ALL[scheme], "--steps", 5, "--total-batch-size", 64, "--dtype", dtype]
    eager = run(tmp_path / "eager", *common)
    compiled = run(tmp_path / "compiled", *common, "--compile")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-5 if dtype == "fp32" else 1e-2)
