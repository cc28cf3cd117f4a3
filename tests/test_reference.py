"""train_gpt2.py by itself: random numbers, rules, data order, optimizer, resume, ranks, errors."""

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from measures import deviation
from shards import random_text, write_shard, write_text_shards

import train_gpt2
from train_gpt2 import GPT2, Dataset, draw, initialise, main, normals, parametrization, parse_args, philox, stream_of

ROOT = Path(train_gpt2.__file__).parent
TINY = ["--depth", "2", "--width", "32", "--heads", "2", "--seq-len", "16", "--batch-size", "2", "--lr", "1e-2"]
MUP = ["--parametrization", "mup", "--base-width", "16"]


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny models gain nothing from threads, and lose much where the cores are shared."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_text_shards(folder, random_text(3000, 1), 1, "val")
    return [
        "--train-data",
        write_text_shards(folder, random_text(9000), 3, "train"),
        "--val-data",
        str(folder / "val_*.bin"),
    ]


def run(out, *options, code=0):
    assert main([*map(str, options), "--out", str(out)]) == code
    return log(out)


def log(out, event="train"):
    lines = [json.loads(line) for line in (Path(out) / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if event in (line["event"], None)]


def losses(lines):
    return [line["loss"] for line in lines]


def tensors(out, name="model"):
    from safetensors.torch import load_file

    return load_file(train_gpt2.newest_checkpoint(out) / f"{name}.safetensors")


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


# ---- random numbers


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """Random123's vectors, on Python ints, numpy and torch."""
    assert philox(counter, key) == expected
    assert tuple(int(x[0]) for x in philox([np.array([c], dtype=np.uint64) for c in counter], key)) == expected
    assert tuple(int(x[0]) for x in philox([torch.tensor([c]) for c in counter], key)) == expected


def test_counter_layout():
    assert draw(2**40 + 5, 3, 7, 2**33 + 9) == philox((9, 2, 3, 7), (5, 256))
    assert stream_of("") == 0x811C9DC5
    assert stream_of("a") == 0xE40C292C  # the published FNV-1a vectors
    assert stream_of("foobar") == 0xBF9CF968


def test_normals():
    """Box-Muller by hand for the first four; and the value does not depend on the count."""
    x = [(v + 0.5) / 2**32 for v in draw(42, 1, stream_of("wte.weight"), 0)]
    r, angle = math.sqrt(-2 * math.log(x[0])), 2 * math.pi * x[1]
    s, turn = math.sqrt(-2 * math.log(x[2])), 2 * math.pi * x[3]
    expected = [r * math.cos(angle), r * math.sin(angle), s * math.cos(turn), s * math.sin(turn)]
    z = normals(42, "wte.weight", 200_003)
    assert np.allclose(z[:4], expected, rtol=1e-15)
    assert (normals(42, "wte.weight", 7) == z[:7]).all()
    assert abs(z.mean()) < 0.01  # float64
    assert abs(deviation(z) - 1) < 0.01


def test_stochastic_rounding_is_unbiased_and_exact():
    x = torch.full((40000,), 1 + 2**-9)  # a quarter of the way from 1 to the next bf16
    y = train_gpt2.stochastic_bf16(x, 42, "w", 3).float()
    assert set(y.unique().tolist()) == {1.0, 1 + 2**-7}
    assert abs((y > 1).double().mean().item() - 0.25) < 0.01
    exact = torch.tensor([0.0, 1.5, -2.0, math.inf])
    assert torch.equal(train_gpt2.stochastic_bf16(exact, 42, "w", 3).float(), exact)
    low16 = [int(v) & 0xFFFF for v in draw(42, 4, stream_of("w"), (3 << 40) + 1)]  # elements 4..7
    assert [(v + 2**14) >> 16 for v in low16] == [int(v > 1) for v in y[4:8]]


# ---- rules


def table(*options):
    args = parse_args(
        [
            "--vocab-size",
            "257",
            "--depth",
            "3",
            "--heads",
            "4",
            "--seq-len",
            "8",
            "--lr",
            "0.01",
            "--weight-decay",
            "0.1",
            "--eps",
            "1e-6",
            *options,
        ]
    )
    rules = parametrization(args)
    return rules, {t["name"]: t for t in rules["tensors"]}


def plain_scales(embedding, attention, output, depth=3):
    """Of a scheme whose backward pass is the derivative of its forward pass, and that leaves the depth alone."""
    return {
        "embedding": embedding,
        "wte_grad": embedding,
        "wpe_grad": embedding,
        "attention": attention,
        "attention_out": 1,
        "gelu": 1,
        "loss": 1,
        "loss_grad": 1,
        "output": output,
        "output_dinp": output,
        "output_dweight": output,
        "residual": [[1, 1, 1, 1, 1]] * (2 * depth),
    }


def test_rules_sp():
    rules, t = table("--width", "64")
    assert (rules["scheme"], rules["base_width"], rules["base_head_dim"], rules["width_mult"]) == ("sp", 64, 16, 1)
    assert (rules["base_depth"], rules["depth_mult"]) == (3, 1)
    assert rules["scales"] == plain_scales(1, 0.25, 1)
    assert [x["name"] for x in rules["tensors"]][:6] == [
        "wte.weight",
        "wpe.weight",
        "h.0.ln_1.weight",
        "h.0.ln_1.bias",
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_attn.bias",
    ]
    assert rules["tensors"][-1]["name"] == "ln_f.bias"  # tied
    assert len(t) == 2 + 3 * 12 + 2
    assert {x["lr"] for x in t.values()} == {0.01}
    assert {x["eps"] for x in t.values()} == {1e-6}
    assert t["h.1.mlp.c_proj.weight"] == {
        "name": "h.1.mlp.c_proj.weight",
        "role": "hidden",
        "shape": [64, 256],
        "init_mean": 0,
        "init_std": pytest.approx(0.02 / math.sqrt(6)),
        "zero_rows": 0,
        "multiplier": 1,
        "dinp_multiplier": 1,
        "dweight_multiplier": 1,
        "lr": 0.01,
        "weight_decay": 0.1,
        "eps": 1e-6,
    }
    assert (t["h.0.ln_1.weight"]["init_mean"], t["h.0.ln_1.bias"]["init_mean"]) == (1, 0)
    assert t["h.0.ln_1.weight"]["weight_decay"] == 0


@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize("tied", [False, True])
def test_rules_mup_adamw(m, tied):
    options = ["--parametrization", "mup", "--width", str(64 * m), "--base-width", "64", "--base-heads", "4"]
    rules, t = table(*options, "--tie-embeddings" if tied else "--no-tie-embeddings", "--output-mult", "3")
    assert rules["width_mult"] == m
    assert rules["scales"] == plain_scales(1, 4 / (16 * m), pytest.approx(3 / m, rel=1e-7))
    for name, expected in {
        "wte.weight": (0.02, 1, 0.01, 0.1),
        "wpe.weight": (0.02, 1, 0.01, 0.1),
        "h.2.attn.c_attn.weight": (0.02 / math.sqrt(m), 1, 0.01 / m, 0.1 * m),
        "h.2.mlp.c_fc.weight": (0.02 / math.sqrt(m), 1, 0.01 / m, 0.1 * m),
        "h.2.attn.c_proj.weight": (0.02 / math.sqrt(6 * m), 1, 0.01 / m, 0.1 * m),
        "h.2.attn.c_attn.bias": (0, 1, 0.01, 0),
        "ln_f.weight": (0, 1, 0.01, 0),
    }.items():
        assert (t[name]["init_std"], t[name]["multiplier"], t[name]["lr"], t[name]["weight_decay"]) == pytest.approx(
            expected
        )
    assert {x["eps"] for x in t.values()} == {1e-6 / m}
    assert ("lm_head.weight" in t) != tied
    if not tied:
        assert t["lm_head.weight"] == {
            "name": "lm_head.weight",
            "role": "output",
            "shape": [257, 64 * m],
            "init_mean": 0,
            "init_std": 0,
            "zero_rows": 0,
            "multiplier": pytest.approx(3 / m),
            "dinp_multiplier": pytest.approx(3 / m),
            "dweight_multiplier": pytest.approx(3 / m),
            "lr": 0.01,
            "weight_decay": 0.1,
            "eps": 1e-6 / m,
        }
    assert t["h.0.attn.c_attn.weight"]["zero_rows"] == 64 * m


def test_rules_mup_sgd_and_switches():
    options = ["--parametrization", "mup", "--width", "128", "--base-width", "32", "--optimizer", "sgd"]
    rules, t = table(*options, "--no-zero-init-head", "--no-zero-init-query")
    assert t["h.0.mlp.c_fc.weight"]["lr"] == 0.01
    assert t["h.0.mlp.c_fc.weight"]["weight_decay"] == 0.1
    for name in ("wte.weight", "wpe.weight", "ln_f.weight", "h.0.mlp.c_fc.bias", "lm_head.weight"):
        assert t[name]["lr"] == 0.04
    assert t["wte.weight"]["weight_decay"] == 0.1 / 4  # lr x decay alike everywhere
    assert t["lm_head.weight"]["init_std"] == 0.02
    assert t["h.0.attn.c_attn.weight"]["zero_rows"] == 0
    assert rules["base_head_dim"] == 32  # the head size is kept
    rules, t = table(
        "--parametrization",
        "mup",
        "--width",
        "128",
        "--base-width",
        "32",
        "--no-scale-eps",
        "--weight-decay-mode",
        "independent",
    )
    assert {x["eps"] for x in t.values()} == {1e-6}
    assert t["h.0.mlp.c_fc.weight"]["weight_decay"] == 0.1


def test_initial_weights():
    args = parse_args(["--vocab-size", "130", "--depth", "1", "--width", "32", "--heads", "2", "--seq-len", "8", *MUP])
    model = GPT2(args)
    initialise(model, 7)
    p = dict(model.named_parameters())
    assert list(p) == [rule["name"] for rule in model.rules["tensors"]]
    expected = (0.02 * normals(7, "wte.weight", 130 * 32)).astype(np.float32)
    assert (p["wte.weight"][:130].detach().numpy().ravel() == expected).all()
    assert p["wte.weight"].shape == (256, 32)
    assert not p["wte.weight"][130:].any()
    assert not p["h.0.attn.c_attn.weight"][:32].any()
    assert deviation(p["h.0.attn.c_attn.weight"][32:]) == pytest.approx(0.02 / math.sqrt(2), rel=0.05)
    assert not p["lm_head.weight"].any()
    assert (p["h.0.ln_2.weight"] == 1).all()
    assert (p["ln_f.weight"] == 1).all()
    assert not p["h.0.mlp.c_fc.bias"].any()
    tokens = torch.arange(8)[None]
    assert model(tokens, tokens).item() == pytest.approx(math.log(130), abs=1e-5)  # padding takes no part


def test_training_logits_are_inference_logits():
    """The multipliers act on both paths (nanoGPT-mup forgot one); and attention is attn_mult / head_dim * q.k."""
    args = parse_args(
        [
            "--vocab-size",
            "130",
            "--depth",
            "1",
            "--width",
            "32",
            "--heads",
            "2",
            "--seq-len",
            "8",
            *MUP,
            "--no-zero-init-head",
            "--no-zero-init-query",
            "--output-mult",
            "3",
            "--attn-mult",
            "5",
            "--init-std",
            "0.5",
        ]
    )
    model = GPT2(args)
    initialise(model, 7)
    tokens = torch.tensor([[3, 1, 4, 1, 5, 9]])
    last = model(tokens)
    every = torch.stack([model(tokens[:, :n])[0] for n in range(1, 7)])
    targets = torch.tensor([[1, 4, 1, 5, 9, 2]])
    assert model(tokens, targets).item() == pytest.approx(
        torch.nn.functional.cross_entropy(every, targets[0]).item(), rel=1e-5
    )
    assert torch.allclose(last[0], every[-1])
    x = torch.randn(1, 6, 32)
    attn = model.h[0].attn
    q, k, v = (a.view(6, 2, 16).transpose(0, 1) for a in attn.c_attn(x)[0].split(32, dim=1))
    scores = (q @ k.transpose(1, 2) * 5 / 16).masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    manual = attn.c_proj((scores.softmax(-1) @ v).transpose(0, 1).reshape(6, 32))
    assert torch.allclose(attn(x)[0], manual, atol=1e-5)


# ---- schedule and optimizer


def test_schedules():
    def lr(schedule, t, **more):
        args = parse_args(["--schedule", schedule, "--warmup-steps", "10", "--final-lr-frac", "0.1"])
        return train_gpt2.lr_factor(args, t, 110)

    for schedule in ("cosine", "linear", "constant", "wsd"):
        assert [lr(schedule, t) for t in (0, 4, 9, 10)] == pytest.approx([0.1, 0.5, 1, 1])
    assert lr("cosine", 60) == pytest.approx(0.55)
    assert lr("cosine", 109) == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 0.99)))
    assert lr("linear", 60) == pytest.approx(0.55)
    assert lr("constant", 109) == 1
    assert lr("wsd", 89) == 1
    assert lr("wsd", 95) == pytest.approx(0.1 + 0.9 * (1 - math.sqrt(0.25)))


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant", "wsd"])
def test_group_rates_keep_their_ratios(schedule):
    """A scheduler that writes one rate to all groups undoes muP."""
    args = parse_args(
        [
            *TINY,
            *MUP,
            "--vocab-size",
            "10",
            "--weight-decay",
            "0.3",
            "--schedule",
            schedule,
            "--warmup-steps",
            "5",
            "--final-lr-frac",
            "0.1",
        ]
    )
    optimizer = train_gpt2.Optimizer(GPT2(args), args)
    for t in range(30):
        factor = train_gpt2.lr_factor(args, t, 30)
        optimizer.set_rates(factor)
        assert len(optimizer.torch.param_groups) == 3
        for group in optimizer.torch.param_groups:
            hidden = group["rule_decay"] == 0.6
            assert group["lr"] == pytest.approx(0.01 * factor / (2 if hidden else 1), rel=1e-12)
            assert group["lr"] * group["weight_decay"] == pytest.approx(
                0.003 * factor if group["rule_decay"] else 0, rel=1e-12
            )


