"""llmc/gpt2/arena.h: buffers in one block of memory, and the memory that recomputation saves."""

import numpy as np
import pytest

import llmc

pytestmark = pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module")


def check(buffers, plan):
    """Buffers that are alive at the same time do not overlap; none exceeds the end."""
    places = [(offset, offset + size) for offset, (size, _) in zip(plan["offsets"], buffers, strict=True)]
    for i, (begin, end) in enumerate(places):
        assert begin % 256 == 0 and end <= plan["bytes"]
        for j in range(i):
            together = any(a[0] <= b[1] and b[0] <= a[1] for a in buffers[i][1] for b in buffers[j][1])
            if together:
                assert end <= places[j][0] or places[j][1] <= begin, f"{i} and {j} overlap"
    assert plan["most_alive"] <= plan["bytes"]


def test_disjoint_lifetimes_share():
    buffers = [(1000, [(0, 1)]), (1000, [(2, 3)]), (500, [(1, 2)])]
    plan = llmc.cpu.plan_arena(buffers)
    check(buffers, plan)
    assert plan["bytes"] == 1024 + 512 == plan["most_alive"]


def test_a_buffer_with_two_lives_is_spared_in_both():
    buffers = [(4096, [(0, 0), (5, 5)]), (4096, [(1, 4)]), (100, [(5, 6)]), (4096, [(0, 1)])]
    plan = llmc.cpu.plan_arena(buffers)
    check(buffers, plan)
    assert plan["bytes"] == 2 * 4096


@pytest.mark.parametrize("seed", range(20))
def test_random_plans(seed):
    rng = np.random.default_rng(seed)
    buffers = []
    for _ in range(rng.integers(1, 40)):
        lives = [sorted(rng.integers(0, 30, 2).tolist()) for _ in range(rng.integers(1, 3))]
        buffers.append((int(rng.integers(1, 10_000)), [tuple(life) for life in lives]))
    plan = llmc.cpu.plan_arena(buffers)
    check(buffers, plan)
    assert plan["bytes"] <= 2 * plan["most_alive"]


def test_what_recomputation_saves():
    """In bf16, 32C bytes are kept per token and block (and statistics): 8C for the GELU, 2C for the output."""
    options = {"depth": 24, "width": 768, "heads": 12, "seq_len": 256, "batch_size": 4, "dtype": "bf16"}
    options["vocab_size"] = 257
    size = {mode: llmc.cpu.activation_bytes(recompute=mode, **options) for mode in ("none", "gelu", "block")}
    per_block = 4 * 256 * 768
    assert size["none"] - size["gelu"] == pytest.approx(23 * 8 * per_block, rel=0.02)
    assert size["none"] - size["block"] == pytest.approx(23 * 30 * per_block, rel=0.02)
    inference = llmc.cpu.activation_bytes(train=False, **options)
    assert inference < size["block"]
