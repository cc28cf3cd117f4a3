"""The processes of a run under torchrun: rank, device, process group."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from llmc.cpus import usable_cpus
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
    if threads or "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads or usable_cpus())
    return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if cuda and wanted != "cpu" else "cpu")


def device_text(device: torch.device) -> str:
    """ "cuda:0", or "cpu, 2 threads"."""
    count = torch.get_num_threads()
    return f"cpu, {count} thread{'s' * (count != 1)}" if device.type == "cpu" else str(device)


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """The process group of all ranks, if there are several."""
    if world_size() == 1 or dist.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
        dist.barrier()  # no rank ends the group while another still uses it
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def exit_process(status: int) -> None:
    """Ends a program whose files are all written. Several ranks end without cleanup: PyTorch's threads sometimes abort
    a process that ends in the usual way."""
    if world_size() > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)
