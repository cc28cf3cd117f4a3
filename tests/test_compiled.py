"""What llmc.bench.compiled reads out of machine code: of short listings written here, and of small kernels if there is
nvcc.
"""

import json
import subprocess

import pytest
from program import ROOT
from sass_listing import listing

from llmc.bench import compiled, sass, toolkit

needs_nvcc = pytest.mark.skipif(
    toolkit.tool("nvcc") is None or toolkit.tool("cuobjdump") is None, reason="no nvcc or cuobjdump: make cuda-toolkit"
)


def facts(text):
    return compiled.code_facts(listing(text))


# --- The hot path ---


def test_a_path_avoids_slow_accesses_though_they_are_more_instructions():
    tail = "\n".join(f"LDG.E.U16 R{10 + n}, [R2.64+{hex(2 * n)}]" for n in range(8))
    found = facts(f"""
        @P0 EXIT
        @P1 BRA whole
        {tail}
        BRA store
        whole:
        LDG.E.128 R4, [R2.64]
        store:
        STG.E.128 [R8.64], R4
        EXIT
    """)
    assert found["path"]["instructions"] == 5
    assert (found["path"]["loads"], found["path"]["load_bytes"], found["path"]["store_bytes"]) == (1, 16, 16)


def test_a_loop_with_a_constant_count_counts_that_often():
    text = """
        MOV R0, RZ
        again:
        FADD R1, R1, R2
        IADD3 R0, R0, 0x1, RZ
        ISETP.GE.AND P0, PT, R0, 0xa, PT
        @!P0 BRA again
        EXIT
    """
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


def test_accumulators_are_the_sums_that_are_carried_round():
    """Not those that begin with zeros; scaled ones are carried, and their registers may change."""
    products = [
        "CS2R R24, SRZ", "HMMA.16816.F32.BF16 R20, R40, R50, RZ", "HMMA.16816.F32.BF16 R20, R44, R52, R20",
        "HMMA.16816.F32.BF16 R24, R44, R52, R24", "FMUL R8, R60, R9", "HMMA.16816.F32.BF16 R60, R20, R54, R8",
        "HMMA.16816.F32.BF16 R64, R20, R56, R64", "HMMA.16816.F32.BF16 R64, R24, R58, R64.reuse",
    ]  # fmt: skip
    assert compiled.accumulators(sass.parse(listing("\n".join(products)))) == 2 * 4
    wide = "HGMMA.64x256x16.F32.BF16 R24, {}, !UPT\nHGMMA.64x256x16.F32.BF16 R24, {}, R24, gsb0"
    assert compiled.accumulators(sass.parse(listing(wide.format(*2 * ["gdesc[UR8]"])))) == 0
    carried = "HGMMA.64x256x16.F32.BF16 R24, R4, gdesc[UR8], R24\nHGMMA.64x256x16.F32.BF16 R24, R8, gdesc[UR8], R24"
    assert compiled.accumulators(sass.parse(listing(carried))) == 128


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
    found = compiled.facts([path], r"matmul_bf16_kernel<.*::Linear", "sm_80")
    assert len(found) >= 3
    for name, by_architecture in found.items():
        (of,) = by_architecture.values()
        loop, epilogue = of["loop"], of["epilogue"]
        small = "64, 64," in name  # warps of 32 x 32
        assert loop["tensor"] >= (16 if small else 32) and loop["tensor_flops"] == 4096 * loop["tensor"], name
        assert loop["ldsm"] > 0 and loop["async_copies"] > 0 and loop["bar"] > 0 and loop["local"] == 0, name
        assert loop["stores"] == 0 and loop["per_tensor"] < (8 if small else 6), name
        assert epilogue["elements"] >= 32 and 3 < epilogue["per_element"] < 45, name
        assert epilogue["store_bytes"] >= 2 * epilogue["elements"], name
