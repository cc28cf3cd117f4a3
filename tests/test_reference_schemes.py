"""train_gpt2.py's parametrizations against numbers worked out here: tables, gradients, identities."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measures import deviation, relative_error, rms
from shards import random_text, write_text_shards
from test_reference import ROOT, TINY, assert_same, log, losses, run, table, tensors

import train_gpt2
from train_gpt2 import GPT2, initialise, main, parse_args

MUP = {name: ["--parametrization", name, "--base-width", "16"] for name in ("mup", "mup-table3", "mup-table9")}
COMPLETEP = ["--parametrization", "completep", "--base-width", "16", "--base-depth"]
UNIT = ["--parametrization", "u-mup"]
ODD_UNIT = [
    *UNIT,
    *"--ffn-act-mult 1.5 --attn-softmax-mult 0.7 --residual-mult 1.3 --residual-attn-ratio 0.6 "
    "--loss-softmax-mult 2".split(),
]  # every number of the scheme away from its default
ALL = MUP | {"completep": [*COMPLETEP, "1"], "u-mup": ODD_UNIT}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    write_text_shards(folder, random_text(3000, 1), 1, "val")
    return [
        "--train-data",
        write_text_shards(folder, random_text(9000), 3, "train"),
        "--val-data",
        str(folder / "val_*.bin"),
    ]


def numbers(rule):
    return [rule[key] for key in ("init_mean", "init_std", "multiplier", "lr", "weight_decay", "eps")]


# ---- tables, by hand. `table`: 3 blocks, 4 heads, T 8, V 257, lr 0.01, lambda 0.1, eps 1e-6.


def assert_rules(t, expected):
    for name, values in expected.items():
        assert numbers(t[name]) == pytest.approx(values, rel=1e-6), name


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        (
            "mup-table3",
            {
                "wte.weight": (0, 0.02, 1, 0.01, 0.1, 0.25e-6),
                "h.1.mlp.c_fc.weight": (0, 0.01, 1, 0.0025, 0.4, 0.25e-6),
                "h.1.attn.c_proj.weight": (0, 0.01 / math.sqrt(6), 1, 0.0025, 0.4, 0.25e-6),
                "h.1.mlp.c_fc.bias": (0, 0, 1, 0.01, 0, 0.25e-6),
                "ln_f.weight": (1, 0, 1, 0.01, 0, 0.25e-6),
                "lm_head.weight": (0, 0.005, 3, 0.0025, 0.4, 1e-6),
            },
        ),
        (
            "mup-table9",
            {
                "wpe.weight": (0, 0.01, 2, 0.005, 0.2, 0.5e-6),
                "h.1.mlp.c_fc.weight": (0, 0.01, 1, 0.0025, 0.4, 0.25e-6),
                "h.2.mlp.c_proj.weight": (0, 0.01 / math.sqrt(6), 1, 0.0025, 0.4, 0.25e-6),
                "h.1.mlp.c_fc.bias": (0, 0, 2, 0.005, 0, 0.5e-6),
                "h.0.ln_2.weight": (0.5, 0, 2, 0.005, 0, 0.5e-6),
                "h.0.ln_2.bias": (0, 0, 2, 0.005, 0, 0.5e-6),
                "lm_head.weight": (0, 0.01, 1.5, 0.005, 0.2, 0.5e-6),
            },
        ),
    ],
)
def test_tables_3_and_9_adamw(scheme, expected):
    """At m = 4."""
    options = ["--width", "64", *MUP[scheme], "--output-mult", "3", "--embed-mult", "5"]
    rules, t = table(*options, "--base-heads", "4", "--no-zero-init-head")
    assert (rules["scheme"], rules["width_mult"]) == (scheme, 4)
    assert_rules(t, expected)
    embedding, output = (10, 1.5) if scheme == "mup-table9" else (5, 3)
    for key, value in {
        "embedding": embedding,
        "wte_grad": embedding,
        "wpe_grad": embedding,
        "output": output,
        "output_dinp": output,
        "output_dweight": output,
        "attention": 2 / 16,
        "attention_out": 1,
        "gelu": 1,
        "loss": 1,
        "loss_grad": 1,
        "residual": [[1] * 5] * 6,
    }.items():
        assert rules["scales"][key] == value, key
    for rule in t.values():
        assert rule["multiplier"] == rule["dinp_multiplier"] == rule["dweight_multiplier"], rule["name"]
    rules, t = table(*options, "--base-heads", "4")  # as they start by default
    assert t["lm_head.weight"]["init_std"] == 0
    assert t["h.0.attn.c_attn.weight"]["zero_rows"] == 64
    assert {x["eps"] for x in table(*options, "--base-heads", "4", "--no-scale-eps")[1].values()} == {1e-6}


def test_tables_3_and_9_sgd():
    more = ["--optimizer", "sgd", "--width", "64", "--base-heads", "4"]
    _, t = table(*more, *MUP["mup-table3"])
    assert [
        (t[n]["lr"], t[n]["weight_decay"], t[n]["eps"])
        for n in ("wte.weight", "h.0.mlp.c_fc.weight", "ln_f.weight", "lm_head.weight")
    ] == [(0.04, 0.025, 0), (0.01, 0.1, 0), (0.04, 0, 0), (0.0025, 0.4, 0)]
    _, t = table(*more, *MUP["mup-table9"])
    assert {x["lr"] for x in t.values()} == {0.01}
    assert {x["weight_decay"] for x in t.values()} == {0.1, 0}


def test_table_9_tied():
    """The head takes wte's rule, and 1/sqrt(m) on the logits."""
    rules, t = table(*MUP["mup-table9"], "--width", "64", "--base-heads", "4", "--tie-embeddings")
    assert "lm_head.weight" not in t
    assert numbers(t["wte.weight"]) == pytest.approx([0, 0.01, 2, 0.005, 0.2, 0.5e-6])
    assert (rules["scales"]["embedding"], rules["scales"]["output"]) == (2, 0.5)