@pytest.mark.parametrize("mode", ["scaled", "independent"])
@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_update_formula(kind, mode):
    args = parse_args(
        [
            *TINY,
            *MUP,
            "--vocab-size",
            "10",
            "--optimizer",
            kind,
            "--weight-decay",
            "0.3",
            "--weight-decay-mode",
            mode,
            "--grad-clip",
            "1",
            "--schedule",
            "constant",
        ]
    )
    model = GPT2(args)
    initialise(model, 1)
    optimizer = train_gpt2.Optimizer(model, args)
    name = "h.0.mlp.c_fc.weight"
    rule = next(t for t in model.rules["tensors"] if t["name"] == name)
    p = dict(model.named_parameters())[name]
    w, m, v = p.detach().double().clone(), 0, 0
    generator = torch.Generator().manual_seed(0)
    for n in (1, 2, 3):
        for q in model.parameters():
            q.grad = torch.randn(q.shape, generator=generator)
        norm = optimizer.norm().item()
        assert norm == pytest.approx(
            math.sqrt(sum(q.grad.double().square().sum().item() for q in model.parameters())), rel=1e-5
        )
        g = p.grad.double() * min(1, 1 / norm)
        optimizer.step(0.5, norm)
        lr = rule["lr"] * 0.5
        decay = lr * rule["weight_decay"] if mode == "scaled" else 0.5 * 0.3
        if kind == "adamw":
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g * g
            w = (1 - decay) * w - lr * (m / (1 - 0.9**n)) / ((v / (1 - 0.95**n)).sqrt() + rule["eps"])
        else:
            m = 0.9 * m + g
            w = (1 - decay) * w - lr * m
        assert torch.allclose(p.detach().double(), w, rtol=1e-5, atol=1e-7)


