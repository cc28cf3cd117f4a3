"""llmc/cuda/matmul/work.h: how the steps of a product's tiles are divided among blocks, and that every turn comes."""

import os
import subprocess
import sys
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pytest
from program import ROOT, make_variable
from test_ops_matmul import MATMUL_SHAPES

import llmc

ROWS = 32768
# The weight gradients of GPT-2 124M: (M, N)
WGRADS = {"c_attn": (2304, 768), "attn c_proj": (768, 768), "c_fc": (3072, 768), "mlp c_proj": (768, 3072),
          "head": (50304, 768)}  # fmt: skip


def random_cases():
    rng = np.random.default_rng(0)
    for _ in range(300):
        tile, multiprocessors = (
            rng.choice(["wide", "narrow", "small", "wgmma", "fp32"]),
            int(rng.choice([1, 2, 3, 5, 46, 108, 132])),
        )
        M, N, K = (int(np.exp(rng.uniform(0, np.log(most)))) for most in (6000, 6000, 100000))
        yield tile, multiprocessors, M, N, K, int(rng.random() < 0.9)


@pytest.fixture(scope="module")
def plan_program(tmp_path_factory):
    """Runs tests/cuda/work.cpp: cases -> what it writes for each."""
    program = tmp_path_factory.mktemp("work") / "work"
    flags = make_variable("EMU_FLAGS")
    source = ROOT / "tests/cuda/work.cpp"
    subprocess.run([*make_variable("CXX"), *flags, source, "-o", program], cwd=ROOT, check=True)

    def run(cases):
        lines = "\n".join(" ".join(map(str, case)) for case in cases)
        output = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout
        return output.split("end\n")[:-1]

    return run


@pytest.fixture(scope="module")
def planned(plan_program):
    """{case: (plan, pieces)}: a case is (tile, multiprocessors, M, N, K, adds_up)."""
    cases = [*random_cases()]
    cases += [
        (tile, sms, M, N, ROWS, 1)
        for tile in ("wide", "narrow", "wgmma")
        for sms in (108, 132)
        for M, N in WGRADS.values()
    ]
    found = {}
    for case, text in zip(cases, plan_program(cases), strict=True):
        plan, *pieces = ([float(x) for x in line.split()] for line in text.splitlines())
        names = ("places", "blocks", "tiles", "steps", "whole", "clocks", "step", "turn")
        found[case] = dict(zip(names, plan, strict=True)), [tuple(map(int, piece)) for piece in pieces]
    assert len(found) >= len(set(cases))
    return found


def test_every_step_is_computed_once_and_every_turn_comes_in_order(planned):
    """Blocks one after the other: each piece finds as many parts of its tile added as its turn says."""
    divided_plans = 0
    for case, (plan, pieces) in planned.items():
        steps, added, turns_of = defaultdict(list), defaultdict(int), {}
        for _, tile, begin, end, turn, turns in pieces:
            assert added[tile] == turn, f"{case}: tile {tile} waits for a block of higher index"
            added[tile] += 1
            assert turns_of.setdefault(tile, turns) == turns
            steps[tile].append((begin, end))
        assert sorted(steps) == list(range(int(plan["tiles"]))), case
        for tile, parts in steps.items():
            parts.sort()
            assert parts[0][0] == 0 and parts[-1][1] == plan["steps"], f"{case}: tile {tile}: {parts}"
            assert all(a[1] == b[0] for a, b in pairwise(parts)), f"{case}: tile {tile}: {parts}"
            assert len(parts) == turns_of[tile] and (len(parts) == 1 or tile >= plan["whole"])
        assert plan["blocks"] <= plan["places"] and plan["tiles"] - plan["whole"] < plan["places"], case
        divided_plans += len(pieces) > plan["tiles"]
        if not case[-1]:
            assert len(pieces) == plan["tiles"]
    assert divided_plans > 100


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("epilogue", ["linear", "gelu", "residual", "linear_dgrad", "gelu_dgrad", "wgrad"])
def test_the_tests_of_products_reach_every_tile(plan_program, epilogue, aligned):
    def sizes(N, OC, C):
        return (OC, C, N) if epilogue == "wgrad" else (N, C, OC) if epilogue.endswith("dgrad") else (N, OC, C)

    shapes = [shape for shape in MATMUL_SHAPES if all(x % 8 == 0 for x in shape[1:]) == aligned]
    chosen = plan_program([(epilogue, 3, *sizes(*shape), 0) for shape in shapes])
    tiles = {"wide", "narrow"} if epilogue == "wgrad" else {"wide", "narrow", "small"}
    assert {tile.strip() for tile in chosen} == tiles


