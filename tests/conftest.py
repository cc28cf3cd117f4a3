"""Fixtures shared by all tests: the backends that are built, and the two element types."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Several workers (pytest -n) share the cores: threads that spin for each other's would take them.
os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS") or str(
    max(1, (os.cpu_count() or 1) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))
)

import llmc


@pytest.fixture(
    params=llmc.backends() or [pytest.param(None, marks=pytest.mark.skip(reason="no backend is built: run make"))]
)
def backend(request):
    """Module of one built backend: llmc.cpu, llmc.emulated, llmc.cuda."""
    return llmc.backend(request.param)


@pytest.fixture(params=["fp32", "bf16"])
def dtype(request):
    return request.param


# One file is one worker's: the longest ones first, or the others wait for them at the end.
LONGEST = [f"test_{name}.py" for name in ("sanitizers", "emulated_training", "mutations", "parity", "gpu_check")]


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
