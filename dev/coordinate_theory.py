"""What a coordinate check expects, and what is likely wrong where it finds something else.

The numbers are the theory's, written down here once more: nothing is read from the program's table of rules, so that a
wrong table fails.
"""

from __future__ import annotations

import math
from statistics import median
from typing import NamedTuple

SCHEMES = ("sp", "mup", "mup-table3", "mup-table9", "completep", "u-mup")
# those that have no rule for an axis are expected to fail on it
EXPECTED_TO_FAIL = {"width": ("sp",), "depth": ("sp", "mup", "mup-table3", "mup-table9")}


class Band(NamedTuple):
    expected: float
    low: float
    high: float


def around(expected: float, tolerance: float) -> Band:
    return Band(expected, expected - tolerance, expected + tolerance)


# Powers of the width that the effective weight W = multiplier * w has to follow. Every form of muP has the same ones
# (the forms only share them out differently between multiplier, init and learning rate), and the standard
# parametrization is measured against them too.
MUP = {
    "update": {"input": 0.0, "vector": 0.0, "hidden": -1.0, "output": -1.0},
    "init": {"input": 0.0, "vector": 0.0, "hidden": -0.5, "output": -1.0},
    "gradient": {"input": -1.0, "vector": -1.0, "hidden": -1.0, "output": 0.0},
}
# u-muP is muP but for its embedding's learning rate, eta/sqrt(width); biases share their matrix's 1/sqrt(fan_in), and
# the gains of layer norms follow them. Its gradients are scaled to 1 at every width at the start.
U_MUP = {
    "update": {"input": -0.5, "vector": -0.5, "hidden": -1.0, "output": -1.0},
    "init": MUP["init"],
    "gradient": {"input": 0.0, "vector": 0.0, "hidden": 0.0, "output": 0.0},
}

# Tolerances. A mistake in a rule is a factor of at least sqrt(width_mult), 0.5 in a slope of weights.
ACTIVATION = 0.15  # right rules measure within 0.12 at 10 steps; the mildest mistake, an init that is not divided, 0.3
# u-muP's attention outputs fall by 0 at step 1 and 0.12 to 0.15 at step 10, presumably since by its own rule embeddings
# move less in wide models.
U_MUP_ACTIVATION = 0.25
# Attention logits are a product of two projections, one of which has just left zero: in the first block their slopes
# differ by 0.1 to 0.2 between seeds, in later ones by 0.3. Mistakes measure 0.3 to 1.7.
ATTENTION_FIRST, ATTENTION_LATER = 0.25, 0.4
UPDATE = 0.15  # Adam's first steps move all weights alike: within 0.05, but a little more for gains
INIT = 0.05  # tens of thousands of random numbers: within 0.01
# The backward pass depends on the steps taken: within 0.1 over widths of 64 to 1024, but two seeds and widths of 64 to
# 256 measured 0.3 once; a mistake moves gradients by 0.5 or more. u-muP starts with a random head, whose logits fall
# with the width: one step later its gradients are within 0.1, later ones drift.
GRADIENT, GRADIENT_STEP, U_MUP_GRADIENT_STEP = 0.35, 4, 2
HEAD_GRADIENT = 0.1  # it sees the last layer norm's output only: within 0.01


def band(scheme: str, axis: str, kind: str, tensor: str, role: str, head_grows: bool) -> Band | None:
    """Slopes that pass; None: shown without a verdict."""
    if axis == "depth":
        return depth_band(scheme, kind, tensor)
    theory = U_MUP if scheme == "u-mup" else MUP
    if kind == "activation":
        if not tensor.endswith(".attn.logits"):
            return around(0.0, U_MUP_ACTIVATION if scheme == "u-mup" else ACTIVATION)
        first = ".0." in tensor
        if head_grows and scheme == "u-mup":  # queries are random from the start, and still nearly so at step 10
            return Band(-0.5, -0.65, -0.2 if first else 0.0)
        if head_grows:  # 1/d is for aligned queries and keys; while they are nearly random, logits fall by up to 1/2
            return Band(0.0, -0.6, 0.15 if first else 0.35)
        return around(0.0, ATTENTION_FIRST if first else ATTENTION_LATER)
    expected = theory[kind][role]
    if kind == "gradient" and scheme != "u-mup":
        return around(expected, HEAD_GRADIENT if role == "output" else GRADIENT)
    return around(expected, {"update": UPDATE, "init": INIT, "gradient": GRADIENT}[kind])


