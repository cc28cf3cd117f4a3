"""The bars of `make gpu-check`: which rows they apply to, and when they are met."""

import pytest

from llmc.bench.bars import bars
from llmc.bench.torch_ops import PyTorchOps


def report(device="NVIDIA H200", dtype="bf16", **changed):
    product = {"op": "c_fc dinp", "kind": "matmul_dinp", "sizes": {}, "seconds": 1e-4, "pytorch": 1e-4, "flops": 1e9}
    attention = {"op": "attention forward", "kind": "attention_forward", "sizes": {"D": 64}, "seconds": 1e-4,
                 "pytorch": None, "flops": 3e10}  # fmt: skip
    step = {"model": "124M", "train_gpt2": 710_000.0, "ratio": 1.3}
    rows = [product | {"bound": 9e-5} | changed, attention | {"bound": None}, {"op": "too large", "error": "memory"}]
    return {"device": device, "dtype": dtype, "ops": {"124M": rows}, "steps": [step]}


def met(of):
    return {(bar.of, bar.what): bar.met for bar in bars(of)}


def test_all_are_met():
    assert met(report()) == {
        ("124M, c_fc dinp", "PyTorch's time over ours"): True,
        ("124M, c_fc dinp", "times the bound"): True,
        ("124M, attention forward", "TFLOP/s"): True,
        ("124M, step", "tokens/s over train_gpt2.py's"): True,
        ("124M, step", "tokens/s"): True,
    }


@pytest.mark.parametrize(
    "changed,what,is_met",
    [
        ({"pytorch": 0.94e-4}, "PyTorch's time over ours", False),
        ({"pytorch": 0.96e-4}, "PyTorch's time over ours", True),
        ({"pytorch": 0.96e-4, "kind": "matmul_dweight"}, "PyTorch's time over ours", False),
        ({"bound": 0.8e-4}, "times the bound", False),
        ({"bound": 0.84e-4}, "times the bound", True),
    ],
)
def test_bars_of_products(changed, what, is_met):
    assert met(report(**changed))["124M, c_fc dinp", what] == is_met


def test_tokens_are_those_of_an_h200_and_other_gpus_have_no_bars():
    assert ("124M, step", "tokens/s") not in met(report(device="NVIDIA H100 80GB HBM3"))
    assert ("124M, step", "tokens/s over train_gpt2.py's") in met(report(device="NVIDIA H100 80GB HBM3"))
    assert not met(report(device="NVIDIA A100-SXM4-80GB")) and not met(report(dtype="fp32"))


def test_a_line_says_what_was_measured():
    (line,) = [str(bar) for bar in bars(report()) if bar.what == "TFLOP/s"]
    assert line == "met     124M, attention forward: TFLOP/s 300.00, at least 290"


def test_sdpa_backends_exist():
    """Those that are timed on a GPU."""
    torch = pytest.importorskip("torch")
    ops = PyTorchOps(torch, "cpu", torch.bfloat16, compiled=False)
    for backend in ("", "FLASH_ATTENTION", "CUDNN_ATTENTION"):
        with ops.using(backend):
            pass
