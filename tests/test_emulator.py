"""What the emulator refuses, as a GPU would: small kernels with one fault each (tests/cuda/faults.cu), and limits of
compute capabilities. numerics=hardware: tensor cores and approximate instructions as inexact as a GPU's. That the real
kernels pass is what all other tests of the emulated backend check.
"""

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from measures import relative_error
from op_tools import TOLERANCE
from program import ROOT

import llmc

FAULTS = ROOT / "build" / "emu" / "faults"
pytestmark = pytest.mark.skipif(not FAULTS.exists(), reason="not built: run make build/emu/faults")

HERE = r": block \(0,0,0\) thread \d+, tests/cuda/faults\.cu:\d+"
MISALIGNED = r"an address that is not a multiple of 16 bytes \({} too many\)" + HERE
MISALIGNED_8 = MISALIGNED.replace("16", "8")
MISALIGNED_4 = MISALIGNED.replace("16", "4")
OF_GLOBAL = r"{} is of global memory, this address is {}" + HERE
OF_SHARED = r"{} is of shared memory, this address is in global memory" + HERE

# fault: what must be printed; with (LLMC_EMULATOR, words) where it depends on that
EXPECTED = {
    "load16 of shared memory": OF_GLOBAL.format("load16", "in shared memory"),
    "load16 of a variable": OF_GLOBAL.format("load16", "a variable of the thread"),
    "load16 misaligned": "load16 of " + MISALIGNED.format(4),
    "load16 beyond the end": "load16 of an address that is not in memory of the GPU" + HERE,
    "store16 to shared memory": OF_GLOBAL.format("store16", "in shared memory"),
    "store16 misaligned": "store16 of " + MISALIGNED.format(8),
    "load8 misaligned": "load8 of " + MISALIGNED_8.format(4),
    "store8 misaligned": "store8 of " + MISALIGNED_8.format(4),
    "store8 to shared memory": OF_GLOBAL.format("store8", "in shared memory"),
    "load4 misaligned": "load4 of " + MISALIGNED_4.format(2),
    "store4 beyond the end": "store4 of an address that is not in memory of the GPU" + HERE,
    "load_shared16 of global memory": OF_SHARED.format("load_shared16"),
    "load_shared16 misaligned": "load_shared16 of " + MISALIGNED.format(2),
    "store_shared16 beyond the end": "store_shared16 of an address outside of the block's shared memory" + HERE,
    "cp.async from shared memory": OF_GLOBAL.format("source of cp.async", "in shared memory"),
    "cp.async to global memory": OF_SHARED.format("destination of cp.async"),
    "cp.async misaligned": "cp.async of " + MISALIGNED.format(8),
    "ldmatrix of global memory": OF_SHARED.format("ldmatrix"),
    "ldmatrix beyond the end": "ldmatrix of an address outside of the block's shared memory" + HERE,
    "ldmatrix misaligned": "ldmatrix of " + MISALIGNED.format(4),
    "host memory as an argument": "a pointer among the arguments of the kernel launched at "
    r"tests/cuda/faults\.cu:\d+ is not to memory of the GPU",
    "launch bounds": "the launch has blocks of 96 threads, the kernel's launch bounds are 64" + HERE,
    "too many threads": "1056 x 1 x 1 threads failed: a block has 1 to 1024 threads, not 1056",
    "shared memory": ("capability=86", r"163840 bytes of shared memory, compute capability 8\.6 has 101376"),
    "cluster": ("capability=80", r"a cluster of 2 blocks: compute capability 8\.0 has no clusters, they need 9\.0"),
    "mbarrier wait": ("capability=86", r"mbarrier\.try_wait is not an instruction of compute capability 8\.6" + HERE),
    "wgmma": ("capability=100", r"wgmma\.fence is not an instruction of compute capability 10\.0" + HERE),
    "TMA": ("capability=89", r"fence\.mbarrier_init is not an instruction of compute capability 8\.9" + HERE),
    "wgmma without a fence": "wgmma: no wgmma_fence before the first product" + HERE,
    "wgmma of ordinary stores": "wgmma: an operand in shared memory was written by ordinary stores, and no "
    "fence_proxy_async followed" + HERE,
    "wgmma of different operands": "wgmma: the threads of a warpgroup give different operands" + HERE,
    "wgmma outside shared memory": "wgmma: an operand is outside shared memory" + HERE,
    "wgmma of registers that change": "wgmma: registers of A were written before a wait for the product" + HERE,
    "wgmma of registers without a fence": "wgmma: no wgmma_fence between wgmma_wait and a product whose A is in "
    "registers" + HERE,
    "TMA without a fence": "TMA: no mbarrier_init_fence followed the initialisation of mbarriers" + HERE,
    "TMA misaligned": "TMA: the tile is not 1024-byte aligned" + HERE,
    "TMA of host memory": "TMA: the tensor map's matrix is not in memory of the GPU" + HERE,
    "tensor map: base": r"tensor map of 8 x 64 \(error 1\): the matrix does not start at a multiple of 16 bytes",
    "tensor map: stride": "rows are 120 bytes apart, which is not a multiple of 16",
    "tensor map: short stride": "a stride of 32 elements is too small or too large",
    "tensor map: box": "a box has 1 to 256 rows, not 257",
    "tensor map: size": r"sizes are 1 to 2\^32",
    "named barrier in half a warp": r"threads meet at different barriers: bar\.sync",
    "mbarrier count": "mbarrier: a count of 0, 1 to" + r" \d+ are possible" + HERE,
    "mbarrier bytes": "mbarrier: 1048576 expected bytes, a phase counts up to 1048575" + HERE,
    "registers that nobody gives up": r"deadlock[^$]*registers of other warps \(setmaxnreg\)",
    # In a shuffled schedule threads may begin to wait when both phases are over.
    "mbarrier phase missed": "mbarrier: a thread that waits has missed the end of a phase, and the next one is over too"
    + HERE
    + "|deadlock[^$]*waits for mbarrier",
    "arrival at a block that has ended": "mbarrier: block 1 of the cluster has ended, and its memory" + HERE,
    "wait for a value in shared memory": OF_GLOBAL.format("wait_for_value", "in shared memory"),
    "wait for a value that no block stores": r"deadlock: 256 threads wait for ever[^$]*waits for wait_for_value: block",
    "wait until above in shared memory": OF_GLOBAL.format("wait_until_above", "in shared memory"),
    "wait until above what no block stores": r"deadlock: 256 threads wait for ever[^$]*for wait_until_above: block",
    "store_release misaligned": r"store_release of an address that is not a multiple of 4 bytes \(2 too many\)" + HERE,
    "call after a failure": "cannot clear memory on the GPU: load16 of an address",
    "cudaMalloc while capturing": "cannot allocate: operation not permitted when stream is capturing",
    "cudaMallocHost while capturing": "cannot allocate: operation not permitted when stream is capturing",
}
# The same with nothing wrong about the GPU: the kernel itself is right.
RIGHT_ELSEWHERE = [name for name, expected in EXPECTED.items() if isinstance(expected, tuple)]


