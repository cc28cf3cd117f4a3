"""The CPUs that this process may use, and the number of its threads. llmc/core/threads.cpp has the same rules."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# libgomp's threads spin for up to 300,000 rounds, milliseconds, at each barrier, which beside other work keeps the
# thread they wait for from running: fewer rounds (doc/performance.md has what was measured). libgomp reads the variable
# once, when it is loaded. The program train_gpt2 does the same for itself (llmc/cpu/device.cpp).
SPIN_COUNT = "10000"

_mask = 0  # CPUs of the affinity mask before torch was imported


def before_torch() -> None:
    """To be called before torch is imported, which loads libgomp. With OMP_PROC_BIND libgomp binds the first thread
    to one CPU, as the affinity mask shows from then on. Also shortens spinning, in this process and those it starts."""
    global _mask
    _mask = _mask or len(os.sched_getaffinity(0))
    if not _spinning_is_chosen():
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT


@contextmanager
def short_spinning() -> Iterator[None]:
    """For loading a library that brings libgomp along; the environment is as before afterwards."""
    chosen = _spinning_is_chosen()
    if not chosen:
        os.environ["GOMP_SPINCOUNT"] = SPIN_COUNT
    try:
        yield
    finally:
        if not chosen:
            del os.environ["GOMP_SPINCOUNT"]


def _spinning_is_chosen() -> bool:
    return "OMP_WAIT_POLICY" in os.environ or "GOMP_SPINCOUNT" in os.environ


def usable_cpus(root: str = "") -> int:
    """Those of the affinity mask, limited by the container's quota (control groups, version 1 or 2), at least 1.
    root: in tests, a folder with copies of /proc/self/cgroup and of the files below /sys/fs/cgroup."""
    mask = _bound_cpus() or _mask or len(os.sched_getaffinity(0))
    return max(1, min(mask, math.ceil(min(cpu_quotas(root), default=mask))))


def _bound_cpus() -> int:
    """The number of CPUs in GOMP_CPU_AFFINITY ("0-3 6 8-15:2"), to which libgomp binds threads, also outside of the
    mask; 0 if it does not count."""
    others = os.environ.get("OMP_PLACES"), os.environ.get("OMP_PROC_BIND", "").strip().lower() == "false"
    cpus: set[int] = set()
    if not any(others):
        for first, last, stride in re.findall(r"(\d+)(?:-(\d+)(?::(\d+))?)?", os.environ.get("GOMP_CPU_AFFINITY", "")):
            cpus |= set(range(int(first), min(int(last or first), 1 << 16) + 1, int(stride or 1) or 1))
    return len(cpus & set(range(os.cpu_count() or 1)))


def threads(wanted: int) -> tuple[int, str]:
    """The number of threads and why: "OMP_NUM_THREADS", "the container's quota of 2 CPUs", ...; empty if there is one
    for each CPU of the machine. wanted: --threads; 0: OMP_NUM_THREADS, or one for each CPU that may be used."""
    usable, by_openmp, limit = usable_cpus(), _variable("OMP_NUM_THREADS"), _variable("OMP_THREAD_LIMIT")
    machine, mask = os.cpu_count() or 1, _bound_cpus() or _mask or len(os.sched_getaffinity(0))
    count, reason = wanted or by_openmp or usable, ""
    if wanted:
        reason = "--threads"
    elif by_openmp:
        reason = "OMP_NUM_THREADS"
    elif usable < mask:
        reason = f"the container's quota of {_cpus(usable)}"
    elif usable < machine:
        reason = f"an affinity mask of {usable} of {machine} CPUs"
    return (limit, "OMP_THREAD_LIMIT") if 0 < limit < count else (count, reason)


def threads_text(wanted: int) -> str:
    """2 threads by --threads"""
    count, reason = threads(wanted)
    return f"{count} thread{'s' * (count != 1)}" + (f" by {reason}" if reason else "")


def threads_warning(wanted: int) -> str:
    """A sentence if there are more threads than CPUs, else empty."""
    (count, _), cpus = threads(wanted), usable_cpus()
    if count <= cpus:
        return ""
    return f"{count} threads on {_cpus(cpus)} wait for each other, which is many times slower than --threads {cpus}"


def _cpus(count: int) -> str:
    return f"{count} CPU{'s' * (count != 1)}"


def _variable(name: str) -> int:
    """The first number of a list such as "4,2"; 0 without one."""
    found = re.match(r"\s*\+?(\d{1,7})", os.environ.get(name, ""))
    return int(found[1]) if found else 0


def cpu_quotas(root: str = "") -> list[float]:
    """CPUs per period, of this process's group and the groups above it."""
    mounts, quotas = Path(root + "/sys/fs/cgroup"), []
    try:
        lines = Path(root + "/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    for _, controllers, group in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        names = controllers.split(",")
        if controllers and "cpu" not in names:
            continue
        for mount in ("cpu", controllers) if controllers else ("", "unified"):
            level = Path(group.lstrip("/"))
            for parent in (level, *level.parents):
                quotas += _quota(mounts / mount / parent)
    return quotas


def _quota(folder: Path) -> list[float]:
    """[CPUs], or [] without a quota."""
    texts: list[str] = []
    for files in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            texts = " ".join((folder / name).read_text() for name in files).split()
            quota, period = float(texts[0]), float(texts[1])
        except (OSError, ValueError, IndexError):
            continue
        if quota > 0 and period > 0:
            return [quota / period]
    return []
