"""What `make gpu-check` measured on an H100 or H200, against the bars that the kernels were built for.

Nothing fails because of them: times depend on the machine. A missed bar is a question that the next change answers.
  products        PyTorch's time over ours (cuBLAS, with what torch.compile fuses): forward and dinp 0.95, dweight 1.00
  attention       TFLOP/s at heads of 64 channels: forward 290, backward 250
  every op        at most 1.2 times the bound of the kernel report: otherwise the kernel or the report is wrong
  whole steps     tokens/s over those of train_gpt2.py --compile: 1.25; 124M on an H200: 700,000 tokens/s
"""

from __future__ import annotations

from typing import Any, NamedTuple

GPUS = ("H100", "H200")
PRODUCTS = {"matmul_forward": 0.95, "matmul_dinp": 0.95, "matmul_dweight": 1.0}  # by the beginning of an op's name
ATTENTION = {"attention forward": 290, "attention backward": 250}  # TFLOP/s
BOUND = 1.2
STEP = 1.25
TOKENS = {("124M", "H200"): 700_000}  # per second


class Bar(NamedTuple):
    of: str  # model and op
    what: str
    measured: float
    needed: float
    at_most: bool = False

    @property
    def met(self) -> bool:
        return self.measured <= self.needed if self.at_most else self.measured >= self.needed

    def __str__(self) -> str:
        sign = "at most" if self.at_most else "at least"
        return (
            f"{'met   ' if self.met else 'missed'}  {self.of}: {self.what} {self.measured:,.2f}, {sign} {self.needed:,}"
        )


def of_op(model: str, row: dict[str, Any]) -> list[Bar]:
    if "seconds" not in row:
        return []
    of, seconds, found = f"{model}, {row['op']}", row["seconds"], []
    for kind, needed in PRODUCTS.items():
        if row["kind"].startswith(kind) and row["pytorch"]:
            found.append(Bar(of, "PyTorch's time over ours", row["pytorch"] / seconds, needed))
    if row["op"] in ATTENTION and row["sizes"]["D"] == 64:
        found.append(Bar(of, "TFLOP/s", row["flops"] / seconds / 1e12, ATTENTION[row["op"]]))
    if row["bound"]:
        found.append(Bar(of, "times the bound", seconds / row["bound"], BOUND, at_most=True))
    return found


def of_step(device: str, row: dict[str, Any]) -> list[Bar]:
    of, found = f"{row['model']}, step", []
    if row.get("ratio"):
        found.append(Bar(of, "tokens/s over train_gpt2.py's", row["ratio"], STEP))
    for (model, gpu), needed in TOKENS.items():
        if row["model"] == model and gpu in device and row["train_gpt2"]:
            found.append(Bar(of, "tokens/s", row["train_gpt2"], needed))
    return found


def bars(report: dict[str, Any]) -> list[Bar]:
    """Of a report of gpu.py; empty for other GPUs and dtypes."""
    device = report["device"]
    if report["dtype"] != "bf16" or not any(gpu in device for gpu in GPUS):
        return []
    of_ops = [bar for model, rows in report["ops"].items() for row in rows for bar in of_op(model, row)]
    return of_ops + [bar for row in report["steps"] for bar in of_step(device, row)]
