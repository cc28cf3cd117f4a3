"""Fixtures shared by all tests: the backends that are built, and the two element types."""

import os
import sys

import pytest

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

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