def depth_band(scheme: str, kind: str, tensor: str) -> Band | None:
    if tensor == "h.last.resid_mlp" and kind == "activation":
        # alpha 1: the branches' random starts average out, a slope of -0.1 to -0.2; without a rule 0.7 and more
        return Band(0.0, -0.3, 0.15)
    if kind == "update" and tensor.startswith("h."):
        if scheme == "completep":  # alpha - 1, and alpha is not in the CSV
            return Band(0.0, -0.6, 0.15)
        return around(-0.5 if scheme == "u-mup" else 0.0, UPDATE)
    if kind == "init" and scheme == "completep":
        return around(0.0, INIT)
    return None


# --- What is likely wrong ---

# (multiplier, init, learning rate) of each role as powers of the width, to put the blame
FORMS = {
    "mup": {"input": (0, 0, 0), "vector": (0, 0, 0), "hidden": (0, -0.5, -1), "output": (-1, 0, 0)},
    "mup-table3": {"input": (0, 0, 0), "vector": (0, 0, 0), "hidden": (0, -0.5, -1), "output": (0, -1, -1)},
    "mup-table9": {
        "input": (0.5, -0.5, -0.5),
        "vector": (0.5, -0.5, -0.5),
        "hidden": (0, -0.5, -1),
        "output": (-0.5, -0.5, -0.5),
    },
    "u-mup": {"input": (0, 0, -0.5), "vector": (-0.5, 0, 0), "hidden": (-0.5, 0, -0.5), "output": (-1, 0, 0)},
}
U_MUP_LAYER_NORM = (0, 0, -0.5)  # the vectors above are its biases
FORMS["sp"] = FORMS["completep"] = FORMS["mup"]
OWNER = {"input": "embedding", "hidden": "hidden", "output": "readout", "vector": "layer norm and bias"}
RATE = {"vector": "learning rates"}
MISTAKE = 0.3  # smaller deviations of a weight's slope are drift, which a mistake elsewhere brings about


def factor(power: float, size: str) -> str:
    """size^power, power > 0, in words."""
    nearest = round(2 * power) / 2
    if abs(power - nearest) > 0.23 or not nearest:
        return f"{size}^{power:.2f}"
    return {0.5: f"sqrt({size})", 1.0: size}.get(nearest, f"{size}^{nearest:g}")


def compare(what: str, found: float, wanted: float, size: str) -> str:
    """Words for a factor that goes like size^found and has to go like size^wanted."""
    verb = "divided" if wanted < 0 else "multiplied"
    if abs(found) < 0.25:
        return f"{what} not {verb} by {factor(abs(wanted), size)}"
    text = f"{what} {'divided' if found < 0 else 'multiplied'} by {factor(abs(found), size)}"
    if not wanted:
        return text
    return f"{text}, not {'' if found * wanted > 0 else verb + ' '}by {factor(abs(wanted), size)}"


def explain(verdict, multipliers: dict[str, float]) -> None:
    """Writes a cause into every failure that has none. multipliers: the slope of each parameter's multiplier."""
    size = "depth" if verdict.axis == "depth" else "width" if verdict.parametrization == "u-mup" else "width_mult"
    failures = [failure for failure in verdict.failures if not failure.cause]
    roots = [f for f in failures if f.kind in ("update", "init") and abs(f.slope - f.expected) >= MISTAKE]
    roots = roots or [f for f in failures if f.kind == "init"]
    for root in roots:
        root.cause = explain_parameter(verdict, root, multipliers.get(root.tensor, 0.0), size)
    everywhere = "" if roots else explain_logits(verdict) or explain_gradients(verdict, size)
    for failure in failures:
        if failure.cause:
            continue
        if everywhere:
            failure.cause = everywhere
        elif roots:
            failure.cause = nearest_root(failure, roots).cause
        elif failure.low <= failure.band.high and failure.high >= failure.band.low:
            failure.cause = "perhaps only noise, the interval reaches slopes that pass: add seeds or sizes"
        elif failure.kind == "activation":
            failure.cause = explain_activation(verdict, failure)
        elif failure.kind == "gradient":
            failure.cause = "the backward pass at or above it: no multiplier of the forward pass explains its gradient"
        else:
            failure.cause = "a drift too small for a wrong rule: a smaller learning rate or more seeds would tell"


