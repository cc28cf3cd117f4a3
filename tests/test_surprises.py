"""What real libraries do where one guesses wrong, as far as it touches this project, and what this project does. Each
test names the library's version; other such tests stand beside what they belong to:

    safetensors, transformers   test_foreign_weights.py, test_safetensors_header.py, test_published_weights.py,
                                test_export_hf.py
    tokenizers                  test_export_hf.py
    torch's norm on the CPU     test_machine.py
    GNU parallel, xargs         test_jobs.py
    libgomp                     test_machine.py
    SciPy's fits                test_check.py
    NumPy with OpenBLAS         test_measures.py
    CLI11                       test_options.py, test_config_files.py
    nvcc                        test_cuda_build.py, test_cuda_makefile.py
    SLURM                       test_slurm.py
    tiktoken                    test_text.py
"""

import itertools
import os
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from measures import rms
from program import BACKEND, BINARY, ROOT, log, run
from program import TINY as SMALL
from reference_tools import initialise, model_with
from shards import random_text, write_text_shards

import llmc
import train_gpt2
from llmc.cpus import usable_cpus
from llmc.mup.check import fit, t_quantile

needs_module = pytest.mark.skipif("cpu" not in llmc.backends(), reason="not built: run make module")
pytestmark = pytest.mark.usefixtures("one_thread")
TINY = "--vocab-size 40 --depth 1 --width 16 --heads 2 --seq-len 8 --no-tie-embeddings".split()


def after_steps_of_gradient_one(dtype, steps):
    model = model_with(*TINY, "--dtype", dtype, "--beta2", "0.999", "--grad-clip", "0", "--lr", "0")
    initialise(model, 0)
    optimizer = train_gpt2.Optimizer(model, model.config)
    for parameter in optimizer.parameters:
        parameter.grad = torch.ones_like(parameter)
    for _ in range(steps):
        optimizer.step(1.0, 1.0)
    return optimizer.tensors(optimizer.own.state)


def test_moments_are_fp32():
    """torch 2.13.0: a second moment in bf16 stays at 0.25 (fused) or 0.5 of its limit, as 0.999 v + 0.001 rounds to
    v; after 3,000 steps of gradient 1 it should be 0.950."""
    state = after_steps_of_gradient_one("bf16", 3000)
    assert {value.dtype for value in state.values()} == {torch.float32}
    moments = torch.cat([value.flatten() for name, value in state.items() if name.startswith("v.")])
    assert torch.allclose(moments, torch.tensor(1 - 0.999**3000, dtype=torch.float32), rtol=1e-4)
    slow = torch.zeros((), dtype=torch.bfloat16)
    for _ in range(3000):
        slow.mul_(0.999).add_(0.001)
    assert slow < 0.6, "bf16 would have been wrong"


@needs_module
def test_moments_of_train_gpt2_are_fp32():
    """torch 2.13.0, see above: in the C++ program, with the gradients of one batch at a learning rate of 0, for
    1,000 steps."""
    shape = {"vocab_size": 40, "depth": 1, "width": 16, "heads": 2, "seq_len": 8, "batch_size": 1}
    model = llmc.GPT2(backend="cpu", **shape, dtype="bf16", beta2=0.999, grad_clip=0, lr=0, eps=1e-8)
    tokens = np.arange(9)[None] % 40
    for _ in range(1000):
        model.zero_grad()
        model.forward(tokens[:, :-1], tokens[:, 1:])
        model.backward()
        model.step()
    gradients, state = model.gradients(), model.optimizer_state()
    for name, gradient in gradients.items():
        assert state[f"v.{name}"].dtype == np.float32
        large = np.abs(gradient) > 1e-6  # squares of others are near fp32's least numbers
        np.testing.assert_allclose(state[f"v.{name}"][large], gradient[large] ** 2 * (1 - 0.999**1000), rtol=1e-3)
    assert any((np.abs(gradient) > 1e-6).any() for gradient in gradients.values())


def test_moments_of_fused_adamw_are_bitwise_those_of_the_plain_one():
    """torch 2.13.0, CPU: the weights of fused and single-tensor AdamW differ in the last bits, the moments do not:
    tests compare moments by bits, weights with a tolerance."""
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(1000, generator=generator), torch.randn(10, 1000, generator=generator)
    results = []
    for fused in (True, False):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = torch.optim.AdamW([parameter], lr=0.01, fused=fused, foreach=False)
        for gradient in gradients:
            parameter.grad = gradient.clone()
            optimizer.step()
        results.append((parameter.detach(), optimizer.state[parameter]))
    (fused, state), (plain, plain_state) = results
    for name in ("exp_avg", "exp_avg_sq"):
        assert torch.equal(state[name], plain_state[name])
    assert torch.allclose(fused, plain, rtol=1e-5, atol=1e-7)