@pytest.mark.parametrize("alpha", [1, 0.5])
def test_table_completep(alpha):
    """8 blocks of a base of 2: m_L = 4; and m = 4."""
    options = [*COMPLETEP, "2", "--width", "64", "--base-heads", "4", "--depth", "8", "--depth-alpha", str(alpha)]
    rules, t = table(*options)
    assert (rules["width_mult"], rules["base_depth"], rules["depth_mult"]) == (4, 2, 4)
    branch, rate = (0.25, 1) if alpha == 1 else (0.5, 0.5)
    assert rules["scales"]["residual"] == [[1, branch, 1, branch, 1]] * 16
    assert_rules(
        t,
        {
            "wte.weight": (0, 0.02, 1, 0.01, 0.1, 0.25e-6),
            "h.7.mlp.c_fc.weight": (0, 0.01, 1, 0.0025 * rate, 0.4, 0.25e-6 * branch),
            "h.7.mlp.c_proj.weight": (0, 0.01 / 2, 1, 0.0025 * rate, 0.4, 0.25e-6 * branch),  # sqrt(2 x 2 base blocks)
            "h.0.attn.c_attn.bias": (0, 0, 1, 0.01 * rate, 0, 0.25e-6 * branch),
            "h.0.ln_1.weight": (1, 0, 1, 0.01 * rate, 0, 0.25e-6 * branch),
            "ln_f.weight": (1, 0, 1, 0.01, 0, 0.25e-6),
            "lm_head.weight": (0, 0, 0.25, 0.01, 0.1, 0.25e-6),
        },
    )
    _, t = table(*options, "--optimizer", "sgd")
    depth = 4 if alpha == 1 else 1  # m_L^(2 alpha - 1)
    assert [t[n]["lr"] for n in ("wte.weight", "h.3.mlp.c_fc.weight", "h.3.ln_2.bias", "ln_f.bias")] == [
        0.04,
        0.01 * depth,
        0.04 * depth,
        0.04,
    ]
    assert t["h.3.mlp.c_fc.weight"]["weight_decay"] == 0.1
    assert {x["eps"] for x in table(*options, "--no-scale-eps")[1].values()} == {1e-6}


def gelu_rms(mult):
    """By Gauss-Hermite quadrature and PyTorch's gelu."""
    z, weight = np.polynomial.hermite_e.hermegauss(180)
    y = F.gelu(torch.from_numpy(mult * z), approximate="tanh").numpy() / mult
    return math.sqrt((weight * y * y).sum() / math.sqrt(2 * math.pi))


