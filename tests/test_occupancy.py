"""Resident blocks: known values, the emulator's limits, the toolkit's header."""

import subprocess
from pathlib import Path

import pytest
from program import ROOT

from llmc.bench import occupancy, toolkit


@pytest.mark.parametrize(
    "architecture, threads, registers, shared, blocks",
    [
        ("sm_80", 256, 32, 0, 8),  # threads
        ("sm_80", 256, 33, 0, 6),  # registers, 40 of each thread
        ("sm_80", 256, 255, 0, 1),
        ("sm_80", 1024, 65, 0, 0),  # does not run
        ("sm_80", 32, 16, 0, 32),  # blocks
        ("sm_86", 32, 16, 0, 16),
        ("sm_89", 32, 16, 0, 24),
        ("sm_120", 32, 16, 0, 24),
        ("sm_90a", 384, 168, 0, 1),
        ("sm_80", 128, 32, 81 << 10, 2),  # shared memory
        ("sm_80", 128, 32, 82 << 10, 1),
        ("sm_89", 128, 32, 100 << 10, 0),
        ("sm_100", 128, 32, 227 << 10, 1),
    ],
)
def test_resident_blocks(architecture, threads, registers, shared, blocks):
    assert occupancy.resident_blocks(architecture, threads, registers, shared) == blocks


def compile_and_run(folder, text, *options):
    (folder / "main.cpp").write_text(text)
    command = ["g++", "-std=c++20", f"-I{ROOT}", *options, "-o", "main", "main.cpp"]
    subprocess.run(command, cwd=folder, check=True)
    return subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout


def test_limits_are_those_of_the_emulator(tmp_path):
    text = compile_and_run(
        tmp_path,
        f"""
        #include <cstdio>
        #include "llmc/emulator/limits.h"
        int main() {{
            for (int capability : {{{", ".join(map(str, occupancy.LIMITS))}}}) {{
                const auto l = llmc::emulator::limits(capability);
                std::printf("%d %d %d %zu %zu\\n", capability, l.threads, l.blocks, l.multiprocessor_shared,
                            l.block_shared);
            }}
        }}
        """,
    )
    rows = [list(map(int, line.split())) for line in text.splitlines()]
    assert {row[0]: occupancy.Limits(*row[1:]) for row in rows} == occupancy.LIMITS


def test_resident_blocks_are_those_of_the_toolkits_occupancy_header(tmp_path):
    nvcc = toolkit.tool("nvcc")
    places = [Path("/usr/local/cuda/include"), *Path("/usr/local").glob("cuda-*/include")]
    places += [Path(nvcc).resolve().parents[1] / "include"] if nvcc else []
    include = next((p for p in places if (p / "cuda_occupancy.h").exists()), None)
    if include is None:
        pytest.skip("no cuda_occupancy.h")
    text = compile_and_run(
        tmp_path,
        """
        #include <cstdio>
        #include <cuda_occupancy.h>
        #include "llmc/emulator/limits.h"
        int main() {
            for (int capability : {80, 86, 89, 90, 100, 120})
                for (int threads : {32, 96, 128, 256, 384, 512, 1024})
                    for (int registers : {16, 32, 40, 56, 64, 72, 96, 128, 168, 200, 255})
                        for (int kib : {0, 1, 24, 33, 49, 80, 99, 114, 163, 227}) {
                            const auto l = llmc::emulator::limits(capability);
                            cudaOccDeviceProp p;
                            p.computeMajor = capability / 10, p.computeMinor = capability % 10;
                            p.maxThreadsPerBlock = 1024, p.maxThreadsPerMultiprocessor = l.threads, p.warpSize = 32;
                            p.regsPerBlock = p.regsPerMultiprocessor = 65536, p.numSms = 1;
                            p.sharedMemPerBlock = 48 << 10, p.sharedMemPerMultiprocessor = l.multiprocessor_shared;
                            p.sharedMemPerBlockOptin = l.block_shared, p.reservedSharedMemPerBlock = 1024;
                            cudaOccFuncAttributes a;
                            a.maxThreadsPerBlock = 1024, a.numRegs = registers, a.sharedSizeBytes = 0;
                            a.partitionedGCConfig = PARTITIONED_GC_OFF;
                            a.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN, a.numBlockBarriers = 1;
                            a.maxDynamicSharedSizeBytes = l.block_shared;
                            cudaOccDeviceState s;
                            cudaOccResult r;
                            if (size_t(kib) << 10 > l.block_shared) continue;
                            const auto e = cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &a, &s, threads, kib << 10);
                            std::printf("%d %d %d %d %d\\n", capability, threads, registers, kib,
                                        e == CUDA_OCC_SUCCESS ? r.activeBlocksPerMultiprocessor : -1);
                        }
        }
        """,
        f"-isystem{include}",
    )
    rows = [list(map(int, line.split())) for line in text.splitlines()]
    assert len(rows) > 2000
    for capability, threads, registers, kib, blocks in rows:
        ours = occupancy.resident_blocks(f"sm_{capability}", threads, registers, kib << 10)
        assert ours == blocks, (capability, threads, registers, kib)
