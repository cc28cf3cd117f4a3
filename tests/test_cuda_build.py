"""The kernels as nvcc compiles them, without a GPU: every warning is an error; no spills in the hot kernels; tensor
cores fed by ldmatrix and cp.async; 16-byte accesses in kernels that are bound by memory; building and linking needs no
driver, and without one the program says so.
"""

import os
import re
import shutil
import subprocess
from collections import Counter

import pytest
from program import ROOT

from llmc.bench.toolkit import disassembly, listings, resources, tool

ARCHITECTURES = ["sm_80", "sm_90a"]
NEWER = ["89", "100", "120"]  # the tensor-core kernels only, each file for one architecture
BUILD = ROOT / "build" / "cuda-tests"


needs_nvcc = pytest.mark.skipif(tool("nvcc") is None, reason="no nvcc: run make cuda-toolkit")


@pytest.fixture(scope="module")
def built():
    """All kernels for both architectures, and the program: `make test` has built them already."""
    command = [
        "make",
        "-j2",
        f"CUDA_BUILD={BUILD.relative_to(ROOT)}",
        "CUDA_ARCH=80 90a",
        f"NVCC={tool('nvcc')}",
        "cuda-tests",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return BUILD


def instructions_in(path):
    """{(architecture, kernel): its instructions, without addresses} of an object or cubin."""
    found = {key: (re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+([^;]*);", line) for line in lines)
             for key, lines in listings(path).items()}  # fmt: skip
    return {key: [match[1].strip() for match in matches if match] for key, matches in found.items()}


def opcode(instruction):
    return re.match(r"(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", instruction)[1]


@pytest.fixture(scope="module")
def reports(built):
    found = {}
    for path in sorted(built.glob("llmc/cuda/*.ptxas")):
        found |= resources(path.read_text())
    return found


@pytest.fixture(scope="module")
def instructions(built):
    if tool("cuobjdump") is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    found = {}
    for path in sorted(built.glob("llmc/cuda/*.o")):
        found |= instructions_in(path)
    return found


@pytest.fixture(scope="module")
def sass(instructions):
    return {kernel: Counter(map(opcode, code)) for kernel, code in instructions.items()}


def matching(found, pattern):
    """The kernels of one name, on every architecture."""
    kernels = {key: value for key, value in found.items() if re.search(pattern, key[1])}
    assert {architecture for architecture, _ in kernels} == set(ARCHITECTURES), f"no kernel matches {pattern}"
    return kernels


def total(opcodes, pattern):
    return sum(n for opcode, n in opcodes.items() if re.match(pattern, opcode))


# The kernels that take most of the time of a training step: those for aligned rows.
TENSOR_CORE = [
    r"matmul_bf16_kernel<",
    r"attention_forward_bf16_kernel<",
    r"attention_backward_bf16_kernel<",
]
MEMORY_BOUND = [
    r"embedding_forward_kernel<[48], ",
    r"sum_runs_kernel<4, ",
    r"join_runs_kernel<4>",
    r"sum_positions_kernel<4, ",
    r"::forward_kernel<\d, \d, [48], ",
    r"::backward_kernel<\d, \d, [48], ",
    r"classifier_kernel<[48], ",
    r"attention_delta_kernel<",
    r"gelu_forward_kernel<",
    r"gelu_backward_kernel<",
    r"cast_kernel<(float|llmc::bf16), \1>",
    r"step_kernel<",
    r"sum_squares_kernel",
    r"accumulate_sum_kernel",
    r"::norm_kernel",
    r"::statistics_kernel<[48], ",
    r"sum_columns_kernel<[48], ",
]
FP32_PRODUCT = r"matmul_fp32_kernel<"
WGMMA = r"matmul_wgmma_kernel<"
ATTENTION_WGMMA = r"attention_forward_wgmma_kernel<"
ATTENTION_BACKWARD_WGMMA = r"attention_backward_wgmma_kernel"
ON_WGMMA = [WGMMA, ATTENTION_WGMMA, ATTENTION_BACKWARD_WGMMA]
READS_ONLY = [
    r"attention_delta_kernel<",
    r"sum_squares_kernel",
    r"accumulate_sum_kernel",
    r"::norm_kernel",
    r"::statistics_kernel<[48], ",
    r"sum_columns_kernel<[48], ",
]
# Bytes that a thread loads from global memory before it uses the first of them. With the threads that fit on a
# multiprocessor these are at least 40 KB; an H100 needs 15 to 20 KB at any time for its bandwidth.
AT_ONCE = {
    r"::forward_kernel<1, 4, 8, ": 96,
    r"::forward_kernel<1, 2, 4, ": 128,
    r"::forward_kernel<4, 1, 8, ": 64,
    r"::backward_kernel<1, 4, 8, ": 192,
    r"::backward_kernel<2, 2, 8, ": 192,
    r"::backward_kernel<4, 1, 8, ": 128,
    r"classifier_kernel<8, ": 64,
    r"step_kernel<true>": 96,
    r"sum_squares_kernel": 64,
    r"::norm_kernel": 64,
    r"::statistics_kernel<8, ": 64,
    r"sum_columns_kernel<8, ": 64,
    r"embedding_forward_kernel<8, ": 128,
    r"sum_runs_kernel<4, llmc": 192,
    r"sum_positions_kernel<4, llmc": 32,
}


@needs_nvcc
def test_everything_is_compiled_for_both_architectures(reports):
    kernels = {a: {name for architecture, name in reports if architecture == a} for a in ARCHITECTURES}
    assert kernels["sm_80"] == kernels["sm_90a"]
    assert len(kernels["sm_80"]) > 80


@needs_nvcc
@pytest.mark.parametrize("pattern", [*TENSOR_CORE, *MEMORY_BOUND, FP32_PRODUCT, *ON_WGMMA, r"cast_kernel<"])
def test_no_spills_in_hot_kernels(reports, pattern):
    for kernel, used in matching(reports, pattern).items():
        assert used["spilled"] == 0 and used["stack"] == 0, f"{kernel}: {used}"


@needs_nvcc
def test_registers_follow_the_launch_bounds():
    """nvcc 13.0.88: __launch_bounds__ overrides -maxrregcount in silence, so the Makefile gives none and every kernel
    has its own bounds, which are also those that the emulator checks."""
    makefile = (ROOT / "Makefile").read_text()
    assert "maxrregcount" not in makefile
    kernels = 0
    for path in sorted((ROOT / "llmc/cuda").rglob("*")):
        if path.suffix in (".cu", ".h"):
            for signature in re.findall(r"__global__ void[^{;]*", path.read_text()):
                assert "__launch_bounds__(" in signature, f"{path.name}: {signature}"
                kernels += 1
    assert kernels > 15


@needs_nvcc
@pytest.mark.parametrize("architecture", ["70", "101"])
def test_an_architecture_that_nvcc_does_not_know_is_named(tmp_path, architecture):
    """nvcc 13.0.88 refuses sm_70 and sm_101, which nvcc 12 compiled for: make says so and builds nothing."""
    known = subprocess.run([tool("nvcc"), "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    if f"compute_{architecture}" in known:
        pytest.skip(f"this nvcc knows compute capability {architecture}")
    target = f"{tmp_path}/llmc/cuda/cast.o"
    command = ["make", f"NVCC={tool('nvcc')}", f"CUDA_BUILD={tmp_path}", f"CUDA_ARCH={architecture}", target]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and f"compute_{architecture}" in done.stderr, done.stderr
    assert not os.path.exists(target)


# --- Architectures for which a build has code only on their own machines: one file, one architecture, no program ---


def compile_for(architecture, source):
    """What ptxas reports for the kernels of one file, and its cubin, kept in build/ until something changes."""
    path = f"{BUILD.relative_to(ROOT)}/sm_{architecture}/{source.removesuffix('.cu')}"
    command = ["make", f"CUDA_BUILD={BUILD.relative_to(ROOT)}/sm_{architecture}", f"CUDA_ARCH={architecture}",
               f"NVCC={tool('nvcc')}", f"{path}.o"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    report = {kernel: used for kernel, used in resources((ROOT / f"{path}.ptxas").read_text()).items()}
    return {name: used for (built, name), used in report.items() if built == f"sm_{architecture}"}, ROOT / f"{path}.o"


def check_newer(architecture, source):
    if (
        f"compute_{architecture}"
        not in subprocess.run([tool("nvcc"), "--list-gpu-arch"], capture_output=True, text=True).stdout.split()
    ):
        pytest.skip(f"this nvcc does not know compute capability {architecture}")
    report, path = compile_for(architecture, source)
    hot = {name: used for name, used in report.items() if re.search("|".join([*TENSOR_CORE, FP32_PRODUCT]), name)}
    assert len(hot) >= 2
    for name, used in hot.items():
        assert used["spilled"] == 0 and used["stack"] == 0, f"{name}: {used}"
    if tool("cuobjdump"):
        for (built, name), opcodes in disassembly(path).items():
            if built == f"sm_{architecture}" and name in hot:
                assert total(opcodes, "LDL|STL") == 0, f"{name} uses local memory: {opcodes}"


@needs_nvcc
def test_weight_gradient_stays_in_registers_on_blackwell():
    """Before, the wide kernel had a frame of 792 bytes there: products under conditions became an indexed array."""
    check_newer("120", "llmc/cuda/matmul_backward.cu")


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize("source", ["matmul_forward", "matmul_backward", "attention_forward", "attention_backward"])
@pytest.mark.parametrize("architecture", NEWER)
def test_no_local_memory_on_newer_architectures(architecture, source):
    check_newer(architecture, f"llmc/cuda/{source}.cu")


def tiles():
    """{name: (rows, columns, resident blocks)} of the cost model."""
    text = (ROOT / "llmc/cuda/matmul/plan.h").read_text()
    found = re.findall(r"(k\w+)\{(\d+), (\d+), (\d+), \d+, \d+\}", text)
    return {name: (int(m), int(n), int(blocks)) for name, m, n, blocks in found}


@needs_nvcc
def test_as_many_blocks_fit_as_the_cost_model_plans(reports):
    """Of 65,536 registers on a multiprocessor, which a block gets in units of 256 a warp."""
    kinds = {
        "kWide": (r"matmul_bf16_kernel<\w+, \w+, 128, 256,", 256),
        "kNarrow": (r"matmul_bf16_kernel<\w+, \w+, 128, 128,", 128),
        "kSmall": (r"matmul_bf16_kernel<\w+, \w+, 64, 64,", 128),
        "kFp32Tile": (FP32_PRODUCT, 256),
    }
    assert tiles().keys() == kinds.keys()
    for name, (pattern, threads) in kinds.items():
        for kernel, used in matching(reports, pattern).items():
            of_block = threads * -(-used["registers"] // 8) * 8
            assert 65536 // of_block >= tiles()[name][-1], f"{kernel}: {used}, planned {tiles()[name][-1]} blocks"


EPILOGUES = """
#include "llmc/cuda/matmul/fragments.h"
using namespace llmc::cuda;
template <bool kNeighbours, class Epilogue>
__global__ void epilogue_kernel(Epilogue epilogue, int row, int column, int M) {  // of a warp's tile of 64 x 64
    float acc[4][8][4];
    for (auto& i : acc)
        for (auto& j : i)
            for (float& x : j) asm volatile("" : "=f"(x));
    store_aligned<kNeighbours, 0, 4>(acc, epilogue, row, column, M);
    store_aligned<kNeighbours, 4, 4>(acc, epilogue, row, column, M);
}
using llmc::bf16;
template __global__ void epilogue_kernel<true>(Linear<bf16>, int, int, int);
template __global__ void epilogue_kernel<true>(LinearGelu<bf16>, int, int, int);
template __global__ void epilogue_kernel<true>(LinearResidual<bf16>, int, int, int);
template __global__ void epilogue_kernel<false>(Linear<bf16>, int, int, int);
template __global__ void epilogue_kernel<false>(GeluGradient<bf16>, int, int, int);
template __global__ void epilogue_kernel<false>(Accumulate, int, int, int);
"""


@needs_nvcc
def test_epilogues_take_as_many_instructions_as_the_cost_model_counts(tmp_path):
    """For each of the 128 elements that a lane has of a warp's tile, on sm_90a."""
    if tool("cuobjdump") is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    source, cubin = tmp_path / "epilogues.cu", tmp_path / "epilogues.cubin"
    source.write_text(EPILOGUES)
    flags = ["-std=c++20", "-I.", "-O3", "--expt-relaxed-constexpr", "-arch=sm_90a", "-cubin"]
    done = subprocess.run([tool("nvcc"), *flags, source, "-o", cubin], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (ROOT / "llmc/cuda/matmul/epilogue.h").read_text()
    planned = dict(re.findall(r"(?s)struct (\w+) \{(?:(?!\n\};).)*?kInstructions = ([\d.]+);", text))
    exchange = float(re.search(r"!kNeighbours \? ([\d.]+) : 0", text)[1])
    counted = disassembly(cubin)
    assert len(planned) == 5 and len(counted) == 6
    for (_, name), opcodes in counted.items():
        neighbours, epilogue = re.search(r"epilogue_kernel<(true|false), (?:\w+::)*(\w+)", name).groups()
        instructions = (sum(opcodes.values()) - opcodes["NOP"]) / 128
        expected = float(planned[epilogue]) + (exchange if neighbours == "false" and epilogue != "Accumulate" else 0)
        assert abs(instructions - expected) < 0.1 * expected, f"{name}: {instructions:.2f}, planned {expected}"
        assert total(opcodes, "SHFL") == (32 if neighbours == "false" and epilogue != "Accumulate" else 0), opcodes
        assert total(opcodes, r"STG\.E\.64") == total(opcodes, "STG"), f"{name} stores less than 8 bytes: {opcodes}"


@pytest.fixture(scope="module")
def hopper_kernels(built):
    if tool("cuobjdump") is None:
        pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    found = disassembly(built / "tests/cuda/conformance.o")
    kernels = [opcodes for (built_for, name), opcodes in found.items()
               if built_for == "sm_90a" and "hopper_kernel<" in name]  # fmt: skip
    assert len(kernels) == 3
    return kernels


@needs_nvcc
def test_an_arrival_at_another_block_waits_for_no_memory(hopper_kernels):
    """The two that remain are those of the two cluster_sync."""
    for opcodes in hopper_kernels:
        assert total(opcodes, r"MEMBAR\.ALL\.GPU") <= 2, opcodes


@needs_nvcc
def test_warps_converge_before_aligned_instructions(hopper_kernels):
    for opcodes in hopper_kernels:
        assert total(opcodes, r"WARPSYNC") >= 5, opcodes


@needs_nvcc
def test_wgmma_is_asynchronous(built):
    """ptxas says in a note if it waits after each wgmma or adds fences: of registers that are used in between."""
    notes = [line for path in built.rglob("*.ptxas") for line in path.read_text().splitlines() if "(C75" in line]
    assert not notes, notes


@needs_nvcc
@pytest.mark.parametrize("pattern", ON_WGMMA)
def test_wgmma_kernels_stop_where_they_cannot_run(sass, pattern):
    """A driver may take code for other GPUs on a 9.0 too (CUDA_FORCE_PTX_JIT=1): it must not do nothing in silence."""
    for (architecture, name), opcodes in matching(sass, pattern).items():
        assert (total(opcodes, r"BPT\.TRAP") > 0) == (architecture != "sm_90a"), f"{name}, {architecture}"


@needs_nvcc
def test_wgmma_kernels(reports, sass):
    """A stage of 64 along K is four products, and a weight gradient has such a loop with sums of A and one without;
    the copies of a stage; registers of consumers and producer; no local memory."""
    layouts = {"<false, false,": (4, 1, 1), "<false, true,": (4, 1, 2), "<true, true,": (8, 2, 2)}
    for (architecture, name), opcodes in matching(sass, WGMMA).items():
        if architecture != "sm_90a":
            continue
        products, of_a, of_b = next(counts for layout, counts in layouts.items() if layout in name)
        assert total(opcodes, r"HGMMA\.64x256x16\.F32\.BF16") == products, f"{name}: {opcodes}"
        assert total(opcodes, r"HGMMA\.64x8x16") == (4 if of_a == 2 else 0), f"{name}: {opcodes}"
        assert opcodes["UTMALDG.2D"] == of_a and opcodes["UTMALDG.2D.MULTICAST"] == of_b, f"{name}: {opcodes}"
        assert total(opcodes, "USETMAXREG") == 2 and total(opcodes, "LDL|STL") == 0, f"{name}: {opcodes}"
        assert total(opcodes, r"MEMBAR\.ALL\.GPU") <= 2 + (of_a == 2), f"{name}: {opcodes}"  # cluster_sync, a turn
        assert reports[architecture, name]["registers"] == 168, f"{name}: {reports[architecture, name]}"


@needs_nvcc
def test_attention_on_wgmma(reports, sass, instructions):
    """The first tile's scores, the loop of both products, the last tile's values; registers for as many blocks as the
    launch bounds plan; and between the two waits of the loop all exponentials, so that products with values overlap
    with them."""
    for (architecture, name), opcodes in matching(sass, ATTENTION_WGMMA).items():
        if architecture != "sm_90a":
            continue
        size = 64 if "<64>" in name else 128
        assert total(opcodes, r"HGMMA\.64x64x16\.F32\.BF16") == 16, f"{name}: {opcodes}"
        assert total(opcodes, r"HGMMA\.64x128x16\.F32\.BF16") == (0 if size == 64 else 8), f"{name}: {opcodes}"
        assert opcodes["UTMALDG.3D"] >= 3 * size // 64 and total(opcodes, "LDL|STL|LDSM") == size // 16, (
            f"{name}: {opcodes}"
        )
        assert total(opcodes, r"MEMBAR\.ALL\.GPU") == 0, f"{name}: {opcodes}"
        assert reports[architecture, name]["registers"] <= (128 if size == 64 else 255), f"{name}: {opcodes}"
        code = instructions[architecture, name]
        waits = [i for i, text in enumerate(code) if opcode(text).startswith("WARPGROUP.DEPBAR")]
        pending = next(n for n, i in enumerate(waits) if code[i].endswith("0x1"))
        between = Counter(map(opcode, code[waits[pending] : waits[pending + 1]]))
        assert between["MUFU.EX2"] >= 32, f"{name}: {between}"


@needs_nvcc
def test_attention_backward_on_wgmma(reports, sass, instructions):
    """The scores of the first tile, the loop's four products, the last tile's gradients, and dq; K in registers;
    exponentials and dS are between the waits for the scores and for the gradients of the tile before."""
    for (architecture, name), opcodes in matching(sass, ATTENTION_BACKWARD_WGMMA).items():
        if architecture != "sm_90a":
            continue
        assert total(opcodes, r"HGMMA\.64x64x16\.F32\.BF16") == 8 + 16 + 8 + 8, f"{name}: {opcodes}"
        assert opcodes["UTMALDG.3D"] >= 4 and total(opcodes, "LDSM") == 4, f"{name}: {opcodes}"
        assert total(opcodes, "LDL|STL") == 0 and total(opcodes, "USETMAXREG") == 2, f"{name}: {opcodes}"
        assert total(opcodes, r"REDG\.E\.ADD\.F32x4") == 8, f"{name}: {opcodes}"
        assert reports[architecture, name]["registers"] == 168, f"{name}: {reports[architecture, name]}"
        code = instructions[architecture, name]
        waits = [i for i, text in enumerate(code) if opcode(text).startswith("WARPGROUP.DEPBAR")]
        pending = next(n for n, i in enumerate(waits) if code[i].endswith("0x2"))
        between = Counter(map(opcode, code[waits[pending] : waits[pending + 2]]))
        assert between["MUFU.EX2"] == 32 and between["FMUL"] >= 32, f"{name}: {between}"


@needs_nvcc
@pytest.mark.parametrize("pattern", TENSOR_CORE)
def test_tensor_cores_are_fed_by_ldmatrix_and_cp_async(sass, pattern):
    for kernel, opcodes in matching(sass, pattern).items():
        small = "matmul_bf16_kernel" in kernel[1] and "64, 64," in kernel[1]  # warps of 32 x 32
        assert total(opcodes, r"HMMA\.16816\.F32\.BF16") >= (16 if small else 32), f"{kernel}: {opcodes}"
        assert total(opcodes, r"LDSM\.16\.M") >= 8, f"{kernel}: {opcodes}"
        assert total(opcodes, r"LDGSTS\.E\.BYPASS\.(LTC128B\.)?128") >= 4, f"{kernel}: {opcodes}"
        assert total(opcodes, "LDL|STL") == 0, f"{kernel} uses local memory: {opcodes}"


@needs_nvcc
@pytest.mark.parametrize("pattern", MEMORY_BOUND)
def test_memory_bound_kernels_access_16_bytes(sass, pattern):
    for kernel, opcodes in matching(sass, pattern).items():
        assert total(opcodes, r"(LDG|LDGSTS)\.E\..*128") > 0, f"{kernel} has no 16-byte load: {opcodes}"
        if pattern not in READS_ONLY:
            assert total(opcodes, r"STG\.E\..*128") > 0, f"{kernel} has no 16-byte store: {opcodes}"


@needs_nvcc
@pytest.mark.parametrize(
    "kernel,load,store", [("<float, llmc::bf16>", "64", "128"), ("<llmc::bf16, float>", "128", "64")]
)
def test_casts_access_16_bytes_of_the_wider_type(sass, kernel, load, store):
    for name, opcodes in matching(sass, "cast_kernel" + kernel).items():
        assert total(opcodes, rf"LDG\.E\..*{load}") >= 2 and total(opcodes, rf"STG\.E\..*{store}") >= 2, (
            f"{name}: {opcodes}"
        )


def loaded_at_once(code):
    """The most bytes that a thread has loaded from global memory when it uses the first of them."""
    most, loaded, pending = 0, 0, set()
    for instruction in code:
        name, _, operands = re.sub(r"^@!?U?P\w+ +", "", instruction).partition(" ")
        registers = [{int(r) for r in re.findall(r"\bR(\d+)", operand)} for operand in operands.split(",")]
        if pending & set().union(*(registers[1:] if name.startswith("LDG") else registers)):
            most, loaded, pending = max(most, loaded), 0, set()
        if name.startswith("LDG"):
            size = next((n for width, n in {"128": 16, "64": 8, "U16": 2}.items() if f".{width}" in name), 4)
            loaded += size
            pending |= {r + i for r in registers[0] for i in range(max(1, size // 4))}
    return most


@needs_nvcc
@pytest.mark.parametrize("pattern", AT_ONCE)
def test_loads_are_on_their_way_together(instructions, pattern):
    for kernel, code in matching(instructions, pattern).items():
        assert loaded_at_once(code) >= AT_ONCE[pattern], f"{kernel}: {loaded_at_once(code)} bytes"


@needs_nvcc
def test_a_spill_would_be_seen(tmp_path):
    """The checks above on a kernel that fails them: it gets a quarter of the registers that it needs."""
    source = tmp_path / "spilling.cu"
    source.write_text(
        "__global__ void spilling_kernel(float* x) {\n"
        "  float v[64];\n"
        "  for (int i = 0; i < 64; ++i) v[i] = x[i * 256 + threadIdx.x];\n"
        "  for (int n = int(x[0]); n > 0; --n)\n"
        "#pragma unroll\n"
        "    for (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i + 7) % 64] + 1;\n"
        "  for (int i = 0; i < 64; ++i) x[i * 256 + threadIdx.x] = v[i];\n}\n"
    )
    command = [tool("nvcc"), "-gencode", "arch=compute_80,code=sm_80", "-maxrregcount", "24", "-Xptxas", "-v", "-cubin"]
    done = subprocess.run([*command, str(source), "-o", str(tmp_path / "s.cubin")], capture_output=True, text=True)
    ((_, used),) = resources(done.stderr).items()
    assert used["spilled"] > 0
    if tool("cuobjdump"):
        ((_, opcodes),) = disassembly(tmp_path / "s.cubin").items()
        assert any(op.startswith("STL") for op in opcodes)
        assert not any(op.startswith("LDG") and op.endswith(".128") for op in opcodes)


@needs_nvcc
def test_without_a_gpu_the_program_says_so(built):
    if shutil.which("nvidia-smi"):
        pytest.skip("there may be a GPU here")
    done = subprocess.run([built / "train_gpt2cu", "--preset", "gpt2", "--dry-run"], capture_output=True, text=True)
    assert done.returncode == 5
    assert done.stderr.startswith("train_gpt2cu: no usable GPU: this machine has no NVIDIA driver")
    assert len(done.stderr.splitlines()) == 1
