"""The kernel report: no count of a kernel may get worse than in bench/kernels.json, and the bound follows from known
numbers. `make kernel-report` writes a new file, after a change that is better or worse on purpose."""

import copy
import json

import pytest
from program import ROOT

from llmc.bench.kernel_bound import GPUS, bound_of
from llmc.bench.kernel_counts import MODULE, Launch, finish, model_cases, readable, start
from llmc.bench.kernel_report import FILE, Report, worse

H100 = GPUS["H100"]
COMMITTED = json.loads((ROOT / FILE).read_text())


@pytest.fixture(scope="module")
def counted():
    """Every op of a step of GPT-2 124M, counted again."""
    if not (ROOT / MODULE).exists():
        pytest.skip("not built: run make module-count")
    return finish(start("124M", H100.multiprocessors, H100.capability))


def test_no_count_is_worse_than_the_committed_one(counted):
    report = {"nvcc": "", "models": {"124M": Report(H100, {}, {}).model("124M", counted)}}
    assert report["models"]["124M"]["ops"].keys() == COMMITTED["models"]["124M"]["ops"].keys()
    assert worse(report, COMMITTED) == []


def test_a_worse_count_or_bound_is_named():
    now = copy.deepcopy(COMMITTED)
    op = now["models"]["124M"]["ops"]["c_attn forward"]
    op["counts"]["wavefronts"] = round(1.01 * op["counts"]["wavefronts"])
    op["percent"] -= 1
    sentences = worse(now, COMMITTED)
    assert len(sentences) == 2
    assert all(sentence.startswith("124M, c_attn forward: ") for sentence in sentences)
    assert worse(COMMITTED, now) == []
    now["nvcc"] = "12.4.1"  # another compiler: only the emulator's counts can be compared
    assert len(worse(now, COMMITTED)) == 1


def test_the_report_has_every_op_of_a_step():
    for model, of in COMMITTED["models"].items():
        assert list(of["ops"]) == [case.name for case in model_cases(model)]
        for name, op in of["ops"].items():  # the floor of an embedding has a row for each token, and tokens repeat
            assert 0 < op["percent"] <= (101 if name == "embedding forward" else 100), name
        assert all(kernel["registers"]["sm_90a"] > 0 for op in of["ops"].values() for kernel in op["kernels"])
    assert COMMITTED["gpu"] == "H100"


def test_products_are_at_least_the_necessary_ones(counted):
    for case in model_cases("124M"):
        if case.op.startswith(("matmul", "attention")):
            import llmc

            executed = sum(of.blocks * of.products for of in counted[case.name])
            assert executed >= 0.999 * case.cost(llmc.backend("emulated"), "bf16").flops / 2


# --- The bound of a made-up kernel ---

MMA_ROUNDS = 1000  # of the main loop, each with 8 products and 40 instructions
LOOP = {"tensor": 8, "tensor_flops": 8 * 2 * 16 * 8 * 16, "instructions": 40, "mufu": 0}
EPILOGUE = {"stores": 4, "instructions": 400}


def kernel(**changes):
    return Launch(
        **{
            "kernel": "made_up",
            "blocks": 132,
            "threads": 128,
            "shared": 0,
            "cluster": 1,
            "events": {"mma": 8.0 * MMA_ROUNDS * 4},
            "memory": {"global write plain": {"requests": 4 * 4.0, "actual": 64.0, "ideal": 64.0, "bytes": 2048.0}},
            "traffic": [(1 << 20, 0.0, 64.0)],
        }
        | changes
    )


def facts(registers=255, **changes):
    return {"registers": registers, "loop": LOOP, "epilogue": EPILOGUE} | changes


def test_a_block_alone_takes_its_main_loop_and_its_epilogue():
    seconds = bound_of(kernel(), facts(), H100).seconds
    tensor = 8 * MMA_ROUNDS * 4 * 2048 / (2048 * 0.63)
    epilogue = 4 * 400 / 4  # four warps, four instructions a clock
    assert seconds == pytest.approx((tensor + epilogue) / H100.clock)


def test_warpgroups_with_exponentials_in_their_loop_take_no_turns():
    exponentials = kernel(events={"wgmma": 2048.0 * 1000, "exp2": 16.0 * 2000})
    seconds = bound_of(exponentials, facts() | {"loop": LOOP | {"mufu": 8}}, H100).seconds
    assert seconds * H100.clock == pytest.approx(2000 + 400)


def test_resident_blocks_hide_each_others_epilogues():
    one, two = (bound_of(kernel(blocks=n * 132), facts(), H100) for n in (1, 2))
    tensor = 2 * 8 * MMA_ROUNDS * 4 / 0.63
    assert two.seconds == pytest.approx(tensor / H100.clock)
    assert one.seconds < two.seconds < 2 * one.seconds


def test_one_block_too_many_takes_another_wave():
    full, more = (bound_of(kernel(blocks=n), facts(), H100).seconds for n in (2 * 132, 2 * 132 + 1))
    assert more > 1.4 * full


def test_bytes_that_blocks_share_count_once():
    shared = kernel(traffic=[(1 << 20, 1 << 15, 0.0)], events={})
    assert shared.bytes == 1 << 20
    assert bound_of(shared, {}, H100).units["bytes"] == pytest.approx((1 << 20) / 3.35e12)


def test_few_loads_in_flight_make_latency_the_bound():
    reads = {"global read plain": {"requests": 1e4, "actual": 16e4, "ideal": 16e4, "bytes": 5.12e6}}
    launch = kernel(events={}, memory=reads, traffic=[(1 << 40, 160000.0, 0.0)], blocks=1320)
    few, many = (
        bound_of(launch, {"registers": 32, "in_flight": {"most": {"loads": n, "bytes": 16 * n}}}, H100) for n in (1, 8)
    )
    assert few.units["latency"] == pytest.approx(8 * many.units["latency"])
    assert many.unit == "bytes"


def test_names_of_both_compilers_agree():
    by_gcc = "void llmc::cuda::matmul_kernel<false, 4, llmc::cuda::Linear<llmc::bf16> >(llmc::cuda::Problem<float>)"
    by_nvcc = "llmc::cuda::matmul_kernel<false, 4, llmc::cuda::Linear<llmc::bf16>>"
    assert readable(by_gcc) == readable(by_nvcc) == "matmul_kernel<false, 4, Linear<bf16>>"
    assert readable("llmc::cuda::(anonymous namespace)::step_kernel<true>(llmc::cuda::Step)") == "step_kernel<true>"
