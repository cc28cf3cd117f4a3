"""Times ./train_gpt2 against train_gpt2.py (eager and --compile) on this machine: `make bench`.

The programs train the same model on the same shards, one after the other, round after round (A B C, A B C, ...), so
that a machine whose speed drifts treats them alike. A run's figure is the median of its steps' tokens/s without the
first ones; a row's figure is the median over the rounds; its ratio is taken round by round, over the faster PyTorch.
Beside them, in the same rounds: the rate of the model's matrix products alone, and one thread against all of them. At
the end: start-up, and sampling with and without cached keys. Nothing else should be running.

Writes bench/results/cpu-HOST-COMMIT.json.
"""

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

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "python"))

import llmc

# depth, width, heads, sequence length, batch, vocabulary; steps of a run (the first third, at least 3, is warm-up)
MODELS = {
    "A": (2, 64, 4, 64, 8, 257, 300),
    "B": (4, 128, 4, 256, 16, 257, 24),
    "C": (6, 384, 6, 256, 8, 257, 12),
    "D": (12, 768, 12, 64, 4, 50257, 9),
}
PROGRAMS = {
    "train_gpt2": ["./train_gpt2"],
    "pytorch_eager": [sys.executable, "train_gpt2.py", "--device", "cpu"],
    "pytorch_compiled": [sys.executable, "train_gpt2.py", "--device", "cpu", "--compile"],
}
ONE_THREAD = ("B", "C")  # in fp32 these also run on one thread


def flops_per_token(depth, width, seq_len, vocab):
    """6 N + 12 L C T: N the matrices' parameters (PaLM, appendix B; causality ignored)."""
    return 6 * (12 * depth * width * width + width * vocab) + 12 * depth * width * seq_len


def write_shard(path, vocab, tokens):
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240520, 1, len(tokens), vocab
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def command_of(program, model, dtype, folder, threads, out):
    depth, width, heads, seq_len, batch, vocab, steps = MODELS[model]
    command = [
        *PROGRAMS[program],
        "--train-data",
        folder / f"{vocab}.bin",
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
        "--threads",
        threads,
        "--out",
        out,
        "--overwrite",
    ]
    return [str(word) for word in command]