def fault(name, emulator="", **environment):
    done = subprocess.run(
        [FAULTS, name],
        cwd=ROOT,
        env=dict(os.environ, LLMC_EMULATOR=emulator, **environment),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode >= 0, f"{name}: signal {-done.returncode}"
    return done.returncode, done.stdout + done.stderr


def test_every_fault_has_a_test():
    done = subprocess.run([FAULTS], capture_output=True, text=True)
    assert set(done.stdout.splitlines()) == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_a_fault_is_refused(name):
    expected = EXPECTED[name]
    emulator, words = expected if isinstance(expected, tuple) else ("", expected)
    for schedule in ("", " shuffle=1 seed=3"):
        code, output = fault(name, emulator + schedule)
        assert code == 1 and re.search(words, output), output


@pytest.mark.parametrize("name", RIGHT_ELSEWHERE)
def test_the_same_kernel_runs_where_it_may(name):
    code, output = fault(name, "capability=90")
    assert code == 0, output


# Shared memory of a block in KiB: CUDA C++ Programming Guide, "Technical Specifications per Compute Capability".
SHARED = {80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}


@pytest.mark.parametrize("capability", SHARED)
def test_shared_memory_of_every_capability(capability):
    code, output = fault("shared memory", f"capability={capability}")  # 160 KiB
    if SHARED[capability] >= 160:
        assert code == 0, output
    else:
        assert f"has {SHARED[capability] * 1024}" in output


@pytest.mark.parametrize("count", [16, 20, 260])
def test_register_counts_that_setmaxnreg_does_not_take(count, tmp_path):
    source = tmp_path / "registers.cpp"
    source.write_text(
        '#include "llmc/cuda/gpu/hopper.h"\n'
        f"void kernel() {{ llmc::gpu::raise_registers<{count}>(); llmc::gpu::lower_registers<24>(); }}\n"
    )
    done = subprocess.run(
        ["g++", "-std=c++20", f"-I{ROOT}", "-fsyntax-only", source], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode and "setmaxnreg takes multiples of 8 from 24 to 256" in done.stderr
    assert done.stderr.count("error: static assertion") == 1, done.stderr


def test_every_kernel_states_its_launch_bounds():
    """The emulator knows them only from the kernel's first statement."""
    found = 0
    for path in [*ROOT.glob("llmc/cuda/**/*.h"), *ROOT.glob("llmc/cuda/*.cu"), *ROOT.glob("tests/cuda/*.cu")]:
        text = " ".join(path.read_text().split())
        for match in re.finditer(r"__launch_bounds__\(((?:[^()]|\([^()]*\))*)\) (\w+)\(", text):
            body = text[match.end() : text.index("{", match.end()) + 200].replace(" ", "")
            assert f"{{launch_bounds<{match[1]}>();".replace(" ", "") in body, f"{path.name}: {match[2]}"
            found += 1
    assert found > 30


# --- Messages of launches ---


def test_an_error_of_a_launch_names_the_kernel():
    _, output = fault("too many threads")
    assert re.search(r"^kernel launched at tests/cuda/faults\.cu:\d+ with 1 x 1 x 1 blocks of 1056 x 1 x 1", output)
    _, output = fault("load16 misaligned")
    assert output.startswith("work on the GPU failed") and "(kernel launched at tests/cuda/faults.cu:" in output
    _, output = fault("load16 misaligned", LLMC_CUDA_SYNC="1")
    assert re.search(r"^kernel launched at tests/cuda/faults\.cu:\d+ with 1 x 1 x 1 blocks of 1 x 1 x 1", output)


@pytest.mark.parametrize(
    "emulator, words",
    [
        ("launch_error=209", ["built for compute capabilities 80 90a", "this GPU has 90", "make CUDA_ARCH=90"]),
        ("launch_error=222 driver=13000", ["driver is for CUDA 13.0", "built with 13.0", "update the driver"]),
        ("launch_error=700", ["launched at tests/cuda/faults.cu:"]),
    ],
)
def test_errors_of_a_launch_say_what_to_do(emulator, words):
    code, output = fault("launch bounds", emulator)
    assert code == 1 and all(word in output for word in words), output


# --- numerics=hardware ---

NUMERICS = """
import sys
sys.path[:0] = ["python"]
import numpy as np, llmc
emulated = llmc.backend("emulated")
rng = np.random.default_rng(0)
x, w = (rng.standard_normal((512, 64)).astype(np.float32) for _ in range(2))
np.savez(sys.argv[1],
    product=emulated.matmul_backward(x, inp=w, dweight=np.zeros((64, 64), np.float32), dtype="bf16")["dweight"],
    gelu=emulated.gelu_forward(x, dtype="bf16"),
    layernorm=emulated.layernorm_forward(x, w[0], w[1], dtype="fp32")["out"])
"""


@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
def test_hardware_numerics_differ_by_what_a_gpu_would(tmp_path):
    results = []
    for numerics in ("exact", "hardware", "hardware"):
        path = tmp_path / f"{len(results)}.npz"
        environment = dict(os.environ, LLMC_EMULATOR=f"numerics={numerics}")
        subprocess.run([sys.executable, "-c", NUMERICS, path], cwd=ROOT, env=environment, check=True)
        results.append(np.load(path))
    exact, hardware, again = results
    for name in exact:
        difference = relative_error(hardware[name], exact[name])
        assert 0 < difference < TOLERANCE["bf16" if name == "gelu" else "fp32"], name
        np.testing.assert_array_equal(hardware[name], again[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
def test_ops_with_hardware_numerics():
    """Every op and optimizer test of the emulated kernels passes with the inexact arithmetic of a GPU."""
    tests = sorted(str(path) for path in (ROOT / "tests").glob("test_op*.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests, "-k", "emulated"]
    environment = dict(os.environ, LLMC_EMULATOR="numerics=hardware")
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:]


def test_unknown_choices_are_refused():
    for setting, choices in ("numerics=exactly", "exact or hardware"), ("streams=soon", "early or late"):
        code, output = fault("launch bounds", setting)
        assert code and f"{setting}: {choices}" in output
