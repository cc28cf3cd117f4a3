"""The slopes that a coordinate check expects.

The numbers come from the theory and are written here a second time. Nothing is read from the program's table of rules,
so that a wrong table fails.
"""

from __future__ import annotations

from llmc.mup.findings import Band
from llmc.plot.style import SCHEMES as STYLES

SCHEMES = tuple(STYLES)
# schemes without a rule for an axis are expected to fail on it
EXPECTED_TO_FAIL = {"width": ("sp",), "depth": ("sp", "mup", "mup-table3", "mup-table9")}


def around(expected: float, tolerance: float) -> Band:
    return Band(expected, expected - tolerance, expected + tolerance)


# Powers of the width for the effective weight W = multiplier * w. They are the same for every form of muP (the forms
# differ only in how they divide them between multiplier, init and learning rate). The standard parametrization is
# compared with them too.
MUP = {
    "update": {"input": 0.0, "vector": 0.0, "hidden": -1.0, "output": -1.0},
    "init": {"input": 0.0, "vector": 0.0, "hidden": -0.5, "output": -1.0},
    "gradient": {"input": -1.0, "vector": -1.0, "hidden": -1.0, "output": 0.0},
}
# u-muP is muP except for its embedding's learning rate, eta/sqrt(width); biases have their matrix's 1/sqrt(fan_in), and
# the gains of layer norms have the same power. Its gradients are scaled to 1 at every width at the start.
U_MUP = {
    "update": {"input": -0.5, "vector": -0.5, "hidden": -1.0, "output": -1.0},
    "init": MUP["init"],
    "gradient": {"input": 0.0, "vector": 0.0, "hidden": 0.0, "output": 0.0},
}

# Tolerances. A mistake in a rule is a factor of at least sqrt(width_mult), 0.5 in a slope of weights.
ACTIVATION = 0.15  # correct rules: within 0.12 at 10 steps; the smallest mistake, an init that is not divided: 0.3
# u-muP's attention outputs have a slope of 0 at step 1 and -0.12 to -0.15 at step 10, presumably because by its rule
# embeddings change less in wide models.
U_MUP_ACTIVATION = 0.25
# Attention logits are a product of two projections, one of which started at zero: in the first block their slopes
# differ by 0.1 to 0.2 between seeds, in later blocks by 0.3. Mistakes change them by 0.3 to 1.7.
ATTENTION_FIRST, ATTENTION_LATER = 0.25, 0.4
UPDATE = 0.15  # Adam's first steps change all weights equally: within 0.05, a little more for gains
INIT = 0.05  # tens of thousands of random numbers: within 0.01
# The backward pass depends on the steps taken: within 0.1 over widths of 64 to 1024, but once 0.3 with two seeds and
# widths of 64 to 256; a mistake changes the slope by 0.5 or more. u-muP starts with a random head, whose logits fall
# with the width: after one step its gradients are within 0.1, later they drift.
GRADIENT, GRADIENT_STEP, U_MUP_GRADIENT_STEP = 0.35, 4, 2
HEAD_GRADIENT = 0.1  # depends only on the output of the last layer norm: within 0.01


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
        if head_grows:  # 1/d is for aligned queries and keys; while they are nearly random, the slope is down to -1/2
            return Band(0.0, -0.6, 0.15 if first else 0.35)
        return around(0.0, ATTENTION_FIRST if first else ATTENTION_LATER)
    expected = theory[kind][role]
    if kind == "gradient" and scheme != "u-mup":
        return around(expected, HEAD_GRADIENT if role == "output" else GRADIENT)
    return around(expected, {"update": UPDATE, "init": INIT, "gradient": GRADIENT}[kind])


def depth_band(scheme: str, kind: str, tensor: str) -> Band | None:
    if tensor == "h.last.resid_mlp" and kind == "activation":
        # alpha 1: the random initial branches average out, a slope of -0.1 to -0.2; without a rule 0.7 and more
        return Band(0.0, -0.3, 0.15)
    if kind == "update" and tensor.startswith("h."):
        if scheme == "completep":  # alpha - 1, and alpha is not in the CSV
            return Band(0.0, -0.6, 0.15)
        return around(-0.5 if scheme == "u-mup" else 0.0, UPDATE)
    if kind == "init" and scheme == "completep":
        return around(0.0, INIT)
    return None
