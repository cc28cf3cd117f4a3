"""What only a GPU can show, in one command: `make gpu-check`. Builds the CUDA program and module, then
  conformance   each instruction wrapper, exact: the same program that the emulator passes
  ops           every op against PyTorch in float64
  parity        20 steps, gradients, initial weights, checkpoints against train_gpt2.py on the GPU
  program       bit-exact determinism and resume
  memcheck, racecheck   compute-sanitizer on the conformance program and one call of every op, where it is installed
  benchmark     dev/cuda/bench.py: kernels and whole steps beside PyTorch
and writes bench/results/gpu-NAME-COMMIT.json and .txt: GPU, driver, versions, what passed, every figure.
Exit codes: 0 all passed, 1 something failed, 5 no GPU here.
"""

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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = {"cuda": "train_gpt2cu", "emulated": "train_gpt2emu"}


class Report:
    """Steps as they end, on the screen and in the result file."""

    def __init__(self, budget):
        self.steps, self.deadline = [], time.monotonic() + budget

    def left(self):
        return self.deadline - time.monotonic()

    def add(self, name, outcome, seconds=0.0, detail=""):
        self.steps.append({"step": name, "outcome": outcome, "seconds": round(seconds, 1), "detail": detail})
        print(f"{outcome:8}{name:14}{seconds:7.1f} s  {detail}", flush=True)

    def run(self, name, command, environment=None, needs=(), limit=240, summary=None):
        """One step: passed, FAILED (its output is shown), or skipped with the reason. True: it passed."""
        missing = [package for package in needs if importlib.util.find_spec(package) is None]
        if missing:
            self.add(name, "skipped", detail=f"this Python has no {', '.join(missing)}")
            return None
        if self.left() < 5:
            self.add(name, "skipped", detail="out of time")
            return None
        begin = time.monotonic()
        try:
            done = subprocess.run(
                [str(word) for word in command],
                cwd=ROOT,
                env=dict(os.environ, **(environment or {})),
                capture_output=True,
                text=True,
                timeout=min(limit, self.left()),
            )
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired as error:
            code, output = -1, f"{(error.stdout or b'').decode(errors='replace')}\nstopped after {error.timeout:.0f} s"
        passed = code == 0
        found = re.search(summary, output, re.M) if summary else None
        detail = found[0] if found else output.strip().splitlines()[-1][:100] if output.strip() else ""
        self.add(name, "passed" if passed else "FAILED", time.monotonic() - begin, detail)
        if not passed:
            print(output[-6000:], flush=True)
            self.steps[-1]["output"] = output[-20000:]
        return passed


def gpu():
    """Name, driver and clocks as nvidia-smi says, or None."""
    if not shutil.which("nvidia-smi"):
        return None
    query = "name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit"
    done = subprocess.run(
        ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True, text=True
    )
    if done.returncode or not done.stdout.strip():
        return None
    return dict(zip(query.split(","), (x.strip() for x in done.stdout.splitlines()[0].split(",")), strict=False))


