"""Blocks of one kernel that a multiprocessor runs at a time.

The limits are those of the CUDA C++ Programming Guide, "Compute Capabilities", table "Technical Specifications per
Compute Capability", as llmc/emulator/limits.h has them; the rule for registers is that of the toolkit's
cuda_occupancy.h.
"""

from __future__ import annotations

from dataclasses import dataclass

REGISTERS = 65536  # of a multiprocessor, and the most of a block
REGISTER_UNIT = 256  # that a warp gets at a time
PARTITIONS = 4  # of a multiprocessor, each with a quarter of its registers and warps
SYSTEM_SHARED = 1024  # bytes of shared memory of each block that are the system's


@dataclass(frozen=True)
class Limits:
    threads: int  # resident on a multiprocessor
    blocks: int
    shared: int  # bytes of a multiprocessor
    block_shared: int  # the most that a block may ask for


def limits_with(threads: int, blocks: int, kib: int) -> Limits:
    return Limits(threads, blocks, kib << 10, (kib - 1) << 10)


LIMITS = {
    80: limits_with(2048, 32, 164),
    86: limits_with(1536, 16, 100),
    87: limits_with(1536, 16, 164),
    89: limits_with(1536, 24, 100),
    90: limits_with(2048, 32, 228),
    100: limits_with(2048, 32, 228),
    103: limits_with(2048, 32, 228),
    120: limits_with(1536, 24, 100),
    121: limits_with(1536, 24, 100),
}


def capability_of(architecture: str) -> int:
    """90 of sm_90a."""
    return int(architecture.removeprefix("sm_").rstrip("af"))


def resident_blocks(architecture: str, threads: int, registers: int, shared: int) -> int:
    """shared: bytes, static and dynamic. 0 if a block of that size cannot run."""
    limits = LIMITS[capability_of(architecture)]
    warps = -(-threads // 32)
    of_warp = -(-32 * max(registers, 1) // REGISTER_UNIT) * REGISTER_UNIT
    if of_warp * -(-warps // PARTITIONS) * PARTITIONS > REGISTERS or shared > limits.block_shared or threads > 1024:
        return 0
    by_registers = REGISTERS // PARTITIONS // of_warp * PARTITIONS // warps
    by_shared = limits.shared // (shared + SYSTEM_SHARED)
    return min(by_registers, limits.threads // (32 * warps), by_shared, limits.blocks)
