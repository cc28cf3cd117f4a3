"""The processes of a run, under torchrun or started by hand: rank, device, process group."""

from __future__ import annotations

import inspect
import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from llmc import cpus
from llmc.config import Config
from llmc.errors import UsageError


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def pick_device(wanted: str, threads: int) -> torch.device:
    """wanted: auto, cpu or cuda; threads: CPU threads, 0: OMP_NUM_THREADS, or one for each CPU that may be used."""
    cuda = torch.cuda.is_available()
    if wanted == "cuda" and not cuda:
        raise UsageError("--device cuda: PyTorch finds no CUDA device; use --device cpu")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # fp32 means fp32
    torch.set_num_threads(cpus.threads(threads)[0])
    if not cuda or wanted == "cpu":
        return torch.device("cpu")
    local = os.environ.get("LOCAL_RANK", rank() % torch.cuda.device_count())  # by hand: ranks of a host are neighbours
    return torch.device(f"cuda:{local}")


def take_options(config: Config, dry_run: bool) -> None:
    """--rank, --world-size and --master, where torchrun did not set the variables that PyTorch reads. A dry run only
    checks them: its processes need not exist. The messages are those of llmc/comm/world.cpp."""
    own, ranks = config.rank, config.world_size
    if "WORLD_SIZE" in os.environ or (own < 0 and (ranks < 2 or dry_run)):
        return
    if ranks < 1:
        raise UsageError(f"--rank {own} needs --world-size: the number of processes")
    if ranks == 1:
        return
    if own < 0:
        raise UsageError(f"--world-size {ranks} needs --rank: 0 to {ranks - 1}, one each")
    if own >= ranks:
        raise UsageError(f"--rank {own} is not below --world-size {ranks}: ranks count from 0")
    if not config.master:
        raise UsageError(f"--world-size {ranks} needs --master HOST:PORT: where rank 0 waits for the others")
    host, _, port = config.master.rpartition(":")
    if host.startswith("[") and host.endswith("]"):  # IPv6
        host = host[1:-1]
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise UsageError(f"--master {config.master}: give the host and a free port of rank 0, such as 10.0.0.1:29400")
    if not dry_run:
        settings = {"RANK": own, "WORLD_SIZE": ranks, "MASTER_ADDR": host, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in settings.items()})


def number_of_processes(config: Config, dry_run: bool) -> int:
    """Of this run, or of the one that a dry run plans."""
    return config.world_size if dry_run and config.world_size else world_size()


@contextmanager
def process_group(config: Config, device_wanted: str, dry_run: bool) -> Iterator[torch.device]:
    """The device of this process, in the group of all ranks, if there are several and they train."""
    take_options(config, dry_run)
    device = pick_device(device_wanted, config.threads)
    if world_size() == 1 or dry_run or dist.is_initialized():
        yield device
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        dist.barrier()  # no rank ends the group while another still uses it
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def largest(value: float, device: torch.device) -> float:
    """The largest value of all ranks."""
    if world_size() == 1 or not dist.is_initialized():
        return value
    shared = torch.tensor(float(value), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared.item())


def place_in_group() -> tuple[int, int]:
    """Rank and number of the processes that share the work; 0 of 1 without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def sum_of_ranks(tensor: torch.Tensor) -> torch.Tensor:
    """The sum over all ranks, in place."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def of_first_rank(value: Any) -> Any:
    """The value that rank 0 has, on all ranks."""
    if world_size() == 1 or not dist.is_initialized():
        return value
    shared = [value]
    dist.broadcast_object_list(shared)
    return shared[0]


def data_parallel(module: torch.nn.Module) -> torch.nn.Module:
    """Exchanges gradients, and no buffers: those of a bf16 model are copies of its parameters. PyTorch 2.13 renamed the
    argument, and warns at every rank about the old name."""
    known = inspect.signature(DistributedDataParallel).parameters
    name = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    return DistributedDataParallel(module, **{name: False})


def exit_process(status: int) -> None:
    """Ends a program whose files are all written. Several ranks end without cleanup: PyTorch's threads sometimes abort
    a process that ends in the usual way. So does one that was stopped: it may be sent a second signal meanwhile."""
    if status > 128:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    if world_size() > 1 or status > 128:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
