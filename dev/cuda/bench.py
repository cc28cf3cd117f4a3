"""Times the kernels, and whole training steps, beside PyTorch in one run: dev/cuda/bench.py, part of `make gpu-check`.

Ops: the calls of one step at a GPT-2's sizes, in bf16, on rotating arguments; the median over rounds that alternate
with PyTorch's. Time, TFLOP/s or GB/s, percent of the floor (dev/cuda/cases.py), and PyTorch's time over ours.
Steps: train_gpt2cu and train_gpt2.py --compile (bf16, flash attention) on the same shards, tokens/s, MFU against the
measured matrix rate, and percent of speed of light: the sum of the floors of all ops.

Nothing is asserted and nothing estimated: what was not measured is not in the report.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "python"), str(Path(__file__).parent)]

import cases

import llmc

# Sequences of a micro-batch that fit an 80 GB GPU in PyTorch too.
BATCH = {"124M": 32, "355M": 16, "774M": 8, "1558M": 4, "tiny": 2}


class TorchTimer:
    """Seconds that enqueued work takes, by events on a GPU and by the clock on a CPU."""

    def __init__(self, torch, device):
        self.torch, self.cuda = torch, device == "cuda"

    def seconds(self, calls):
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
        return start.elapsed_time(stop) / 1e3 / len(calls)


def ceilings(torch, device, dtype, size):
    """Copy bandwidth (bytes read and written) and matrix rate, by PyTorch: the two numbers of every floor."""
    timer = TorchTimer(torch, device)
    source = torch.randn(size["copy"] // 4, device=device)
    target = torch.empty_like(source)
    copy = min(timer.seconds([lambda: target.copy_(source)] * 4) for _ in range(5))
    n = size["matrix"]
    a, b = (torch.randn(n, n, device=device, dtype=dtype) for _ in range(2))
    product = min(timer.seconds([lambda: a @ b] * 4) for _ in range(5))
    return {"copy_bytes_per_second": 2 * size["copy"] / copy, "matmul_flops_per_second": 2 * n**3 / product}


def floor(case, limits):
    return max(case.flops / limits["matmul_flops_per_second"], case.bytes / limits["copy_bytes_per_second"])


def time_case(case, backend, ops, timer, dtype, rounds, repeats):
    """Medians of alternating rounds: ours and PyTorch's, in seconds."""
    ours, theirs = [], []
    for _ in range(rounds):
        ours += backend.time_op(case.op, case.sizes, dtype=dtype, sets=case.sets, repeats=repeats)
        if ops is not None:
            calls = ops.calls(case)
            timer.seconds(calls)  # compiles and warms up
            theirs += [timer.seconds(calls) for _ in range(repeats)]
            del calls
            if timer.cuda:
                timer.torch.cuda.empty_cache()
    return statistics.median(ours), statistics.median(theirs) if theirs else None


def bench_ops(model, batch, seq_len, backend, torch, device, limits, options, deadline):
    dtype = getattr(torch, {"bf16": "bfloat16", "fp32": "float32"}[options.dtype])
    ops = None if options.no_torch_ops else cases.PyTorchOps(torch, device, dtype, compiled=device == "cuda")
    timer, rows = TorchTimer(torch, device), []
    print(f"\n{model}, batch {batch} x {seq_len}, {options.dtype}")
    print(f"{'op':34}{'us':>10}{'TFLOP/s':>9}{'GB/s':>8}{'% floor':>9}{'PyTorch us':>12}{'ratio':>7}")
    for case in cases.cases_of(model, batch, seq_len, options.logits_rows):
        if time.monotonic() > deadline:
            print("(out of time)")
            break
        try:
            ours, theirs = time_case(case, backend, ops, timer, options.dtype, options.rounds, options.repeats)
        except RuntimeError as error:  # out of memory on a small GPU, say
            print(f"{case.name:34}{str(error).splitlines()[0][:80]}")
            rows.append({"op": case.name, "sizes": case.sizes, "error": str(error)})
            continue
        limit = floor(case, limits)
        rows.append(
            {
                "op": case.name,
                "sizes": case.sizes,
                "count": case.count,
                "seconds": ours,
                "pytorch": theirs,
                "flops": case.flops,
                "bytes": case.bytes,
                "floor": limit,
            }
        )
        rate = f"{case.flops / ours / 1e12:9.1f}" if case.flops else " " * 9
        compared = f"{theirs * 1e6:12.1f}{theirs / ours:7.2f}" if theirs else ""
        print(
            f"{case.name:34}{ours * 1e6:10.1f}{rate}{case.bytes / ours / 1e9:8.0f}{100 * limit / ours:9.1f}{compared}",
            flush=True,
        )
    return rows


