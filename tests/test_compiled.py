"""What llmc.bench.compiled reads out of machine code: of short listings written here, and of small kernels if there is
nvcc.
"""

import json
import re
import subprocess
from itertools import count
from pathlib import Path

import pytest
from program import ROOT

from llmc.bench import compiled, occupancy, paths, sass, toolkit, trips

needs_nvcc = pytest.mark.skipif(
    toolkit.tool("nvcc") is None or toolkit.tool("cuobjdump") is None, reason="no nvcc or cuobjdump: make cuda-toolkit"
)


def listing(text):
    """Lines as cuobjdump prints them: 16 bytes an instruction, labels (NAME:) replaced by addresses."""
    addresses, instructions = {}, []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.endswith(":"):
            addresses[line[:-1]] = 16 * len(instructions)
        else:
            instructions.append(line)
    labels = re.compile(r"\b(" + "|".join(addresses or {"-"}) + r")\b")
    return [
        f"        /*{16 * n:04x}*/    {labels.sub(lambda m: hex(addresses[m[1]]), line)} ;    /* 0x0 */"
        for n, line in enumerate(instructions)
    ]


def graph(text):
    return sass.Graph(sass.parse(listing(text)))


def facts(text):
    return compiled.code_facts(listing(text))


# --- Instructions, blocks, branches ---


def test_instructions_are_parsed():
    lines = listing("@!P0 LDG.E.128.CONSTANT R4, desc[UR6][R2.64+0x10]\n@UP1 UIADD3 UR4, UR4, 0x1, URZ\nEXIT")
    load, add, end = sass.parse(['\t.headerflags @"EF_CUDA_SM80"', *lines, " " * 40 + "/* 0x000fe20000000800 */"])
    assert (load.address, load.guard, load.opcode, load.width) == (0, "!P0", "LDG.E.128.CONSTANT", 16)
    assert load.is_load and load.base == (2, 16)
    assert load.registers == {2, 3, 4, 5, 6, 7} and load.written == {4, 5, 6, 7}
    assert (add.guard, add.registers) == ("UP1", frozenset())
    assert (end.opcode, end.operands) == ("EXIT", "")


@pytest.mark.parametrize(
    "instruction, width",
    [("LDG.E.U16 R0, [R2.64]", 2), ("LDG.E R0, [R2.64]", 4), ("STG.E.64 [R2.64], R0", 8), ("LD.E.U8 R0, [R2.64]", 1),
     ("LDGSTS.E.BYPASS.LTC128B.128 [R9], [R2.64]", 16), ("LDG.E.ENL2.256 R4, R8, [R2.64]", 32)],
)  # fmt: skip
def test_widths(instruction, width):
    assert sass.parse(listing(instruction))[0].width == width


def test_branches_make_blocks():
    g = graph("""
        ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT
        @P0 BRA far
        BRA.U UP0, far
        @P1 EXIT
        BRA.DIV UR4, unlikely
        BSSY B0, far
        far:
        BRA P2, last
        @!PT BRA far
        last:
        EXIT
        unlikely:
        BRA far
    """)
    far, last = 0x60, 0x80
    assert g.next[0x00] == [far, 0x20]
    assert g.next[0x20] == [far, 0x30]
    assert g.next[0x30] == [sass.EXIT, 0x40] and g.next_if_working[0x30] == [0x40]
    assert g.next[0x40] == [0x50]  # threads have not gone different ways
    assert g.next[far] == [last, 0x70]
    assert g.next[last] == [sass.EXIT] == g.next_if_working[last]


def test_a_call_of_a_function_returns_and_one_of_the_kernels_code_is_a_jump():
    g = graph("""
        again:
        @P1 BRA division
        @P0 CALL.REL.NOINC done
        BRA again
        division:
        MOV R2, 0x50
        CALL.REL.NOINC slow_path
        BRA again
        done:
        EXIT
        slow_path:
        FMUL R0, R0, R1
        RET.REL.NODEC R2 0x0
    """)
    assert g.next[0x10] == [0x60, 0x20]
    assert g.next[0x30] == [0x50] and g.blocks[0x30].calls and g.blocks[0x30].slow == 1
    assert not g.blocks[0x10].slow


