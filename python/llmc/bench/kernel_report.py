"""`make kernel-report`: what the kernels of a training step ask of a GPU, counted on a CPU, and the bound that follows.

It counts and does not time. The counts are the emulator's (kernel_counts.py) and the compiler's (compiled.py), the
bound is that of kernel_bound.py; the floor of an op is its minimum of FLOPs or bytes at the datasheet's rates. A
measured time stands beside them only if `make gpu-check` ran on a GPU of that kind and left its results in
bench/results.

bench/kernels.json has the last report. tests/test_kernel_report.py fails if a count of it gets worse.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmc.bench import compiled
from llmc.bench.cases import Case, Cost
from llmc.bench.kernel_bound import GPUS, Bound, Gpu, bound_of, floor, resident, special_functions
from llmc.bench.kernel_counts import BATCH, Launch, finish, model_cases, readable, start
from llmc.bench.kernel_tables import kernel_table, step_table
from llmc.bench.toolkit import tool
from llmc.errors import Error
from llmc.paths import require_clone

ARCHITECTURES = ("sm_80", "sm_89", "sm_90a", "sm_100", "sm_120")  # of which resident blocks are reported
OBJECTS = "build/kernel-report/llmc/cuda"
FILE = "bench/kernels.json"
# What a call of an op asks for in all: with the same kernels these are whole numbers that repeat exactly.
COUNTS = ("products", "wavefronts", "sectors", "bytes", "barriers", "special")


def compiled_facts(root: Path) -> dict[str, dict[str, Any]]:
    """{kernel: {architecture: facts}} of the objects that `make kernel-report` builds."""
    return {readable(name): of for name, of in compiled.facts(sorted((root / OBJECTS).glob("*.o"))).items()}


def over(actual: float, ideal: float) -> float | None:
    return round(actual / ideal, 3) if ideal else None


def ratios(of: Launch, memory: str) -> dict[str, float | None]:
    """Actual over ideal of each kind of access to `memory`."""
    kinds = (name for name in sorted(of.memory) if name.startswith(memory))
    return {name: over(of.memory[name]["actual"], of.memory[name]["ideal"]) for name in kinds}


def counts_of(launches: list[Launch]) -> dict[str, float]:
    """Of all blocks of all launches of a call: multiply-adds, wavefronts, sectors by request, bytes to and from memory,
    barriers of warps, special functions of lanes."""
    found = dict.fromkeys(COUNTS, 0.0)
    for of in launches:
        found["products"] += of.blocks * of.products
        found["wavefronts"] += of.blocks * of.total("shared")
        found["sectors"] += of.blocks * of.total("global")
        found["bytes"] += of.bytes
        found["barriers"] += of.blocks * of.events.get("block_barrier", 0.0) / 32
        found["special"] += of.blocks * special_functions(of)
    return {name: round(n) for name, n in found.items()}


def kernel_row(of: Launch, facts: dict[str, Any], gpu: Gpu) -> dict[str, Any]:
    """A launch for the report: ratios to the ideal, and what the compiler made of the kernel."""
    mine = facts.get(gpu.architecture, {})
    loop, epilogue = mine.get("loop") or {}, mine.get("epilogue") or {}
    flying = mine.get("in_flight", {}).get("most", {})
    blocks = {a: resident(of, facts[a], gpu, a) for a in ARCHITECTURES if "registers" in facts.get(a, {})}
    at_once = gpu.multiprocessors * max(1, blocks.get(gpu.architecture, 1))
    row: dict[str, Any] = {
        "kernel": of.kernel,
        "blocks": round(of.blocks),
        "threads": of.threads,
        "shared_bytes": of.shared,
        "registers": {a: facts[a]["registers"] for a in ARCHITECTURES if "registers" in facts.get(a, {})},
        "stack": {a: facts[a]["stack"] for a in ARCHITECTURES if facts.get(a, {}).get("stack")},
        "resident_blocks": blocks,
        "waves": round(of.blocks / at_once, 2),
        "wavefronts_over_ideal": ratios(of, "shared"),
        "sectors_over_ideal": ratios(of, "global"),
        "wasteful": of.sites,
    }
    if "per_tensor" in loop:
        row["instructions_per_product"] = round(loop["per_tensor"], 3)
        row["products_per_ldmatrix"] = over(loop["tensor"], loop["ldsm"])
    if "per_element" in epilogue:
        row["instructions_per_element"] = round(epilogue["per_element"], 2)
    if flying:
        row["loads_in_flight"] = flying
    return row


def measured(root: Path, gpu: Gpu) -> dict[str, dict[str, float]]:
    """{model: {case: microseconds}} of the newest results of that GPU (gpu_check.py, gpu.py)."""
    found: dict[str, dict[str, float]] = {}
    results = [json.loads(path.read_text()) for path in (root / "bench/results").glob("gpu-*.json")]
    for result in sorted(results, key=lambda r: str(r["machine"]["time"])):
        benchmark = result.get("benchmark") or {}
        if gpu.name in str(benchmark.get("device", "")):
            for model, rows in benchmark.get("ops", {}).items():
                found[model] = {row["op"]: 1e6 * row["seconds"] for row in rows if "seconds" in row}
    return found


def bounds_for(device: str, root: Path) -> dict[str, dict[str, float]]:
    """{model: {case: seconds}}: the bounds of the committed report for the GPU of that name; empty for others."""
    report = json.loads((root / FILE).read_text())
    for gpu in (report["gpu"], *report["others"]):
        if gpu in device:
            return {
                model: {name: 1e-6 * op["others_us"].get(gpu, op["bound_us"]) for name, op in of["ops"].items()}
                for model, of in report["models"].items()
            }
    return {}


def alike(gpu: Gpu) -> list[Gpu]:
    """Other GPUs for which the same counts hold."""
    same = (gpu.architecture, gpu.multiprocessors)
    return [g for g in GPUS.values() if g != gpu and (g.architecture, g.multiprocessors) == same]


class Report:
    """Joins counts, compiler and bounds. facts: {kernel: {architecture: facts}}; times: those of measured()."""

    def __init__(self, gpu: Gpu, facts: dict[str, dict[str, Any]], times: dict[str, dict[str, float]]) -> None:
        self.gpu, self.facts, self.times = gpu, facts, times

    def bound(self, launches: list[Launch], gpu: Gpu) -> Bound:
        """Of the launches one after the other; the unit of the longest."""
        bounds = [bound_of(of, self.facts.get(of.kernel, {}).get(gpu.architecture, {}), gpu) for of in launches]
        longest = max(bounds, key=lambda b: b.seconds)
        return Bound(sum(b.seconds for b in bounds), longest.unit, longest.units)

    def op(self, case: Case, launches: list[Launch], cost: Cost, time: float | None) -> dict[str, Any]:
        least, bound, counts = floor(cost, self.gpu), self.bound(launches, self.gpu), counts_of(launches)
        return {
            "calls": case.count,
            "floor_us": round(1e6 * least, 2),
            "bound_us": round(1e6 * bound.seconds, 2),
            "percent": round(bound.percent_of(least), 1),
            "others_us": {g.name: round(1e6 * self.bound(launches, g).seconds, 2) for g in alike(self.gpu)},
            "unit": bound.unit,
            "units_us": {unit: round(1e6 * seconds, 2) for unit, seconds in bound.units.items()},
            "measured_us": time,
            "counts": counts,
            "products_over_ideal": over(counts["products"], cost.flops / 2),
            "bytes_over_ideal": over(counts["bytes"], cost.bytes) if not counts["products"] else None,
            "kernels": [kernel_row(of, self.facts.get(of.kernel, {}), self.gpu) for of in launches],
        }

    def model(self, name: str, counted: dict[str, list[Launch]]) -> dict[str, Any]:
        import llmc

        ops = {}
        for case in model_cases(name):
            if launches := counted.get(case.name):
                cost = case.cost(llmc.backend("emulated"), "bf16")
                ops[case.name] = self.op(case, launches, cost, self.times.get(name, {}).get(case.name))
        least = sum(op["calls"] * op["floor_us"] for op in ops.values())
        bound = sum(op["calls"] * op["bound_us"] for op in ops.values())
        tokens = BATCH[name] * 1024
        others = {g.name: sum(op["calls"] * op["others_us"][g.name] for op in ops.values()) for g in alike(self.gpu)}
        step = {"tokens": tokens, "floor_us": round(least), "bound_us": round(bound)}
        step |= {"others_tokens_per_s": {gpu: round(tokens / us * 1e6) for gpu, us in others.items()}}
        return {"step": step | {"percent": round(100 * least / bound, 1), "tokens_per_s": round(tokens / bound * 1e6)},
                "ops": ops}  # fmt: skip


def nvcc_version() -> str:
    program = tool("nvcc")
    if program is None:
        return ""
    printed = subprocess.run([program, "--version"], capture_output=True, text=True).stdout
    return (re.search(r"V([\d.]+)", printed) or ["", ""])[1]


def make_report(gpu: Gpu, models: list[str], cases: str = "", matmul_kernel: str = "auto") -> dict[str, Any]:
    root = require_clone("kernel-report")
    processes = {m: start(m, gpu.multiprocessors, gpu.capability, cases, matmul_kernel) for m in models}
    facts = compiled_facts(root)
    maker = Report(gpu, facts, measured(root, gpu))
    return {
        "what": "counts of llmc's CUDA kernels and the bound that follows, by `make kernel-report`; nothing is timed",
        "gpu": gpu.name,
        "others": [g.name for g in alike(gpu)],
        "nvcc": nvcc_version() if facts else "",
        "models": {model: maker.model(model, finish(process)) for model, process in processes.items()},
    }


def worse(now: dict[str, Any], before: dict[str, Any]) -> list[str]:
    """The counts of `now` that are larger, and the percentages that are smaller, than those of `before`: sentences."""
    found = []
    for model, of in before["models"].items():
        for name, old in of["ops"].items():
            new = now["models"].get(model, {}).get("ops", {}).get(name)
            if new is None:
                continue
            for count, n in old["counts"].items():
                if new["counts"][count] > 1.001 * n:
                    found.append(f"{model}, {name}: {count} {new['counts'][count]:,}, before {n:,}")
            if now["nvcc"] == before["nvcc"] and new["percent"] < old["percent"] - 0.3:
                found.append(f"{model}, {name}: bound {new['percent']}% of the floor, before {old['percent']}%")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="make kernel-report", description=__doc__)
    parser.add_argument("--gpu", choices=list(GPUS), default="H100")
    parser.add_argument("--models", default="124M,1558M", help="of " + ", ".join(BATCH) + " (default %(default)s)")
    parser.add_argument("--cases", default="", metavar="PATTERN", help="only ops whose names match")
    parser.add_argument("--matmul-kernel", choices=["auto", "mma", "wgmma"], default="auto")
    parser.add_argument("--kernels", action="store_true", help="also what the compiler made of each kernel")
    parser.add_argument("--json", type=Path, help="write the report there")
    args = parser.parse_args()
    root = require_clone("kernel-report")
    before = json.loads((root / FILE).read_text()) if (root / FILE).exists() and args.gpu == "H100" else {}
    report = make_report(GPUS[args.gpu], args.models.split(","), args.cases, args.matmul_kernel)
    if not report["nvcc"]:
        raise Error("no nvcc, or its objects are not built: make cuda-toolkit, then make kernel-report")
    print(step_table(report, before))
    if args.kernels:
        print(kernel_table(report, ARCHITECTURES))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    for sentence in worse(report, before) if before else []:
        print("worse: " + sentence)
    return 0


if __name__ == "__main__":
    sys.exit(main())