def test_outliers():
    detector = train_gpt2.Outliers(3.0)
    values = np.random.default_rng(0).normal(size=128)
    assert not any(detector.sees(x) for x in [1e9, *values[1:]])  # the window is not full: no verdict
    detector.window = list(values)
    assert detector.sees(values.mean() + 3.1 * deviation(values))  # float64
    assert detector.window == list(values)  # an outlier is not added
    assert not detector.sees(values.mean() + 2.9 * deviation(values))  # float64
    assert len(detector.window) == 128


def test_skipped_update(data, tmp_path, monkeypatch):
    """A skipped update leaves weights, moments and the bias correction's count alone."""
    seen = iter([False, False, True, False])
    monkeypatch.setattr(train_gpt2.Outliers, "sees", lambda self, value: self.threshold > 0 and next(seen))
    lines = run(
        tmp_path,
        *data,
        *TINY,
        "--steps",
        4,
        "--skip-loss-zscore",
        3,
        "--schedule",
        "constant",
        "--overfit-single-batch",
    )
    assert [line.get("skipped") for line in lines] == [None, None, True, None]
    assert lines[3]["loss"] == lines[2]["loss"] != lines[1]["loss"]
    file = train_gpt2.safe_open(train_gpt2.newest_checkpoint(tmp_path) / "optimizer.safetensors", "pt")
    assert json.loads(file.metadata()["state"])["updates"] == 3