def test_a_jump_table_leads_to_what_nothing_else_reaches():
    g = graph("BRX R2 -0x10\none:\nMOV R0, R1\nEXIT\nMOV R0, R2\nEXIT")
    assert g.next[0] == [0x10, 0x30]


# --- Slow accesses ---

VECTOR = "".join(f"LDG.E.U16 R{10 + i}, [R2.64+{hex(2 * i)}]\n" for i in range(8))


def slow(text):
    return sum(block.slow for block in graph(text).blocks.values())


def test_elements_of_a_vector_are_slow_in_kernels_with_whole_vectors():
    assert slow(f"LDG.E.128 R4, [R2.64]\n{VECTOR}EXIT") == 8
    assert slow(f"{VECTOR}EXIT") == 0  # a kernel without vectors
    registers = count(20, 2)
    other_registers = re.sub(r"\[R2", lambda match: f"[R{next(registers)}", VECTOR)
    assert slow(f"LDG.E.128 R4, [R2.64]\n{other_registers}EXIT") == 8


def test_other_narrow_accesses_are_not_slow():
    assert slow("LDG.E.128 R4, [R2.64]\nLDG.E R0, [R8.64+0x40]\nLDG.E R1, [R8.64+0x44]\nEXIT") == 0
    rows = "".join(f"LDG.E R{20 + i}, [R2.64+{hex(32 * i)}]\n" for i in range(8))
    assert slow(f"LDG.E.128 R4, [R2.64]\n{rows}EXIT") == 0


def test_a_path_avoids_slow_accesses_though_they_are_more_instructions():
    found = facts(f"""
        @P0 EXIT
        @P1 BRA whole
        {VECTOR}
        BRA store
        whole:
        LDG.E.128 R4, [R2.64]
        store:
        STG.E.128 [R8.64], R4
        EXIT
    """)
    assert found["path"]["instructions"] == 5
    assert (found["path"]["loads"], found["path"]["load_bytes"], found["path"]["store_bytes"]) == (1, 16, 16)


# --- Loops and paths ---


def test_dominators_and_nested_loops():
    following = {0: [1], 1: [2, 5], 2: [3], 3: [2, 4], 4: [1], 5: [sass.EXIT]}
    assert paths.dominators(following, 0) == {0: 0, 1: 0, 2: 1, 3: 2, 4: 3, 5: 1, sass.EXIT: 5}
    inner, outer = paths.loops(following, 0)
    assert (inner.header, inner.body, inner.latches) == (2, {2, 3}, {3})
    assert (outer.header, outer.body, outer.latches) == (1, {1, 2, 3, 4}, {4})


def test_the_longest_path_runs_once_through_a_loop_that_is_left_from_its_header():
    following = {0: [1], 1: [2, 3], 2: [1], 3: [sass.EXIT]}
    assert paths.best_path(following, 0, [sass.EXIT], lambda node: (1,)) == [0, 1, 2, 3]
    endless = {0: [1], 1: [0]}
    assert paths.best_path(endless, 0, [sass.EXIT], lambda node: (1,)) is None


def test_paths_compare_by_the_first_weight_first():
    following = {0: [1, 2], 1: [3], 2: [3], 3: [sass.EXIT]}
    weights = {0: (0, 1), 1: (-1, 100), 2: (0, 1), 3: (0, 1)}
    assert paths.best_path(following, 0, [sass.EXIT], weights.__getitem__) == [0, 2, 3]
    best = [weights[0], (0, 100), weights[2], weights[3]]
    assert paths.best_path(following, 0, [sass.EXIT], lambda node: best[node]) == [0, 1, 3]


COUNTED = """
    {start}
    again:
    FADD R1, R1, R2
    {step}
    {test}
    {guard} BRA again
    EXIT
"""


