"""oneDNN computes some products with a reference implementation, hundreds of times slower than its kernels, and reports
it only in its verbose output."""

import os
import subprocess

import numpy as np
import pytest
from op_tools import Data, assert_close, double
from program import BACKEND, BINARY
from shards import random_text, write_text_shards

import llmc

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make"),
    pytest.mark.skipif(BACKEND != "cpu", reason="oneDNN is the CPU's"),
]


@pytest.mark.parametrize("scheme", ["sp", "mup", "u-mup"])
@pytest.mark.parametrize("batch", [2, 64])  # one product on all threads, and one product per thread
def test_every_product_has_a_kernel(dtype, scheme, batch, tmp_path):
    train = write_text_shards(tmp_path, random_text(30_000), shards=1, prefix="train")
    options = [
        "--depth",
        1,
        "--width",
        128,
        "--heads",
        4,
        "--seq-len",
        32,
        "--batch-size",
        batch,
        "--total-batch-size",
        2 * batch * 32,
        "--train-data",
        train,
        "--parametrization",
        scheme,
        "--dtype",
        dtype,
        "--steps",
        2,
        "--eval-every",
        0,
    ]
    options += {"sp": [], "mup": ["--base-width", 64], "u-mup": []}[scheme]
    verbose = dict(os.environ, DNNL_VERBOSE="1", ONEDNN_VERBOSE="1")
    done = subprocess.run([BINARY, *map(str, options)], env=verbose, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = (line.split(",") for line in done.stdout.splitlines() if line.startswith(("dnnl_verbose", "onednn_verbose")))
    products = [fields for fields in said if "matmul" in fields]
    assert products, "oneDNN reports nothing"
    slow = {",".join(fields[4:]) for fields in products if any(field.startswith("ref:") for field in fields)}
    assert not slow, f"no kernel for: {slow}"


@pytest.mark.parametrize("scale", [0.0, 0.3, -2.0, 1e-4])
def test_scaled_sums_over_many_rows(dtype, scale):
    """dweight += scale * dout^T inp in several blocks of rows, each of which undoes the scaling of the next one."""
    data = Data(31, dtype)
    dout, inp, dweight = data.normal(2100, 48), data.normal(2100, 40), data.normal32(48, 40)
    result = llmc.cpu.matmul_backward(dout, inp=inp, dweight=dweight, dweight_scale=scale, dtype=dtype)["dweight"]
    assert_close(result, double(dweight) + scale * double(dout).T @ double(inp), 1e-5)
    assert np.isfinite(result).all()
