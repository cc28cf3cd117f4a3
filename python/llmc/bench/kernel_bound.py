"""The least time that a kernel can take on a GPU, from what it asks of each unit: counted, not timed.

Of one multiprocessor, in clocks, for a block:
  tensor   products / rate; mma.sync has a lower rate than wgmma on Hopper (Gpu.mma_share)
  shared   wavefronts, one a clock
  issue    instructions of warps, four a clock: the emulator's dynamic counts of tensor-core and memory instructions
           times what the compiler put around each (compiled.py)
  special  special functions of lanes, 16 a clock
and of the whole GPU:
  bytes    sectors of memory that a block touches, each once, at most all of an allocation
  latency  of loads: bytes / bytes in flight (resident warps times the loads that a warp issues before it waits)

A kernel with a main loop on tensor cores and an epilogue: within one block they do not overlap, so the block takes
the sum of the slower unit of each ("phases"). Other resident blocks, or the second consumer of the warp-specialised
matmul, fill the gaps: R of them take at least R times the sum over both phases in the busiest unit. The bound is the
larger of the two. The busiest multiprocessor counts: with few blocks it has ceil(blocks / multiprocessors) of them.

A bound is no prediction: dependencies between instructions, L2, clocks under power limits and launches are not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from llmc.bench.cases import Cost
from llmc.bench.kernel_counts import MMA, Launch
from llmc.bench.occupancy import resident_blocks

LATENCY = 1000  # clocks of a load from memory under load: an assumption, published figures without load are 500-800
BURST = 2048  # clocks that a consumer of llmc/cuda/matmul/wgmma.h multiplies alone: four stages of 512
ISSUE, SPECIAL = 4, 16  # a clock and multiprocessor: instructions of warps; lanes


class Gpu(NamedTuple):
    """NVIDIA's datasheets (dense bf16, memory) and architecture whitepapers (multiprocessors, rates a clock). The clock
    is the one at which the datasheet's bf16 rate follows from the rate of a multiprocessor."""

    name: str
    architecture: str
    multiprocessors: int
    tensor: int  # bf16 multiply-adds a clock and multiprocessor
    flops: float
    bandwidth: float  # bytes/s
    mma_share: float  # of `tensor` that mma.sync reaches

    @property
    def clock(self) -> float:
        return self.flops / (2 * self.tensor * self.multiprocessors)

    @property
    def capability(self) -> int:
        return int(self.architecture.rstrip("a").removeprefix("sm_"))


# mma.sync on Hopper: arXiv 2402.13499 measured 62-65% of the dense rate on an H800.
GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("H100", "sm_90a", 132, 2048, 989.4e12, 3.35e12, 0.63),
        Gpu("H200", "sm_90a", 132, 2048, 989.4e12, 4.8e12, 0.63),
        Gpu("A100", "sm_80", 108, 1024, 312e12, 2.039e12, 1.0),
    )
}


@dataclass
class Bound:
    """Seconds, and the unit that takes them."""

    seconds: float
    unit: str
    units: dict[str, float]  # seconds of each unit by itself

    def percent_of(self, floor: float) -> float:
        return 100 * floor / self.seconds


def floor(cost: Cost, gpu: Gpu) -> float:
    """The minimum time of an op, in seconds."""
    return max(cost.flops / gpu.flops, cost.bytes / gpu.bandwidth)


def special_functions(launch: Launch) -> float:
    return sum(launch.events.get(name, 0.0) for name in ("exp2", "tanh", "rsqrt", "reciprocal"))


UNITS = ("tensor", "shared", "issue", "special")
Phase = dict[str, float]  # clocks of a block by unit


class Phases(NamedTuple):
    """Main loop and epilogue of a kernel on tensor cores; of others all is `main`."""

    main: Phase
    epilogue: Phase
    epilogues: float = 0  # how often the warps of a block run it, in all

    def serial(self) -> float:
        return sum(max(phase.values(), default=0.0) for phase in (self.main, self.epilogue))