# ---- data


def test_data_order(data):
    a, b = (Dataset(data[1], 16, seed=42) for _ in range(2))
    n = a.windows
    assert n == sum(a.windows_of)
    order = [a.locate(s) for s in range(2 * n)]
    everything = {(shard, window) for shard in range(3) for window in range(a.windows_of[shard])}
    assert set(order[:n]) == set(order[n:]) == everything
    assert order[:n] != order[n:]
    assert [b.locate(s) for s in reversed(range(2 * n))] == order[::-1]  # no state but the sample's number
    whole = torch.cat(a.batch(range(24), 257), 1)
    parts = torch.cat([torch.cat(a.batch(range(i, i + 4), 257), 1) for i in range(0, 24, 4)])
    assert torch.equal(whole, parts)
    x, y = a.batch([5], 257)
    shard, window = order[5]
    raw = np.fromfile(a.paths[shard], dtype="<u2", offset=1024)[window * 16 : window * 16 + 17]
    assert x[0].tolist() == raw[:-1].tolist()
    assert y[0].tolist() == raw[1:].tolist()
    keys = [
        x0 | x1 << 32 for x0, x1, _, _ in (draw(42, 3, 1 * 65536 + 2, i) for i in range(a.windows_of[2]))
    ]  # epoch 1, shard 2
    assert a.window_order(1, 2).tolist() == sorted(range(len(keys)), key=keys.__getitem__)
    in_file_order = Dataset(data[1], 16, shuffle=False)
    assert [in_file_order.locate(s) for s in range(3)] == [(0, 0), (0, 1), (0, 2)]


