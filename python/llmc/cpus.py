"""The CPUs that this process may use, for train_gpt2.py. llmc/core/threads.cpp has the same rules."""

from __future__ import annotations

import math
import os
from pathlib import Path

_mask = 0  # CPUs of the affinity mask before torch was imported


def before_torch() -> None:
    """To be called before torch is imported, which loads libgomp. With OMP_PROC_BIND libgomp binds the first thread
    to one CPU, as the affinity mask shows from then on. Its threads spin for milliseconds at each barrier, which
    beside other work keeps the thread they wait for from running: a shorter time costs nothing on an idle machine."""
    global _mask
    _mask = _mask or len(os.sched_getaffinity(0))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def usable_cpus(root: str = "") -> int:
    """Those of the affinity mask, limited by the container's quota (control groups, version 1 or 2), at least 1.
    root: in tests, a folder with copies of /proc/self/cgroup and of the files below /sys/fs/cgroup."""
    mask = _mask or len(os.sched_getaffinity(0))
    return max(1, min(mask, math.ceil(min(cpu_quotas(root), default=mask))))


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