def test_table_u_mup():
    """4 blocks of width 64, T 16, 64 tokens a step: 1/sqrt of width, fan-in 4d and tokens are 1/8, 1/16 and 1/8."""
    options = [*UNIT, "--width", "64", "--depth", "4", "--seq-len", "16", "--batch-size", "4"]
    rules, t = table(*options)
    assert (
        rules["base_width"],
        rules["base_head_dim"],
        rules["width_mult"],
        rules["base_depth"],
        rules["depth_mult"],
    ) == (64, 16, 1, 4, 1)
    g = gelu_rms(1)
    assert g == pytest.approx(0.652, abs=1e-3)  # of GELU, known from the literature
    for name, (std, a, dinp, dweight, rate) in {
        "wte.weight": (1, 1, 1, 1, 1 / 8),
        "wpe.weight": (1, 1, 1, 1, 1 / 8),
        "h.0.attn.c_attn.weight": (1, 1 / 8, 1 / 8, 1 / 8, 1 / 16),
        "h.1.attn.c_proj.weight": (1, 1 / 8, 1 / 8, 1 / 8, 1 / 16),
        "h.2.mlp.c_fc.weight": (1, 1 / 8, 1 / 16, 1 / 8, 1 / 16),
        "h.3.mlp.c_proj.weight": (1, 1 / 16 / g, 1 / 8 / g, 1 / 8 / g, 1 / 32),
        "h.3.attn.c_attn.bias": (0, 1 / 8, 1 / 8, 1 / 8, 1 / 2),
        "h.3.mlp.c_proj.bias": (0, 1 / 16, 1 / 16, 1 / 8, 1 / 2),
        "h.3.ln_2.weight": (0, 1, 1, 1 / 8, 1 / 16),
        "h.3.ln_2.bias": (0, 1, 1, 1 / 8, 1 / 16),
        "ln_f.weight": (0, 1, 1, 1 / 8, 1 / 8),
        "lm_head.weight": (1, 1 / 64, 257**-0.5, 1 / 8, 1),
    }.items():
        x = t[name]
        assert [
            x["init_std"],
            x["multiplier"],
            x["dinp_multiplier"],
            x["dweight_multiplier"],
            x["lr"],
        ] == pytest.approx([std, a, dinp, dweight, 0.01 * rate], rel=1e-6), name
        assert x["weight_decay"] == pytest.approx(0 if x["role"] == "vector" else 0.1 / rate), name
        assert (x["eps"], x["zero_rows"]) == (1e-6, 0)
        assert x["init_mean"] == ("ln_" in name and "weight" in name), name
    scales = rules["scales"]
    sigma = math.sqrt(math.log(16) / 16) ** (64 / 65)  # a = 1 / (1 + 4 x 16)
    for key, value in {
        "embedding": 0.5**0.5,
        "wte_grad": math.sqrt(257 / 64),
        "wpe_grad": 0.5,
        "attention": 1 / 16,
        "attention_out": 1 / sigma,
        "gelu": 1,
        "loss": 1,
        "loss_grad": 64 * 257 / 16,
        "output": 1 / 64,
        "output_dinp": 257**-0.5,
        "output_dweight": 1 / 8,
    }.items():
        assert scales[key] == pytest.approx(value, rel=1e-6), key
    for i, (skip, branch, dskip, dbranch, dsplit) in enumerate(scales["residual"]):  # tau^2 = 1 / (4 + i)
        assert [skip, branch] == pytest.approx([math.sqrt((4 + i) / (5 + i)), math.sqrt(1 / (5 + i))], rel=1e-6)
        assert (dskip, dbranch, dsplit) == (skip, 1, branch)
    _, sgd = table(*options, "--optimizer", "sgd")
    assert {n: x["lr"] for n, x in sgd.items()} == {n: x["lr"] for n, x in t.items()}


def test_table_u_mup_multipliers():
    rules, t = table(*ODD_UNIT, "--width", "64", "--depth", "4", "--seq-len", "16", "--batch-size", "4")
    scales = rules["scales"]
    g = gelu_rms(1.5)
    assert t["h.0.mlp.c_proj.weight"]["multiplier"] == pytest.approx(1 / 16 / g, rel=1e-6)
    a = 1 / (1 + 64 / 0.49)
    for key, value in {
        "gelu": 1.5,
        "attention": 0.7 / 16,
        "loss": 2,
        "loss_grad": 64 * 257 / 16 / 2,
        "attention_out": math.sqrt(math.log(16) / 16) ** (a - 1),
    }.items():
        assert scales[key] == pytest.approx(value, rel=1e-6), key
    parts = [1.0]  # variances in the last residual stream: of the embedding, of each branch
    for skip, branch, *_ in scales["residual"]:
        parts = [v * skip**2 for v in parts] + [branch**2]
    attention, mlp = parts[1::2], parts[2::2]
    assert sum(parts) == pytest.approx(1, rel=1e-6)
    assert attention == pytest.approx([attention[0]] * 4, rel=1e-5)
    assert mlp == pytest.approx([mlp[0]] * 4, rel=1e-5)
    assert math.sqrt((sum(attention) + sum(mlp)) / 2 / parts[0]) == pytest.approx(1.3, rel=1e-5)  # residual_mult
    assert math.sqrt(sum(attention) / sum(mlp)) == pytest.approx(0.6, rel=1e-5)  # residual_attn_ratio
    one = table(*UNIT, "--width", "64", "--seq-len", "1")[0]["scales"]  # a single key gets all attention
    assert one["attention_out"] == 1


