"""Tools for the tests of ops: random inputs of an element type, and the comparison with a float64 reference.

Every op of llmc/ops/ops.h is tested on every built backend and in both element types. Inputs are rounded to the element
type first, so that only the op's own rounding is left: relative Frobenius error below 1e-5 in fp32, 1e-2 in bf16.
Results that an op overwrites hold NaN before the call (llmc/bind/arrays.h), so a missing element is noticed. Scales
are never 1.
"""

import numpy as np
import torch
import torch.nn.functional as F
from measures import relative_error

TOLERANCE = {"fp32": 1e-5, "bf16": 1e-2}


class Data:
    """Random arrays, rounded to the element type."""

    def __init__(self, seed, dtype):
        self.generator, self.dtype = np.random.default_rng(seed), dtype

    def normal(self, *shape, scale=1.0):
        x = (scale * self.generator.standard_normal(shape)).astype(np.float32)
        return x if self.dtype == "fp32" else torch.from_numpy(x).bfloat16().float().numpy()

    def normal32(self, *shape):
        """For arrays that are always fp32: parameter gradients, moments."""
        return self.generator.standard_normal(shape).astype(np.float32)

    def integers(self, high, *shape):
        return self.generator.integers(0, high, shape).astype(np.int32)


def double(x, grad=False):
    return torch.from_numpy(np.asarray(x)).double().requires_grad_(grad)


def gelu(x, scale):
    return F.gelu(scale * x, approximate="tanh") / scale


def assert_close(actual, expected, tolerance):
    actual = np.asarray(actual)
    assert np.isfinite(actual).all(), (
        f"{np.count_nonzero(~np.isfinite(actual))} elements of {actual.size} are not finite"
    )
    error = relative_error(actual, expected)
    assert error < tolerance, f"relative error {error:.3g}, allowed {tolerance}"


def parameter(data, dtype, *shape, master=True, second=True, **numbers):
    weights = data.normal32(*shape)
    entry = {"param": weights, "grad": data.normal32(*shape), "m": 0.1 * data.normal32(*shape), **numbers}
    if second:
        entry["v"] = np.abs(data.normal32(*shape)) * 0.01
    if dtype == "bf16":
        entry["param"] = torch.from_numpy(weights).bfloat16().float().numpy()
        if master:
            entry["master"] = weights
    return entry
