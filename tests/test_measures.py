"""Tests use reductions in float64 (tests/measures.py); this file finds those that do not."""

import ast
from pathlib import Path

import numpy as np
import pytest
from measures import deviation, mean_abs, norm, relative_error, rms, spectral_norm

# Calls of these names reduce an array. The arrays in PLAIN are float64, integers or booleans.
REDUCTIONS = {"norm", "std", "var", "mean"}
PLAIN = {
    "test_check.py": "pixels of a figure; fits in float64",
    "test_plot_loss.py": "pixels of a figure",
    "test_sweep_verdict.py": "pixels of a figure",
    "test_data_sources.py": "probabilities in float64, counts",
    "test_data_text.py": "counts",
    "test_text.py": "probabilities in float64",
    "test_optimizers.py": "shares of booleans",
    "test_evaluation.py": "losses in float64",
    "test_python_model.py": "losses in float64",
    "test_scoring.py": "losses in float64",
}


def reductions(text):
    """(line, source) of each call x.norm(), x.mean(), np.linalg.norm(x), ... whose line does not say float64."""
    lines = text.splitlines()
    for node in ast.walk(ast.parse(text)):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in REDUCTIONS):
            continue
        line = lines[node.lineno - 1]
        if not any(word in line for word in ("float64", "double", "optimizer.norm", "backend.")):
            yield node.lineno, line.strip()


def test_reductions_are_in_float64():
    found = []
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.name in PLAIN or path.name == Path(__file__).name:
            continue
        found += [f"{path.name}:{line}: {text}" for line, text in reductions(path.read_text())]
    assert not found, "take these from tests/measures.py:\n" + "\n".join(found)


def test_the_search_finds_fp32_reductions():
    text = "a = np.linalg.norm(x)\nb = w.std().item()\nc = np.mean(x, dtype=np.float64)\nd = x.double().mean()"
    assert [line for line, _ in reductions(text)] == [1, 2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_measures(dtype):
    """NumPy 2.4.6 with its OpenBLAS, AVX2: np.linalg.norm of four million fp32 numbers is 1e-5 too small."""
    x = np.full(4_000_000, 0.1, dtype=dtype)  # an fp32 sum of these is wrong in the fourth digit
    value = float(x[0])
    rel = x.size * 2.0**-53  # bound of a float64 sum's error in any order; OpenBLAS's AVX2 kernels come to 2e-12
    assert norm(x) == pytest.approx(2000 * value, rel=rel)
    assert rms(x) == pytest.approx(value, rel=rel)
    assert mean_abs(-x) == pytest.approx(value, rel=rel)
    assert deviation(x) < rel * value
    assert relative_error(1.001 * x.astype(np.float64), x) == pytest.approx(1e-3, rel=1e-9)
    assert spectral_norm(np.diag([1, 3, 2]).astype(dtype)) == pytest.approx(3, rel=1e-14)
