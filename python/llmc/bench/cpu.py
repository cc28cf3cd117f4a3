"""Times ./train_gpt2 against train_gpt2.py (eager and --compile) on this machine: `make bench`.

The programs train the same model on the same shards, one after the other, round after round (A B C, A B C, ...), so
that a change of the machine's speed affects all of them. The result of a run is the median of its steps' tokens/s
without the first steps; the result of a row is the median over the rounds. The ratio is computed for each round,
against the faster PyTorch. The same rounds also measure the rate of the model's matrix products alone, and one thread
against all threads; the end measures start-up, and sampling with and without cached keys. Nothing else should be
running.

Writes bench/results/cpu-HOST-COMMIT.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import llmc
from llmc.bench.programs import tokens_per_second, train_command, write_random_shard
from llmc.cpus import usable_cpus
from llmc.errors import Error, ExitCode
from llmc.log import read_events
from llmc.paths import require_clone
from llmc.progress import counter
from llmc.tokenizer import GPT2_VOCAB_SIZE


class Model(NamedTuple):
    depth: int
    width: int
    heads: int
    seq_len: int
    batch_size: int
    vocab_size: int
    steps: int  # of a run; the first third, at least 3, is warm-up


MODELS = {
    "A": Model(2, 64, 4, 64, 8, 257, 300),
    "B": Model(4, 128, 4, 256, 16, 257, 24),
    "C": Model(6, 384, 6, 256, 8, 257, 12),
    "D": Model(12, 768, 12, 64, 4, GPT2_VOCAB_SIZE, 9),
}
PROGRAMS = {
    "train_gpt2": ["./train_gpt2"],
    "pytorch_eager": [sys.executable, "train_gpt2.py", "--device", "cpu"],
    "pytorch_compiled": [sys.executable, "train_gpt2.py", "--device", "cpu", "--compile"],
}
ONE_THREAD = ("B", "C")  # in fp32 these also run on one thread


class Bench:
    """The state that all measurements share."""

    def __init__(self, root: Path, folder: Path, threads: int, backend: Any) -> None:
        self.root, self.folder, self.threads, self.backend = root, folder, threads, backend

    def command(self, program: str, model: Model, dtype: str, threads: int, out: Path) -> list[str]:
        return train_command(
            PROGRAMS[program],
            model,
            shard=self.folder / f"{model.vocab_size}.bin",
            out=out,
            seq_len=model.seq_len,
            batch_size=model.batch_size,
            steps=model.steps,
            dtype=dtype,
            extra=["--threads", str(threads)],
        )

    def train(self, program: str, model: Model, dtype: str, threads: int) -> tuple[float, int]:
        """Tokens/s, and the peak memory of the process in bytes."""
        out = self.folder / program
        command = self.command(program, model, dtype, threads, out)
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        with open(self.folder / "stderr", "w+") as errors:
            process = subprocess.Popen(
                command, cwd=self.root, env=environment, stdout=subprocess.DEVNULL, stderr=errors
            )
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode != 0:
                errors.seek(0)
                raise Error(f"{' '.join(command)}\nended with exit code {process.returncode}: {errors.read().strip()}")
        return tokens_per_second(out, warm_up=3, least=3), usage.ru_maxrss * 1024

    def matmul_gflops(self, model: Model, dtype: str) -> float:
        """The rate of the matrix products of one step alone, forward and backward, with alternating operands."""
        width, padded = model.width, -(-model.vocab_size // 32) * 32
        block = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        shapes = block * model.depth + [(width, padded)]
        flops, seconds = 0, 0.0
        for inp, out in sorted(set(shapes)):
            count = shapes.count((inp, out))
            sizes = {"N": model.batch_size * model.seq_len, "C": inp, "OC": out}
            for op in ("matmul_forward", "matmul_dinp", "matmul_dweight"):
                times = self.backend.time_op(op, sizes, dtype=dtype, sets=2, repeats=7)
                seconds += count * float(statistics.median(times))
                flops += count * 2 * sizes["N"] * inp * out
        return flops / seconds / 1e9

    def measure(self, name: str, dtype: str, rounds: int) -> dict[str, Any]:
        """The row of a model and an element type."""
        model = MODELS[name]
        results: dict[str, list[float]] = {program: [] for program in [*PROGRAMS, "one_thread", "matmul"]}
        memory = dict.fromkeys(PROGRAMS, 0)
        with counter(rounds * len(PROGRAMS), f"{name} {dtype}") as progress:
            for _ in range(rounds):
                for program in PROGRAMS:
                    rate, peak = self.train(program, model, dtype, self.threads)
                    results[program].append(rate)
                    memory[program] = max(memory[program], peak)
                    progress.set_postfix_str(f"{program} {rate:,.0f} tokens/s", refresh=False)
                    progress.update()
                if name in ONE_THREAD and dtype == "fp32" and self.threads > 1:
                    results["one_thread"].append(self.train("train_gpt2", model, dtype, 1)[0])
                results["matmul"].append(self.matmul_gflops(model, dtype))
        return {"model": name, "dtype": dtype, **summary(model, results), "peak_memory": memory, "rounds": results}

    def startup_seconds(self, tries: int = 5) -> float:
        """From the start of the process to the start of its first step: the time at which the step is logged, minus its
        duration."""
        model, out = MODELS["B"], self.folder / "startup"
        seconds: list[float] = []
        log = out / "log.jsonl"
        for _ in range(tries):
            log.unlink(missing_ok=True)
            begin = time.perf_counter()
            process = subprocess.Popen(
                self.command("train_gpt2", model, "fp32", self.threads, out),
                cwd=self.root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            while process.poll() is None and not (log.exists() and '"train"' in log.read_text()):
                time.sleep(0.002)
            elapsed = time.perf_counter() - begin
            process.wait()
            first = next(event for event in read_events(log) if event["event"] == "train")
            seconds.append(elapsed - model.seq_len * model.batch_size / first["tokens_per_second"])
        return statistics.median(seconds)

    def sampling(self, tokens: int = 255) -> dict[str, float]:
        """Tokens/s of model B at T = 256, with cached keys and values, and without."""
        b = MODELS["B"]
        model = self.backend.GPT2(
            depth=b.depth, width=b.width, heads=b.heads, seq_len=b.seq_len, vocab_size=b.vocab_size, batch_size=1
        )
        rates = {}
        for cache in (True, False):
            request = self.backend.SampleRequest(tokens, cache=cache)
            model.continue_tokens([256], request)  # warm-up: plans the products of every length
            begin = time.perf_counter()
            model.continue_tokens([256], request)
            rates["cached" if cache else "recomputed"] = tokens / (time.perf_counter() - begin)
        return rates


def summary(model: Model, results: dict[str, list[float]]) -> dict[str, float]:
    """The results of a row: medians over the rounds."""
    pairs = zip(results["train_gpt2"], results["pytorch_eager"], results["pytorch_compiled"], strict=True)
    ratios = [ours / max(eager, compiled) for ours, eager, compiled in pairs]
    rate = statistics.median(results["train_gpt2"])
    flops = llmc.backend("cpu").flops_per_token(model.depth, model.width, model.seq_len, model.vocab_size)
    row = {
        "tokens_per_second": rate,
        "pytorch_eager": statistics.median(results["pytorch_eager"]),
        "pytorch_compiled": statistics.median(results["pytorch_compiled"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "gflops": rate * flops / 1e9,
        "matmul_gflops": statistics.median(results["matmul"]),
    }
    if results["one_thread"]:
        both = zip(results["train_gpt2"], results["one_thread"], strict=True)
        row["thread_scaling"] = statistics.median(a / b for a, b in both)
    return row


def machine(root: Path, backend: Any) -> dict[str, Any]:
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(describe, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "cpu": model,
        "cores": usable_cpus(),
        "host": platform.node(),
        "backend": backend.name(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "commit": commit or "unknown",
    }


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", default=",".join(MODELS), help="(default %(default)s)")
    parser.add_argument("--dtypes", default="fp32,bf16", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (default %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cpus(), help="(default: one per usable CPU)")
    args = parser.parse_args(argv)
    args.models, args.dtypes = args.models.split(","), args.dtypes.split(",")
    for name, known in (("models", list(MODELS)), ("dtypes", ["fp32", "bf16"])):
        for value in getattr(args, name):
            if value not in known:
                parser.error(f"--{name}: there is no {value}; choose from {','.join(known)}")
    return args


def print_header() -> None:
    print("tokens/s; ratio to the faster PyTorch; GFLOP/s of the step and of its matrix products alone; peak memory")
    print(
        f"{'model':6}{'dtype':6}{'train_gpt2':>11}{'eager':>10}{'compiled':>10}{'ratio':>7}{'min-max':>11}"
        f"{'GFLOP/s':>9}{'matmul':>8}{'MB':>9}{'of PyT.':>9}"
    )


def print_row(row: dict[str, Any]) -> None:
    peaks = row["peak_memory"]
    memory = peaks["train_gpt2"] / min(peaks["pytorch_eager"], peaks["pytorch_compiled"])
    spread = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
    print(
        f"{row['model']:6}{row['dtype']:6}{row['tokens_per_second']:11,.0f}{row['pytorch_eager']:10,.0f}"
        f"{row['pytorch_compiled']:10,.0f}{row['ratio']:7.2f}{spread:>11}{row['gflops']:9.0f}"
        f"{row['matmul_gflops']:8.0f}{peaks['train_gpt2'] / 1e6:9,.0f}{memory:9.0%}",
        flush=True,
    )


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    args = parse(argv, prog)
    root = require_clone("the benchmark")
    backend = llmc.backend("cpu")
    backend.initialize(args.threads)
    about = machine(root, backend)
    print(f"{about['cpu']}, {about['backend']}, PyTorch {about['torch']}, commit {about['commit']}")
    print_header()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(root, Path(folder), args.threads, backend)
        for vocab_size in {model.vocab_size for model in MODELS.values()}:
            write_random_shard(bench.folder / f"{vocab_size}.bin", vocab_size, 2_000_000)
        for name in args.models:
            for dtype in args.dtypes:
                rows.append(bench.measure(name, dtype, args.rounds))
                print_row(rows[-1])
        for row in rows:
            if "thread_scaling" in row:
                print(f"{args.threads} threads over one, {row['model']} {row['dtype']}: {row['thread_scaling']:.2f}")
        startup, samples = bench.startup_seconds(), bench.sampling()
    print(
        f"start-up {startup:.2f} s; sampling at T = 256: {samples['cached']:,.0f} tokens/s with cached keys, "
        f"{samples['recomputed']:,.0f} without ({samples['cached'] / samples['recomputed']:.1f}x)"
    )
    path = root / "bench" / "results" / f"cpu-{about['host']}-{about['commit']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "machine": about,
        "threads": args.threads,
        "rounds": args.rounds,
        "rows": rows,
        "startup_seconds": startup,
        "sampling_tokens_per_second": samples,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path.relative_to(root)}")
    return ExitCode.DONE