def phases(launch: Launch, facts: dict[str, Any], gpu: Gpu) -> Phases:
    warps = launch.threads / 32
    mma, wgmma = launch.events.get("mma", 0.0), launch.events.get("wgmma", 0.0)
    tensor = mma * MMA / (gpu.tensor * gpu.mma_share) + wgmma / gpu.tensor
    wavefronts = launch.total("shared")
    special = special_functions(launch) / SPECIAL
    loop, epilogue = facts.get("loop") or {}, facts.get("epilogue") or {}
    if tensor and loop.get("tensor_flops"):
        issued = 2 * launch.products / loop["tensor_flops"] * loop["instructions"]  # rounds of a warp
        in_loop = special if is_attention(facts) else 0.0
        main = {"tensor": tensor, "shared": wavefronts, "issue": issued / ISSUE, "special": in_loop}
        times = epilogues(launch, facts)
        after = {"issue": times * epilogue.get("instructions", 0) / ISSUE, "special": special - in_loop}
        return Phases(main, after, times)
    path = facts.get("path") or {}
    static = path.get("loads", 0) + path.get("stores", 0) + path.get("async_copies", 0)
    repeats = max(1.0, launch.total("global", "requests") / (warps * static)) if static else 1.0  # of loops
    issued = repeats * warps * path.get("instructions", 0)
    special = max(special, repeats * launch.threads * path.get("mufu", 0) / SPECIAL)
    return Phases({"shared": wavefronts, "issue": issued / ISSUE, "special": special}, {})


def is_attention(facts: dict[str, Any]) -> bool:
    """Of a kernel on tensor cores: its main loop has a softmax."""
    return bool((facts.get("loop") or {}).get("mufu"))


def epilogues(launch: Launch, facts: dict[str, Any]) -> float:
    """How often the warps of a block run the epilogue: its stores, counted, over those of once. Blocks of attention are
    not persistent, and store dq in their loop, too."""
    stores, warps = (facts.get("epilogue") or {}).get("stores", 0), launch.threads / 32
    times = launch.total("global write", "requests") / stores if stores else warps
    return min(times, warps) if is_attention(facts) else times


def resident(launch: Launch, facts: dict[str, Any], gpu: Gpu, architecture: str = "") -> int:
    registers = facts.get("registers", 32)
    return resident_blocks(architecture or gpu.architecture, launch.threads, registers, launch.shared)


def consumers_clocks(found: Phases) -> float:
    """Of a block of wgmma.h: two consumer warpgroups take turns of a burst, and the epilogue of one is hidden under a
    burst of the other; but the last one has nothing to hide under. A warpgroup has four warps."""
    epilogues = found.epilogues / 4
    clocks = max(found.epilogue.values())
    return max(found.main.values()) + max(0.0, clocks - BURST * epilogues) + min(clocks / max(1.0, epilogues), BURST)


def clocks_of(launch: Launch, facts: dict[str, Any], gpu: Gpu) -> tuple[float, dict[str, float]]:
    """Clocks of the busiest multiprocessor for a launch, and of each unit alone."""
    found = phases(launch, facts, gpu)
    R = max(1, resident(launch, facts, gpu))
    per_multiprocessor = launch.blocks / gpu.multiprocessors
    if per_multiprocessor < 8 * R:
        per_multiprocessor = math.ceil(per_multiprocessor / R) * min(R, math.ceil(per_multiprocessor))
    units = {unit: found.main.get(unit, 0.0) + found.epilogue.get(unit, 0.0) for unit in UNITS}
    overlapped = max(units.values())
    if launch.events.get("wgmma") and found.epilogues and not is_attention(facts):
        serial = consumers_clocks(found)
    else:
        serial = found.serial() / min(R, math.ceil(launch.blocks / gpu.multiprocessors))
    alone = {unit: clocks * per_multiprocessor for unit, clocks in units.items()}
    return per_multiprocessor * max(overlapped, serial), alone | {"phases": per_multiprocessor * serial}


def bound_of(launch: Launch, facts: dict[str, Any], gpu: Gpu) -> Bound:
    clocks, alone = clocks_of(launch, facts, gpu)
    seconds = {unit: of / gpu.clock for unit, of in alone.items()}
    seconds["bytes"] = launch.bytes / gpu.bandwidth
    flying = facts.get("in_flight", {}).get("most", {}).get("bytes", 0)
    busy = min(launch.blocks, gpu.multiprocessors)
    if flying and "mma" not in launch.events and "wgmma" not in launch.events:
        warps = min(max(1, resident(launch, facts, gpu)), math.ceil(launch.blocks / gpu.multiprocessors))
        in_flight = warps * launch.threads * flying * busy
        read = launch.blocks * launch.total("global read", "bytes")
        seconds["latency"] = read / in_flight * LATENCY / gpu.clock
    unit = max(seconds, key=lambda name: seconds[name])
    return Bound(max(seconds[unit], clocks / gpu.clock), unit, seconds)
