"""Likely causes of slopes that differ from those expected by a coordinate check (theory.py)."""

from __future__ import annotations

import math
from statistics import median

from llmc.mup.findings import Finding, Verdict

# (multiplier, init, learning rate) of each role as powers of the width: a wrong slope is compared with these
FORMS: dict[str, dict[str, tuple[float, float, float]]] = {
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
U_MUP_LAYER_NORM = (0, 0, -0.5)  # the vectors above are biases
FORMS["sp"] = FORMS["completep"] = FORMS["mup"]
OWNER = {"input": "embedding", "hidden": "hidden", "output": "readout", "vector": "layer norm and bias"}
RATE = {"vector": "learning rates"}
MISTAKE = 0.3  # smaller deviations of a weight's slope are effects of a mistake elsewhere


def factor(power: float, size: str) -> str:
    """Text for size^power, power > 0."""
    nearest = round(2 * power) / 2
    if abs(power - nearest) > 0.23 or not nearest:
        return f"{size}^{power:.2f}"
    return {0.5: f"sqrt({size})", 1.0: size}.get(nearest, f"{size}^{nearest:g}")


def compare(what: str, found: float, wanted: float, size: str) -> str:
    """Text for a factor that is size^found and should be size^wanted."""
    verb = "divided" if wanted < 0 else "multiplied"
    if abs(found) < 0.25:
        return f"{what} not {verb} by {factor(abs(wanted), size)}"
    text = f"{what} {'divided' if found < 0 else 'multiplied'} by {factor(abs(found), size)}"
    if not wanted:
        return text
    return f"{text}, not {'' if found * wanted > 0 else verb + ' '}by {factor(abs(wanted), size)}"


def explain(verdict: Verdict, multipliers: dict[str, float]) -> None:
    """Sets the cause of every failure that has none. multipliers: the slope of each parameter's multiplier."""
    size = "depth" if verdict.axis == "depth" else "width" if verdict.parametrization == "u-mup" else "width_mult"
    failures = [failure for failure in verdict.failures if not failure.cause]
    roots = [f for f in failures if f.kind in ("update", "init") and abs(f.slope - f.limits.expected) >= MISTAKE]
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
        elif failure.kind == "activation":
            failure.cause = explain_activation(verdict, failure)
        elif failure.kind == "gradient":
            failure.cause = "the backward pass at or above it: no multiplier of the forward pass explains its gradient"
        else:
            failure.cause = "a drift too small for a wrong rule: check with a smaller learning rate"


def explain_parameter(verdict: Verdict, failure: Finding, multiplier: float, size: str) -> str:
    if verdict.axis == "depth":
        what = "initial deviation in the blocks" if failure.kind == "init" else "learning rate in the blocks"
        return compare(what, failure.slope, failure.limits.expected, size)
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


def explain_logits(verdict: Verdict) -> str:
    """For correct rules and updates with logits that depend on the width far more than the activations before them."""
    logits = [f for f in verdict.failures if f.kind == "activation" and f.tensor == "logits"]
    if verdict.axis == "depth" or not logits or math.isnan(logits[0].slope) or abs(logits[0].slope) < MISTAKE:
        return ""
    if logits[0].slope > 0:
        return "readout multiplier missing in the forward pass, though the table of rules has it"
    return "readout multiplier applied twice in the forward pass"


def explain_gradients(verdict: Verdict, size: str) -> str:
    """One mistake in the backward pass scales all gradients below it by the same power."""
    below = [f for f in verdict.findings if f.kind == "gradient" and f.role != "output" and not math.isnan(f.slope)]
    wrong = [f.slope - f.limits.expected for f in below if not f.passed]
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


def nearest_root(failure: Finding, roots: list[Finding]) -> Finding:
    """The most likely cause of a failure: a mistake in the tensor itself, in its role, or in any tensor."""
    preferred = {"logits": "output"}.get(failure.tensor, failure.role or "hidden")
    order = ["update", "init"] if failure.kind != "init" else ["init", "update"]
    return min(roots, key=lambda root: (root.tensor != failure.tensor, root.role != preferred, order.index(root.kind)))


def explain_activation(verdict: Verdict, failure: Finding) -> str:
    if verdict.axis == "depth":
        return (
            "residual branches grow with the depth: they need the multiplier depth_mult^-alpha"
            if failure.slope > 0
            else "residual branches vanish with the depth: are they scaled down twice?"
        )
    others = [f for f in verdict.failures if f.kind == "activation" and not f.tensor.endswith("logits")]
    if failure.tensor.endswith(".attn.logits") and not others:
        if verdict.head_grows and failure.slope > failure.limits.expected:
            return "attention scale is 1/sqrt(d), not 1/d, with d the head size"
        return "attention scale depends on the width in a wrong way"
    return "the forward pass: inits and updates are right, but the activation depends on the width"
