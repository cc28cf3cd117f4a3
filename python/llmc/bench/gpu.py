"""Times the kernels and whole training steps, and PyTorch's, in one run: dev/cuda/bench.py, part of `make gpu-check`.

Ops: the calls of one step at a GPT-2's sizes, in bf16, on rotating arguments; the median over rounds that alternate
with PyTorch's. Time, TFLOP/s or GB/s, percent of the floor (cases.py) and of the bound that was counted without a GPU
(kernel_report.py), and PyTorch's time over ours.
Steps: train_gpt2cu and train_gpt2.py --compile (bf16, flash attention) on the same shards, tokens/s, MFU against the
measured matrix rate, and percent of speed of light: the sum of the floors of all ops.

Nothing is asserted or estimated: the report has only what was measured. On an H100 or H200 it ends with what was met
and missed of bars.py.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import llmc
from llmc.bench import kernel_counts
from llmc.bench.bars import bars
from llmc.bench.cases import MODELS, Case, Cost, cases_of
from llmc.bench.kernel_report import bounds_for
from llmc.bench.programs import tokens_per_second, train_command, write_random_shard
from llmc.bench.torch_ops import PyTorchOps
from llmc.errors import Error, ExitCode
from llmc.paths import require_clone

# Sequences of a micro-batch that fit an 80 GB GPU in PyTorch too.
BATCH = kernel_counts.BATCH | {"355M": 16, "774M": 8, "tiny": 2}
PROGRAM = {"cuda": "train_gpt2cu", "cpu": "train_gpt2", "emulated": "train_gpt2emu"}


class TorchTimer:
    """Times enqueued work in seconds, with events on a GPU and with the clock on a CPU."""

    def __init__(self, torch: Any, device: str) -> None:
        self.torch, self.cuda = torch, device == "cuda"

    def seconds(self, calls: Sequence[Callable[[], Any]]) -> float:
        if not self.cuda:
            begin = time.perf_counter()
            for call in calls:
                call()
            return (time.perf_counter() - begin) / len(calls)
        start, stop = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for call in calls:
            call()
        stop.record()
        stop.synchronize()
        return float(start.elapsed_time(stop)) / 1e3 / len(calls)


class Limits:
    """The two rates that give the floors: copy bandwidth (bytes read and written) and matrix rate, both by PyTorch."""

    def __init__(self, torch: Any, device: str, dtype: Any) -> None:
        copied, self.matrix = (1 << 30, 8192) if device == "cuda" else (1 << 22, 256)
        timer, n = TorchTimer(torch, device), self.matrix
        source = torch.randn(copied // 4, device=device)
        target = torch.empty_like(source)
        copy = min(timer.seconds([lambda: target.copy_(source)] * 4) for _ in range(5))
        a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
        product = min(timer.seconds([lambda: a @ b] * 4) for _ in range(5))
        self.bytes_per_second, self.flops_per_second = 2 * copied / copy, 2 * n**3 / product

    def floor(self, cost: Cost) -> float:
        """The minimum time of an op, in seconds."""
        return max(cost.flops / self.flops_per_second, cost.bytes / self.bytes_per_second)

    def as_json(self) -> dict[str, float]:
        return {
            "copy_bytes_per_second": self.bytes_per_second,
            "matmul_flops_per_second": self.flops_per_second,
        }


class Bench:
    """The state that all measurements share."""

    def __init__(self, options: argparse.Namespace, root: Path) -> None:
        import torch

        self.options, self.root, self.torch = options, root, torch
        self.backend, self.device = llmc.backend(options.backend), "cuda" if options.backend == "cuda" else "cpu"
        self.dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
        self.deadline: float = time.monotonic() + options.budget
        self.limits = Limits(torch, self.device, self.dtype)
        self.bounds = bounds_for(self.backend.name(), root)

    def out_of_time(self) -> bool:
        return time.monotonic() > self.deadline

    def batch_size(self, model: str) -> int:
        return int(self.options.batch_size) or BATCH[model]

    # --- Ops ---

    def time_case(self, case: Case, ops: PyTorchOps | None, timer: TorchTimer) -> tuple[float, float | None, str]:
        """Medians of alternating rounds, in seconds: ours, and PyTorch's by the fastest of its backends."""
        ours: list[float] = []
        theirs: dict[str, list[float]] = {}
        for _ in range(self.options.rounds):
            ours += self.backend.time_op(
                case.op, case.sizes, dtype=self.options.dtype, sets=case.sets, repeats=self.options.repeats
            )
            if ops is not None:
                for backend in ops.backends(case):
                    theirs.setdefault(backend, []).extend(self.time_torch(case, ops, backend, timer))
                    if timer.cuda:
                        timer.torch.cuda.empty_cache()
        medians = [(statistics.median(times), backend) for backend, times in theirs.items() if times]
        fastest, backend = min(medians, default=(None, ""))
        return statistics.median(ours), fastest, backend

    def time_torch(self, case: Case, ops: PyTorchOps, backend: str, timer: TorchTimer) -> list[float]:
        """Empty if PyTorch has no such kernel for these sizes and this GPU."""
        try:
            with ops.using(backend):
                calls = ops.calls(case)
                timer.seconds(calls)  # warm-up: compiles
                return [timer.seconds(calls) for _ in range(self.options.repeats)]
        except RuntimeError as error:
            if backend and "No available kernel" in str(error):
                return []
            raise

    def cost(self, case: Case) -> Cost:
        return case.cost(self.backend, self.options.dtype)

    def ops(self, model: str) -> list[dict[str, Any]]:
        """A row for each op of a step."""
        options, batch_size = self.options, self.batch_size(model)
        compiled = self.device == "cuda"
        ops = None if options.no_torch_ops else PyTorchOps(self.torch, self.device, self.dtype, compiled=compiled)
        timer, rows = TorchTimer(self.torch, self.device), []
        print(f"\n{model}, batch {batch_size} x {options.seq_len}, {options.dtype}")
        print(f"{'op':34}{'us':>10}{'TFLOP/s':>9}{'GB/s':>8}{'% floor':>9}{'% bound':>9}{'PyTorch us':>12}{'ratio':>7}")
        for case in cases_of(model, batch_size, options.seq_len, options.logits_rows):
            if self.out_of_time():
                print("(out of time)")
                break
            try:
                ours, theirs, backend = self.time_case(case, ops, timer)
            except RuntimeError as error:  # out of memory on a small GPU, for example
                print(f"{case.name:34}{str(error).splitlines()[0][:80]}")
                rows.append({"op": case.name, "sizes": case.sizes, "error": str(error)})
                continue
            rows.append(self.op_row(case, ours, theirs, self.bound(model, case)) | {"pytorch_backend": backend})
        return rows

    def bound(self, model: str, case: Case) -> float | None:
        """Of the kernel report (bench/kernels.json), in seconds, if that is of this GPU and these sizes."""
        if self.options.dtype != "bf16" or model not in kernel_counts.BATCH:
            return None
        counted = any(case == other for other in kernel_counts.model_cases(model))
        return self.bounds.get(model, {}).get(case.name) if counted else None

    def op_row(self, case: Case, ours: float, theirs: float | None, bound: float | None) -> dict[str, Any]:
        cost = self.cost(case)
        floor = self.limits.floor(cost)
        rate = f"{cost.flops / ours / 1e12:9.1f}" if cost.flops else " " * 9
        compared = f"{theirs * 1e6:12.1f}{theirs / ours:7.2f}" if theirs else ""
        print(
            f"{case.name:34}{ours * 1e6:10.1f}{rate}{cost.bytes / ours / 1e9:8.0f}{100 * floor / ours:9.1f}"
            f"{f'{100 * bound / ours:9.1f}' if bound else ' ' * 9}{compared}",
            flush=True,
        )
        return {
            "op": case.name,
            "kind": case.op,
            "sizes": case.sizes,
            "count": case.count,
            "seconds": ours,
            "pytorch": theirs,
            "flops": cost.flops,
            "bytes": cost.bytes,
            "floor": floor,
            "bound": bound,
        }

    # --- Whole steps ---

    def run_program(self, program: list[str], model: str, shard: Path, out: Path) -> float:
        """Tokens/s; Error with the last line of its stderr."""
        options = self.options
        command = train_command(
            program,
            MODELS[model],
            shard=shard,
            out=out,
            seq_len=options.seq_len,
            batch_size=self.batch_size(model),
            steps=options.steps,
            dtype=options.dtype,
            extra=["--lr", "1e-4"],
        )
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Error((done.stderr.strip().splitlines() or ["?"])[-1])
        return tokens_per_second(out, warm_up=2)

    def steps(self, model: str) -> dict[str, Any]:
        """Tokens/s of both programs, run in turn, and the limit of the hardware."""
        options, batch_size = self.options, self.batch_size(model)
        compiled = ["--compile"] if self.device == "cuda" else []
        programs = {
            "train_gpt2": [str(self.root / PROGRAM[options.backend])],
            "pytorch": [sys.executable, "train_gpt2.py", "--device", self.device, *compiled],
        }
        rates: dict[str, list[float]] = {name: [] for name in programs}
        errors: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            shard = Path(folder) / "tokens.bin"
            write_random_shard(shard, MODELS[model].vocab_size, 2 * options.steps * batch_size * options.seq_len + 1)
            for _ in range(options.step_rounds):
                for name, program in programs.items():
                    if self.out_of_time():
                        errors.setdefault(name, "out of time")
                        continue
                    try:
                        rates[name].append(self.run_program(program, model, shard, Path(folder) / name))
                    except Error as error:
                        errors[name] = str(error)
        cases = cases_of(model, batch_size, options.seq_len, options.logits_rows)
        floors = sum(case.count * self.limits.floor(self.cost(case)) for case in cases)
        row: dict[str, Any] = {
            "model": model,
            "batch_size": batch_size,
            "seq_len": options.seq_len,
            "speed_of_light": batch_size * options.seq_len / floors,
            "errors": errors,
        }
        row |= {name: statistics.median(measured) if measured else None for name, measured in rates.items()}
        self.compare(row)
        return row

    def compare(self, row: dict[str, Any]) -> None:
        """Adds ratios of the measured rates to `row`, and prints them."""
        m = MODELS[row["model"]]
        line = f"{row['model']:8}{row['batch_size']:4} x {row['seq_len']:<6}"
        ours, theirs = row["train_gpt2"], row["pytorch"]
        if ours:
            flops = self.backend.flops_per_token(m.depth, m.width, row["seq_len"], m.vocab_size)
            row["mfu"] = ours * flops / self.limits.flops_per_second
            row["percent_of_speed_of_light"] = 100 * ours / row["speed_of_light"]
            line += (
                f"{ours:12,.0f} tokens/s, {100 * row['mfu']:5.1f}% of the matrix rate, "
                f"{row['percent_of_speed_of_light']:5.1f}% of speed of light"
            )
        if theirs:
            line += f"; PyTorch {theirs:10,.0f}"
        if ours and theirs:
            row["ratio"] = ours / theirs
            line += f", ratio {row['ratio']:.2f}"
        print(line + "".join(f"; {name}: {error}" for name, error in row["errors"].items()), flush=True)


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", default="124M,355M,774M,1558M", help="for whole steps (default %(default)s)")
    parser.add_argument("--op-models", default="124M", help="models whose ops are timed (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=0, help="sequences (default: by model, for 80 GB)")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of each op (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="measurements per round (default %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of a training run (default %(default)s)")
    parser.add_argument("--step-rounds", type=int, default=1, help="runs of each program (default %(default)s)")
    parser.add_argument("--logits-rows", type=int, default=10_672, help="rows of the head at a time: 1 GiB of logits")
    parser.add_argument("--no-torch-ops", action="store_true", help="do not time PyTorch's ops")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no new measurement begins")
    parser.add_argument(
        "--backend",
        default="cuda",
        choices=["cuda", "cpu", "emulated"],
        help="cpu and emulated only test that the benchmark runs",
    )
    parser.add_argument("--out", type=Path, help="folder for bench.json")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    options = parse(argv, prog)
    root = require_clone("the benchmark")
    if options.backend not in llmc.backends():
        raise Error(f"no {options.backend} backend here: not built, or no GPU", ExitCode.NO_GPU)
    bench = Bench(options, root)
    device, version, limits = bench.backend.name(), bench.torch.__version__, bench.limits
    print(
        f"{device}, PyTorch {version}: copy {limits.bytes_per_second / 1e12:.2f} TB/s, "
        f"{options.dtype} matmul of {limits.matrix} {limits.flops_per_second / 1e12:.0f} TFLOP/s"
    )
    report: dict[str, Any] = {"device": device, "torch": version, "limits": limits.as_json(), "dtype": options.dtype}
    report["ops"] = {model: bench.ops(model) for model in options.op_models.split(",") if model}
    print("\nWhole steps")
    report["steps"] = [bench.steps(model) for model in options.models.split(",") if model]
    if found := bars(report):
        print("", *found, f"{sum(bar.met for bar in found)} of {len(found)} bars met", sep="\n")
    report["bars"] = [bar._asdict() | {"met": bar.met} for bar in found]
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    return ExitCode.DONE