def machine(backend):
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    nvcc = (
        subprocess.run([os.environ.get("NVCC", "nvcc"), "--version"], capture_output=True, text=True).stdout
        if shutil.which(os.environ.get("NVCC", "nvcc"))
        else ""
    )
    release = re.search(r"release ([\d.]+)", nvcc)
    return {
        "backend": backend,
        "gpu": gpu(),
        "commit": commit or "unknown",
        "nvcc": release[1] if release else None,
        "python": platform.python_version(),
        "host": platform.node(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def sanitize(report, backend, conformance):
    """compute-sanitizer on everything once, where there is one that can attach to this GPU."""
    tool = shutil.which("compute-sanitizer")
    for check in ("memcheck", "racecheck"):
        if not tool:
            report.add(check, "skipped", detail="compute-sanitizer is not installed")
            continue
        report.run(
            check,
            [tool, "--tool", check, "--error-exitcode", "9", conformance],
            limit=90,
            summary=r"(ERROR|RACECHECK) SUMMARY.*",
        )
    if tool and not report.left() < 5:
        code = (
            "import sys; sys.path[:0] = ['python', 'tests']\nimport llmc, test_ops\n"
            "for dtype in ('fp32', 'bf16'): list(test_ops.results_of_all_ops(llmc.cuda, dtype))"
        )
        report.run(
            "memcheck ops",
            [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", code],
            limit=120,
            summary=r"ERROR SUMMARY.*",
            needs=["torch"],
        )
    del backend


def check(options, report):
    """All steps in order; the first two have to pass for the rest to make sense."""
    backend, jobs = options.backend, str(os.cpu_count() or 2)
    # The module and the tests use this very Python; flags on make's command line win over the Makefile's.
    make = ["make", f"-j{jobs}", f"PYTHON={sys.executable}"]
    conformance = "build/cuda/conformance" if backend == "cuda" else "build/emu/conformance"
    targets = [PROGRAM[backend], "module-cuda" if backend == "cuda" else "module-emu", conformance]
    if not report.run("build", [*make, *targets], needs=["pybind11"], limit=300):
        return
    report.run("conformance", [ROOT / conformance], summary=r"^FAILED.*")
    environment = {"LLMC_TEST_BACKEND": backend}
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--no-header"]
    summary = r"^\d+ (passed|failed).*"
    select = lambda names: ["-k", f"{backend} and ({names})" if names else backend]  # noqa: E731
    needs = ["torch", "pytest"]
    few = "same_bits_twice or test_gelu" if options.quick else ""
    report.run(
        "ops", [*pytest, "tests/test_ops.py", "tests/test_optimizers.py", *select(few)], needs=needs, summary=summary
    )
    few = ["-k", "test_twenty_steps and mup and x1 and fp32 and True"] if options.quick else []
    report.run(
        "parity", [*pytest, "tests/test_parity.py", *few], environment, needs=[*needs, "safetensors"], summary=summary
    )
    few = "test_resume_is_bit_exact and fp32" if options.quick else "resume_is_bit_exact or same_bits_twice"
    report.run(
        "program",
        [*pytest, "tests/test_program.py", "-k", few],
        environment,
        needs=[*needs, "safetensors"],
        summary=summary,
    )
    if backend == "cuda":
        sanitize(report, backend, ROOT / conformance)


def benchmark(options, report, folder):
    arguments = ["--backend", options.backend, "--out", folder, "--budget", max(10, report.left() - 30)]
    if options.quick:
        arguments += [
            "--models",
            "tiny",
            "--op-models",
            "tiny",
            "--seq-len",
            "64",
            "--rounds",
            "1",
            "--repeats",
            "1",
            "--steps",
            "2",
        ]
    begin = time.monotonic()
    command = [str(word) for word in [sys.executable, "dev/cuda/bench.py", *arguments]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=max(60, report.left() + 60))
    print(done.stdout + done.stderr[-3000:], flush=True)
    report.add("benchmark", "passed" if done.returncode == 0 else "FAILED", time.monotonic() - begin)
    path = folder / "bench.json"
    figures = json.loads(path.read_text()) if path.exists() else None
    path.unlink(missing_ok=True)
    return figures, done.stdout


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--budget", type=float, default=470, help="seconds for all of it (default %(default)s)")
    parser.add_argument(
        "--backend",
        default="cuda",
        choices=["cuda", "emulated"],
        help="emulated: shows on a CPU that this check runs; its figures mean nothing",
    )
    parser.add_argument("--quick", action="store_true", help="a few tests of each kind, a tiny model in the benchmark")
    parser.add_argument("--no-bench", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results", help="folder of the result files")
    options = parser.parse_args()
    about = machine(options.backend)
    if options.backend == "cuda" and about["gpu"] is None:
        print(
            "gpu-check: this machine has no NVIDIA GPU (nvidia-smi finds none): nothing was checked. `make test` runs "
            "the same kernels on the CPU.",
            file=sys.stderr,
        )
        return 5
    print(
        " ".join(f"{key} {value}" for key, value in (about["gpu"] or {"backend": options.backend}).items()), flush=True
    )
    report = Report(options.budget)
    check(options, report)
    figures, table = (None, "")
    if not options.no_bench and report.steps[0]["outcome"] == "passed":
        figures, table = benchmark(options, report, options.out)
    name = re.sub(r"\W+", "-", about["gpu"]["name"] if about["gpu"] else options.backend).strip("-").lower()
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"gpu-{name}-{about['commit']}"
    path.with_name(path.name + ".json").write_text(
        json.dumps({"machine": about, "checks": report.steps, "benchmark": figures}, indent=1) + "\n"
    )
    lines = [f"{key}: {value}" for key, value in about.items()]
    lines += [""] + [f"{s['outcome']:8}{s['step']:14}{s['seconds']:7.1f} s  {s['detail']}" for s in report.steps]
    path.with_name(path.name + ".txt").write_text("\n".join(lines) + "\n\n" + table)
    print(f"written to {path}.json and .txt")
    return int(any(step["outcome"] == "FAILED" for step in report.steps))


if __name__ == "__main__":
    sys.exit(main())
