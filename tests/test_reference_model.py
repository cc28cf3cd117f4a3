"""train_gpt2.py's model follows its rule table: initial weights, logits, gradients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from measures import deviation, relative_error, rms
from reference_tools import ALL, COMPLETEP, MUP, ODD_UNIT, TINY, UNIT, gelu_rms, initialise, model_with

from llmc.random import normals

pytestmark = pytest.mark.usefixtures("one_thread")


def test_initial_weights():
    model = model_with(*"--vocab-size 130 --depth 1 --width 32 --heads 2 --seq-len 8".split(), *MUP["mup"])
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
    assert model(tokens, tokens).item() == pytest.approx(math.log(130), abs=1e-5)  # padding is not used


def test_training_logits_are_inference_logits():
    """The multipliers act on both paths (nanoGPT-mup forgot one); and attention is attn_mult / head_dim * q.k."""
    model = model_with(
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
        *MUP["mup"],
        "--no-zero-init-head",
        "--no-zero-init-query",
        "--output-mult",
        "3",
        "--attn-mult",
        "5",
        "--init-std",
        "0.5",
    )
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


def model_of(*options, seed=5):
    """A model with other weights than the initial ones, also for zeros, but of the scheme's initial sizes."""
    model = model_with(
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
    )
    generator = torch.Generator().manual_seed(seed)
    size = 1.0 if model.config.parametrization == "u-mup" else 0.15
    for rule, p in model.named_rules():
        noise = torch.randn(rule["shape"], generator=generator)
        with torch.no_grad():
            p[: rule["shape"][0]] = noise * (0.2 if rule["role"] == "vector" else size) + rule["init_mean"]
    model.round_copies()
    tokens = torch.randint(0, 130, (2, 3, 12), generator=generator)
    return model, tokens[0], tokens[1]


def loss_by_hand(w, tokens, targets, depth, heads, attention, branches, skips, gelu=1.0, attention_out=1.0):
    """A GPT-2 without parametrization: w are the effective weights. Returns (logits, loss) in float64."""
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
    """m = 2, m_L = 2: an independent model of the effective weights A w, differentiated to w by autograd."""
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
    """They are the true gradients, each times a number that follows from the table."""
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
    stream = unit * d / math.sqrt(V)  # and of the head's input
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
                between = (
                    2 if name == "mlp.c_fc" else 1
                )  # mlp.c_proj multiplies the true gradient by sqrt(fan_in / fan_out)
                factors[full] = stream / branches[2 * i + branch] * between * own / carried / A[full]
    for rule, p in model.named_rules():
        error = relative_error(p.grad[: rule["shape"][0]], raw[rule["name"]].grad * factors[rule["name"]])
        assert error < tolerance, rule["name"]


@pytest.mark.parametrize("scheme", ALL)
def test_training_logits_are_inference_logits_under_every_scheme(scheme):
    model, tokens, targets = model_of(*ALL[scheme])
    every = torch.stack([model(tokens[:1, :n])[0] for n in range(1, 13)])
    assert model(tokens[:1], targets[:1]).item() == pytest.approx(F.cross_entropy(every, targets[0]).item(), rel=1e-5)


def test_everything_has_unit_scale_at_the_start_of_u_mup():
    """On random tokens, with two blocks: attention's output grows with each block, as positions become similar."""
    model = model_with(*UNIT, *"--vocab-size 257 --depth 2 --width 128 --heads 4 --seq-len 32 --batch-size 8".split())
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
    model = model_with(*TINY, *MUP["mup-table9"], "--vocab-size", "130")  # m = 2
    initialise(model, 7)
    p = dict(model.named_parameters())
    assert (p["h.1.ln_2.weight"] == np.float32(math.sqrt(0.5))).all()
    assert not p["h.1.ln_2.bias"].any()
    assert deviation(p["wte.weight"][:130]) == pytest.approx(0.02 / math.sqrt(2), rel=0.05)
    assert not p["wte.weight"][130:].any()
    tokens = torch.arange(8)[None]
    assert model(tokens, tokens).item() == pytest.approx(math.log(130), abs=1e-5)
