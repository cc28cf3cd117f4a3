"""Times two processes against one, and against torchrun and DDP of train_gpt2.py, on this machine: `make bench-ranks`.

The same model and global batch: one process with all threads, N processes of ./train_gpt2 that divide them (mpirun),
and N of train_gpt2.py (torchrun, gloo), one after the other, round after round. Ratios are computed for each round.
The share of the exchange that is hidden is that of --profile, in a run of its own. At the end a simulation, which is no
measurement: the share of their speed that hosts of this kind keep when more of them train, each with the batch of one
rank here (weak scaling), by the model of doc/distributed.md. Nothing else should be running.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from llmc.bench.cpu import MODELS, Model
from llmc.bench.programs import tokens_per_second, train_command, write_random_shard
from llmc.cpus import usable_cpus
from llmc.errors import Error, ExitCode
from llmc.log import read_events
from llmc.paths import require_clone
from llmc.progress import counter

# Open MPI refuses root, and more processes than cores
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}
LINKS = {"1 Gbit/s": 0.125e9, "10 Gbit/s": 1.25e9, "100 Gbit/s": 12.5e9}  # bytes/s in each direction
LATENCY = 50e-6  # seconds of a message
RANGE = 8 << 20  # bytes of gradients that are exchanged together


class Bench:
    def __init__(self, root: Path, folder: Path, args: argparse.Namespace) -> None:
        self.root, self.folder, self.ranks, self.mpirun = root, folder, args.ranks, args.mpirun
        self.threads = max(1, usable_cpus() // args.ranks)  # of a rank

    def launcher(self, program: str) -> list[str]:
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(self.ranks)]
        return {
            "one": ["./train_gpt2"],
            "ranks": [self.mpirun, "-n", str(self.ranks), "./train_gpt2"],
            "ddp": [*torchrun, "train_gpt2.py", "--device", "cpu"],
        }[program]

    def train(self, program: str, model: Model, *extra: str) -> Path:
        """The folder of a run."""
        out = self.folder / program
        parts = 1 if program == "one" else self.ranks
        command = train_command(
            self.launcher(program),
            model,
            shard=self.folder / f"{model.vocab_size}.bin",
            out=out,
            seq_len=model.seq_len,
            batch_size=model.batch_size // parts,
            steps=model.steps,
            dtype="fp32",
            extra=[
                *("--threads", str(self.threads * self.ranks // parts)),
                *("--total-batch-size", str(model.batch_size * model.seq_len), *extra),
            ],
        )
        environment = os.environ | ENVIRONMENT | {"OMP_NUM_THREADS": str(self.threads)}
        if program == "one":
            del environment["OMP_NUM_THREADS"]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Error(f"{' '.join(command)}\nended with exit code {done.returncode}: {done.stderr.strip()[-2000:]}")
        return out

    def measure(self, name: str, rounds: int) -> dict[str, Any]:
        model = MODELS[name]
        rates: dict[str, list[float]] = {"one": [], "ranks": [], "ddp": []}
        with counter(rounds * len(rates), name) as progress:
            for _ in range(rounds):
                for program, values in rates.items():
                    values.append(tokens_per_second(self.train(program, model), warm_up=3, least=3))
                    progress.set_postfix_str(f"{program} {values[-1]:,.0f} tokens/s", refresh=False)
                    progress.update()
        log = self.train("ranks", model, "--profile") / "log.jsonl"
        exchange = next(event for event in read_events(log) if event["event"] == "profile")["exchange"]
        return {"model": name, "rates": rates, "exchange": exchange, "tokens": model.batch_size * model.seq_len}


def step_seconds(compute: float, total: float, last: float, ranks: int, link: float) -> float:
    """The model of a step. Of `total` bytes of gradients all but the `last` are in equal ranges, which the backward
    pass (two thirds of `compute` seconds) completes one after the other; the last are those of the embedding, at its
    end. Each range is all-reduced over a ring as soon as it is complete and the one before it is done. link: bytes/s
    that each host sends and receives."""
    if ranks == 1:
        return compute
    count = max(1, round((total - last) / RANGE))
    each = (total - last) / count
    ranges = [(compute * (1 + 2 * (i + 1) / count) / 3, each) for i in range(count)] + [(compute, last)]
    end = 0.0
    for complete, size in ranges:
        end = max(end, complete) + 2 * (ranks - 1) * (size / ranks / link + LATENCY)
    return end


def print_simulation(row: dict[str, Any], ranks: int) -> None:
    exchange = row["exchange"]
    step = row["tokens"] / statistics.median(row["rates"]["ranks"])
    compute = step - exchange["waited_ms"] / 1e3
    model = MODELS[row["model"]]
    last = 4.0 * model.vocab_size * model.width
    here = 2 * (ranks - 1) / ranks * exchange["bytes"] / (exchange["ms"] / 1e3)
    for name, link in {"as between the ranks here": here, **LINKS}.items():
        shares = [compute / step_seconds(compute, exchange["bytes"], last, n, link) for n in (2, 4, 8)]
        print(f"{row['model']:6}{name:28}" + "".join(f"{share:8.0%}" for share in shares))


def ratio(row: dict[str, Any], to: str) -> str:
    each = [a / b for a, b in zip(row["rates"]["ranks"], row["rates"][to], strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f}-{max(each):.2f})"


def print_row(row: dict[str, Any]) -> None:
    one, ranks, ddp = (statistics.median(row["rates"][key]) for key in ("one", "ranks", "ddp"))
    exchange = row["exchange"]
    print(
        f"{row['model']:6}{one:10,.0f}{ranks:10,.0f}{ddp:10,.0f}{ratio(row, 'one'):>19}{ratio(row, 'ddp'):>19}"
        f"{exchange['bytes'] / 1e6:8.1f}{exchange['ms']:9.1f}{exchange['hidden']:8.0%}",
        flush=True,
    )


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--models", default="B,C,D", help="of llmc bench cpu (default %(default)s)")
    parser.add_argument("--ranks", type=int, default=2, help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each program (default %(default)s)")
    parser.add_argument("--mpirun", default="mpirun", help="of Open MPI or MPICH (default %(default)s)")
    args = parser.parse_args(argv)
    args.models = args.models.split(",")
    for value in args.models:
        if value not in MODELS:
            parser.error(f"--models: there is no {value}; choose from {','.join(MODELS)}")
    return args


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    args = parse(argv, prog)
    root = require_clone("the benchmark")
    print(
        "tokens/s of one process, of ranks (mpirun), of train_gpt2.py's ranks (torchrun, DDP, gloo); ratios of ranks to"
    )
    print("one process and to DDP, median (least-most) of the rounds; exchange per step: MB, ms, share hidden")
    print(f"{'model':6}{'one':>10}{'ranks':>10}{'ddp':>10}{'to one':>19}{'to ddp':>19}{'MB':>8}{'ms':>9}{'hidden':>8}")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(root, Path(folder), args)
        for vocab_size in {MODELS[name].vocab_size for name in args.models}:
            write_random_shard(bench.folder / f"{vocab_size}.bin", vocab_size, 2_000_000)
        for name in args.models:
            rows.append(bench.measure(name, args.rounds))
            print_row(rows[-1])
    print("\nsimulated: share of the speed that each of 2, 4 and 8 ranks keeps, by the rate of the link")
    for row in rows:
        print_simulation(row, args.ranks)
    return ExitCode.DONE