def test_uint32_shards(tmp_path):
    path = write_shard(tmp_path / "a.bin", np.arange(70000), 100000, "unknown")
    x, y = Dataset(str(path), 10, shuffle=False).batch([6900], 100000)
    assert x[0].tolist() == list(range(69000, 69010))
    assert y[0, -1] == 69010


# ---- training


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


@pytest.mark.parametrize(
    "more",
    [["--dtype", "fp32"], ["--dtype", "bf16"], ["--dtype", "bf16", "--rounding", "stochastic"], ["--optimizer", "sgd"]],
)
def test_resume_is_bit_exact(data, tmp_path, more):
    common = [*data, *TINY, *MUP, *more, "--steps", 8, "--weight-decay", "0.1", "--eval-every", 4, "--warmup-steps", 3]
    whole = run(tmp_path / "whole", *common, "--checkpoint-every", 5, "--keep", 3)
    folders = sorted((tmp_path / "whole/checkpoints").iterdir())
    assert [f.name for f in folders] == ["step_00000005", "step_00000008"]
    import shutil

    shutil.copytree(tmp_path / "whole", tmp_path / "part")
    shutil.rmtree(tmp_path / "part/checkpoints/step_00000008")  # as if the run had been killed after step 5
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


def test_bf16_learns_like_fp32(data, tmp_path):
    fp32 = losses(run(tmp_path / "a", *data, *TINY, "--steps", 15))
    bf16 = losses(run(tmp_path / "b", *data, *TINY, "--steps", 15, "--dtype", "bf16"))
    assert bf16 == pytest.approx(fp32, abs=0.05)
    assert bf16 != fp32
    model, state = tensors(tmp_path / "b"), tensors(tmp_path / "b", "optimizer")
    for name, value in model.items():
        assert value.dtype == torch.bfloat16
        assert torch.equal(state["master." + name].bfloat16(), value)
    assert model["h.0.mlp.c_fc.weight"].shape == (32, 128)  # (in, out), as Hugging Face has it
    assert model["wte.weight"].shape == (257, 32)


def test_accumulation(data, tmp_path):
    common = [*data, *TINY[:-4], "--steps", 4, "--total-batch-size", 16 * 8]
    a = run(tmp_path / "a", *common, "--batch-size", 1)
    b = run(tmp_path / "b", *common, "--batch-size", 8)
    assert losses(a) == pytest.approx(losses(b), rel=1e-5)
    assert [x["grad_norm"] for x in a] == pytest.approx([x["grad_norm"] for x in b], rel=1e-4)
    assert [x["tokens"] for x in a] == [128, 256, 384, 512]