def explain_parameter(verdict, failure, multiplier: float, size: str) -> str:
    if verdict.axis == "depth":
        what = "initial deviation in the blocks" if failure.kind == "init" else "learning rate in the blocks"
        return compare(what, failure.slope, failure.expected, size)
    form, owner = FORMS[verdict.parametrization][failure.role], OWNER[failure.role]
    if verdict.parametrization == "u-mup" and "ln_" in failure.tensor:
        form = U_MUP_LAYER_NORM
    if failure.role == "vector" and failure.kind == "init":
        return f"initial gains of layer norms go like {size}^{failure.slope:.2f}"
    if form[0] and abs(multiplier) < 0.25:
        return compare(f"{owner} multiplier missing:", multiplier, form[0], size)
    if abs(multiplier - form[0]) > 0.25:
        return compare(f"{owner} multiplier", multiplier, form[0], size)
    if failure.kind == "init":
        return compare(f"{owner} init", failure.slope - multiplier, form[1], size)
    found = failure.slope - multiplier
    rate = RATE.get(failure.role, "learning rate")
    if failure.role == "output" and found < form[2] - 0.75:
        also = ", as its multiplier is" if form[0] else f", not by {factor(abs(form[2]), size)}"
        return f"{owner} {rate} divided twice: by {factor(abs(found), size)}{also}"
    return compare(f"{owner} {rate}", found, form[2], size)


def explain_logits(verdict) -> str:
    """Rules and updates are right, and the logits follow the width far more than what they are computed from."""
    logits = [f for f in verdict.failures if f.kind == "activation" and f.tensor == "logits"]
    if verdict.axis == "depth" or not logits or math.isnan(logits[0].slope) or abs(logits[0].slope) < MISTAKE:
        return ""
    if logits[0].slope > 0:
        return "readout multiplier missing in the forward pass, though the table of rules has it"
    return "readout multiplier applied twice in the forward pass"


def explain_gradients(verdict, size: str) -> str:
    """One mistake on the way back scales the gradient of everything below it by the same power."""
    below = [f for f in verdict.findings if f.kind == "gradient" and f.role != "output" and not math.isnan(f.slope)]
    wrong = [f.slope - f.expected for f in below if not f.passed]
    if verdict.axis == "depth" or not wrong or len(wrong) < 0.8 * len(below):
        return ""
    power = median(wrong)
    if max(abs(power - each) for each in wrong) > 0.5:
        return ""
    hint = {
        1: ", too large: it is missing there",
        2: ", too large: multiplied where it should be divided",
        -1: ", too small: it is applied twice",
    }.get(round(power), "")
    return f"the gradient through the readout multiplier is wrong by {factor(abs(power), size)}{hint}"


def nearest_root(failure, roots: list):
    """Which of several mistakes most likely brought a failure about: the tensor's own, its layer's role, any."""
    preferred = {"logits": "output"}.get(failure.tensor, failure.role or "hidden")
    order = ["update", "init"] if failure.kind != "init" else ["init", "update"]
    return min(roots, key=lambda root: (root.tensor != failure.tensor, root.role != preferred, order.index(root.kind)))


def explain_activation(verdict, failure) -> str:
    if verdict.axis == "depth":
        return (
            "residual branches grow with the depth: they need the multiplier depth_mult^-alpha"
            if failure.slope > 0
            else "residual branches vanish with the depth: are they scaled down twice?"
        )
    others = [f for f in verdict.failures if f.kind == "activation" and not f.tensor.endswith("logits")]
    if failure.tensor.endswith(".attn.logits") and not others:
        if verdict.head_grows and failure.slope > failure.expected:
            return "attention scale is 1/sqrt(d), not 1/d, with d the head size"
        return "attention scale goes with the width in a wrong way"
    return "the forward pass: inits and updates are right, and yet the activation goes with the width"