def test_defaults_of_switches():
    def resolved(*options):
        args = parse_args([*TINY, "--vocab-size", "10", *options])
        rules = train_gpt2.parametrization(args)
        t = {x["name"]: x for x in rules["tensors"]}
        head = t.get("lm_head.weight", {"init_std": None})["init_std"]
        return args.tie_embeddings, args.grad_clip, t["h.0.attn.c_attn.weight"]["zero_rows"], head

    assert resolved() == (True, 1, 0, None)
    for options in (*MUP.values(), [*COMPLETEP, "2"]):
        assert resolved(*options) == (False, 1, 32, 0)
    assert resolved(*UNIT) == (False, 0, 0, 1)
    assert resolved(*UNIT, "--grad-clip", "3", "--zero-init-query", "--zero-init-head") == (False, 3, 32, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--base-depth", "2"], "--base-depth 2 has no meaning under --parametrization sp"),
        ([*MUP["mup"], "--base-depth", "2"], "--base-depth 2 has no meaning under --parametrization mup"),
        ([*UNIT, "--base-width", "16"], "no meaning under --parametrization u-mup"),
        ([*UNIT, "--base-heads", "2"], "no meaning under --parametrization u-mup"),
        ([*UNIT, "--base-depth", "2"], "no meaning under --parametrization u-mup"),
        (["--parametrization", "completep", "--base-width", "16"], "completep needs --base-depth"),
        (["--parametrization", "completep", "--base-depth", "2"], "completep needs --base-width"),
        (["--parametrization", "mup-table9"], "mup-table9 needs --base-width"),
        ([*MUP["mup"], "--depth-alpha", "0.5"], "--depth-alpha 0.5 has no meaning"),
        ([*COMPLETEP, "2", "--depth-alpha", "0.4"], "--depth-alpha: '0.4' is out of range: between 0.5 and 1"),
        ([*MUP["mup-table3"], "--tie-embeddings"], "--no-tie-embeddings"),
        ([*UNIT, "--tie-embeddings"], "--no-tie-embeddings"),
        ([*UNIT, "--attn-mult", "2"], "--attn-mult 2.0 has no meaning under --parametrization u-mup"),
        ([*UNIT, "--output-mult", "2"], "--output-mult 2.0 has no meaning"),
        ([*UNIT, "--embed-mult", "2"], "--embed-mult 2.0 has no meaning"),
        ([*UNIT, "--init-std", "1"], "--init-std 1.0 has no meaning"),
        ([*UNIT, "--residual-mult", "0"], "--residual-mult 0 is out of range"),
        *[
            ([f"--{name}", "2", *MUP["mup"]], f"--{name} 2 has no meaning under --parametrization mup")
            for name in train_gpt2.UNIT_MULTS
        ],
        (["--parametrization", "mup-table8"], "mup-table3|mup-table9"),
        (["--coord-check", "a.csv"], "add --overfit-single-batch"),
        (["--coord-check", "a.csv", "--overfit-single-batch", "--resume", "--out", "x"], "excludes --resume"),
        (["--coord-check", "a.csv", "--overfit-single-batch", "--compile"], "excludes --compile"),
        (["--coord-check", "a.csv", "--overfit-single-batch", "--total-batch-size", "64"], "one micro-batch a step"),
    ],
)
def test_refusals(options, words, capsys):
    assert main([*TINY, "--dry-run", *options]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_what_is_not_refused(capsys):
    """Defaults may be spelled out, and what --print-config prints can be read again."""
    assert main([*TINY, *UNIT, "--dry-run", "--output-mult", "1", "--init-std", "0.02", "--depth-alpha", "1"]) == 0
    assert "residual h.1.mlp" in capsys.readouterr().out
    assert main([*TINY, *COMPLETEP, "1", "--dry-run", "--residual-mult", "1"]) == 0
    out = capsys.readouterr().out
    assert "depth_mult 2 (base depth 1)" in out
    assert "residual: skip 1, branch 0.5" in out
    assert main([*TINY, *MUP["mup-table9"], "--dry-run"]) == 0
    assert "init_mean" in capsys.readouterr().out


@pytest.mark.parametrize("scheme", ALL)
def test_print_config_can_be_read(scheme, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse_args([*TINY, *ALL[scheme], "--print-config"])
    (tmp_path / "a.toml").write_text(capsys.readouterr().out)
    again, first = parse_args(["--config", str(tmp_path / "a.toml")]), parse_args([*TINY, *ALL[scheme]])
    assert train_gpt2.options_dict(again) == train_gpt2.options_dict(first)


# ---- the model does what the table says


def model_of(*options, seed=5):
    """A model away from its start, zeros included, in numbers of the size that the scheme starts with."""
    args = parse_args(
        [
            "--vocab-size",
            "130",
            "--depth",
            "2",
            "--width",
            "32",
            "--heads",
            "2",
            "--seq-len",
            "12",
            "--batch-size",
            "3",
            *options,
        ]
    )
    model = GPT2(args)
    generator = torch.Generator().manual_seed(seed)
    size = 1.0 if args.parametrization == "u-mup" else 0.15
    for rule, p in model.named_rules():
        noise = torch.randn(rule["shape"], generator=generator)
        with torch.no_grad():
            p[: rule["shape"][0]] = noise * (0.2 if rule["role"] == "vector" else size) + rule["init_mean"]
    model.round_copies()
    tokens = torch.randint(0, 130, (2, 3, 12), generator=generator)
    return model, tokens[0], tokens[1]


def loss_by_hand(w, tokens, targets, depth, heads, attention, branches, skips, gelu=1.0, attention_out=1.0):
    """A GPT-2 without parametrization: w are the weights that act. Returns (logits, loss) in float64."""
    T, C = tokens.shape[1], w["wte.weight"].shape[1]

    def norm(x, name):
        x = x - x.mean(-1, keepdim=True)  # float64
        variance = x.square().mean(-1, keepdim=True)  # float64
        return x / (variance + 1e-5).sqrt() * w[name + ".weight"] + w[name + ".bias"]

    def linear(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    x = w["wte.weight"][tokens] + w["wpe.weight"][:T]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    for i in range(depth):
        q, k, v = (
            a.unflatten(2, (heads, C // heads)).transpose(1, 2)
            for a in linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").chunk(3, 2)
        )
        p = (attention * q @ k.transpose(2, 3)).masked_fill(future, -math.inf).softmax(-1)
        y = linear((attention_out * p @ v).transpose(1, 2).flatten(2), f"h.{i}.attn.c_proj")
        x = skips[2 * i] * x + branches[2 * i] * y
        y = gelu * linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc")
        y = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3))) / gelu
        x = skips[2 * i + 1] * x + branches[2 * i + 1] * linear(y, f"h.{i}.mlp.c_proj")
    logits = norm(x, "ln_f") @ w["head"].T
    p = logits.log_softmax(-1)
    return logits, -p.gather(2, targets[..., None]).mean()  # float64


def leaves(model):
    return {r["name"]: p.detach()[: r["shape"][0]].double().requires_grad_() for r, p in model.named_rules()}


@pytest.mark.parametrize(
    ("options", "tied"),
    [
        (["--parametrization", "sp"], True),
        (MUP["mup"], False),
        (MUP["mup"], True),
        (MUP["mup-table3"], False),
        (MUP["mup-table9"], False),
        (MUP["mup-table9"], True),
        ([*COMPLETEP, "1", "--depth-alpha", "0.75"], False),
    ],
)
def test_gradients_are_the_chain_rules(options, tied):
    """m = 2, m_L = 2: an independent model of the weights that act, A w, differentiated by autograd to w."""
    model, tokens, targets = model_of(
        *options,
        f"--{'' if tied else 'no-'}tie-embeddings",
        "--output-mult",
        "1.7",
        "--embed-mult",
        "1.3",
        "--attn-mult",
        "2.9",
    )
    loss = model(tokens, targets)
    loss.backward()
    raw, scheme = leaves(model), options[1]
    root = math.sqrt(2) if scheme == "mup-table9" else 1.0  # A of input and vector
    w = {name: x * (root if x.dim() == 1 else 1) for name, x in raw.items()}
    w |= {name: raw[name] * root * 1.3 for name in ("wte.weight", "wpe.weight")}
    head = {"sp": 1, "mup-table3": 1, "mup-table9": 1 / math.sqrt(2)}.get(scheme, 0.5)
    w["head"] = raw["wte.weight" if tied else "lm_head.weight"] * head * 1.7
    branch = 2**-0.75 if scheme == "completep" else 1.0
    logits, expected = loss_by_hand(w, tokens, targets, 2, 2, 2.9 / 16, [branch] * 4, [1.0] * 4)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert relative_error(model(tokens), logits[:, -1]) < 1e-5
    for rule, p in model.named_rules():
        assert relative_error(p.grad[: rule["shape"][0]], raw[rule["name"]].grad) < 1e-5, rule["name"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_gradients_of_u_mup(dtype):
    """They are the true gradients, each times a number that the table implies."""
    model, tokens, targets = model_of(*ODD_UNIT, "--dtype", dtype)
    tokens_a_step, d, V, S, L = 36, 32, 130, 12, 2
    loss = model(tokens, targets)
    loss.backward()
    raw, g = leaves(model), gelu_rms(1.5)
    if dtype == "bf16":
        raw = {name: x.detach().bfloat16().double().requires_grad_() for name, x in raw.items()}
    A = {name: 1.0 for name in raw} | {"wte.weight": 0.5**0.5, "wpe.weight": 0.5**0.5, "lm_head.weight": 1 / d}
    for i in range(L):
        for name, fan_in, weight in (
            ("attn.c_attn", d, 1),
            ("attn.c_proj", d, 1),
            ("mlp.c_fc", d, 1),
            ("mlp.c_proj", 4 * d, 1 / g),
        ):
            A |= {f"h.{i}.{name}.weight": weight / math.sqrt(fan_in), f"h.{i}.{name}.bias": 1 / math.sqrt(fan_in)}
    w = {name: raw[name] * A[name] for name in raw}
    w["head"] = 2 * w["lm_head.weight"]  # loss_softmax_mult
    a_mlp2 = 2 * 1.3**2 / (1 + 0.6**2)
    a2 = [0.36 * a_mlp2, a_mlp2] * L
    tau2 = [a2[i] / (L + sum(a2[:i])) for i in range(2 * L)]
    skips, branches = [(1 + t) ** -0.5 for t in tau2], [(t / (1 + t)) ** 0.5 for t in tau2]
    spread = math.sqrt(math.log(S) / S) ** (1 / (1 + 4 * 16 / 0.49) - 1)
    logits, expected = loss_by_hand(w, tokens, targets, L, 2, 0.7 / 16, branches, skips, 1.5, spread)
    expected.backward()
    tolerance = 1e-5 if dtype == "fp32" else 0.03
    assert loss.item() == pytest.approx(expected.item(), rel=tolerance)
    assert relative_error(model(tokens), logits[:, -1]) < tolerance
    unit = tokens_a_step * V / math.sqrt(V - 1) / 2  # of dlogits
    stream = unit * d / math.sqrt(V)  # and of what the head passes on
    own = 1 / math.sqrt(tokens_a_step)
    factors = {
        "lm_head.weight": unit * own / A["lm_head.weight"],
        "ln_f.weight": stream * own,
        "ln_f.bias": stream * own,
        "wte.weight": stream * math.sqrt(V / 36 * 2),
        "wpe.weight": stream * math.sqrt(S / 36 * 2),
    }
    for i in range(L):
        for name, branch in (
            ("ln_1", 0),
            ("attn.c_attn", 0),
            ("attn.c_proj", 0),
            ("ln_2", 1),
            ("mlp.c_fc", 1),
            ("mlp.c_proj", 1),
        ):
            for kind in ("weight", "bias"):
                full = f"h.{i}.{name}.{kind}"
                carried = g if full.endswith("mlp.c_proj.weight") else 1
                between = 2 if name == "mlp.c_fc" else 1  # mlp.c_proj passes on sqrt(fan_in / fan_out) of the true
                factors[full] = stream / branches[2 * i + branch] * between * own / carried / A[full]
    for rule, p in model.named_rules():
        error = relative_error(p.grad[: rule["shape"][0]], raw[rule["name"]].grad * factors[rule["name"]])
        assert error < tolerance, rule["name"]


@pytest.mark.parametrize("scheme", ALL)
def test_training_logits_are_inference_logits(scheme):
    model, tokens, targets = model_of(*ALL[scheme])
    every = torch.stack([model(tokens[:1, :n])[0] for n in range(1, 13)])
    assert model(tokens[:1], targets[:1]).item() == pytest.approx(F.cross_entropy(every, targets[0]).item(), rel=1e-5)


def test_everything_has_unit_scale_at_the_start_of_u_mup():
    """On random tokens. Attention's output grows with the blocks before it, which make positions alike: two here."""
    args = parse_args([*UNIT, *"--vocab-size 257 --depth 2 --width 128 --heads 4 --seq-len 32 --batch-size 8".split()])
    model = GPT2(args)
    initialise(model, 3)
    tokens = torch.randint(0, 257, (2, 8, 32), generator=torch.Generator().manual_seed(0))
    seen = {}
    model.set_observer(lambda kind, name, x: seen.__setitem__(name, rms(x)))
    model(tokens[0], tokens[1]).backward()
    assert len(seen) == 3 + 13 * 2
    small = {"logits": 128**-0.5, "h.0.attn.logits": 32**-0.5, "h.1.attn.logits": 32**-0.5}  # products of n / n terms
    for name, size in seen.items():
        if name in small:
            assert size == pytest.approx(small[name], rel=0.1), name
        else:
            assert 0.3 < size < 3, (name, size)
    for rule, p in model.named_rules():
        gradient = rms(p.grad[: rule["shape"][0]])
        assert 0.1 < gradient < 10, (rule["name"], gradient)
        if rule["role"] != "vector":
            assert rms(p[: rule["shape"][0]]) == pytest.approx(1, abs=0.02), rule["name"]


def test_gains_start_at_their_mean():
    args = parse_args([*TINY, *MUP["mup-table9"], "--vocab-size", "130"])  # m = 2
    model = GPT2(args)
    initialise(model, 7)
    p = dict(model.named_parameters())
    assert (p["h.1.ln_2.weight"] == np.float32(math.sqrt(0.5))).all()
    assert not p["h.1.ln_2.bias"].any()
    assert deviation(p["wte.weight"][:130]) == pytest.approx(0.02 / math.sqrt(2), rel=0.05)
    assert not p["wte.weight"][130:].any()
    tokens = torch.arange(8)[None]
    assert model(tokens, tokens).item() == pytest.approx(math.log(130), abs=1e-5)


# ---- training


SWITCHES = "--no-tie-embeddings --zero-init-query --zero-init-head".split()


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
    epsilon together. Clipping is off: the norm of all gradients is what the three do not share."""
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


def test_u_mup_learns(data, tmp_path):
    """Also in bf16, whichever part of the forward pass runs twice, and in micro-batches."""
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
def test_resume_is_bit_exact(data, tmp_path, more):
    common = [*data, *TINY, *more, "--weight-decay", "0.1", "--schedule", "constant"]
    whole = run(tmp_path / "whole", *common, "--steps", 8)
    run(tmp_path / "part", *common, "--steps", 5)
    assert losses(run(tmp_path / "part", *common, "--steps", 8, "--resume")) == losses(whole)
    for name in ("model", "optimizer"):
        assert_same(tensors(tmp_path / "whole", name), tensors(tmp_path / "part", name))


def test_two_ranks_are_one(data, tmp_path):
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


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "dtype"), [("mup-table9", "fp32"), ("u-mup", "fp32"), ("u-mup", "bf16")])
def test_compiled_is_eager(data, tmp_path, scheme, dtype):
    torch._dynamo.reset()  # else the models compiled before count against its limit, and this one stays eager
    torch._dynamo.utils.counters.clear()
    common = [*data, *TINY, *ALL[scheme], "--steps", 5, "--total-batch-size", 64, "--dtype", dtype]
    eager = run(tmp_path / "eager", *common)
    compiled = run(tmp_path / "compiled", *common, "--compile")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    assert losses(compiled) == pytest.approx(losses(eager), rel=1e-5 if dtype == "fp32" else 1e-2)


# ---- checkpoints


@pytest.mark.parametrize("scheme", ALL)
def test_samples_follow_the_checkpoints_table(data, tmp_path, capsys, scheme):
    """`sample` knows no options of the scheme; its text is the trained model's."""
    run(
        tmp_path,
        *data,
        *TINY,
        *ALL[scheme],
        "--steps",
        30,
        "--lr",
        0.3 if scheme == "u-mup" else 0.02,
        "--sample-every",
        30,
        "--sample-tokens",
        40,
        "--prompt",
        "ab",
        "--temperature",
        0,
    )
    text = log(tmp_path, "sample")[0]["text"]
    capsys.readouterr()
    assert main(["sample", str(tmp_path), *"--sample-tokens 40 --prompt ab --temperature 0".split()]) == 0
    assert capsys.readouterr().out == "ab" + text + "\n"
    checkpoint = train_gpt2.open_checkpoint(tmp_path)
    args = parse_args([*TINY, *ALL[scheme], "--vocab-size", "257"])
    model, tokens = GPT2(args), torch.arange(97, 105)[None]
    model.set_weights(checkpoint.values)
    logits = model(tokens)
    model.use_rules(train_gpt2.parametrization(parse_args([*TINY, "--vocab-size", "257", "--no-tie-embeddings"])))
    # the table matters; Table 3 has no multipliers
    assert torch.allclose(logits, model(tokens), rtol=1e-3) == (scheme == "mup-table3")


def test_weights_of_another_function_are_refused(data, tmp_path, capsys):
    def error(*options):
        capsys.readouterr()
        code = main([*map(str, data), *TINY, *options, "--steps", "2"])
        return code, capsys.readouterr().err

    run(tmp_path / "u", *data, *TINY, *UNIT, "--steps", 1)
    start, go_on = ["--init", str(tmp_path / "u")], ["--resume", "--out", str(tmp_path / "u")]
    assert error(*start, *UNIT, "--residual-mult", "2")[0] == 3
    assert error(*start, *UNIT, "--ffn-act-mult", "2")[0] == 3
    assert error(*start, *UNIT, "--total-batch-size", "64") == (0, "")  # the same function of the same weights
    code, message = error(*go_on, *UNIT, "--total-batch-size", "64")  # but the moments are of other gradients
    assert code == 3
    assert "its scale wte_grad is" in message
    assert error(*go_on, *UNIT) == (0, "")
    run(tmp_path / "sp", *data, *TINY, "--no-tie-embeddings", "--steps", 1)
    from safetensors.torch import load_file, save_file  # as if Hugging Face's: no metadata

    sp = train_gpt2.newest_checkpoint(tmp_path / "sp") / "model.safetensors"
    save_file(load_file(sp), tmp_path / "hf.safetensors")
    hf = ["--init", str(tmp_path / "hf.safetensors")]
    width9 = ["--parametrization", "mup-table9", "--base-width"]
    assert error(*hf, *width9, "32") == (0, "")
    m4 = [*width9, "8", "--base-heads", "1"]
    assert "its scale embedding is" in error(*hf, *m4)[1]
    scales_undone = ["--embed-mult", "0.5", "--output-mult", "2", "--attn-mult", "4"]
    assert "its multiplier of h.0.ln_1.weight is 1.0, this run's is 2.0" in error(*hf, *m4, *scales_undone)[1]


def test_tables_without_backward_factors_are_read(data, tmp_path):
    """Checkpoints from before there were any."""
    from safetensors.torch import load_file, save_file

    run(tmp_path, *data, *TINY, *MUP["mup"], "--steps", 2)
    file = train_gpt2.newest_checkpoint(tmp_path) / "model.safetensors"
    with train_gpt2.safe_open(file, "pt") as f:
        metadata = f.metadata()
    rules = json.loads(metadata["parametrization"])
    rules["scales"] = {key: rules["scales"][key] for key in ("embedding", "attention", "output")}
    rules["tensors"] = [
        {
            key: t[key]
            for key in ("name", "role", "shape", "init_std", "zero_rows", "multiplier", "lr", "weight_decay", "eps")
        }
        for t in rules["tensors"]
    ]
    del rules["base_depth"], rules["depth_mult"]
    save_file(load_file(file), file, metadata | {"parametrization": json.dumps(rules)})
    assert main(["sample", str(tmp_path), "--sample-tokens", "2"]) == 0
    assert len(run(tmp_path, *data, *TINY, *MUP["mup"], "--steps", 3, "--resume")) == 3
