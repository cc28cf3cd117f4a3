"""FLOPs and bytes of llmc/ops/cost.h against numbers derived by hand, at the sizes of GPT-2 124M: batch 8 of 1024."""

import json
import subprocess
import sys

import pytest
from program import BACKEND, ROOT, log, run

import llmc

B, T, C, H, L = 8, 1024, 768, 12, 12
N, D, V, VP, P = B * T, C // H, 50257, 50304, 124_439_808
PAIRS = T * (T + 1) // 2  # of a query and a key, up to the diagonal


@pytest.fixture(scope="module")
def cost():
    """(FLOPs, bytes) of an op of llmc's time_op. Every backend has the same; nothing is allocated."""
    if not llmc.backends():
        pytest.skip("no backend is built: run make")
    backend = llmc.backend(llmc.backends()[0])

    def numbers(op, dtype="bf16", **sizes):
        result = backend.cost(op, sizes, dtype=dtype)
        return result["flops"], result["bytes"]

    return numbers


@pytest.mark.parametrize("dtype,s", [("bf16", 2), ("fp32", 4)])
def test_row_ops(cost, dtype, s):
    rows = {"N": N, "C": C}
    assert cost("layernorm_forward", dtype, **rows) == (0, 2 * s * N * C + 8 * N + 2 * s * C)
    # dinp, dout, inp, dskip; mean, rstd; weight; dweight and dbias read and written in fp32
    assert cost("layernorm_backward", dtype, **rows) == (0, 4 * s * N * C + 8 * N + s * C + 16 * C)
    assert cost("gelu_forward", dtype, N=N, C=4 * C) == (0, 2 * s * N * 4 * C)
    assert cost("gelu_backward", dtype, N=N, C=4 * C) == (0, 3 * s * N * 4 * C)
    assert cost("statistics", dtype, **rows) == (0, s * N * C + 16)
    assert cost("classifier", dtype, N=N, V=V, Vp=VP) == (0, 2 * s * N * VP + 8 * N)


@pytest.mark.parametrize("dtype,s", [("bf16", 2), ("fp32", 4)])
def test_embedding(cost, dtype, s):
    sizes = {"B": B, "T": T, "C": C}
    # out, tokens, a row of wte for each token, and wpe, in the element type too
    assert cost("embedding_forward", dtype, **sizes, V=VP) == (0, s * N * C + 4 * N + s * N * C + s * T * C)
    # a small table is read once
    assert cost("embedding_forward", dtype, **sizes, V=257) == (0, s * N * C + 4 * N + s * 257 * C + s * T * C)
    # gradients of the tables are fp32, read and written
    assert cost("embedding_backward", dtype, **sizes, V=VP) == (0, s * N * C + 4 * N + 8 * N * C + 8 * T * C)


@pytest.mark.parametrize("dtype,s", [("bf16", 2), ("fp32", 4)])
def test_matmul(cost, dtype, s):
    sizes = {"N": N, "C": C, "OC": 4 * C}
    flops, moved = 2 * N * C * 4 * C, s * (N * C + 4 * C * C + N * 4 * C)
    assert cost("matmul_forward", dtype, **sizes) == (flops, moved + s * 4 * C)
    assert cost("matmul_forward_gelu", dtype, **sizes) == (flops, moved + s * 4 * C + s * N * 4 * C)
    assert cost("matmul_forward_residual", dtype, **sizes) == (flops, moved + s * 4 * C + s * N * 4 * C)
    assert cost("matmul_dinp", dtype, **sizes) == (flops, moved)
    assert cost("matmul_dinp_gelu", dtype, **sizes) == (flops, moved + s * N * C)
    assert cost("matmul_dweight", dtype, **sizes) == (flops, s * (N * C + N * 4 * C) + 8 * 4 * C * C + 8 * 4 * C)


@pytest.mark.parametrize("dtype,s", [("bf16", 2), ("fp32", 4)])
def test_attention_counts_what_has_to_be_done(cost, dtype, s):
    """Up to the diagonal: two products forward, five backward."""
    sizes = {"B": B, "T": T, "H": H, "D": D}
    assert cost("attention_forward", dtype, **sizes) == (2 * 2 * B * C * PAIRS, 4 * s * N * C + 4 * N * H)
    assert cost("attention_backward", dtype, **sizes) == (5 * 2 * B * C * PAIRS, 8 * s * N * C + 4 * N * H)
    assert cost("attention_logits", dtype, **sizes) == (2 * B * C * PAIRS, 4 * B * H * PAIRS + 2 * s * N * C)


