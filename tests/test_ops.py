"""Tests of every op of llmc/ops/ops.h: same bits in every call and schedule, NaNs are kept, bad arguments are named.
Each op against PyTorch: test_ops_*.py, test_optimizers.py."""

import numpy as np
import pytest
from op_tools import Data, parameter

import llmc


def test_nan_is_not_lost(backend, dtype):
    """A diverged run is recognised by its NaN: no op may replace it by a number."""
    logits, targets = np.zeros((2, 40), np.float32), np.array([3, 4], np.int32)
    logits[0, 7] = np.nan
    logits[1, 7] = np.inf
    result = backend.classifier(logits, targets, vocab_size=40, dloss=1.0, dtype=dtype)
    assert not np.isfinite(result["losses"]).any()
    qkv = np.zeros((1, 5, 24), np.float32)
    qkv[0, 2, 9] = np.nan  # a key
    out = backend.attention_forward(qkv, num_heads=1, logit_scale=1.0, dtype=dtype)["out"]
    assert np.isfinite(out[0, :2]).all() and np.isnan(out[0, 2:]).all()
    assert np.isnan(
        backend.layernorm_forward(
            np.full((1, 4), np.nan, np.float32), np.ones(4, np.float32), np.ones(4, np.float32), dtype=dtype
        )["out"]
    ).all()
    assert np.isnan(backend.global_norm([np.array([1, np.nan], np.float32)])).all()


def results_of_all_ops(backend, dtype):
    data = Data(22, dtype)
    N, C, OC, B, T, H, V = 606, 72, 136, 3, 202, 3, 300
    tokens, inp, dout, weight = data.integers(V, B, T), data.normal(N, C), data.normal(N, OC), data.normal(OC, C)
    gain, bias, qkv = data.normal(C), data.normal(OC), data.normal(B, T, 3 * C)
    zeros = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
    kw = {"dtype": dtype}
    norm = backend.layernorm_forward(inp, gain, gain, **kw)
    forward = backend.attention_forward(qkv, num_heads=H, logit_scale=0.2, **kw)
    yield backend.embedding_backward(inp.reshape(B, T, C), tokens, zeros(V, C), zeros(T, C), **kw)
    yield norm
    yield backend.layernorm_backward(inp, inp, gain, norm["mean"], norm["rstd"], **kw)
    yield backend.matmul_forward(inp, weight, bias, with_gelu=True, **kw)
    yield backend.matmul_backward(
        dout, inp=inp, weight=weight, pre_gelu=inp, dweight=zeros(OC, C), dbias=zeros(OC), **kw
    )
    yield forward
    yield {
        "dqkv": backend.attention_backward(
            inp.reshape(B, T, C), forward["out"], forward["lse"], qkv, logit_scale=0.2, **kw
        )
    }
    yield {"logits": backend.attention_logits(qkv, num_heads=H, logit_scale=0.2, **kw)}
    yield backend.classifier(data.normal(N, V + 3), tokens.reshape(-1), vocab_size=V, dloss=0.1, **kw)
    yield {"norm": backend.global_norm([inp, dout]), "sum": backend.accumulate_sum(dout)}
    yield {"statistics": backend.statistics(inp, minus=dout[:, :C], **kw)}
    yield backend.adamw_step(
        [parameter(data, dtype, 333, 77, lr=0.1)], step=2, beta1=0.9, beta2=0.99, stochastic_rounding=True, **kw
    )[0]


def test_same_bits_twice(backend, dtype):
    for first, second in zip(*(results_of_all_ops(backend, dtype) for _ in range(2)), strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name].view(np.uint32), second[name].view(np.uint32), err_msg=name)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_bits_under_any_schedule(dtype, seed):
    """CUDA's threads run in any order between barriers: tested in several orders, on one host thread and on more."""
    if "emulated" not in llmc.backends():
        pytest.skip("the emulated backend is not built: run make module-emu")
    emulated = llmc.backend("emulated")
    expected = list(results_of_all_ops(emulated, dtype))
    try:
        emulated.schedule(shuffle=True, seed=seed, workers=seed)
        for first, second in zip(expected, results_of_all_ops(emulated, dtype), strict=True):
            for name in first:
                np.testing.assert_array_equal(first[name].view(np.uint32), second[name].view(np.uint32), err_msg=name)
    finally:
        emulated.schedule()