def write_shard(path, tokens, vocabulary):
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240520, 1, len(tokens), vocabulary
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def run_program(program, model, batch, seq_len, steps, shard, out, dtype):
    depth, width, heads, _ = cases.MODELS[model]
    command = [
        *program,
        "--train-data",
        shard,
        "--depth",
        depth,
        "--width",
        width,
        "--heads",
        heads,
        "--seq-len",
        seq_len,
        "--batch-size",
        batch,
        "--steps",
        steps,
        "--dtype",
        dtype,
        "--eval-every",
        0,
        "--out",
        out,
        "--overwrite",
        "--lr",
        1e-4,
    ]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        return None, (done.stderr.strip().splitlines() or ["?"])[-1]
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates = [event["tokens_per_second"] for event in events if event["event"] == "train"]
    return statistics.median(rates[len(rates) // 2 :]), None


def bench_steps(model, batch, seq_len, limits, options, deadline):
    """Tokens/s of both programs in turn, and what the hardware would allow."""
    floors = sum(
        case.count * floor(case, limits) for case in cases.cases_of(model, batch, seq_len, options.logits_rows)
    )
    depth, width, _, vocabulary = cases.MODELS[model]
    flops = 6 * (12 * depth * width**2 + vocabulary * width) + 12 * depth * width * seq_len
    programs = {"train_gpt2": options.program, "pytorch": [sys.executable, "train_gpt2.py", *options.torch_options]}
    rates = {name: [] for name in programs}
    errors = {}
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "tokens.bin"
        count = 2 * options.steps * batch * seq_len + 1
        write_shard(shard, np.random.default_rng(1).integers(0, vocabulary, count), vocabulary)
        for _ in range(options.step_rounds):
            for name, program in programs.items():
                if time.monotonic() > deadline:
                    errors.setdefault(name, "out of time")
                    continue
                rate, error = run_program(
                    program, model, batch, seq_len, options.steps, shard, Path(folder) / name, options.dtype
                )
                if error:
                    errors[name] = error
                else:
                    rates[name].append(rate)
    row = {
        "model": model,
        "batch_size": batch,
        "seq_len": seq_len,
        "speed_of_light": batch * seq_len / floors,
        "errors": errors,
    }
    for name, measured in rates.items():
        row[name] = statistics.median(measured) if measured else None
    line = f"{model:8}{batch:4} x {seq_len:<6}"
    if row["train_gpt2"]:
        row["mfu"] = row["train_gpt2"] * flops / limits["matmul_flops_per_second"]
        row["percent_of_speed_of_light"] = 100 * row["train_gpt2"] / row["speed_of_light"]
        line += (
            f"{row['train_gpt2']:12,.0f} tokens/s, {100 * row['mfu']:5.1f}% of the matrix rate, "
            f"{row['percent_of_speed_of_light']:5.1f}% of speed of light"
        )
    if row["pytorch"]:
        line += f"; PyTorch {row['pytorch']:10,.0f}"
        if row["train_gpt2"]:
            row["ratio"] = row["train_gpt2"] / row["pytorch"]
            line += f", ratio {row['ratio']:.2f}"
    print(line + "".join(f"; {name}: {error}" for name, error in errors.items()), flush=True)
    return row


def parse():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", default="124M,355M,774M,1558M", help="for whole steps (default %(default)s)")
    parser.add_argument("--op-models", default="124M", help="whose ops are timed one by one (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=0, help="sequences (default: by model, for 80 GB)")
    parser.add_argument("--seq-len", type=int, default=1024)
    parser.add_argument("--dtype", default="bf16", choices=["bf16", "fp32"])
    parser.add_argument("--rounds", type=int, default=3, help="alternating rounds of each op (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=10, help="figures in a round (default %(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of a training run (default %(default)s)")
    parser.add_argument("--step-rounds", type=int, default=1, help="runs of each program (default %(default)s)")
    parser.add_argument("--logits-rows", type=int, default=10_672, help="rows of the head at a time: 1 GiB of logits")
    parser.add_argument("--no-torch-ops", action="store_true", help="do not time PyTorch's ops")
    parser.add_argument("--budget", type=float, default=1e9, help="seconds after which no new measurement begins")
    parser.add_argument(
        "--backend",
        default="cuda",
        choices=["cuda", "cpu", "emulated"],
        help="cpu and emulated show that the benchmark runs, and measure nothing of interest",
    )
    parser.add_argument("--out", type=Path, help="folder for bench.json")
    return parser.parse_args()


def main():
    options = parse()
    if options.backend not in llmc.backends():
        print(f"bench: no {options.backend} backend here: not built, or no GPU", file=sys.stderr)
        return 5
    import torch

    backend, device = llmc.backend(options.backend), "cuda" if options.backend == "cuda" else "cpu"
    program = {"cuda": "train_gpt2cu", "cpu": "train_gpt2", "emulated": "train_gpt2emu"}[options.backend]
    options.program = [str(ROOT / program)]
    options.torch_options = ["--device", device, *(["--compile"] if device == "cuda" else [])]
    deadline = time.monotonic() + options.budget
    size = {"copy": 1 << 30, "matrix": 8192} if device == "cuda" else {"copy": 1 << 22, "matrix": 256}
    dtype = {"bf16": torch.bfloat16, "fp32": torch.float32}[options.dtype]
    limits = ceilings(torch, device, dtype, size)
    print(
        f"{backend.name()}, PyTorch {torch.__version__}: copy {limits['copy_bytes_per_second'] / 1e12:.2f} TB/s, "
        f"{options.dtype} matmul of {size['matrix']} {limits['matmul_flops_per_second'] / 1e12:.0f} TFLOP/s"
    )
    report = {
        "device": backend.name(),
        "torch": torch.__version__,
        "limits": limits,
        "dtype": options.dtype,
        "ops": {},
        "steps": [],
    }
    for model in filter(None, options.op_models.split(",")):
        report["ops"][model] = bench_ops(
            model,
            options.batch_size or BATCH[model],
            options.seq_len,
            backend,
            torch,
            device,
            limits,
            options,
            deadline,
        )
    print("\nWhole steps")
    for model in filter(None, options.models.split(",")):
        report["steps"].append(
            bench_steps(model, options.batch_size or BATCH[model], options.seq_len, limits, options, deadline)
        )
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
