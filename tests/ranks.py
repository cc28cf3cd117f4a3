"""Starts several processes of ./train_gpt2 that train together, by every launcher."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from program import BINARY, ROOT, TINY, last_wins

LAUNCHERS = ["openmpi", "mpich", "torchrun", "options"]
# A batch of 320 tokens is two micro-batches of two processes.
SMALL = [*TINY, "--batch-size", 2, "--total-batch-size", 320, "--parametrization", "mup", "--base-width", 16]
SMALL += ["--steps", 6, "--eval-every", 3, "--eval-tokens", 1600, "--lr", 3e-3]
# Open MPI refuses root, binds to cores and counts them; UCX probes for network cards
ENVIRONMENT = os.environ | {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def need(launcher):
    """Skips a test whose launcher, or whose MPI library, this machine does not have."""
    program = {"openmpi": "mpirun.openmpi", "mpich": "mpirun.mpich"}.get(launcher, "mpirun.mpich")
    if shutil.which(program) is None:
        pytest.skip(f"no {program}: scripts/setup.sh mpi installs it")


def commands(launcher, ranks, *arguments, binary=BINARY):
    """The command lines of a run: one for a launcher, or one for each rank."""
    words = [str(binary), *map(str, last_wins(arguments))]
    if launcher in ("openmpi", "mpich"):
        return [[f"mpirun.{launcher}", "-n", str(ranks), *words]]
    if launcher == "torchrun":
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        return [[*torchrun, "--nproc-per-node", str(ranks), "--no-python", *words]]
    master = f"127.0.0.1:{free_port()}"
    own = [["--rank", str(r), "--world-size", str(ranks), "--master", master] for r in range(ranks)]
    return [[*words, *options] for options in own]


def start(launcher, ranks, *arguments, env=None, binary=BINARY):
    need(launcher)
    return [
        subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT | (env or {}), text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True,
        )
        for command in commands(launcher, ranks, *arguments, binary=binary)
    ]  # fmt: skip


def finish(processes, timeout=60):
    """(exit code, stdout, stderr) of each."""
    results = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=timeout)
            results.append((process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                for pid in [*children(process.pid), process.pid]:  # torchrun's are in sessions of their own
                    os.killpg(os.getpgid(pid), 9)
                process.wait()
    return results


def outputs(launcher, ranks, *arguments, timeout=60, **kwargs):
    """What they wrote, however they ended."""
    return [out + err for _, out, err in finish(start(launcher, ranks, *arguments, **kwargs), timeout)]


def run(launcher, ranks, *arguments, expect=0, timeout=60, **kwargs):
    """Runs to the end; the output of all processes."""
    results = finish(start(launcher, ranks, *arguments, **kwargs), timeout)
    for status, out, err in results:
        assert status == expect, f"exit {status}, not {expect}\n{out}\n{err}"
    return "".join(out + err for _, out, err in results)


def children(pid):
    """Pids of the train_gpt2 processes that a launcher started, in the order of their ranks."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/environ", "rb") as file:
                values = dict(v.split(b"=", 1) for v in file.read().split(b"\0") if b"=" in v)
            with open(f"/proc/{entry}/comm") as file:
                name = file.read().strip()
        except OSError:
            continue
        rank = values.get(b"OMPI_COMM_WORLD_RANK", values.get(b"PMI_RANK", values.get(b"RANK")))
        if name == BINARY.name[:15] and rank is not None and descends_from(int(entry), pid):
            found.append((int(rank), int(entry)))
    return [p for _, p in sorted(found)]


def descends_from(pid, ancestor):
    while pid > 1:
        if pid == ancestor:
            return True
        try:
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rsplit(")", 1)[1].split()[1])
        except OSError:
            return False
    return False