def calls_with_wrong_shapes(backend):
    f = lambda *shape: np.ones(shape, np.float32)  # noqa: E731
    i = lambda *shape: np.zeros(shape, np.int32)  # noqa: E731
    yield "wpe", lambda: backend.embedding_forward(i(2, 5), f(7, 4), f(4, 4))
    yield "wpe", lambda: backend.embedding_forward(i(2, 5), f(7, 4), f(5, 3))
    yield "dwte", lambda: backend.embedding_backward(f(2, 5, 4), i(2, 5), f(7, 3), f(5, 4))
    yield "weight", lambda: backend.layernorm_forward(f(3, 4), f(5), f(4))
    yield "dout", lambda: backend.layernorm_backward(f(3, 5), f(3, 4), f(4), f(3), f(3))
    yield "weight", lambda: backend.matmul_forward(f(3, 4), f(2, 5))
    yield "bias", lambda: backend.matmul_forward(f(3, 4), f(2, 4), f(3))
    yield "residual", lambda: backend.matmul_forward(f(3, 4), f(2, 4), with_gelu=True, residual=f(3, 2))
    yield "dweight", lambda: backend.matmul_backward(f(3, 4), inp=f(3, 2), dweight=f(2, 4))
    yield "inp", lambda: backend.matmul_backward(f(3, 4), weight=f(4, 2), dweight=f(4, 2))
    yield "heads", lambda: backend.attention_forward(f(2, 3, 12), num_heads=3, logit_scale=1.0)
    yield "lse", lambda: backend.attention_backward(f(2, 3, 4), f(2, 3, 4), f(2, 2, 4), f(2, 3, 12), logit_scale=1.0)
    yield "dout", lambda: backend.attention_backward(f(2, 3, 5), f(2, 3, 4), f(2, 2, 3), f(2, 3, 12), logit_scale=1.0)
    yield "dout", lambda: backend.gelu_backward(f(3, 5), f(3, 4))
    yield "vocab_size", lambda: backend.classifier(f(3, 5), i(3), vocab_size=6)
    yield "targets", lambda: backend.classifier(f(3, 5), i(4), vocab_size=5)
    yield "columns", lambda: backend.statistics(f(3, 5), first_column=3, columns=3)
    yield "minus", lambda: backend.statistics(f(3, 5), minus=f(3, 4))
    yield "grad", lambda: backend.sgd_step([{"param": f(3), "grad": f(4), "m": f(3)}], step=1, momentum=0.9)
    yield "v", lambda: backend.adamw_step([{"param": f(3), "grad": f(3), "m": f(3)}], step=1, beta1=0.9, beta2=0.9)
    yield "dtype", lambda: backend.gelu_forward(f(3, 4), dtype="fp16")


def test_wrong_shapes_are_named(backend):
    for name, call in calls_with_wrong_shapes(backend):
        with pytest.raises(RuntimeError, match=name):
            call()


def test_indices_outside_are_refused(backend):
    """On the CPU an index outside the table is an error. GPU kernels do not check; the data loader does."""
    if backend.backend() != "cpu":
        pytest.skip("checked on the CPU only")
    ones = np.ones((5, 4), np.float32)
    for bad in (-1, 5):
        with pytest.raises(RuntimeError, match=rf"tokens\[1\] is {bad}"):
            backend.embedding_forward(np.array([[0, bad]], np.int32), ones, ones)
        with pytest.raises(RuntimeError, match=rf"targets\[0\] is {bad}"):
            backend.classifier(ones, np.array([bad, 0, 0, 0, 0], np.int32), vocab_size=4)


@pytest.mark.parametrize("bad", [2**32, -(2**40), 0.9, 1 + 2j, True, "1"])
def test_token_ids_are_not_cast_in_silence(backend, bad):
    """NumPy would make 0 of 2^32 and of 0.9."""
    ones = np.ones((5, 4), np.float32)
    for call, name in (
        (lambda: backend.embedding_forward(np.array([[bad, bad]]), ones, ones), "tokens"),
        (lambda: backend.embedding_backward(np.ones((1, 2, 4)), [[bad, bad]], ones, ones), "tokens"),
        (lambda: backend.classifier(ones, [bad] * 5, vocab_size=4), "targets"),
    ):
        with pytest.raises(llmc.UsageError, match=f"{name} (have the type|range from) .*(give integers|are int32)"):
            call()


def test_arrays_that_are_not_real_numbers_are_refused(backend):
    ones, entry = np.ones((5, 4), np.float32), {"param": np.ones(3), "grad": np.ones(3), "m": np.ones(3)}
    for call in (
        lambda: backend.gelu_forward(ones * 1j),
        lambda: backend.gelu_forward(np.array([["1", "2"]])),
        lambda: backend.matmul_forward(ones, ones, residual=ones * 1j),
        lambda: backend.global_norm([ones, ones * 1j]),
        lambda: backend.sgd_step([entry | {"grad": np.ones(3) * 1j}], step=1, momentum=0.9),
    ):
        with pytest.raises(llmc.UsageError, match="give real numbers"):
            call()
    with pytest.raises(llmc.UsageError, match="an entry has no 'grad'"):
        backend.sgd_step([{"param": np.ones(3), "m": np.ones(3)}], step=1, momentum=0.9)
    np.testing.assert_array_equal(backend.gelu_forward(ones.astype(int)), backend.gelu_forward(ones))


@pytest.mark.parametrize("heads", [-1, 0])
def test_the_number_of_heads_is_checked(backend, heads):
    for op in (backend.attention_forward, backend.attention_logits):
        with pytest.raises(llmc.UsageError, match=f"{op.__name__}: num_heads is {heads}"):
            op(np.ones((1, 2, 12), np.float32), num_heads=heads, logit_scale=1.0)


def test_heads_without_channels_are_refused(backend):
    """There would be nothing to compute, and lse would be what the memory held before."""
    with pytest.raises(llmc.Error, match="attention_forward: 0 channels cannot be divided among 2 heads"):
        backend.attention_forward(np.ones((1, 4, 0), np.float32), num_heads=2, logit_scale=1.0)


def test_device(backend):
    assert backend.backend() in backend.name() or backend.backend() != "cpu"
    assert backend.threads() >= 1
    assert backend.memory_total() > 2**28
