"""What the emulator counts of each kernel at a GPT-2's sizes: llmc/emulator/counters.h. It counts and does not time.

count_case() calls one op of cases.py on the emulated backend of `make module-count`, with the multiprocessors of the
GPU in question, because grids depend on them. A sample of the blocks of a grid runs and is counted; numbers are means
of a block. Of a persistent kernel the first and the last block are counted, and the one with more to do is taken, so
that totals are those of the busiest block times the blocks. Sizes that only make a grid longer are cut (CUT), and the
number of blocks is scaled back.

As a program it counts all cases of a model and prints JSON: one process for each model, as an environment variable
chooses the module.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import llmc
from llmc.bench.cases import Case, cases_of
from llmc.bench.toolkit import short_name
from llmc.paths import require_clone

MODULE = "build/count/_emu.so"
CUT = {"P": 1 << 22}  # elementwise ops: every block but the last does the same
BATCH = {"124M": 32, "1558M": 4, "6658M": 4}  # sequences of 1,024 tokens
ROWS = 10672  # of the logits of a chunk: as many as fit a GiB
# The first launches of these ops make their inputs.
PREPARED = {"attention_backward": r"attention_forward", "layernorm_backward": r"^forward_"}
NEEDS_ALL_BLOCKS = ("embedding_backward",)  # its kernels take what others sorted
MMA = 16 * 8 * 16  # multiply-adds of mma.m16n8k16


@dataclass
class Launch:
    """One launch of a kernel. Counts are means of a block, of all its warps: requests, wavefronts and sectors by warp,
    events by lane except mma (by warp) and wgmma (multiply-adds)."""

    kernel: str
    blocks: float
    threads: int
    shared: int  # bytes of a block
    cluster: int
    events: dict[str, float] = field(default_factory=dict)
    memory: dict[str, dict[str, float]] = field(default_factory=dict)  # "shared read ldmatrix": actual, ideal, ...
    # Of each allocation: its bytes, and the distinct sectors of it that a block reads and writes.
    traffic: list[tuple[float, float, float]] = field(default_factory=list)
    sites: list[dict[str, Any]] = field(default_factory=list)  # those with the most waste: file and line

    @property
    def products(self) -> float:
        """Multiply-adds on tensor cores."""
        return self.events.get("mma", 0.0) * MMA + self.events.get("wgmma", 0.0)

    @property
    def bytes(self) -> float:
        """Of the whole launch, from and to memory, if what blocks share stays in the second-level cache: what all
        blocks touch, at most the whole allocation."""
        return sum(min(size, 32 * self.blocks * n) for size, *once in self.traffic for n in once)

    def total(self, kind: str, what: str = "actual") -> float:
        """Sum over memory whose name begins with `kind`."""
        return sum(of[what] for name, of in self.memory.items() if name.startswith(kind))


def readable(name: str) -> str:
    """A kernel's name without namespaces, as nvcc's and gcc's names agree."""
    name = re.sub(r"\(anonymous namespace\)::|llmc::|cuda::|_INTERNAL_\w+::", "", short_name(name))
    return re.sub(r"\s+", "", name).replace(",", ", ")


@functools.cache
def symbols(module: Path) -> dict[int, str]:
    """{offset: kernel} of all code of a module."""
    done = subprocess.run(["nm", "-C", str(module)], capture_output=True, text=True, check=True)
    pairs = (line.split(" ", 2) for line in done.stdout.splitlines())
    return {int(pair[0], 16): readable(pair[2]) for pair in pairs if len(pair) == 3 and pair[0]}


def line_of(module: Path, address: int) -> str:
    """FILE:LINE of the source in llmc/cuda that an address belongs to; of inlined functions the outermost there."""
    done = subprocess.run(["addr2line", "-ie", str(module), hex(address - 1)], capture_output=True, text=True)
    kernels = re.findall(r"llmc/cuda/\S+:\d+", done.stdout)
    return kernels[-1] if kernels else "?"