def train(program, model, dtype, folder, threads):
    """Tokens/s, and the most memory the process held, in bytes."""
    out = folder / f"{program}-{model}"
    command = command_of(program, model, dtype, folder, threads, out)
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    with open(folder / "stderr", "w+") as errors:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"bench: {' '.join(command)}\nexit {process.returncode}: {errors.read().strip()}")
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates = [event["tokens_per_second"] for event in events if event["event"] == "train"]
    return statistics.median(rates[max(3, len(rates) // 3) :]), usage.ru_maxrss * 1024


def matmul_gflops(model, dtype):
    """The rate of one step's matrix products by themselves, forward and both backward ones, operands in turn."""
    depth, width, _, seq_len, batch, vocab, _ = MODELS[model]
    padded = -(-vocab // 32) * 32
    shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)] * depth + [(width, padded)]
    flops = seconds = 0
    for channels, out_channels in sorted(set(shapes)):
        count = shapes.count((channels, out_channels))
        sizes = {"N": batch * seq_len, "C": channels, "OC": out_channels}
        for op in ("matmul_forward", "matmul_dinp", "matmul_dweight"):
            seconds += count * statistics.median(llmc.cpu.time_op(op, sizes, dtype=dtype, sets=2, repeats=7))
            flops += count * 2 * sizes["N"] * channels * out_channels
    return flops / seconds / 1e9


def measure(model, dtype, rounds, folder, threads):
    results = {program: [] for program in [*PROGRAMS, "one_thread", "matmul"]}
    memory = {program: 0 for program in PROGRAMS}
    for number in range(rounds):
        for program in PROGRAMS:
            rate, peak = train(program, model, dtype, folder, threads)
            results[program].append(rate)
            memory[program] = max(memory[program], peak)
            print(
                f"\r  {model} {dtype} round {number + 1}/{rounds}: {program} {rate:,.0f} tokens/s   ",
                end="",
                flush=True,
                file=sys.stderr,
            )
        if model in ONE_THREAD and dtype == "fp32" and threads > 1:
            results["one_thread"].append(train("train_gpt2", model, dtype, folder, 1)[0])
        results["matmul"].append(matmul_gflops(model, dtype))
    print("\r" + " " * 78 + "\r", end="", file=sys.stderr)
    pairs = zip(results["train_gpt2"], results["pytorch_eager"], results["pytorch_compiled"], strict=True)
    ratios = [ours / max(eager, compiled) for ours, eager, compiled in pairs]
    rate = statistics.median(results["train_gpt2"])
    depth, width, _, seq_len, _, vocab, _ = MODELS[model]
    row = {
        "model": model,
        "dtype": dtype,
        "tokens_per_second": rate,
        "pytorch_eager": statistics.median(results["pytorch_eager"]),
        "pytorch_compiled": statistics.median(results["pytorch_compiled"]),
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "gflops": rate * flops_per_token(depth, width, seq_len, vocab) / 1e9,
        "matmul_gflops": statistics.median(results["matmul"]),
        "peak_memory": memory,
        "rounds": results,
    }
    if results["one_thread"]:
        both = zip(results["train_gpt2"], results["one_thread"], strict=True)
        row["thread_scaling"] = statistics.median(a / b for a, b in both)
    return row


def startup_seconds(folder, threads, tries=5):
    """From the start of the process to the start of its first step: when the first step is logged, less that step."""
    out, seconds = folder / "startup", []
    log = out / "log.jsonl"
    for _ in range(tries):
        log.unlink(missing_ok=True)
        begin = time.perf_counter()
        process = subprocess.Popen(
            command_of("train_gpt2", "B", "fp32", folder, threads, out),
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and not (log.exists() and '"train"' in log.read_text()):
            time.sleep(0.002)
        elapsed = time.perf_counter() - begin
        process.wait()
        events = [json.loads(line) for line in log.read_text().splitlines()]
        first = next(event for event in events if event["event"] == "train")
        seconds.append(elapsed - MODELS["B"][3] * MODELS["B"][4] / first["tokens_per_second"])
    return statistics.median(seconds)


def sampling(tokens=255):
    """Tokens/s of model B at T = 256, with cached keys and values, and without."""
    depth, width, heads, seq_len, _, vocab, _ = MODELS["B"]
    model = llmc.cpu.GPT2(depth=depth, width=width, heads=heads, seq_len=seq_len, vocab_size=vocab, batch_size=1)
    rates = {}
    for cache in (True, False):
        model.generate([256], tokens, cache=cache)  # plans the products of every length
        begin = time.perf_counter()
        model.generate([256], tokens, cache=cache)
        rates["cached" if cache else "recomputed"] = tokens / (time.perf_counter() - begin)
    return rates


def machine():
    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "host": platform.node(),
        "backend": llmc.cpu.name(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "commit": commit,
    }


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", default=",".join(MODELS), help="(default %(default)s)")
    parser.add_argument("--dtypes", default="fp32,bf16", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: all cores)")
    args = parser.parse_args()
    args.models, args.dtypes = args.models.split(","), args.dtypes.split(",")
    for name, known in (("models", MODELS), ("dtypes", ("fp32", "bf16"))):
        for value in getattr(args, name):
            if value not in known:
                parser.error(f"--{name}: there is no {value}; choose from {','.join(known)}")
    return args


def print_row(row):
    peaks = row["peak_memory"]
    memory = peaks["train_gpt2"] / min(peaks["pytorch_eager"], peaks["pytorch_compiled"])
    spread = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
    print(
        f"{row['model']:6}{row['dtype']:6}{row['tokens_per_second']:11,.0f}{row['pytorch_eager']:10,.0f}"
        f"{row['pytorch_compiled']:10,.0f}{row['ratio']:7.2f}{spread:>11}{row['gflops']:9.0f}"
        f"{row['matmul_gflops']:8.0f}{peaks['train_gpt2'] / 1e6:9,.0f}{memory:9.0%}",
        flush=True,
    )


def main():
    args, about = arguments(), machine()
    llmc.cpu.initialize(args.threads)
    print(f"{about['cpu']}, {about['backend']}, PyTorch {about['torch']}, commit {about['commit']}")
    print("tokens/s; ratio to the faster PyTorch; GFLOP/s of the step and of its matrix products alone; peak memory")
    print(
        f"{'model':6}{'dtype':6}{'train_gpt2':>11}{'eager':>10}{'compiled':>10}{'ratio':>7}{'min-max':>11}{'GFLOP/s':>9}"
        f"{'matmul':>8}{'MB':>9}{'of PyT.':>9}"
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        random = np.random.default_rng(1)
        for vocab in {model[5] for model in MODELS.values()}:
            write_shard(folder / f"{vocab}.bin", vocab, random.integers(0, vocab, 2_000_000))
        for model in args.models:
            for dtype in args.dtypes:
                rows.append(measure(model, dtype, args.rounds, folder, args.threads))
                print_row(rows[-1])
        for row in rows:
            if "thread_scaling" in row:
                print(f"{args.threads} threads over one, {row['model']} {row['dtype']}: {row['thread_scaling']:.2f}")
        startup, samples = startup_seconds(folder, args.threads), sampling()
    print(
        f"start-up {startup:.2f} s; sampling at T = 256: {samples['cached']:,.0f} tokens/s with cached keys, "
        f"{samples['recomputed']:,.0f} without ({samples['cached'] / samples['recomputed']:.1f}x)"
    )
    results = ROOT / "bench" / "results"
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"cpu-{about['host']}-{about['commit']}.json"
    report = {
        "machine": about,
        "threads": args.threads,
        "rounds": args.rounds,
        "rows": rows,
        "startup_seconds": startup,
        "sampling_tokens_per_second": samples,
    }
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
