"""What the machine allows: CPUs and memory of containers, OpenMP's variables, affinity masks; and who says so."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from program import BACKEND, ROOT

import llmc
import train_gpt2
from llmc.cpus import cpu_quotas, usable_cpus

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


def device_line(*command, **variables):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    words = [*command, "--dry-run", "--depth", 1, "--width", 64, "--heads", 1]
    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=kept | variables, capture_output=True, text=True, check=True
    )
    return done.stdout


@needs_cpu_program
def test_the_first_line_says_how_many_threads_and_why():
    from program import BINARY

    one = ["taskset", "-c", str(min(os.sched_getaffinity(0)))]
    assert "1 thread by OMP_NUM_THREADS," in device_line(BINARY, OMP_NUM_THREADS="1")
    assert "1 thread by OMP_THREAD_LIMIT," in device_line(BINARY, "--threads", 2, OMP_THREAD_LIMIT="1")
    assert "3 threads by --threads," in device_line(BINARY, "--threads", 3)
    assert "cpu, 3 threads" in device_line(*TWIN, "--threads", 3)
    assert "cpu, 1 thread," in device_line(*TWIN, OMP_NUM_THREADS="1")
    assert "cpu, 1 thread," in device_line(*one, *TWIN)
    if os.cpu_count() > 1:
        assert f"1 thread by an affinity mask of 1 of {os.cpu_count()} CPUs," in device_line(*one, BINARY)


@needs_cpu_program
@two_cpus
def test_bound_threads_are_counted_before_they_are_bound():
    """libgomp with OMP_PROC_BIND binds the first thread to one CPU before main, and an affinity mask survives exec.
    Both programs count the CPUs of the mask that they were started with."""
    from program import BINARY

    free = device_line(BINARY)
    assert "2 threads" in free or len(os.sched_getaffinity(0)) > 2
    assert device_line(BINARY, OMP_PROC_BIND="true") == free
    assert device_line(*TWIN, OMP_PROC_BIND="true") == device_line(*TWIN)
    first, second = sorted(os.sched_getaffinity(0))[:2]
    assert "2 threads" in device_line(
        "taskset", "-c", f"{first},{second}", BINARY, OMP_PROC_BIND="true", OMP_PLACES="cores"
    )


@needs_cpu_program
def test_more_threads_than_cpus_get_a_warning():
    from program import BINARY

    count = len(os.sched_getaffinity(0))
    assert f"note    {count + 1} threads on {usable_cpus()} CPU" in device_line(BINARY, "--threads", count + 1)
    assert "note" not in device_line(BINARY, "--threads", 1)


def spin_count(*command, **variables):
    """libgomp's own report of GOMP_SPINCOUNT, of the last time that it was loaded."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=ROOT,
        env=kept | variables | {"OMP_DISPLAY_ENV": "verbose"},
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line]
    return lines[-1].split("'")[1]


@needs_module
@needs_cpu_program
@pytest.mark.parametrize("way", ["program", "module", "twin"])
def test_threads_give_up_spinning(way):
    """libgomp's own count, 300,000 or without end, is milliseconds at each barrier: beside other work, threads then
    wait for one that cannot run. A count or policy in the environment is kept."""
    from program import BINARY

    command = {
        "program": [BINARY, "--dry-run"],
        "module": [sys.executable, "-c", "import llmc; llmc.cpu.threads()"],
        "twin": [*TWIN, "--dry-run"],
    }[way]
    assert spin_count(*command) == "10000"
    assert spin_count(*command, GOMP_SPINCOUNT="77") == "77"
    assert spin_count(*command, OMP_WAIT_POLICY="passive") == "0"


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
