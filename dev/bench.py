"""Times ./train_gpt2 against train_gpt2.py (eager and --compile) on this machine: `make bench`.

The three programs train the same model on the same shards, one after the other, round after round (A B C, A B C, ...),
so that a machine whose speed drifts treats them alike. A run's figure is the median of its steps' tokens/s without the
first ones; a row's figure is the median over the rounds; its ratio is taken round by round, over the faster PyTorch of
that round. Nothing else should be running.
Writes bench/results/cpu-HOST-COMMIT.json.
"""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
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


def flops_per_token(depth, width, seq_len, vocab):
    """6 N + 12 L C T: N the matrices' parameters (PaLM, appendix B; causality ignored)."""
    return 6 * (12 * depth * width * width + width * vocab) + 12 * depth * width * seq_len


def write_shard(path, vocab, tokens):
    header = np.zeros(256, dtype="<i4")
    header[:4] = 20240520, 1, len(tokens), vocab
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def tokens_per_second(program, model, dtype, folder, threads):
    depth, width, heads, seq_len, batch, vocab, steps = MODELS[model]
    out = folder / f"{program}-{model}"
    command = [*PROGRAMS[program], "--train-data", str(folder / f"{vocab}.bin"), "--depth", depth, "--width", width,
               "--heads", heads, "--seq-len", seq_len, "--batch-size", batch, "--steps", steps, "--dtype", dtype,
               "--eval-every", 0, "--threads", threads, "--out", out, "--overwrite"]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    done = subprocess.run([str(word) for word in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"bench: {' '.join(map(str, command))}\nexit {done.returncode}: {done.stderr.strip()}")
    events = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    rates = [event["tokens_per_second"] for event in events if event["event"] == "train"]
    return statistics.median(rates[max(3, len(rates) // 3):])


def measure(model, dtype, rounds, folder, threads):
    results = {program: [] for program in PROGRAMS}
    for number in range(rounds):
        for program in PROGRAMS:
            results[program].append(tokens_per_second(program, model, dtype, folder, threads))
            print(f"\r  {model} {dtype} round {number + 1}/{rounds}: {program} {results[program][-1]:,.0f} tokens/s   ",
                  end="", flush=True, file=sys.stderr)
    print("\r" + " " * 78 + "\r", end="", file=sys.stderr)
    pairs = zip(results["train_gpt2"], results["pytorch_eager"], results["pytorch_compiled"], strict=True)
    ratios = [ours / max(eager, compiled) for ours, eager, compiled in pairs]
    rate = statistics.median(results["train_gpt2"])
    depth, width, _, seq_len, _, vocab, _ = MODELS[model]
    return {"model": model, "dtype": dtype, "tokens_per_second": rate,
            "pytorch_eager": statistics.median(results["pytorch_eager"]),
            "pytorch_compiled": statistics.median(results["pytorch_compiled"]),
            "ratio": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
            "gflops": rate * flops_per_token(depth, width, seq_len, vocab) / 1e9}


def machine():
    import torch

    model = platform.processor()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []:
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
            break
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(describe, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"
    return {"cpu": model, "cores": len(os.sched_getaffinity(0)), "host": platform.node(),
            "python": platform.python_version(), "torch": torch.__version__, "commit": commit}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--models", default="B,D", help=f"of {','.join(MODELS)} (default %(default)s)")
    parser.add_argument("--dtypes", default="fp32", help="of fp32,bf16 (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (default %(default)s)")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="(default: all cores)")
    args = parser.parse_args()
    unknown = [model for model in args.models.split(",") if model not in MODELS]
    if unknown:
        parser.error(f"no model {unknown[0]}: choose from {','.join(MODELS)}")
    about = machine()
    print(f"{about['cpu']}, {args.threads} threads, PyTorch {about['torch']}, commit {about['commit']}")
    print(f"{'model':6}{'dtype':7}{'train_gpt2':>12}{'eager':>12}{'compiled':>12}{'ratio':>8}{'min-max':>14}{'GFLOP/s':>10}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        random = np.random.default_rng(1)
        for vocab in {MODELS[model][5] for model in args.models.split(",")}:
            write_shard(folder / f"{vocab}.bin", vocab, random.integers(0, vocab, 2_000_000))
        for model in args.models.split(","):
            for dtype in args.dtypes.split(","):
                row = measure(model, dtype, args.rounds, folder, args.threads)
                rows.append(row)
                spread = f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}"
                print(f"{model:6}{dtype:7}{row['tokens_per_second']:12,.0f}{row['pytorch_eager']:12,.0f}"
                      f"{row['pytorch_compiled']:12,.0f}{row['ratio']:8.2f}{spread:>14}{row['gflops']:10.0f}",
                      flush=True)
    results = ROOT / "bench" / "results"
    results.mkdir(parents=True, exist_ok=True)
    path = results / f"cpu-{about['host']}-{about['commit']}.json"
    report = {"machine": about, "threads": args.threads, "rounds": args.rounds, "rows": rows}
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written to {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