def test_optimizer(cost):
    assert cost("adamw", "fp32", P=P) == (0, 28 * P)
    assert cost("adamw", "bf16", P=P) == (0, 30 * P)  # the rounded copy is only written
    assert cost("adamw_stochastic", "bf16", P=P) == (0, 30 * P)
    assert cost("sgd", "fp32", P=P) == (0, 20 * P)
    assert cost("sgd", "bf16", P=P) == (0, 22 * P)
    assert cost("global_norm", P=P) == (0, 4 * P + 4)
    assert cost("accumulate_sum", N=N) == (0, 4 * N + 8)
    assert cost("cast", "bf16", P=P) == (0, 6 * P)


def test_flops_of_a_step(cost):
    """6 N + 12 L C T counts the products of a step, with attention as if it were not causal."""
    layers = [(C, 3 * C), (C, C), (C, 4 * C), (4 * C, C)] * L + [(C, V)]
    matrices = sum(
        cost(op, N=N, C=inp, OC=out)[0]
        for inp, out in layers
        for op in ("matmul_forward", "matmul_dinp", "matmul_dweight")
    )
    backend = llmc.backend(llmc.backends()[0])
    per_token = backend.flops_per_token(depth=L, width=C, seq_len=T, vocab_size=V)
    assert per_token * N == matrices + 6 * 2 * B * T * T * C * L
    assert per_token == 6 * (12 * L * C * C + V * C) + 12 * L * C * T


@pytest.mark.parametrize("recompute", ["none", "gelu", "block"])
@pytest.mark.parametrize("tied", ["--tie-embeddings", "--no-tie-embeddings"])
def test_executed_flops_are_those_of_the_ops(data, tmp_path, recompute, tied):
    """Percent of peak counts what the profile counts op by op."""
    model = ["--depth", 3, "--width", 32, "--heads", 2, "--seq-len", 24, "--batch-size", 2, "--threads", 1, tied]
    run(*data, *model, "--steps", 2, "--recompute", recompute, "--profile", "--out", tmp_path)
    (event,) = log(tmp_path, "profile")
    executed = sum(op["gflops"] * op["ms"] * 1e6 for op in event["ops"]) / (2 * 24)
    backend = llmc.backend(BACKEND)
    tile = 32 if BACKEND == "cpu" else 128
    padded = -(-257 // tile) * tile
    per_token = backend.executed_flops_per_token(
        depth=3, width=32, seq_len=24, padded_vocab=padded, recompute_blocks=recompute == "block"
    )
    assert per_token == pytest.approx(executed, rel=1e-6)
    assert per_token != pytest.approx(backend.flops_per_token(depth=3, width=32, seq_len=24, vocab_size=257), rel=0.01)


def test_wrong_arguments_are_named(cost):
    with pytest.raises(RuntimeError, match=r'"matmul_sideways": choose from .*matmul_dweight'):
        cost("matmul_sideways", N=1, C=1, OC=1)
    with pytest.raises(RuntimeError, match='sizes has no "OC"'):
        cost("matmul_forward", N=1, C=1)
    with pytest.raises(RuntimeError, match='"C" is 0'):
        cost("gelu_forward", N=1, C=0)


SIZES = {"N": 8, "C": 16, "OC": 24, "B": 2, "T": 8, "H": 2, "D": 8, "V": 11, "Vp": 16, "P": 100}
OPS = (
    "embedding_forward embedding_backward layernorm_forward layernorm_backward matmul_forward matmul_forward_gelu "
    "matmul_forward_residual matmul_dinp matmul_dinp_gelu matmul_dweight attention_forward attention_backward "
    "attention_logits gelu_forward gelu_backward classifier accumulate_sum statistics cast global_norm adamw "
    "adamw_stochastic sgd"
).split()


@pytest.mark.parametrize("op", OPS)
def test_every_op_that_has_a_cost_can_be_timed(backend, dtype, op):
    seconds = backend.time_op(op, SIZES, dtype=dtype, sets=2, repeats=3)
    assert len(seconds) == 3 and all(s > 0 for s in seconds)
    assert backend.cost(op, SIZES, dtype=dtype)["bytes"] > 0


def test_peak_is_never_below_a_rate_that_was_reached(backend):
    """If a higher rate was reached, the peak is measured again, and is at least that rate."""
    code = (
        "import json, sys; sys.path.insert(0, 'python'); import llmc; peak = llmc.backend(sys.argv[1]).peak_flops;"
        "first = peak('fp32'); print(json.dumps([first, peak('fp32'), peak('fp32', seen=first / 2),"
        " peak('fp32', seen=1e18), peak('fp32', seen=2e18), peak('fp32'), peak('bf16')]))"
    )
    name = backend.backend()
    done = subprocess.run([sys.executable, "-c", code, name], cwd=ROOT, capture_output=True, text=True, check=True)
    first, again, lower, seen, more, kept, other = json.loads(done.stdout)
    assert 0 < first == again == lower < 1e17
    assert (seen, more, kept) == (1e18, 2e18, 2e18)
    assert 0 < other < 1e17