def test_gradients_of_embeddings_are_summed_in_fp32():
    """torch 2.13.0: the backward pass of an embedding in bf16 sums in bf16: 1,000 uses of a row give 256."""
    table = torch.nn.Parameter(torch.zeros(3, 2, dtype=torch.bfloat16))
    torch.nn.functional.embedding(torch.ones(1000, dtype=torch.long), table).sum().backward()
    assert table.grad[1, 0] < 900, "a bf16 table would have been wrong"
    model = model_with(*TINY, "--dtype", "bf16")
    initialise(model, 0)
    embedding = next(module for module in model.modules() if isinstance(module, train_gpt2.Embedding))
    embedding(torch.ones(1000, dtype=torch.long)).sum().backward()
    gradient = next(p.grad for p in embedding.parameters() if p.grad is not None)
    assert torch.equal(gradient[1], torch.full_like(gradient[1], 1000.0))


@needs_module
def test_clipping_has_no_epsilon():
    """torch 2.13.0: clip_grad_norm_ divides by norm + 1e-6, so that a norm equal to the limit still changes the
    gradient, to 0.999999 of it. Both programs multiply by limit / norm, and only if the norm is above the limit."""
    assert "without the 1e-6 that PyTorch's `clip_grad_norm_` adds" in (ROOT / "mup.md").read_text()
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 0.5)
    assert torch.nn.utils.clip_grad_norm_([parameter], 1.0) == 1.0
    assert parameter.grad[0] != 0.5, "torch's own would have been another"
    for gradient, wanted in ((0.5, 0.5), (1.0, 0.5), (0.25, 0.25)):  # norms 1, 2 and 0.5, limit 1
        norm = 2 * gradient
        step = {
            "param": np.zeros(4),
            "grad": np.full(4, gradient),
            "m": np.zeros(4),
            "lr": 1.0,
            "decay": 0.0,
            "stream": 0,
        }
        (new,) = llmc.cpu.sgd_step([step], step=1, momentum=0.0, grad_norm=norm, grad_clip=1.0)
        assert (new["param"] == -wanted).all()
        model = model_with(*TINY, "--optimizer", "sgd", "--momentum", "0", "--lr", "1", "--grad-clip", "1")
        optimizer = train_gpt2.Optimizer(model, model.config)
        for p in optimizer.parameters:
            p.data.zero_()
            p.grad = torch.full_like(p, gradient)
        optimizer.step(1.0, norm)
        rates = [group["peak_lr"] for group in optimizer.torch.param_groups for _ in group["params"]]
        for p, rate in zip(optimizer.parameters, rates, strict=True):
            assert (p == -rate * wanted).all()


def test_the_schedule_does_not_rise_again():
    """torch 2.13.0: CosineAnnealingLR rises after T_max. Ours stays at its end."""
    for schedule in ("cosine", "linear", "wsd"):
        config = model_with(*TINY, "--schedule", schedule, "--final-lr-frac", "0.1").config
        factors = [train_gpt2.lr_factor(config, t, 50) for t in range(150)]
        assert all(a >= b for a, b in itertools.pairwise(factors))
        assert factors[-1] == pytest.approx(0.1)


@pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")
@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_the_schedule_of_train_gpt2_does_not_rise_again(tmp_path, schedule):
    """torch 2.13.0, see above: the rates of a run of the C++ program, which are those of the twin."""
    data = write_text_shards(tmp_path / "data", random_text(3000), shards=1)
    options = ["--train-data", data, *SMALL, "--schedule", schedule, "--final-lr-frac", 0.1, "--lr", 1]
    run(*options, "--grad-clip", 1e-6, "--warmup-steps", 3, "--steps", 30, "--out", tmp_path / "run")
    rates = [event["lr"] for event in log(tmp_path / "run", "train")]
    assert rates[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert all(a >= b for a, b in itertools.pairwise(rates[2:])) and 0.1 <= rates[-1] < 0.25
    config = model_with(*TINY, "--schedule", schedule, "--final-lr-frac", "0.1", "--warmup-steps", "3").config
    assert rates == pytest.approx([train_gpt2.lr_factor(config, t, 30) for t in range(30)])


@needs_module
def test_products_without_inner_dimension_are_refused():
    """oneDNN 2.6.3 leaves the destination of a product with K = 0 unwritten: such products do not reach it."""
    with pytest.raises((llmc.Error, ValueError)):
        llmc.cpu.matmul_forward(np.zeros((3, 0)), np.zeros((2, 0)))


def python(code, **variables):
    """What a program prints that has its own threads and its own oneDNN."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "ONEDNN_"))} | variables
    return subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True)


ROWS = """if True:
    import numpy as np, llmc
    generator = np.random.default_rng(0)
    inp, weight = (generator.standard_normal(shape, dtype=np.float32) for shape in ((64, 768), (96, 768)))
    exact = inp.astype(np.float64) @ weight.T.astype(np.float64)
    def bits(rows):
        out = llmc.cpu.matmul_forward(inp[:rows], weight)["out"]
        assert np.abs(out - exact[:rows]).max() < 1e-4, rows
        return out.tobytes()
    def gradient(rows):
        start = np.ones((96, 768), np.float32)
        dout = exact[:rows].astype(np.float32)
        out = llmc.cpu.matmul_backward(dout, inp=inp[:rows], dweight=start, dweight_scale=0.01)["dweight"]
        assert np.abs(out - (1 + 0.01 * dout.T.astype(np.float64) @ inp[:rows])).max() < 1e-4, rows
        return out.tobytes()
    for rows in (1, 4, 5, 6, 8, 64):  # oneDNN computes those above 4
        for compute in (bits, gradient):
            assert len({compute(rows) for _ in range(5)}) == 1, (compute, rows)
    print(llmc.cpu.threads())
"""


@needs_module
@pytest.mark.parametrize("threads", ["1", "2", "3"])
def test_products_repeat_by_bits_and_their_rows_agree(threads):
    """oneDNN 2.6.3: with exactly two threads a row of a product may have other bits in a product of few rows than in
    one of eight; doc/kernels.md says so. The programs rely on less: a product has the same bits every time at the same
    number of threads, and a row is the same up to rounding in a product of any number of rows."""
    assert python(ROWS, OMP_NUM_THREADS=threads).split() == [threads]


PRODUCTS = """if True:
    import numpy as np, llmc
    generator = np.random.default_rng(0)
    for dtype, rows in (("fp32", 8), ("fp32", 300), ("bf16", 8), ("bf16", 300)):
        inp, weight, dout, bias = (
            generator.standard_normal(shape, dtype=np.float32) for shape in ((rows, 48), (96, 48), (rows, 96), (96,))
        )
        for scale in (1.0, 0.5):
            for b in (None, bias):
                llmc.cpu.matmul_forward(inp, weight, b, scale=scale, dtype=dtype)
                llmc.cpu.matmul_forward(inp, weight, b, scale=scale, with_gelu=True, dtype=dtype)
            llmc.cpu.matmul_backward(dout, weight=weight, dinp_scale=scale, dtype=dtype)
            llmc.cpu.matmul_backward(dout, weight=weight, pre_gelu=inp, dinp_scale=scale, dtype=dtype)
            for new in (False, True):
                total = np.ones((96, 48), np.float32)
                options = {"dweight_scale": scale, "overwrite_dweight": new, "dtype": dtype}
                llmc.cpu.matmul_backward(dout, inp=inp, dweight=total, **options)
"""


@needs_module
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2")
@pytest.mark.parametrize("isa", ["ALL", "AVX512_CORE", "AVX2"])
def test_no_product_falls_to_the_reference_implementation(isa):
    """oneDNN 2.6.3: a product added to its destination after its factor (bf16, a transposed), or one with a transposed
    destination, is computed by "ref:any", hundreds of times slower. Ours are all computed by others."""
    lines = python(PRODUCTS, ONEDNN_VERBOSE="1", ONEDNN_MAX_CPU_ISA=isa).splitlines()
    done = [line.split(",") for line in lines if ",exec," in line and ",matmul," in line]
    if not done:
        pytest.skip("this oneDNN was built without ONEDNN_VERBOSE")
    implementations = {words[words.index("matmul") + 1] for words in done}
    assert not {name for name in implementations if name.startswith("ref")}, implementations
    if isa == "ALL" and "avx512_bf16" in llmc.cpu.name():  # else the fp32 interface adds, which is not verbose
        assert any("post-ops:sum:2+eltwise_linear:0.5" in word for words in done for word in words)


@needs_module
@pytest.mark.skipif(platform.machine() != "x86_64", reason="AVX2")
def test_bf16_products_without_avx512():
    """oneDNN 2.6.3 (and 3.2.0) creates no bf16 product on AVX2. Ours are computed there, from fp32 products."""
    code = """if True:
        import numpy as np, llmc
        generator = np.random.default_rng(0)
        inp, weight = (generator.standard_normal(shape, dtype=np.float32) for shape in ((64, 48), (96, 48)))
        inp, weight = ((x.view(np.uint32) & 0xFFFF0000).view(np.float32) for x in (inp, weight))
        out = llmc.cpu.matmul_forward(inp, weight, dtype="bf16")["out"]
        print(np.abs(out - inp.astype(np.float64) @ weight.T.astype(np.float64)).max(), llmc.cpu.name())
    """
    environment = dict(os.environ, ONEDNN_MAX_CPU_ISA="AVX2", LLMC_CPU_ISA="avx2")
    words = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, env=environment, text=True).split()
    assert words[-1] == "avx2)"
    assert float(words[0]) < 0.1  # half a unit in the last place of bf16 at 16


def test_gelu_is_not_finite_where_its_cube_is_not(backend):
    """torch 2.13.0: the backward pass of GELU's tanh form is NaN at 1e20, where x^3 is infinite, although the
    derivative is 1. Ours is NaN at the same values: a run that gets there has diverged, and says so."""
    x = np.array([-1e20, -1e10, -50, -5, 0, 5, 50, 1e10, 1e20], np.float32)
    theirs = torch.tensor(x, requires_grad=True)
    torch.nn.functional.gelu(theirs, approximate="tanh").sum().backward()
    ours = np.asarray(backend.gelu_backward(np.ones_like(x), x))
    assert (np.isnan(ours) == np.isnan(theirs.grad.numpy())).all()
    assert np.isnan(ours).tolist() == [True, *[False] * 7, True]
    assert np.nanmax(np.abs(ours - theirs.grad.numpy())) < 1e-5


def test_no_query_is_without_keys(backend):
    """torch 2.13.0: attention of a row whose mask hides every key is 0 with a mask of booleans or of -inf, and the mean
    of the values with one of finfo.min. With causal attention there is no such row: the first query sees itself."""
    generator = np.random.default_rng(0)
    qkv = (1e4 * generator.standard_normal((1, 5, 3 * 8))).astype(np.float32)  # one score is far above the others
    out = backend.attention_forward(qkv, num_heads=2, logit_scale=0.5)["out"]
    assert (out[0, 0] == qkv[0, 0, 16:]).all()
    q, k, v = (torch.from_numpy(qkv[..., i : i + 8]).view(1, 5, 2, 4).transpose(1, 2) for i in (0, 8, 16))
    theirs = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert torch.isfinite(theirs).all()
    assert torch.equal(theirs[0, :, 0].flatten(), v[0, :, 0].flatten())


def test_mean_losses_of_many_tokens_are_right():
    """torch 2.13.0, CPU: its fp32 norm of many numbers is wrong, the mean of its cross entropy is not."""
    logits = torch.randn(1 << 18, 8, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(1 << 18) % 8
    ours = torch.nn.functional.cross_entropy(logits, targets).item()
    exact = torch.nn.functional.cross_entropy(logits.double(), targets).item()
    assert ours == pytest.approx(exact, rel=1e-6)


def test_intervals_over_few_seeds_use_students_t():
    """SciPy 1.17.1: a bootstrap of 3 values covers 71 to 74% at a nominal 95%. With two degrees of freedom Student's
    interval is 4.3 standard errors wide on each side, not 1.96."""
    assert t_quantile(2) == pytest.approx(4.3027, abs=1e-4)
    slope = fit([(1, 1.0), (2, 2.0), (4, 4.0 * 2**0.1), (8, 8.0)])
    assert slope.high - slope.value == pytest.approx(4.3027 * slope.error, rel=1e-4)


def open_mpi():
    if not shutil.which("mpirun") or BACKEND != "cpu" or usable_cpus() < 2:
        return False
    return "Open MPI" in subprocess.run(["mpirun", "--version"], capture_output=True, text=True).stdout


@pytest.mark.skipif(not open_mpi(), reason="needs Open MPI, two CPUs and the CPU's program")
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("program", [[str(BINARY)], [sys.executable, "train_gpt2.py", "--device", "cpu"]], ids=len)
def test_open_mpi_binds_one_or_two_processes_to_a_core(program, processes):
    """Open MPI 4.1.4: `mpirun -np 1` and `-np 2`, two runs that know nothing of each other, leave one CPU to each. Two
    threads would share it; doc/performance.md names --bind-to none."""

    def device_lines(*options):
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
        variables = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        command = ["mpirun", "-np", str(processes), *options, *program, "--dry-run"]
        text = subprocess.check_output(command, cwd=ROOT, env=kept | variables, text=True)
        return [line for line in text.splitlines() if line.startswith("device ")]

    bound, free = device_lines(), device_lines("--bind-to", "none")
    assert len(bound) == len(free) == processes
    assert all(", 1 thread by an affinity mask of 1 of " in line for line in bound), bound
    assert all(f", {usable_cpus()} threads" in line for line in free), free


@needs_module
def test_where_u_mup_differs_from_unit_scaling(backend):
    """unit-scaling 0.3.5 divides gains' rate by the root of the depth only, and multiplies a GELU's output by 1.7668,
    which leaves a root mean square of 1.15."""
    width, depth, lr = 64, 4, 0.5
    rules = backend.parametrization(parametrization="u-mup", width=width, depth=depth, heads=1, lr=lr)
    tensors = {tensor["name"]: tensor for tensor in rules["tensors"]}
    for name in ("h.1.ln_1.weight", "h.1.ln_2.bias"):
        assert tensors[name]["lr"] == pytest.approx(lr / (width * depth) ** 0.5)
    for name in ("ln_f.weight", "wte.weight"):
        assert tensors[name]["lr"] == pytest.approx(lr / width**0.5)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal(1_000_000))
    size = rms(torch.nn.functional.gelu(z, approximate="tanh"))
    factor = tensors["h.1.mlp.c_proj.weight"]["multiplier"] * (4 * width) ** 0.5
    assert factor * size == pytest.approx(1, abs=5e-3)
    assert 1.7668 * size == pytest.approx(1.152, abs=5e-3)


@needs_module
def test_sums_of_bf16_numbers_are_fp32(backend):
    """ml_dtypes 0.6.0: np.sum of 1,000 bf16 ones is 256, their dot product 1,000. Ours: every op that sums rows."""
    ones, gain = np.ones((1000, 8), np.float32), np.ones(8, np.float32)
    total = backend.matmul_backward(ones, inp=ones, dweight=np.zeros((8, 8)), dbias=np.zeros(8), dtype="bf16")
    assert (total["dbias"] == 1000).all() and (total["dweight"] == 1000).all()
    norm = backend.layernorm_backward(ones, ones, gain, np.zeros(1000), np.ones(1000), dtype="bf16")
    assert (norm["dbias"] == 1000).all() and (norm["dweight"] == 1000).all()
    table = backend.embedding_backward(
        ones.reshape(1, 1000, 8), np.zeros((1, 1000), int), np.zeros((2, 8)), np.zeros((1000, 8)), dtype="bf16"
    )
    assert (table["dwte"][0] == 1000).all()


@needs_module
def test_float64_becomes_bf16_by_way_of_fp32(backend):
    """ml_dtypes 0.6.0 and torch 2.13.0 round float64 to bf16 twice: just above the middle between 1 and the next number
    becomes 1. Ours does the same, so that both programs have the same weights."""
    above_the_middle = 1 + 2.0**-8 + 2.0**-40
    assert torch.tensor(above_the_middle, dtype=torch.float64).to(torch.bfloat16) == 1
    assert backend.cast(np.array([[above_the_middle]]))[0, 0] == 1


@needs_module
def test_bf16_arrays_of_ml_dtypes_are_taken(backend):
    """ml_dtypes 0.6.0: its arrays have NumPy's kind "V", that of raw bytes. Real numbers they are."""
    from ml_dtypes import bfloat16

    assert (backend.cast(np.full((2, 3), 1.5, bfloat16)) == 1.5).all()
    with pytest.raises(llmc.UsageError, match="tokens have the type bfloat16: give integers"):
        backend.embedding_forward(np.ones((1, 2), bfloat16), np.ones((5, 4)), np.ones((5, 4)))
