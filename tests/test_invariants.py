"""Invariants of the parametrizations, which every implementation must satisfy, on the C++ program.

Thresholds come from the theory (mup.md) if it gives numbers, otherwise from measurements on PyTorch models of the same
sizes. The coordinate check and its negative controls: test_mutations.py; training curves and
the transfer of learning rates: test_transfer.py.
"""

import itertools
import math

import numpy as np
import pytest
from invariants import MUP_FORMS, PLAIN, SHAPE, V, batches, gradients, model, rules, slope, train
from measures import deviation, mean_abs, norm, rms, spectral_norm
from program import BACKEND

import llmc

pytestmark = pytest.mark.skipif(BACKEND not in llmc.backends(), reason="not built: run make module")

OPTIMIZERS = {
    "adamw": {"optimizer": "adamw", "lr": 0.005, "weight_decay": 0.1},
    "sgd": {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
}
AT_BASE = {form: {"parametrization": form, "base_width": 64} for form in MUP_FORMS} | {
    "completep": {"parametrization": "completep", "base_width": 64, "base_depth": 2}
}


# --- At the base shape every relative scheme is the standard parametrization -----------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheme", AT_BASE)
def test_base_identity(scheme, optimizer):
    options = PLAIN | OPTIMIZERS[optimizer] | {"grad_clip": 0.5}
    standard = train(model(parametrization="sp", **options), batches(20))
    assert train(model(**AT_BASE[scheme], **options), batches(20)) == standard
    assert standard[-1] < standard[0] - 0.1


def test_base_identity_needs_the_attention_scale():
    """Negative control: attention with 8/d, as in microsoft/mup's documentation, is SP only at head size 64."""
    standard = train(model(parametrization="sp", **PLAIN), batches(20))
    other = train(model(**AT_BASE["mup"], attn_mult=8.0, **PLAIN), batches(20))
    assert max(abs(a - b) for a, b in zip(standard, other, strict=True)) > 1e-4


# --- Tables 3, 8 and 9 are one parametrization -----------------------------------------------------------------------


def losses_of_forms(base_width, optimizer, **extra):
    options = PLAIN | OPTIMIZERS[optimizer] | {"eps": 1e-4, "base_width": base_width, "width": 64} | extra
    return [np.array(train(model(parametrization=form, **options), batches(30))) for form in MUP_FORMS]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forms_agree_bit_for_bit_where_the_factors_are_powers_of_two(optimizer):
    eight, three, nine = losses_of_forms(16, optimizer)
    assert (eight == three).all() and (eight == nine).all()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_forms_agree_elsewhere_up_to_rounding(optimizer):
    """m = 3: the factors are rounded, with errors of about 1e-7 each."""
    eight, three, nine = losses_of_forms(16, optimizer, width=48)
    np.testing.assert_allclose(three, eight, rtol=5e-6)
    np.testing.assert_allclose(nine, eight, rtol=5e-6)
    assert (eight != three).any()


def test_tied_forms_agree():
    """Tables 8 and 9 with a tied head; Table 3 cannot be tied."""
    options = PLAIN | OPTIMIZERS["adamw"] | {"base_width": 16, "tie_embeddings": True, "eps": 1e-4}
    eight, nine = (train(model(parametrization=form, **options), batches(20)) for form in ("mup", "mup-table9"))
    assert eight == nine


@pytest.mark.parametrize("what, extra", [("epsilon", {"scale_eps": False}), ("clip", {"grad_clip": 1.0})])
def test_forms_part_where_something_is_not_scaled(what, extra):
    """Negative controls; also, a clip on the global gradient norm is not invariant."""
    eight, three, nine = losses_of_forms(16, "adamw", **extra)
    assert max(np.abs(eight - three).max(), np.abs(eight - nine).max()) > 1e-4, what


def test_head_gradients_of_the_forms():
    """dL/dh is the same in all forms, dL/dw of the head is 1/m, 1, 1/sqrt(m) of Table 3's."""
    eight, three, nine = (
        gradients(model(parametrization=form, base_width=16, width=64, **PLAIN)) for form in MUP_FORMS
    )
    of_eight, of_three, of_nine = (norm(g["lm_head.weight"]) for g in (eight, three, nine))
    assert of_eight / of_three == pytest.approx(1 / 4, rel=1e-6)
    assert of_nine / of_three == pytest.approx(1 / 2, rel=1e-6)
    for name in ("h.1.mlp.c_fc.weight", "h.0.attn.c_attn.weight"):
        np.testing.assert_array_equal(eight[name], three[name])
        np.testing.assert_array_equal(eight[name], nine[name])


# --- At the start ----------------------------------------------------------------------------------------------------

WIDTHS = [64, 128, 256, 512]


def slopes_at_start(options, seeds=2):
    """Slopes of every activation's standard deviation before the first step, against the width, by name."""
    ((tokens, targets),) = batches(1, 2, 32)
    sizes = {}
    for width, seed in itertools.product(WIDTHS, range(seeds)):
        gpt = model(width=width, batch_size=2, depth=1, seed=seed, **options)
        for name, value in gpt.activations(tokens, targets).items():
            sizes.setdefault(name, []).append(deviation(value))
    return {name: slope(WIDTHS, values) for name, values in sizes.items()}


@pytest.mark.parametrize("form", MUP_FORMS)
def test_initial_sizes_do_not_depend_on_the_width(form):
    slopes = slopes_at_start(PLAIN | {"parametrization": form, "base_width": 64})
    logits = slopes.pop("logits")
    assert logits == pytest.approx(-0.5, abs=0.05), "a sum of `width` independent terms, times 1/width"
    assert len(slopes) == 10 and all(abs(value) < 0.03 for value in slopes.values()), slopes


def test_initial_sizes_grow_under_sp():
    slopes = slopes_at_start(PLAIN | {"parametrization": "sp"})
    assert slopes["h.0.mlp.c_fc"] > 0.45 and slopes["logits"] > 0.45


@pytest.mark.parametrize("width", [64, 256, 1024])
@pytest.mark.parametrize("scheme", ["mup", "mup-table3", "mup-table9", "completep"])
def test_a_zero_head_knows_nothing(scheme, width):
    depth = {"base_depth": 1} if scheme == "completep" else {}
    gpt = model(parametrization=scheme, base_width=64, width=width, depth=1, **depth)
    ((tokens, targets),) = batches(1)
    assert gpt.forward(tokens, targets) == pytest.approx(math.log(V), abs=1e-5)


# --- One step, read from the tensors ---------------------------------------------------------------------------------

# Expected A * dw / lr after one Adam step, and A * dw / (lr * dL/dW_eff) after one SGD step, at m = 8.
FIRST_STEP = {"input": (1, 8), "vector": (1, 8), "hidden": (1 / 8, 1), "output": (1 / 8, 1 / 8)}


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("form", MUP_FORMS)
def test_effective_learning_rates(form, optimizer):
    lr = 1e-3 if optimizer == "adamw" else 0.25
    gpt = model(
        parametrization=form, base_width=16, width=128, optimizer=optimizer, lr=lr, eps=1e-20, momentum=0.0, **PLAIN
    )
    before, grad = gpt.parameters(), gradients(gpt)
    gpt.step()
    after = gpt.parameters()
    for name, rule in rules(gpt).items():
        moved = np.abs(after[name].astype(np.float64) - before[name]) * rule["multiplier"]
        per_gradient = np.abs(grad[name].astype(np.float64)) / rule["multiplier"] if optimizer == "sgd" else 1
        per_gradient = np.where(per_gradient == 0, np.inf, per_gradient)
        size = np.abs(before[name]).max() * rule["multiplier"] * 2**-23
        seen = moved > 1000 * size  # changes that fp32 can represent; tokens that did not occur do not change
        assert seen.any(), name
        measured = np.median((moved / (lr * per_gradient))[seen])
        assert measured == pytest.approx(FIRST_STEP[rule["role"]][optimizer == "sgd"], rel=2e-3), name


def test_effective_learning_rates_of_u_mup():
    """A * lr of each tensor from the tables of arXiv 2407.17465, by one Adam step."""
    d, L, lr = 64, 2, 0.01
    gpt = model(parametrization="u-mup", width=d, depth=L, lr=lr, eps=1e-20)
    before = gpt.parameters()
    gradients(gpt)
    gpt.step()
    after = gpt.parameters()
    depth = L**-0.5
    expected = {"wte.weight": d**-0.5, "h.0.attn.c_attn.weight": depth / d, "h.1.mlp.c_fc.weight": depth / d,
                "h.1.attn.c_proj.bias": depth * d**-0.5, "lm_head.weight": 1 / d}  # fmt: skip
    for name, value in expected.items():
        moved = np.abs(after[name].astype(np.float64) - before[name]) * rules(gpt)[name]["multiplier"] / lr
        assert np.median(moved[moved > 0]) == pytest.approx(value, rel=2e-3), name


@pytest.mark.parametrize("form", MUP_FORMS)
def test_spectral_condition(form):
    """sqrt(n_in / n_out) * the spectral norm of one update does not depend on the width (Yang et al., 2310.17813)."""
    widths, names = [64, 128, 256, 512], ["h.0.attn.c_attn.weight", "h.1.mlp.c_fc.weight", "lm_head.weight"]
    norms = {name: [] for name in names}
    for width in widths:
        gpt = model(parametrization=form, base_width=64, width=width, lr=1e-3, **PLAIN)
        before = gpt.parameters()
        gradients(gpt)
        gpt.step()
        after = gpt.parameters()
        for name in names:
            move = (after[name] - before[name]) * rules(gpt)[name]["multiplier"]
            out, inp = move.shape if name != "lm_head.weight" else (1, width)
            norms[name].append(math.sqrt(inp / out) * spectral_norm(move))
    for name in names:
        assert abs(slope(widths, norms[name])) < 0.06, (name, norms[name])


# --- The readout -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [*MUP_FORMS, "u-mup"])
def test_training_and_inference_logits_agree(scheme):
    """nanoGPT-mup applies its output multiplier in training only."""
    base = {} if scheme == "u-mup" else {"base_width": 16, "output_mult": 1.7}
    extra = {"loss_softmax_mult": 1.6} if scheme == "u-mup" else {}
    gpt = model(parametrization=scheme, **base, **extra, **PLAIN)
    train(gpt, batches(5))
    ((tokens, targets),) = batches(1, seed=3)
    logits = gpt.forward(tokens).astype(np.float64)
    log_sum = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    expected = np.mean(log_sum - np.take_along_axis(logits, targets[..., None], -1)[..., 0])  # float64
    assert gpt.forward(tokens, targets) == pytest.approx(expected, rel=2e-6)


@pytest.mark.parametrize("form", MUP_FORMS)
def test_gradient_through_the_output_multiplier(form):
    """sum(w dL/dw) of the head is dL/d(log multiplier): against differences of the loss, fp32 (1e-7 / h + h^2)."""
    ((tokens, targets),) = batches(1)
    options = PLAIN | {"parametrization": form, "base_width": 16, "init_std": 0.3}

    def loss(output_mult):
        return model(output_mult=output_mult, **options).forward(tokens, targets)

    h = 0.02
    gpt = model(output_mult=1.0, **options)
    weight, grad = gpt.parameters()["lm_head.weight"], gradients(gpt)["lm_head.weight"]
    slope_of_loss = (loss(math.exp(h)) - loss(math.exp(-h))) / (2 * h)
    assert (weight.astype(np.float64) * grad).sum() == pytest.approx(slope_of_loss, rel=3e-3)


# --- Optimizer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", [*MUP_FORMS, "completep", "u-mup"])
def test_schedules_keep_the_ratios_of_learning_rates(scheme):
    """Half the schedule is half the step, for every tensor: no tensor has an absolute rate, as OneCycleLR gives those
    of mup 1.0.0."""
    base = {} if scheme == "u-mup" else {"base_width": 16}
    base |= {"base_depth": 1} if scheme == "completep" else {}
    moves = []
    for schedule in (1.0, 0.5):
        gpt = model(parametrization=scheme, lr=0.03, eps=1e-20, **base, **PLAIN)
        before = gpt.parameters()
        gradients(gpt)
        gpt.step(schedule)
        after = gpt.parameters()
        moves.append({name: np.abs(after[name] - before[name]).mean(dtype=np.float64) for name in after})
    for name, moved in moves[0].items():
        assert moves[1][name] / moved == pytest.approx(0.5, rel=1e-3), name


@pytest.mark.parametrize("mode", ["scaled", "independent"])
@pytest.mark.parametrize("scheme", [*MUP_FORMS, "completep", "u-mup"])
def test_weight_decay_shrinks_alike_at_every_width(scheme, mode):
    """A step that gradients do not move, by an enormous eps: matrices lose the same fraction, at every width."""
    lr, decay, eps = 0.5, 0.2, 1e20
    expected = lr * decay if mode == "scaled" else decay
    base = {} if scheme == "u-mup" else {"base_width": 64}
    base |= {"base_depth": 2} if scheme == "completep" else {}
    for width in (64, 256, 1024):
        gpt = model(parametrization=scheme, width=width, depth=2, lr=lr, weight_decay=decay, weight_decay_mode=mode,
                    eps=eps, **base, **PLAIN)  # fmt: skip
        before = gpt.parameters()
        gradients(gpt)
        gpt.step()
        after = gpt.parameters()
        for name in ("h.0.attn.c_attn.weight", "h.1.mlp.c_proj.weight", "lm_head.weight", "wte.weight"):
            shrink = 1 - norm(after[name]) / norm(before[name])
            assert shrink == pytest.approx(expected, rel=1e-5), (name, width)
        assert (after["h.0.ln_1.weight"] == before["h.0.ln_1.weight"]).all()


# --- Depth -----------------------------------------------------------------------------------------------------------

DEPTHS = [2, 4, 8, 16]


def residual_slope(options, seeds=2, steps=4):
    """Slope of the last residual's mean |x| against the depth, after a few steps on one batch."""
    ((tokens, targets),) = batches(1, 4)
    sizes = []
    for depth in DEPTHS:
        sizes.append([])
        for seed in range(seeds):
            gpt = model(depth=depth, seed=seed, lr=1e-3, eps=1e-12, batch_size=4, tie_embeddings=False, **options)
            train(gpt, [(tokens, targets)] * steps)
            sizes[-1].append(mean_abs(gpt.activations(tokens, targets)[f"h.{depth - 1}.resid_mlp"]))
    return slope(DEPTHS, sizes)


def test_depth():
    """CompleteP: with alpha = 1 the residual stream shrinks a little with depth, with alpha = 1/2 it keeps its size;
    without the rule it grows."""
    deep = {"parametrization": "completep", "base_width": 64, "base_depth": 2}
    assert -0.25 < residual_slope(deep) < 0.05
    assert abs(residual_slope(deep | {"depth_alpha": 0.5})) < 0.1
    assert residual_slope({"parametrization": "mup", "base_width": 64}) > 0.4


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_completep_at_the_base_depth_is_mup(optimizer):
    options = PLAIN | OPTIMIZERS[optimizer] | {"base_width": 16}
    for alpha in (0.5, 1.0):
        deep = train(model(parametrization="completep", base_depth=2, depth_alpha=alpha, **options), batches(10))
        assert deep == train(model(parametrization="mup", **options), batches(10))


# --- u-muP -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [64, 256])
def test_unit_variance_at_the_start(width):
    """Weights of 1, activations and gradients of order 1 without tuning, with all tokens equally likely."""
    gpt = model(parametrization="u-mup", width=width, head_dim=32, depth=4)
    tokens, targets = np.random.default_rng(0).integers(0, V, (2, 8, 32), dtype=np.int32)
    for name, weight in gpt.parameters().items():
        if not name.endswith("bias"):
            assert rms(weight) == pytest.approx(1, abs=0.02), name
    for name, value in gpt.activations(tokens, targets).items():
        if name != "logits":  # 1/width: they start small, so that the loss starts at log V
            assert 0.3 < rms(value) < 3, (name, rms(value))
    gpt.zero_grad()
    gpt.forward(tokens, targets)
    gpt.backward()
    for name, grad in gpt.gradients().items():
        assert 0.1 < rms(grad) < 10, (name, rms(grad))


def test_residual_rule_of_u_mup():
    """The branches' variances add up to residual_mult^2 of the embedding's, attention's are ratio^2 of the MLP's."""
    mult, ratio, depth = 0.7, 1.9, 5
    options = SHAPE | {"depth": depth, "residual_mult": mult, "residual_attn_ratio": ratio}
    del options["head_dim"]
    rows = llmc.backend(BACKEND).parametrization(parametrization="u-mup", heads=4, **options)["scales"]["residual"]
    embedding, parts = 1.0, []
    for skip, branch, *_ in rows:
        assert skip**2 + branch**2 == pytest.approx(1, rel=1e-6)
        embedding, parts = embedding * skip**2, [p * skip**2 for p in parts] + [branch**2]
    attention, mlp = sum(parts[0::2]), sum(parts[1::2])
    assert embedding + attention + mlp == pytest.approx(1, rel=1e-6)
    assert math.sqrt((attention + mlp) / 2 / embedding) == pytest.approx(mult, rel=1e-5)
    assert math.sqrt(attention / mlp) == pytest.approx(ratio, rel=1e-5)


def test_micro_batches_of_u_mup_add_up():
    """Its factors depend on the tokens of a step, not of a micro-batch."""
    (whole,) = batches(1, 8)
    options = {"parametrization": "u-mup", "total_batch_size": 256}
    one = model(**options)
    one.zero_grad()
    one.forward(*whole)
    one.backward(256)
    two = model(batch_size=4, **{k: v for k, v in options.items()})
    two.zero_grad()
    for half in range(2):
        two.forward(*(x[4 * half : 4 * half + 4] for x in whole))
        two.backward(256)
    a, b = one.gradients(), two.gradients()
    for name in a:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-3, atol=1e-4 * np.abs(a[name]).max(), err_msg=name)


# --- Combinations without a meaning are refused ----------------------------------------------------------------------

REFUSED = [
    ({"parametrization": "mup-table3", "base_width": 64, "tie_embeddings": True}, "whose embedding and head differ"),
    ({"parametrization": "u-mup", "tie_embeddings": True}, "whose embedding and head differ"),
    ({"parametrization": "u-mup", "base_width": 64}, "has no base model"),
    ({"parametrization": "u-mup", "init_std": 0.1}, "starts everything at unit scale"),
    ({"parametrization": "completep", "base_width": 64}, "needs --base-depth"),
    ({"parametrization": "mup", "base_width": 64, "base_depth": 2}, "does not scale the depth"),
    ({"parametrization": "mup", "base_width": 64, "residual_mult": 2.0}, "are u-mup's multipliers"),
    ({"parametrization": "mup"}, "needs --base-width"),
    ({"parametrization": "sp", "base_width": 64}, "has no base model"),
]


@pytest.mark.parametrize("options, reason", REFUSED, ids=lambda x: "-".join(map(str, x)) if isinstance(x, dict) else "")
def test_combinations_without_a_meaning(options, reason):
    with pytest.raises(Exception, match=reason):
        model(**options)