@pytest.mark.parametrize(
    "start, step, test, guard, expected",
    [
        ("IMAD.MOV.U32 R0, RZ, RZ, RZ", "IADD3 R0, R0, 0x20, RZ", "ISETP.GE.U32.AND P0, PT, R0, 0x40, PT", "@!P0", 2),
        ("MOV R0, 0x5", "VIADD R0, R0, 0xffffffff", "ISETP.NE.AND P3, PT, R0, RZ, PT", "@P3", 5),
        ("MOV R0, RZ", "ISETP.NE.AND P0, PT, R0, 0x7, PT", "IADD3 R0, R0, 0x1, RZ", "@P0", 8),
        ("HFMA2.MMA R0, -RZ, RZ, 0, 5.9604644775390625e-08", "VIADD R0, R0, 0x1",
         "ISETP.LT.AND P0, PT, R0, 0x4, PT", "@P0", 3),
        ("MOV R0, RZ", "IADD3 R0, PT, PT, R0, 0x20, RZ", "ISETP.GE.U32.AND P0, PT, R0, 0x60, PT", "@!P0", 3),
        ("PLOP3.LUT P1, PT, PT, PT, PT, 0x80, 0x8", "PLOP3.LUT P2, PT, P1, PT, PT, 0x80, 0x8",
         "PLOP3.LUT P1, PT, PT, PT, PT, 0x8, 0x80", "@P2", 2),
        ("MOV R0, RZ", "IADD3 R0, R0, 0x1, RZ", "ISETP.GE.AND P0, PT, R0, c[0x0][0x160], PT", "@!P0", None),
        ("LDG.E R0, [R2.64]", "IADD3 R0, R0, 0x1, RZ", "ISETP.GE.AND P0, PT, R0, 0x40, PT", "@!P0", None),
        ("@P1 MOV R0, RZ", "IADD3 R0, R0, 0x1, RZ", "ISETP.GE.AND P0, PT, R0, 0x40, PT", "@!P0", None),
    ],
)  # fmt: skip
def test_constant_trips(start, step, test, guard, expected):
    g = graph(COUNTED.format(start=start, step=step, test=test, guard=guard))
    (loop,) = paths.loops(g.next, g.entry)
    assert trips.constant_trips(g, loop) == expected


def test_a_loop_with_a_constant_count_counts_that_often():
    text = COUNTED.format(start="MOV R0, RZ", step="IADD3 R0, R0, 0x1, RZ",
                          test="ISETP.GE.AND P0, PT, R0, 0xa, PT", guard="@!P0")  # fmt: skip
    found = facts(text)
    assert found["path"]["instructions"] == 2 + 10 * 4
    assert found["loop"]["instructions"] == 4 and found["loop"]["trips"] == 10
    assert found["path"]["uncounted_loops"] == 0 == found["loop"]["uncounted_loops"]
    assert facts(text.replace("MOV R0, RZ", "MOV R0, R9"))["path"]["uncounted_loops"] == 1


# --- A product: ring of tiles, epilogue inside the loop, column sums, tails ---

HMMA = "HMMA.16816.F32.BF16 R{0}, R40, R50, R{0}"
PRODUCT = """
    MOV R0, RZ
    tile:
    @P0 BRA multiply
    LDGSTS.E.BYPASS.128 [R9], [R2.64]
    @P1 BRA multiply
    IADD3 R9, R9, 0x10, RZ
    IADD3 R9, R9, 0x20, RZ
    multiply:
    LDGDEPBAR
    LDSM.16.M88.4 R40, [R60]
    BAR.SYNC.DEFER_BLOCKING 0x0
    {products}
    @!P2 BRA no_sums
    HMMA.16816.F32.BF16 R80, R40, R50, R80
    no_sums:
    @P3 BRA next
    MUFU.EX2 R4, R4
    SHFL.BFLY PT, R5, R4, 0x1, 0x1f
    SEL R5, R5, R4, P0
    @P4 BRA next
    @P5 BRA whole
    {tail}
    BRA next
    whole:
    F2FP.BF16.PACK_AB R10, R4, R5
    STG.E.128 [R6.64], R10
    next:
    @!P6 BRA tile
    EXIT
"""


def product():
    products = "\n".join(HMMA.format(20 + 4 * (n % 4)) for n in range(8))
    tail = "\n".join(f"@P4 STG.E.U16 [R6.64+{hex(2 * n)}], R10" for n in range(8))
    return facts(PRODUCT.format(products=products, tail=tail))


