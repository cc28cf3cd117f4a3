"""What real libraries do where one guesses wrong, as far as it touches this project, and what this project does. Each
test names the library's version; other such tests stand beside what they belong to:

    safetensors, transformers   test_foreign_weights.py, test_published_weights.py
    torch's norm on the CPU     test_machine.py
    GNU parallel, xargs         test_jobs.py
    libgomp                     test_machine.py
    float64 sums of OpenBLAS    test_measures.py
    TOML and decimals           test_options.py
    SLURM                       test_slurm.py
"""

import itertools

import numpy as np
import pytest
import torch
from reference_tools import initialise, model_with

import llmc
import train_gpt2

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
    return optimizer.state()


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


@needs_module
def test_products_without_inner_dimension_are_refused():
    """oneDNN 2.6.3 leaves the destination of a product with K = 0 unwritten: such products do not reach it."""
    with pytest.raises((llmc.Error, ValueError)):
        llmc.cpu.matmul_forward(np.zeros((3, 0)), np.zeros((2, 0)))
