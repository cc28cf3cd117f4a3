"""Sizes of arrays and distances between them, in float64 for every type of array.

Tests use the reductions of this file. In fp32 the result depends on the processor's vectors and on the
library: the norm of four million fp32 numbers is 1e-5 off in NumPy 2.4.6 with the AVX2 kernels of its OpenBLAS, and
right with those for AVX-512.
tests/test_measures.py finds tests that use others.
"""

import numpy as np


def float64(x):
    """A NumPy array, a tensor of PyTorch, or numbers, as a float64 array."""
    if hasattr(x, "detach"):
        x = x.detach().double().cpu()
    return np.asarray(x, dtype=np.float64)


def norm(x):
    """Root of the sum of squares of all elements."""
    return float(np.linalg.norm(float64(x).ravel()))


def spectral_norm(matrix):
    """The largest singular value."""
    return float(np.linalg.norm(float64(matrix), 2))


def relative_error(actual, expected):
    """Norm of the difference over the norm of `expected`."""
    actual, expected = float64(actual), float64(expected)
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    return norm(actual - expected) / max(norm(expected), 1e-30)


def mean_abs(x):
    return float(np.abs(float64(x)).mean())


def rms(x):
    """Root of the mean square."""
    return float(np.sqrt(np.square(float64(x)).mean()))


def deviation(x):
    """Standard deviation of the elements around their mean."""
    return float(float64(x).std())