def test_wgmma_is_chosen_where_it_pays(plan_program):
    """The products of GPT-2 124M on 132 multiprocessors, and of a tiny model."""
    C = 768
    layers = [(3 * C, C), (C, C), (4 * C, C), (C, 4 * C)]  # OC, C
    sizes = [("linear", ROWS, OC, C) for OC, C in layers] + [("linear_dgrad", ROWS, C, OC) for OC, C in layers]
    sizes += [("gelu", ROWS, 4 * C, C), ("residual", ROWS, C, C), ("gelu_dgrad", ROWS, 4 * C, C)]
    sizes += [("wgrad", M, N, ROWS) for M, N in WGRADS.values()]
    chosen = plan_program([(name, 132, *shape, has_wgmma) for has_wgmma in (0, 1) for name, *shape in sizes])
    assert {tile.strip() for tile in chosen[: len(sizes)]} <= {"wide", "narrow"}
    assert {tile.strip() for tile in chosen[len(sizes) :]} == {"wgmma"}
    tiny = plan_program([(name, 132, 512, 192, 64, 1) for name in ("linear", "gelu", "residual", "linear_dgrad")])
    assert {tile.strip() for tile in tiny} == {"small"}


def simulated(plan, pieces):
    """Clocks until the last block is done, and the share of the places' time that is spent on steps."""
    turn_over, ends, steps = defaultdict(float), defaultdict(float), 0
    for block, tile, begin, end, _, turns in pieces:
        steps += end - begin
        ends[block] += (end - begin) * plan["step"]
        if turns > 1:
            ends[block] = turn_over[tile] = max(ends[block], turn_over[tile]) + plan["turn"]
    last = max(ends.values())
    return last, steps * plan["step"] / (last * plan["places"])


@pytest.mark.parametrize("tile,multiprocessors,least", [("wide", 132, 0.78), ("wide", 108, 0.78), ("wgmma", 132, 0.75)])
def test_multiprocessors_are_busy_in_the_weight_gradients_of_gpt2(planned, tile, multiprocessors, least):
    for name, (M, N) in WGRADS.items():
        plan, pieces = planned[tile, multiprocessors, M, N, ROWS, 1]
        clocks, busy = simulated(plan, pieces)
        print(f"{tile}, {name}: {multiprocessors} multiprocessors {busy:.3f} busy, {max(p[-1] for p in pieces)} turns")
        assert busy > (least if name == "attn c_proj" else 0.93), f"{name}: {busy}"
        assert clocks < 1.05 * plan["clocks"], f"{name}: {clocks}, planned {plan['clocks']}"


GRADIENT = """
import sys
sys.path[:0] = ["python"]
import hashlib, numpy as np, llmc
emulated, dtype = llmc.backend("emulated"), sys.argv[1]
emulated.choose_matmul_kernel(sys.argv[2])
rng = np.random.default_rng(0)
sums = {(N, OC, C): 0 for N, OC, C in [(1500, 200, 100), (400, 60, 300), (1000, 130, 40)]}
for repeat in range(2):  # the counters of the turns are 0 again after each launch
    for N, OC, C in sums:
        rng = np.random.default_rng(N)
        dout, inp, dweight = (rng.standard_normal(shape).astype(np.float32) for shape in ((N, OC), (N, C), (OC, C)))
        exact = dweight + dout.astype(np.float64).T @ inp if dtype == "fp32" else None
        result = emulated.matmul_backward(dout, inp=inp, dweight=dweight, dbias=np.zeros(OC, np.float32), dtype=dtype)
        if exact is not None:
            assert np.abs(result["dweight"] - exact).max() < 1e-5 * np.abs(exact).max()
        digest = hashlib.sha256(result["dweight"].tobytes() + result["dbias"].tobytes()).hexdigest()
        assert sums[N, OC, C] in (0, digest), "other bits the second time"
        sums[N, OC, C] = digest
print(*sums.values())
"""


@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
@pytest.mark.parametrize("multiprocessors", [1, 5, 21])
@pytest.mark.parametrize("dtype,kernel", [("fp32", "auto"), ("bf16", "mma"), ("bf16", "wgmma")])
def test_weight_gradients_have_the_same_bits_in_every_schedule(dtype, kernel, multiprocessors):
    found = set()
    for schedule in ("workers=1", "workers=2", "workers=3 shuffle=1 seed=5"):
        environment = dict(os.environ, LLMC_EMULATOR=f"{schedule} multiprocessors={multiprocessors}")
        command = [sys.executable, "-c", GRADIENT, dtype, kernel]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1


SHORT_BURSTS = """
import sys
sys.path[:0] = ["python"]
import numpy as np, llmc
emulated = llmc.backend("emulated")
emulated.choose_matmul_kernel("wgmma")
ones = np.ones((600, 320), np.float32)
for C in (64, 128, 192, 320):  # 1, 2, 3 steps, 2 and 3
    out = emulated.matmul_forward(ones[:, :C], ones[:520, :C], dtype="bf16")["out"]
    assert (out == C).all(), C
"""


@pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
@pytest.mark.parametrize("seed", [3, 9, 11])  # in which a turn that one warp ended for all four would be missed
def test_consumers_take_turns_in_short_bursts(seed):
    environment = dict(os.environ, LLMC_EMULATOR=f"capability=90 multiprocessors=2 shuffle=1 seed={seed}")
    done = subprocess.run(
        [sys.executable, "-c", SHORT_BURSTS], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