def test_main_loop_of_a_product():
    loop = product()["loop"]
    assert loop["tensor"] == 8  # not the column sum
    # the copy but not the start of the next tile; nothing of the epilogue
    assert loop["instructions"] == 3 + 3 + 8 + 1 + 1 + 1
    assert (loop["async_copies"], loop["ldsm"], loop["bar"], loop["mufu"], loop["stores"]) == (1, 1, 1, 0, 0)
    assert loop["per_tensor"] == 17 / 8


def test_epilogue_of_a_product():
    epilogue = product()["epilogue"]
    assert epilogue["instructions"] == 7  # the store of the whole vector, not its tail
    assert (epilogue["mufu"], epilogue["mufu_ex2"], epilogue["shfl"], epilogue["sel"]) == (1, 1, 1, 1)
    assert (epilogue["stores"], epilogue["store_bytes"]) == (1, 16)
    assert epilogue["elements"] == 16 and epilogue["per_element"] == 7 / 16


def test_the_main_loop_is_the_one_with_the_products_and_not_the_loop_over_tiles():
    found = facts("""
        tile:
        S2R R0, SR_CTAID.X
        step:
        HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24, gsb0
        WARPGROUP.DEPBAR.LE gsb0, 0x0
        @P0 BRA step
        STG.E.128 [R2.64], R24
        @P1 BRA tile
        EXIT
    """)
    assert (found["loop"]["start"], found["loop"]["instructions"], found["loop"]["tensor"]) == (0x10, 3, 1)
    assert found["epilogue"]["instructions"] == 3  # to the next tile's start
    assert found["epilogue"]["elements"] == 128
    assert [loop["innermost"] for loop in found["loops"]] == [False, True]


def test_a_loop_over_parts_of_a_tile_is_inside_the_main_loop():
    """Attention: the scores by a loop of constant count, their product with the values unrolled."""
    found = facts(f"""
        keys:
        MOV R0, RZ
        channels:
        {HMMA.format(20)}
        IADD3 R0, R0, 0x10, RZ
        ISETP.GE.AND P0, PT, R0, 0x40, PT
        @!P0 BRA channels
        MUFU.EX2 R5, R20
        {HMMA.format(24)}
        {HMMA.format(28)}
        {HMMA.format(32)}
        @P1 BRA keys
        EXIT
    """)
    assert found["loop"]["start"] == 0
    assert found["loop"]["tensor"] == 4 + 3 and found["loop"]["instructions"] == 1 + 4 * 4 + 5


# --- Loads in flight ---


def test_loads_in_flight():
    independent = [f"LDG.E.128 R{4 * n}, [R60.64+{hex(16 * n)}]" for n in range(4)]
    found = facts("\n".join([*independent, "FADD R50, R13, R0", "FADD R50, R50, R4", "EXIT"]))
    assert found["in_flight"] == {"first": {"loads": 4, "bytes": 64}, "most": {"loads": 4, "bytes": 64}}
    chain = "LDG.E R2, [R60.64]\nLDG.E.64 R4, [R2.64]\nLDG.E R5, [R4.64]\nFADD R6, R5, R5\nEXIT"
    assert facts(chain)["in_flight"] == {"first": {"loads": 1, "bytes": 4}, "most": {"loads": 1, "bytes": 8}}
    assert facts("STG.E [R2.64], R0\nEXIT")["in_flight"]["most"] == {"loads": 0, "bytes": 0}


def test_copies_in_flight():
    """Two groups are under way while all but one must be there."""
    copy, commit, wait = "LDGSTS.E.BYPASS.128 [R9], [R2.64]\n", "LDGDEPBAR\n", "DEPBAR.LE SB0, {}\n"
    found = facts(
        copy + copy + commit + copy + commit + wait.format("0x1") + copy + commit + wait.format("0x0") + "EXIT"
    )
    assert found["in_flight"] == {"first": {"loads": 3, "bytes": 48}, "most": {"loads": 3, "bytes": 48}}


def test_loads_of_one_round_for_the_next_are_in_flight():
    found = facts("""
        again:
        FADD R4, R4, R8
        LDG.E R8, [R2.64]
        LDG.E R9, [R2.64+0x80]
        @P0 BRA again
        EXIT
    """)
    assert found["in_flight"]["first"] == {"loads": 2, "bytes": 8}


