"""The slopes that a coordinate check expects.

The numbers are the theory's, written a second time: nothing is read from the program's table of rules, so that a wrong
table fails.
"""

from __future__ import annotations

from llmc.mup.findings import Band
from llmc.plot.style import SCHEMES as STYLES

SCHEMES = tuple(STYLES)
# those that have no rule for an axis are expected to fail on it
EXPECTED_TO_FAIL = {"width": ("sp",), "depth": ("sp", "mup", "mup-table3", "mup-table9")}


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