def test_two_ranks_are_one(data, tmp_path):
    common = [*map(str, data), *TINY, *MUP, "--steps", "4", "--total-batch-size", str(16 * 8), "--threads", "1"]
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_compiled_is_eager(data, tmp_path, dtype):
    common = [*data, *TINY, *MUP, "--steps", 5, "--total-batch-size", 64, "--dtype", dtype]
    eager = run(tmp_path / "eager", *common)
    compiled = run(tmp_path / "compiled", *common, "--compile")
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-5 if dtype == "fp32" else 1e-2)


def test_overfits_a_batch(data, tmp_path):
    assert run(tmp_path, *data, *TINY, "--steps", 60, "--overfit-single-batch")[-1]["loss"] < 0.3


def test_log_and_metadata(data, tmp_path):
    run(
        tmp_path,
        *data,
        *TINY,
        *MUP,
        "--steps",
        3,
        "--eval-every",
        3,
        "--sample-every",
        3,
        "--sample-tokens",
        5,
        "--prompt",
        "ab",
    )
    assert [x["event"] for x in log(tmp_path, None)] == [
        "config",
        "train",
        "train",
        "train",
        "eval",
        "sample",
        "checkpoint",
        "final",
    ]
    config, final = log(tmp_path, "config")[0], log(tmp_path, "final")[0]
    assert config["config"]["total_batch_size"] == 32
    assert config["model"] == {
        "num_layers": 2,
        "num_heads": 2,
        "channels": 32,
        "max_seq_len": 16,
        "vocab_size": 257,
        "tie_embeddings": False,
    }
    assert config["parameters"] == sum(math.prod(t["shape"]) for t in config["parametrization"]["tensors"])
    assert final["reason"] == "done"
    evaluation = log(tmp_path, "eval")[0]
    assert evaluation["bits_per_byte"] == pytest.approx(evaluation["val_loss"] / math.log(2) * 3001 / 3000)
    with train_gpt2.safe_open(train_gpt2.newest_checkpoint(tmp_path) / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert (metadata["format"], metadata["step"], metadata["tokenizer"]) == ("llmc-mup 1", "3", "byte")
    assert json.loads(metadata["parametrization"]) == config["parametrization"]


def test_init_and_sample(data, tmp_path, capsys):
    run(tmp_path / "a", *data, *TINY, *MUP, "--steps", 2)
    again = run(tmp_path / "b", *data, "--init", tmp_path / "a", *MUP, "--batch-size", 2, "--steps", 1)
    assert log(tmp_path / "b", "config")[0]["model"] == log(tmp_path / "a", "config")[0]["model"]
    assert again[0]["loss"] < math.log(257)
    capsys.readouterr()
    outputs = []
    for _ in range(2):
        assert main(["sample", str(tmp_path / "a"), "--prompt", "abc", "--sample-tokens", "20"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("abc")


def test_huggingface_names(tmp_path):
    """A file as transformers writes it: a prefix, no metadata of ours, attention masks that nobody needs."""
    from safetensors.torch import save_file

    args = parse_args(["--vocab-size", "130", "--depth", "1", "--width", "64", "--heads", "1", "--seq-len", "8"])
    model = GPT2(args)
    initialise(model, 3)
    file = {"transformer." + r["name"]: train_gpt2.stored(p, r) for r, p in model.named_rules()}
    save_file(file | {"transformer.h.0.attn.bias": torch.ones(1)}, tmp_path / "hf.safetensors")
    loaded = parse_args(["--init", str(tmp_path / "hf.safetensors")])
    assert (loaded.depth, loaded.width, loaded.heads, loaded.seq_len, loaded.vocab_size, loaded.tie_embeddings) == (
        1,
        64,
        1,
        8,
        130,
        True,
    )
    other = GPT2(loaded)
    other.set_weights(train_gpt2.open_checkpoint(loaded.init).values)
    assert_same(dict(model.state_dict()), dict(other.state_dict()))


def test_llmc_model_file(tmp_path):
    L, H, C, T, V, Vp = 2, 2, 8, 4, 10, 128
    sizes = [
        Vp * C,
        T * C,
        L * C,
        L * C,
        L * 3 * C * C,
        L * 3 * C,
        L * C * C,
        L * C,
        L * C,
        L * C,
        L * 4 * C * C,
        L * 4 * C,
        L * 4 * C * C,
        L * C,
        C,
        C,
    ]
    header = np.zeros(256, dtype="<i4")
    header[:8] = 20240326, 3, T, V, L, H, C, Vp
    values = np.arange(sum(sizes), dtype="<f4")
    (tmp_path / "a.bin").write_bytes(header.tobytes() + values.tobytes())
    args = parse_args(["--init", str(tmp_path / "a.bin")])
    model = GPT2(args)
    model.set_weights(train_gpt2.open_checkpoint(args.init).values)
    p = dict(model.named_parameters())
    assert p["wte.weight"][9, 7] == 79
    assert p["wpe.weight"][0, 0] == Vp * C
    assert p["h.1.ln_1.weight"][0] == Vp * C + T * C + C
    assert p["h.1.attn.c_attn.weight"][0, 1] == sum(sizes[:4]) + 3 * C * C + 1
    assert p["ln_f.bias"][-1] == sum(sizes) - 1


def test_choose_token():
    logits = np.array([1.0, 3.0, 3.0, 2.0], dtype=np.float32)
    assert train_gpt2.choose_token(logits, 0, 0, 0.9) == 1
    assert train_gpt2.choose_token(logits, 1, 1, 0.99) == 1  # ties go to the lower index
    assert train_gpt2.choose_token(logits, 1, 2, 0.51) == 2
    p = np.exp(logits.astype(float))
    assert [train_gpt2.choose_token(logits, 1, 0, u) for u in (0.001, 0.999)] == [0, 3]
    assert train_gpt2.choose_token(logits, 1, 0, (p[0] + 0.01) / p.sum()) == 1


# ---- options, errors, signals


def test_config_file_and_precedence(tmp_path, capsys):
    file = tmp_path / "a.toml"
    file.write_text('preset = "gpt2-medium"\nwidth = 512\nlr = 0.5\nzero_init_query = true\n')
    args = parse_args(["--config", str(file), "--lr", "0.25", "--no-shuffle"])
    assert (args.depth, args.width, args.heads, args.lr, args.zero_init_query, args.shuffle) == (
        24,
        512,
        16,
        0.25,
        True,
        False,
    )
    with pytest.raises(SystemExit) as stop:
        parse_args(["--config", str(file), "--print-config"])
    assert stop.value.code == 0
    file.write_text(capsys.readouterr().out)
    again = parse_args(["--config", str(file)])
    assert train_gpt2.options_dict(again) == train_gpt2.options_dict(parse_args(["--config", str(file)]))
    assert (again.width, again.lr) == (512, 0.5)


def test_help_and_dry_run(capsys):
    with pytest.raises(SystemExit) as stop:
        parse_args(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name in train_gpt2.BY_NAME:
        assert f"--{name}" in text
    assert main([*TINY, *MUP, "--dry-run"]) == 0
    assert "width_mult 2 (base width 16, base head size 16)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--depth", "0"], 2, "--depth: '0' is out of range"),
        (["--depth", "two"], 2, "not a whole number"),
        (["--schedule", "cosin"], 2, "cosine|linear"),
        (["--widht", "3"], 2, "--widht"),
        (["--width", "100", "--heads", "7"], 2, "--heads 7 does not divide"),
        (["--steps", "3", "--tokens", "5"], 2, "--steps excludes --tokens"),
        (["--parametrization", "mup"], 2, "needs --base-width"),
        (["--base-width", "64"], 2, "no meaning under"),
        (["--parametrization", "mup", "--base-width", "100"], 2, "give --base-heads"),
        (["--zero-init-head"], 2, "add --no-tie-embeddings"),
        (["--total-batch-size", "5000"], 2, "the nearest are 4096 and 8192"),
        (["--resume"], 2, "needs --out"),
        ([], 2, "--train-data is missing"),
        (["--train-data", "nowhere/*.bin"], 3, "matches no file"),
        (["--init", "nowhere"], 3, "there is no checkpoint"),
        (["--config", "nowhere.toml"], 2, "cannot be read"),
    ],
)
def test_errors(options, code, words, capsys):
    assert main(options) == code
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_bad_config_key(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("widht = 3\n")
    assert main(["--config", str(tmp_path / "a.toml")]) == 2
    assert "'widht'" in capsys.readouterr().err


def test_bad_shards(tmp_path, capsys):
    def error(path):
        assert main([*TINY, "--steps", "1", "--train-data", str(path)]) == 3
        return capsys.readouterr().err

    good = write_shard(tmp_path / "good.bin", np.arange(200), 257).read_bytes()
    for name, at, value, words in (
        ("magic", 0, 7, "magic number is 7"),
        ("version", 4, 9, "shard version 9"),
        ("count", 8, 300, "truncated or damaged"),
    ):
        (tmp_path / name).write_bytes(good[:at] + int(value).to_bytes(4, "little") + good[at + 4 :])
        assert words in error(tmp_path / name)
    assert "a token in window" in error(write_shard(tmp_path / "big.bin", np.full(200, 300), 257))
    assert "shorten --seq-len" in error(write_shard(tmp_path / "short.bin", np.arange(10), 257))
    (tmp_path / "empty.bin").write_bytes(b"")
    assert "no token shard" in error(tmp_path / "empty.bin")


def test_out_is_not_overwritten(data, tmp_path, capsys):
    run(tmp_path, *data, *TINY, "--steps", 1)
    assert main([*data, *TINY, "--steps", "1", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    run(tmp_path, *data, *TINY, "--steps", 2, "--overwrite")
    assert [x["step"] for x in log(tmp_path)] == [1, 2]
    assert main([*data, *TINY, *MUP, "--tie-embeddings", "--steps", "3", "--out", str(tmp_path), "--resume"]) == 3
    assert "another parametrization" in capsys.readouterr().err
    assert main([*data, *TINY, "--dtype", "bf16", "--steps", "3", "--out", str(tmp_path), "--resume"]) == 3
    assert "has dtype = fp32, this run bf16" in capsys.readouterr().err
    assert main(["--train-data", data[1], "--steps", "3", "--lr", "0", "--out", str(tmp_path), "--resume"]) == 0
    assert [x["step"] for x in log(tmp_path)] == [1, 2, 3]  # the shape is the checkpoint's
    assert main([*data, *TINY, "--width", "64", "--steps", "3", "--out", str(tmp_path), "--resume"]) == 3
    assert "--width 64 does not fit" in capsys.readouterr().err


def test_steps_0_writes_the_initial_checkpoint(data, tmp_path):
    assert run(tmp_path, *TINY, "--vocab-size", 257, "--steps", 0) == []
    assert tensors(tmp_path)["h.0.ln_1.weight"].sum() == 32
    assert not any(value.any() for value in tensors(tmp_path, "optimizer").values())


def test_divergence(data, tmp_path, capsys):
    run(tmp_path, *data, *TINY, "--steps", 50, "--lr", "1e30", "--grad-clip", 0, "--checkpoint-every", 1, code=4)
    assert "training diverged" in capsys.readouterr().err
    assert log(tmp_path, "final")[0]["reason"] == "diverged"
    assert log(tmp_path)[-1]["loss"] is None or log(tmp_path)[-1]["grad_norm"] is None
    assert not (tmp_path / f"checkpoints/step_{log(tmp_path)[-1]['step']:08d}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save(data, tmp_path, monkeypatch, number):
    handler = signal.getsignal(number)
    monkeypatch.setattr(
        train_gpt2.Trainer, "show", lambda self: os.kill(os.getpid(), number) if self.step == 3 else None
    )
    lines = run(tmp_path, *data, *TINY, "--steps", 100, code=128 + number)
    assert lines[-1]["step"] == 4  # the step under way was finished
    assert signal.getsignal(number) == handler
    assert log(tmp_path, "final")[0]["reason"] == "signal"
    assert train_gpt2.newest_checkpoint(tmp_path).name == f"step_{lines[-1]['step']:08d}"


def test_import_has_no_side_effects(tmp_path):
    code = "import signal, torch; n = torch.get_num_threads(); import train_gpt2; assert torch.get_num_threads() == n"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr, list(tmp_path.iterdir())) == (0, "", "", [])


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_recompute_changes_nothing(data, tmp_path, dtype):
    runs = {
        mode: run(tmp_path / mode, *data, *TINY, "--steps", 4, "--dtype", dtype, "--recompute", mode)
        for mode in ("none", "gelu", "block")
    }
    assert losses(runs["none"]) == losses(runs["gelu"]) == losses(runs["block"])
