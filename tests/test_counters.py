"""The emulator's counters on kernels whose requests are known by hand: tests/cuda/counting.cu."""

import json
import os
import subprocess

import pytest
from program import ROOT


@pytest.fixture(scope="module")
def launches(tmp_path_factory):
    program = ROOT / "build" / "count" / "counting"
    if not program.exists():
        pytest.skip("not built: run make build/count/counting")
    counts = tmp_path_factory.mktemp("counts") / "counts.jsonl"
    subprocess.run([program], env=dict(os.environ, LLMC_COUNTS=str(counts), LLMC_EMULATOR=""), check=True)
    lines = [json.loads(line) for line in counts.read_text().splitlines()]
    names = ["stride 1", "stride 2", "stride 32", "stride 33", "global 1", "global 2", "unswizzled", "swizzled",
             "copy", "units", "common"]  # fmt: skip
    return dict(zip(names, lines, strict=True))


def memory(launch, kind):
    of = launch["memory"][kind]
    return of["requests"], of["actual"], of["ideal"]


@pytest.mark.parametrize(("stride", "conflicts"), [(1, 1), (2, 2), (32, 32), (33, 1)])
def test_words_of_a_warp_take_a_wavefront_for_each_word_of_the_fullest_bank(launches, stride, conflicts):
    launch = launches[f"stride {stride}"]
    assert memory(launch, "shared write plain") == (1, conflicts, 1)
    assert memory(launch, "shared read plain") == (1, conflicts, 1)
    assert memory(launch, "global write plain") == (1, 4, 4)


def test_vectors_of_16_bytes_fill_sectors_or_half_of_them(launches):
    assert memory(launches["global 1"], "global read plain") == (1, 16, 16)
    assert memory(launches["global 2"], "global read plain") == (1, 32, 16)
    assert memory(launches["global 1"], "global write plain") == (1, 4, 4)
    assert memory(launches["global 2"], "global write plain") == (1, 8, 4)


def test_ldmatrix_without_a_swizzle_reads_eight_rows_from_the_same_banks(launches):
    assert memory(launches["unswizzled"], "shared read ldmatrix") == (1, 32, 4)
    assert memory(launches["swizzled"], "shared read ldmatrix") == (1, 4, 4)


def test_a_copy_reads_global_and_writes_shared_memory(launches):
    """32 rows of 128 bytes by two warps: eight requests, each of 512 bytes."""
    assert memory(launches["copy"], "global read cp_async") == (8, 128, 128)
    assert memory(launches["copy"], "shared write cp_async") == (8, 32, 32)


def test_units(launches):
    events = launches["units"]["events"]
    assert events["mma"] == 3
    assert events["block_barrier"] == 32
    assert events["exchange"] == 5 * 32
    assert events["exp2"] == events["tanh"] == events["rsqrt"] == 32


def test_a_sample_of_blocks_is_counted_and_traffic_is_told_by_allocation(launches):
    launch = launches["common"]
    assert (launch["blocks"], launch["counted"]) == (4000, 16)
    traffic = [(read / 16, written / 16) for _, read, written in launch["traffic"]]
    assert sorted(traffic) == [(0, 4), (16, 0)]
    assert all(size >= 1 << 20 for size, _, _ in launch["traffic"])
