"""train_gpt2.py's rule tables against numbers computed here."""

import math

import pytest
from reference_tools import COMPLETEP, MUP, ODD_UNIT, TINY, UNIT, gelu_rms, resolved, table

import train_gpt2


def plain_scales(embedding, attention, output, depth=3):
    """The scales of a scheme whose backward pass is the derivative of its forward pass, without rules for the depth."""
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
    assert t["wte.weight"]["weight_decay"] == 0.1 / 4  # lr x decay is the same everywhere
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


def numbers(rule):
    return [rule[key] for key in ("init_mean", "init_std", "multiplier", "lr", "weight_decay", "eps")]


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
    """The head has wte's rule, and 1/sqrt(m) on the logits."""
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
    def switches(*options):
        config, shape = resolved(*TINY, "--vocab-size", "10", *options)
        rules = train_gpt2.parametrization(config, shape)
        t = {x["name"]: x for x in rules["tensors"]}
        head = t.get("lm_head.weight", {"init_std": None})["init_std"]
        return shape.tie_embeddings, config.grad_clip, t["h.0.attn.c_attn.weight"]["zero_rows"], head

    assert switches() == (True, 1, 0, None)
    for options in (*MUP.values(), [*COMPLETEP, "2"]):
        assert switches(*options) == (False, 1, 32, 0)
    assert switches(*UNIT) == (False, 0, 0, 1)
    assert switches(*UNIT, "--grad-clip", "3", "--zero-init-query", "--zero-init-head") == (False, 3, 32, 0)