def launch_of(record: dict[str, Any], names: dict[int, str], module: Path, scale: float) -> Launch:
    counted = record["counted"]
    per_block = {name: {k: v / counted for k, v in of.items()} for name, of in record["memory"].items()}
    worth_naming = 0.02 * sum(of["actual"] for of in record["memory"].values())
    sites = []
    for site in record["sites"]:
        actual, ideal = site["total"]["actual"], site["total"]["ideal"]
        if actual - ideal > worth_naming:
            sites.append({"at": line_of(module, site["at"]), "what": site["what"], "over": round(actual / ideal, 2)})
    return Launch(
        kernel=names.get(record["kernel"], "?"),
        blocks=record["blocks"] * scale,
        threads=record["threads"],
        shared=record["shared"],
        cluster=record["cluster"],
        events={name: n / counted for name, n in record["events"].items() if n},
        memory=per_block,
        traffic=[(size * scale, read / counted, written / counted) for size, read, written in record["traffic"]],
        sites=sites,
    )


def count_case(case: Case, dtype: str = "bf16") -> list[Launch]:
    """The launches of one call. The module must be MODULE already: see environment()."""
    module = require_clone("kernel-report") / MODULE
    sizes = {name: min(n, CUT.get(name, n)) for name, n in case.sizes.items()}
    scale = case.sizes["P"] / sizes["P"] if "P" in sizes else 1.0
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LLMC_COUNTS"] = f"{folder}/counts"
        if case.op in NEEDS_ALL_BLOCKS:
            os.environ["LLMC_COUNT_RUN_ALL"] = "1"
        try:
            llmc.backend("emulated").time_op(case.op, sizes, dtype=dtype, sets=1, repeats=0)
        finally:
            del os.environ["LLMC_COUNTS"]
            os.environ.pop("LLMC_COUNT_RUN_ALL", None)
        records = [json.loads(line) for line in Path(folder, "counts").read_text().splitlines()]
    names = symbols(module)
    busiest: dict[int, Launch] = {}  # of a persistent kernel's first and last block
    for record in records:
        launch = launch_of(record, names, module, scale)
        known = busiest.setdefault(record["launch"], launch)
        if (launch.products, launch.total("global")) > (known.products, known.total("global")):
            busiest[record["launch"]] = launch
    launches = list(busiest.values())
    while case.op in PREPARED and re.search(PREPARED[case.op], launches[0].kernel):
        launches.pop(0)
    for launch in launches:  # one block stays one block
        launch.blocks = launch.blocks if launch.blocks > scale else launch.blocks / scale
    return launches


def environment(multiprocessors: int, capability: int) -> dict[str, str]:
    return dict(
        os.environ,
        LLMC_EMULATED_MODULE=str(require_clone("kernel-report") / MODULE),
        LLMC_EMULATOR=f"multiprocessors={multiprocessors} capability={capability} workers=1",
    )


def start(
    model: str, multiprocessors: int, capability: int, cases: str = "", matmul_kernel: str = "auto"
) -> subprocess.Popen[str]:
    """Counts all cases of a model in another process; finish() takes the result."""
    command = [sys.executable, "-m", "llmc.bench.kernel_counts", model]
    command += ["--cases", cases, "--matmul-kernel", matmul_kernel]
    return subprocess.Popen(command, env=environment(multiprocessors, capability), stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> dict[str, list[Launch]]:
    """{name of the case: its launches}."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(process.returncode)
    return {name: [Launch(**launch) for launch in launches] for name, launches in json.loads(output).items()}


def model_cases(model: str) -> list[Case]:
    return cases_of(model, BATCH[model], 1024, ROWS)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m llmc.bench.kernel_counts")
    parser.add_argument("model", choices=list(BATCH))
    parser.add_argument("--cases", default="", metavar="PATTERN", help="only those whose names match")
    parser.add_argument("--matmul-kernel", default="auto")
    args = parser.parse_args()
    llmc.backend("emulated").choose_matmul_kernel(args.matmul_kernel)
    wanted = [case for case in model_cases(args.model) if re.search(args.cases, case.name)]
    json.dump({case.name: [asdict(launch) for launch in count_case(case)] for case in wanted}, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
