"""What the machine allows: CPUs and memory of containers, OpenMP's variables, affinity masks; and who says so."""

import math
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from program import BACKEND, BINARY, ROOT

import llmc
import train_gpt2
from llmc.cpus import SPIN_COUNT, cpu_quotas, usable_cpus

needs_module = pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module")
needs_cpu_program = pytest.mark.skipif(BACKEND != "cpu", reason="the device line of the CPU's program")
two_cpus = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
TWIN = [sys.executable, ROOT / "train_gpt2.py"]


# --- Control groups ---

V1_UNLIMITED = 9223372036854771712
GROUPS = {
    "version 2": ({"cpu.max": "150000 100000\n", "memory.max": "1000000\n"}, "0::/", 1.5, 1_000_000),
    "version 2 without limits": ({"cpu.max": "max 100000\n", "memory.max": "max\n"}, "0::/", math.inf, 2**64 - 1),
    "version 2, a smaller limit above": (
        {"a/cpu.max": "100000 100000", "a/b/cpu.max": "300000 100000", "a/b/memory.max": "7", "a/memory.max": "9"},
        "0::/a/b",
        1.0,
        7,
    ),
    "version 1": (
        {
            "cpu/a/cpu.cfs_quota_us": "50000",
            "cpu/a/cpu.cfs_period_us": "100000",
            "memory/a/memory.limit_in_bytes": "123456789",
            "memory/memory.limit_in_bytes": str(V1_UNLIMITED),
        },
        "9:name=systemd:/a\n4:memory:/a\n2:cpu:/a",
        0.5,
        123456789,
    ),
    "version 1 without a quota": (
        {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        "2:cpu,cpuacct:/docker/1f",
        math.inf,
        2**64 - 1,
    ),
    "version 1 mounted at the container's own group": (
        {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
        "2:cpu,cpuacct:/docker/1f",
        2.0,
        2**64 - 1,
    ),
    "both versions": (
        {
            "unified/x/cpu.max": "400000 100000",
            "cpu/x/cpu.cfs_quota_us": "300000",
            "cpu/x/cpu.cfs_period_us": "100000",
        },
        "2:cpu:/x\n0::/x",
        3.0,
        2**64 - 1,
    ),
    "not a group file": ({"cpu.max": "", "memory.max": "many"}, "what is this", math.inf, 2**64 - 1),
}


@needs_module
@pytest.mark.parametrize("name", GROUPS)
def test_limits_of_control_groups(tmp_path, name):
    files, groups, cpus, memory = GROUPS[name]
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups + "\n")
    for path, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert llmc.cpu.cgroup_limits(str(tmp_path)) == (cpus, memory)
    assert min(cpu_quotas(str(tmp_path)), default=math.inf) == cpus
    assert usable_cpus(str(tmp_path)) == max(1, min(math.ceil(min(cpus, 10**6)), len(os.sched_getaffinity(0))))


@needs_module
def test_no_control_groups(tmp_path):
    assert llmc.cpu.cgroup_limits(str(tmp_path)) == (math.inf, 2**64 - 1)
    assert cpu_quotas(str(tmp_path)) == []


# --- Threads ---

FIRST = min(os.sched_getaffinity(0))
CPUS, MACHINE = usable_cpus(), os.cpu_count()
FREE = "" if CPUS == MACHINE else f" by an affinity mask of {CPUS} of {MACHINE} CPUs"


def clean_environment(**variables):
    """Without what chooses the number of threads, their CPUs, or their spinning."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    return kept | variables


def dry_run(*command, cpus=None, **variables):
    mask = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
    words = [*mask, *command, "--dry-run", "--depth", 1, "--width", 64, "--heads", 1]
    return subprocess.check_output(
        [str(word) for word in words], cwd=ROOT, env=clean_environment(**variables), text=True
    )


def threads_of_the_program(*options, cpus=None, **variables):
    """From the device line: "2 threads by --threads"."""
    line = dry_run(BINARY, *options, cpus=cpus, **variables).splitlines()[0]
    return re.search(r", (\d+ threads?( by .*)?), [^,]*\), fp32$", line)[1]


def threads_of_the_package(wanted=0, cpus=None, **variables):
    """The same of train_gpt2.py, without the seconds that PyTorch takes to start."""
    code = f"from llmc import cpus; cpus.before_torch(); print(cpus.threads_text({wanted}))"
    mask = ["taskset", "-c", ",".join(map(str, cpus))] if cpus else []
    return subprocess.check_output(
        [*mask, sys.executable, "-c", code], cwd=ROOT, env=clean_environment(**variables), text=True
    ).strip()


def several(count):
    return f"{count} thread{'s' * (count != 1)}"


@needs_cpu_program
@pytest.mark.parametrize(
    "variables, wanted, expected",
    [
        ({}, 0, several(CPUS) + FREE),
        ({"OMP_NUM_THREADS": "1"}, 0, "1 thread by OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "3,4"}, 0, "3 threads by OMP_NUM_THREADS"),
        ({"OMP_NUM_THREADS": "none"}, 0, several(CPUS) + FREE),
        ({"OMP_NUM_THREADS": "0"}, 0, several(CPUS) + FREE),
        ({"OMP_NUM_THREADS": "1"}, 3, "3 threads by --threads"),
        ({"OMP_THREAD_LIMIT": "1", "OMP_NUM_THREADS": "2"}, 0, "1 thread by OMP_THREAD_LIMIT"),
        ({"OMP_THREAD_LIMIT": "1"}, 2, "1 thread by OMP_THREAD_LIMIT"),
        ({"OMP_THREAD_LIMIT": str(CPUS + 8)}, 0, several(CPUS) + FREE),
    ],
)
def test_the_first_line_says_how_many_threads_and_why(variables, wanted, expected):
    assert threads_of_the_program("--threads", wanted, **variables) == expected
    assert threads_of_the_package(wanted, **variables) == expected


@needs_cpu_program
@two_cpus
@pytest.mark.parametrize(
    "variables, cpus, expected",
    [
        ({}, [FIRST], f"1 thread by an affinity mask of 1 of {MACHINE} CPUs"),
        ({"OMP_PROC_BIND": "true"}, None, several(CPUS) + FREE),
        ({"OMP_PROC_BIND": "close", "OMP_PLACES": "cores"}, None, several(CPUS) + FREE),
        ({"OMP_PROC_BIND": "false", "GOMP_CPU_AFFINITY": str(FIRST)}, None, several(CPUS) + FREE),
        ({"OMP_PROC_BIND": "true"}, [FIRST], f"1 thread by an affinity mask of 1 of {MACHINE} CPUs"),
        ({"GOMP_CPU_AFFINITY": str(FIRST)}, None, f"1 thread by an affinity mask of 1 of {MACHINE} CPUs"),
        ({"GOMP_CPU_AFFINITY": f"0-{MACHINE - 1}:1"}, [FIRST], several(MACHINE)),  # overrides the mask of taskset
    ],
)
def test_threads_follow_the_affinity_mask_and_openmp(variables, cpus, expected):
    """libgomp of GCC 12 with OMP_PROC_BIND binds the first thread to one CPU before main, and an affinity mask survives
    exec. Both programs count the CPUs of the mask that they were started with."""
    assert threads_of_the_program(cpus=cpus, **variables) == expected
    assert threads_of_the_package(cpus=cpus, **variables) == expected


@needs_cpu_program
@two_cpus
def test_the_reference_counts_before_pytorch_binds_its_thread():
    """PyTorch 2.13: with OMP_PROC_BIND, `import torch` leaves an affinity mask of one CPU."""
    out = dry_run(*TWIN, "--threads", 0, OMP_PROC_BIND="true")
    assert out.startswith(f"device  cpu, {several(CPUS)}{FREE}, fp32\n")


@needs_cpu_program
def test_more_threads_than_cpus_get_a_warning():
    count = CPUS + 1
    text = (
        f"warning {count} threads on {CPUS} CPU{'s' * (CPUS != 1)} wait for each other, which is many times slower "
        f"than --threads {CPUS}\n"
    )
    assert text in dry_run(BINARY, "--threads", count)
    assert text in dry_run(*TWIN, "--threads", count)
    assert "warning" not in dry_run(BINARY, "--threads", 1)


@needs_module
def test_more_threads_than_cpus_get_a_warning_in_python():
    code = f"import llmc; llmc.backend('cpu').initialize({CPUS + 1})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), capture_output=True, text=True
    )
    assert done.returncode == 0 and f"UserWarning: {CPUS + 1} threads on {CPUS} CPU" in done.stderr


def spin_counts(*command, **variables):
    """GOMP_SPINCOUNT of each libgomp that was loaded, in order, as libgomp itself reports it."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=clean_environment(OMP_DISPLAY_ENV="verbose", **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("'")[1] for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]


@needs_module
@needs_cpu_program
@pytest.mark.parametrize("way", ["program", "module", "twin"])
def test_threads_give_up_spinning(way):
    """libgomp's own count, 300,000 or without end, is milliseconds at each barrier: beside other work, threads then
    wait for one that cannot run. A count or policy in the environment is kept."""
    command = {
        "program": [BINARY, "--dry-run"],
        "module": [sys.executable, "-c", "import llmc; llmc.cpu.threads()"],
        "twin": [sys.executable, "-c", "import train_gpt2"],
    }[way]
    assert spin_counts(*command)[-1] == SPIN_COUNT
    assert set(spin_counts(*command, GOMP_SPINCOUNT="77")) == {"77"}
    assert set(spin_counts(*command, OMP_WAIT_POLICY="passive")) == {"0"}


@needs_module
def test_loading_a_module_leaves_the_environment():
    code = "import os, llmc; llmc.cpu.threads(); print(os.environ.get('GOMP_SPINCOUNT'))"
    out = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=clean_environment(), text=True)
    assert out == "None\n"


# --- The gradient norm at the size of real models ---


@needs_module
def test_gradient_norms_of_large_tensors_agree():
    """torch 2.13.0: nn.utils.get_total_norm and vector_norm of fp32 numbers on the CPU are 5e-4 too small here."""
    values = np.random.default_rng(0).standard_normal((50304, 1024), dtype=np.float32)
    exact = math.sqrt(np.sum(np.square(values, dtype=np.float64)))
    optimizer = train_gpt2.Optimizer.__new__(train_gpt2.Optimizer)
    optimizer.gradients = lambda: [torch.from_numpy(values)]
    assert optimizer.norm().item() == pytest.approx(exact, rel=2e-6)
    assert llmc.cpu.global_norm([values])[0] == pytest.approx(exact, rel=2e-6)
