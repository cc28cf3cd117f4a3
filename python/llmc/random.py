"""Random numbers of doc/formats.md: Philox4x32-10, a function of (seed, purpose, stream, index) only."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

INIT, SHARD_ORDER, WINDOW_ORDER, ROUNDING, SAMPLING = 1, 2, 3, 4, 5  # purposes
MASK = 0xFFFFFFFF
Integers: TypeAlias = Any  # an int, numpy uint64 or torch int64 (whose products wrap: the masks undo the sign)


def philox(
    counter: tuple[Integers, Integers, Integers, Integers], key: tuple[int, int]
) -> tuple[Integers, Integers, Integers, Integers]:
    """Four 32-bit numbers from four 32-bit counters and two 32-bit keys.

    Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC'11.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c0, c1, c2, c3


def draw(seed: int, purpose: int, stream: int, index: Integers) -> tuple[Integers, Integers, Integers, Integers]:
    """Four uint32 per draw; index: below 2^64."""
    return philox((index & MASK, index >> 32, purpose, stream), (seed & MASK, seed >> 32))


def stream_of(name: str) -> int:
    """FNV-1a, 32 bits: a tensor's values do not depend on which other tensors exist."""
    value = 2166136261
    for byte in name.encode():
        value = ((value ^ byte) * 16777619) & MASK
    return value


def uniform(x: Any) -> Any:
    """In (0, 1), neither 0 nor 1; x: a uint32."""
    return (x + 0.5) / 2**32


def random_order(count: int, seed: int, purpose: int, stream: int) -> NDArray[np.int64]:
    """0 .. count - 1 in the order of a stable sort by 64-bit keys."""
    x0, x1, _, _ = draw(seed, purpose, stream & MASK, np.arange(count, dtype=np.uint64))
    return np.argsort(x0 | (x1 << np.uint64(32)), kind="stable")


def normals(seed: int, name: str, count: int) -> NDArray[np.float64]:
    """The first `count` standard normals of a tensor, by Box-Muller in double, in pieces that fit the cache."""
    out = np.empty((-(-count // 4), 4))
    for begin in range(0, len(out), 1 << 15):
        index = np.arange(begin, min(begin + (1 << 15), len(out)), dtype=np.uint64)
        x = [uniform(bits.astype(np.float64)) for bits in draw(seed, INIT, stream_of(name), index)]
        for i in (0, 2):
            radius, angle = np.sqrt(-2 * np.log(x[i])), 2 * math.pi * x[i + 1]
            out[begin : begin + len(index), i] = radius * np.cos(angle)
            out[begin : begin + len(index), i + 1] = radius * np.sin(angle)
    return out.reshape(-1)[:count]