# --- Names and reports ---

REPORT = """ptxas info    : Compiling entry function '_Z1fPf' for 'sm_80'
ptxas info    : Function properties for _Z1fPf
    16 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads
ptxas info    : Used 21 registers, used 1 barriers, 1024 bytes smem, 377 bytes cmem[0]
ptxas info    : Compiling entry function '_Z1fPf' for 'sm_90a'
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
"""


def test_ptxas_report():
    assert toolkit.resources(REPORT) == {
        ("sm_80", "f(float*)"): {"stack": 16, "spilled": 12, "registers": 21, "shared": 1024},
        ("sm_90a", "f(float*)"): {"stack": 0, "spilled": 0, "registers": 20, "shared": 0},
    }


@pytest.mark.parametrize(
    "readable, short",
    [
        ("void a::(anonymous namespace)::f<a::b, (int)3>(a::b*, void (*)(int), bool)",
         "a::(anonymous namespace)::f<a::b, (int)3>"),
        ("f(float*)", "f"),
        ("_Zunknown", "_Zunknown"),
    ],
)  # fmt: skip
def test_names_without_arguments(readable, short):
    assert toolkit.short_name(readable) == short


# --- Resident blocks ---


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


# --- Small kernels, compiled ---

KERNELS = """
__global__ void __launch_bounds__(128) independent(float4* out, const float4* in) {
    const int i = blockIdx.x * 128 + threadIdx.x, n = gridDim.x * 128;
    const float4 a = in[i], b = in[i + n], c = in[i + 2 * n], d = in[i + 3 * n];
    out[i] = {a.x + b.x + c.x + d.x, a.y + b.y + c.y + d.y, a.z + b.z + c.z + d.z, a.w + b.w + c.w + d.w};
}
__global__ void __launch_bounds__(128) dependent(int* out, const int* in) {
    out[threadIdx.x] = in[in[in[in[threadIdx.x]]]];
}
__global__ void __launch_bounds__(256) counted(float* out, int n) {
    float x = out[threadIdx.x];
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
        asm volatile("ex2.approx.f32 %0, %0;" : "+f"(x));
        asm volatile("ex2.approx.f32 %0, %0;" : "+f"(x));
        asm volatile("tanh.approx.f32 %0, %0;" : "+f"(x));
        __syncthreads();
    }
    __shared__ float s[64];
    s[threadIdx.x % 64] = x;
    __syncthreads();
    out[threadIdx.x] = s[(threadIdx.x + 1) % 64];
}
__global__ void __launch_bounds__(256) seven_times(float* out) {
    float x = out[threadIdx.x];
#pragma unroll 1
    for (int i = 0; i < 7; ++i) asm volatile("rsqrt.approx.f32 %0, %0;" : "+f"(x));
    out[threadIdx.x] = x;
}
__global__ void __launch_bounds__(256) divided(float* out, float y) { out[threadIdx.x] /= y; }
"""


