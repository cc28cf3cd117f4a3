"""All checks that need a GPU, in one command: `make gpu-check`. Builds the CUDA program and module, then runs
  conformance   each instruction wrapper, with exact results: the program that also runs on the emulator
  ops           every op against PyTorch in float64
  parity        20 steps, gradients, initial weights, checkpoints against train_gpt2.py on the GPU
  program       bit-exact determinism and resume
  memcheck, racecheck   compute-sanitizer on the conformance program and one call of every op, if it is installed
  benchmark     gpu.py: kernels and whole steps, compared with PyTorch
and writes bench/results/gpu-NAME-COMMIT.json and .txt: GPU, driver, versions, outcomes, all measurements.
Exit codes: 0 all passed, 1 something failed, 5 no GPU here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmc.errors import Error, ExitCode
from llmc.paths import clone, require_clone

PROGRAM = {"cuda": "train_gpt2cu", "emulated": "train_gpt2emu"}


class Report:
    """The outcome of each step, printed at its end and stored for the result file."""

    def __init__(self, budget: float, root: Path) -> None:
        self.steps: list[dict[str, Any]] = []
        self.deadline, self.root = time.monotonic() + budget, root

    def left(self) -> float:
        """Seconds left of the budget."""
        return self.deadline - time.monotonic()

    def add(self, name: str, outcome: str, seconds: float = 0.0, detail: str = "") -> None:
        self.steps.append({"step": name, "outcome": outcome, "seconds": round(seconds, 1), "detail": detail})
        print(f"{outcome:8}{name:14}{seconds:7.1f} s  {detail}", flush=True)

    def run(
        self,
        name: str,
        command: Sequence[object],
        environment: Mapping[str, str] | None = None,
        needs: Sequence[str] = (),
        limit: float = 240,
        summary: str | None = None,
    ) -> bool:
        """Runs one step: passed, FAILED (its output is shown), or skipped with the reason. Returns whether it passed.

        needs      packages without which the step is skipped
        limit      seconds
        summary    a pattern that finds the line to report
        """
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            self.add(name, "skipped", detail=f"this Python has no {', '.join(missing)}")
            return False
        if self.left() < 5:
            self.add(name, "skipped", detail="out of time")
            return False
        begin = time.monotonic()
        try:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=self.root,
                env=dict(os.environ, **(environment or {})),
                capture_output=True,
                text=True,
                timeout=min(limit, self.left()),
                check=False,
            )
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            shown = error.stdout.decode(errors="replace") if isinstance(error.stdout, bytes) else error.stdout or ""
            code, output = -1, f"{shown}\nstopped after {error.timeout:.0f} s"
        passed = code == 0
        found = re.search(summary, output, re.M) if summary else None
        detail = found[0] if found else output.strip().splitlines()[-1][:100] if output.strip() else ""
        self.add(name, "passed" if passed else "FAILED", time.monotonic() - begin, detail)
        if not passed:
            print(output[-6000:], flush=True)
            self.steps[-1]["output"] = output[-20000:]
        return passed


def gpu() -> dict[str, str] | None:
    """Name, driver and clocks from nvidia-smi, or None."""
    if not shutil.which("nvidia-smi"):
        return None
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not done.stdout.strip():
        return None
    return dict(zip(query.split(","), (x.strip() for x in done.stdout.splitlines()[0].split(",")), strict=False))


def machine(backend: str, root: Path) -> dict[str, Any]:
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    commit = subprocess.run(describe, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    nvcc, release = os.environ.get("NVCC", "nvcc"), None
    if shutil.which(nvcc):
        done = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
        release = re.search(r"release ([\d.]+)", done.stdout)
    return {
        "backend": backend,
        "gpu": gpu(),
        "commit": commit or "unknown",
        "nvcc": release[1] if release else None,
        "python": platform.python_version(),
        "host": platform.node(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def sanitize(report: Report, conformance: Path) -> None:
    """Runs everything once under compute-sanitizer, if it is installed."""
    tool = shutil.which("compute-sanitizer")
    for check in ("memcheck", "racecheck"):
        if not tool:
            report.add(check, "skipped", detail="compute-sanitizer is not installed")
            continue
        command = [tool, "--tool", check, "--error-exitcode", "9", conformance]
        report.run(check, command, limit=90, summary=r"(ERROR|RACECHECK) SUMMARY.*")
    if tool and report.left() >= 5:
        code = (
            "import sys; sys.path[:0] = ['python', 'tests']\nimport llmc, test_ops\n"
            "for dtype in ('fp32', 'bf16'): list(test_ops.results_of_all_ops(llmc.cuda, dtype))"
        )
        command = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", code]
        report.run("memcheck ops", command, limit=120, summary=r"ERROR SUMMARY.*", needs=["torch"])


def check(backend: str, quick: bool, report: Report) -> None:
    """Runs all steps in order; the others need the first one."""
    # The module and the tests use this Python; variables on make's command line override those of the Makefile.
    make = ["make", f"-j{os.cpu_count() or 2}", f"PYTHON={sys.executable}"]
    conformance = "build/cuda/conformance" if backend == "cuda" else "build/emu/conformance"
    targets = [PROGRAM[backend], "module-cuda" if backend == "cuda" else "module-emu", conformance]
    if not report.run("build", [*make, *targets], needs=["pybind11"], limit=300):
        return
    report.run("conformance", [report.root / conformance], summary=r"^FAILED.*")

    def pytest(name: str, files: Sequence[str], select: str, needs: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header", *files]
        report.run(
            name,
            [*command, "-k", select] if select else command,
            {"LLMC_TEST_BACKEND": backend},
            needs=["torch", "pytest", *needs],
            summary=r"^\d+ (passed|failed).*",
        )

    few = f"{backend} and (same_bits_twice or test_gelu)"
    ops = sorted(path.name for path in (report.root / "tests").glob("test_ops*.py"))
    pytest("ops", [f"tests/{name}" for name in [*ops, "test_optimizers.py"]], few if quick else backend)
    few = "test_twenty_steps and mup and x1 and fp32 and True"
    pytest("parity", ["tests/test_parity.py"], few if quick else "", ["safetensors"])
    few, all_of_them = "test_resume_is_bit_exact and fp32", "resume_is_bit_exact or same_bits_twice"
    pytest("program", ["tests/test_program.py"], few if quick else all_of_them, ["safetensors"])
    if backend == "cuda":
        sanitize(report, report.root / conformance)


QUICK = "--models tiny --op-models tiny --seq-len 64 --rounds 1 --repeats 1 --steps 2".split()


def benchmark(backend: str, quick: bool, report: Report, folder: Path) -> tuple[Any, str]:
    """The contents of bench.json, and the printed table."""
    arguments = ["--backend", backend, "--out", folder, "--budget", max(10, report.left() - 30)]
    begin = time.monotonic()
    words = [sys.executable, "dev/cuda/bench.py", *arguments, *(QUICK if quick else [])]
    done = subprocess.run(
        [str(word) for word in words],
        cwd=report.root,
        capture_output=True,
        text=True,
        timeout=max(60, report.left() + 60),
        check=False,
    )
    print(done.stdout + done.stderr[-3000:], flush=True)
    report.add("benchmark", "passed" if done.returncode == 0 else "FAILED", time.monotonic() - begin)
    path = folder / "bench.json"
    figures = json.loads(path.read_text()) if path.exists() else None
    path.unlink(missing_ok=True)
    return figures, done.stdout


def parse(argv: list[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=prog, description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--budget", type=float, default=470, help="seconds for all of it (default %(default)s)")
    parser.add_argument(
        "--backend",
        default="cuda",
        choices=["cuda", "emulated"],
        help="emulated: only tests on a CPU that this check runs",
    )
    parser.add_argument("--quick", action="store_true", help="a few tests of each kind, a tiny model in the benchmark")
    parser.add_argument("--no-bench", action="store_true")
    results = (clone() or Path()) / "bench" / "results"
    parser.add_argument("--out", type=Path, default=results, help="folder of the result files")
    return parser.parse_args(argv)


def write_results(folder: Path, about: dict[str, Any], report: Report, figures: Any, table: str) -> None:
    name = about["gpu"]["name"] if about["gpu"] else about["backend"]
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"\W+", "-", name).strip("-").lower()
    path = folder / f"gpu-{name}-{about['commit']}"
    results = {"machine": about, "checks": report.steps, "benchmark": figures}
    path.with_name(path.name + ".json").write_text(json.dumps(results, indent=1) + "\n")
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += [""] + [f"{s['outcome']:8}{s['step']:14}{s['seconds']:7.1f} s  {s['detail']}" for s in report.steps]
    path.with_name(path.name + ".txt").write_text("\n".join(lines) + "\n\n" + table)
    print(f"written to {path}.json and .txt")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    options = parse(argv, prog)
    root = require_clone("the check of a GPU")
    about = machine(options.backend, root)
    if options.backend == "cuda" and about["gpu"] is None:
        raise Error(
            "this machine has no NVIDIA GPU (nvidia-smi finds none): nothing was checked. `make test` runs "
            "the same kernels on the CPU.",
            ExitCode.NO_GPU,
        )
    shown = about["gpu"] or {"backend": options.backend}
    print(" ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
    report = Report(options.budget, root)
    check(options.backend, options.quick, report)
    figures, table = None, ""
    if not options.no_bench and report.steps[0]["outcome"] == "passed":
        figures, table = benchmark(options.backend, options.quick, report, options.out)
    write_results(options.out, about, report, figures, table)
    failed = any(step["outcome"] == "FAILED" for step in report.steps)
    return ExitCode.FAILED if failed else ExitCode.DONE