@pytest.fixture(scope="module", params=["sm_80", "sm_90a"])
def kernels(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compiled")
    (folder / "k.cu").write_text(KERNELS)
    command = [toolkit.tool("nvcc"), f"-arch={request.param}", "-Xptxas", "-v", "-cubin", "-o", "k.cubin", "k.cu"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    (folder / "k.ptxas").write_text(done.stderr)
    found = compiled.facts([folder / "k.cubin"])
    assert json.loads(json.dumps(found)) == found
    assert all(list(by_architecture) == [request.param] for by_architecture in found.values())
    return {name: of[request.param] for name, of in found.items()}, folder / "k.cubin"


@needs_nvcc
def test_independent_loads_are_in_flight_together_and_a_chain_is_not(kernels):
    found, _ = kernels
    assert found["independent"]["in_flight"] == {"first": {"loads": 4, "bytes": 64}, "most": {"loads": 4, "bytes": 64}}
    assert found["independent"]["loop"] is None
    assert found["dependent"]["path"]["loads"] == 4
    assert found["dependent"]["in_flight"]["most"] == {"loads": 1, "bytes": 4}


@needs_nvcc
def test_counts_of_a_loop(kernels):
    found, _ = kernels
    loop = found["counted"]["loop"]
    assert (loop["mufu"], loop["mufu_ex2"], loop["mufu_tanh"], loop["bar"]) == (3, 2, 1, 1)
    assert loop["trips"] is None
    assert found["counted"]["shared"] == 256 and found["counted"]["threads"] == 256


@needs_nvcc
def test_a_constant_loop_counts_on_the_path(kernels):
    found, _ = kernels
    assert found["seven_times"]["loop"]["trips"] == 7
    assert found["seven_times"]["path"]["mufu_rsq"] == 7


@needs_nvcc
def test_the_slow_path_of_a_division_is_no_part_of_the_path(kernels):
    path = kernels[0]["divided"]["path"]
    assert path["mufu_rcp"] == 1 and path["stores"] == 1 and path["instructions"] < 40


@needs_nvcc
def test_resident_of_a_kernel(kernels):
    found, _ = kernels
    counted = found["counted"]
    assert counted["resident"] == 8 == compiled.resident(counted, "sm_90a")
    assert compiled.resident(counted, "sm_80", dynamic_shared=80 << 10) == 2
    assert compiled.resident(counted, "sm_80", threads=1024) == 2
    assert compiled.resident({}, "sm_80") is None


@needs_nvcc
def test_the_command_prints_a_table_or_json(kernels, capsys):
    found, path = kernels
    assert compiled.main([str(path), "--kernel", "^(in)?dependent"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["kernel", "arch", "regs"]
    assert [line.split()[0] for line in lines] == ["dependent", "independent"]
    compiled.main([str(path), "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert {name: next(iter(of.values())) for name, of in printed.items()} == found


@needs_nvcc
def test_a_kernel_that_spills(tmp_path):
    (tmp_path / "s.cu").write_text(
        "__global__ void spilling(float* x) {\n  float v[64];\n"
        "#pragma unroll\n  for (int i = 0; i < 64; ++i) v[i] = x[i * 256 + threadIdx.x];\n"
        "  for (int n = int(x[0]); n > 0; --n)\n"
        "#pragma unroll\n    for (int i = 0; i < 64; ++i) v[i] = v[i] * v[(i + 7) % 64] + 1;\n"
        "#pragma unroll\n  for (int i = 0; i < 64; ++i) x[i * 256 + threadIdx.x] = v[i];\n}\n"
    )
    command = [toolkit.tool("nvcc"), "-arch=sm_80", "-maxrregcount", "24", "-Xptxas", "-v", "-cubin", "s.cu"]
    done = subprocess.run([*command, "-o", "s.cubin"], cwd=tmp_path, capture_output=True, text=True, check=True)
    (tmp_path / "s.ptxas").write_text(done.stderr)
    of = compiled.facts([tmp_path / "s.cubin"])["spilling"]["sm_80"]
    assert of["spilled"] > 0 and of["stack"] > 0 and of["registers"] <= 24
    assert of["loop"]["local"] > 0
    assert "threads" not in of


# --- The project's products ---


@needs_nvcc
def test_products_of_this_project():
    """Bounds, not today's counts: that loop and epilogue are found, and that the epilogue is not a tail."""
    path = ROOT / "build/cuda-tests/llmc/cuda/matmul_forward.o"
    if not path.exists():
        pytest.skip("not built: make cuda-tests CUDA_BUILD=build/cuda-tests")
    found = compiled.facts([path], r"matmul_bf16_kernel<false, false, 4, .*::Linear")
    bounds = {"Linear<": (5, 20), "LinearResidual<": (6, 24), "LinearGelu<": (10, 45)}
    assert len(found) == len(bounds)
    for name, by_architecture in found.items():
        least, most = next(bound for epilogue, bound in bounds.items() if f"::{epilogue}" in name)
        for of in by_architecture.values():
            assert of["loop"]["tensor"] == 64 and of["loop"]["ldsm"] == 16 and of["loop"]["async_copies"] >= 6
            assert of["loop"]["local"] == 0 and of["loop"]["per_tensor"] < 6
            assert of["epilogue"]["elements"] == 128 and least < of["epilogue"]["per_element"] < most
            assert of["epilogue"]["store_bytes"] >= 2 * 128
