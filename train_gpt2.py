"""train_gpt2.py: the PyTorch reference of train_gpt2 (C++). Trains a GPT-2 under the standard or a maximal update
parametrization: same options, same files in and out (doc/formats.md), same numbers up to rounding.

One file, written independently of the C++, with these parts: schemes, parametrization, model, optimizer, coordinate
check, trainer, main. Options, data, random numbers, checkpoint files, samples and logs come from python/llmc.

    python train_gpt2.py --train-data 'data/*_train_*.bin' --parametrization mup --base-width 256 --out runs/a
    torchrun --nproc-per-node 8 train_gpt2.py ...          # data parallel
    python train_gpt2.py sample runs/a --prompt "def "

On the CPU, equal inputs and an equal number of threads give equal bits, also after --resume. On a GPU, PyTorch's flash
attention adds its gradients in an order that varies.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Any, NamedTuple, NoReturn, cast

sys.path.insert(0, str(Path(__file__).resolve().parent / "python"))  # runs in a clone without installing
from llmc.cpus import before_torch

before_torch()

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint
from numpy.typing import NDArray
from torch import Tensor

from llmc.batches import Batches
from llmc.check_writer import CheckWriter
from llmc.checkpoint import Damaged, Rule, Rules, Shape, load_training_state, naming_intact
from llmc.choice_evaluation import ChoiceEvaluation
from llmc.command_line import TORCH_OPTIONS, CommandLine, Program, parse_command_line
from llmc.commands import run_command
from llmc.config import Config
from llmc.errors import DamageError, Error, ExitCode, UsageError
from llmc.options import base_shape
from llmc.outliers import Outliers
from llmc.random import ROUNDING, draw, normals, stream_of
from llmc.ranks import data_parallel, exit_process, largest, process_group, rank, world_size
from llmc.rule_table import table_lines
from llmc.run_folder import stored_config
from llmc.run_log import RunLog, report
from llmc.run_setup import Setup, check_weights, describe, prepare
from llmc.run_warnings import warnings_of
from llmc.sampling import NotFinite, generate, open_tokenizer
from llmc.saver import Saver
from llmc.signals import Received, stop_signals
from llmc.torch_profile import StepProfiler
from llmc.zero import States, optimizer_of, own_part, whole_state

# --- Schemes: the numbers of a tensor as powers of m = width / base width, by role. The effective weight is A w with
# w ~ N(0, (B std)^2), learning rate C lr, Adam's epsilon E eps.

Powers = dict[str, tuple[float, float, float, float, float]]
#               A    B    C of AdamW, of SGD    E
TABLE_8 = {
    "input": (0.0, 0.0, 0.0, 1.0, -1.0),  # wte, wpe
    "hidden": (0.0, -0.5, -1.0, 0.0, -1.0),  # a block's matrices
    "output": (-1.0, 0.0, 0.0, 1.0, -1.0),  # the head
    "vector": (0.0, 0.0, 0.0, 1.0, -1.0),  # biases, and layer norm gains, whose initial value is B
}
MIDDLE = (0.5, -0.5, -0.5, 0.0, -0.5)


class Scheme(NamedTuple):
    powers: Powers | None  # None: absolute numbers, unit_rule below
    based: bool = True  # relative to a base model
    tie: bool = False  # head tied by default
    why_untied: str = ""  # why it cannot be tied
    zero_init: bool = True  # of queries and an untied head, by default
    grad_clip: float = 1.0  # by default


OTHER_INIT = "in Table 3 an embedding and a head start with different deviations"
OTHER_RATES = "in u-muP an embedding and a head have different learning rates"
SCHEMES = {
    "sp": Scheme(dict.fromkeys(TABLE_8, (0.0,) * 5), based=False, tie=True, zero_init=False),
    # Yang, Hu et al., "Tensor Programs V", arXiv 2203.03466: Table 8, and the same function in two other coordinates
    "mup": Scheme(TABLE_8),
    "mup-table3": Scheme(TABLE_8 | {"output": (0.0, -1.0, -1.0, -1.0, 0.0)}, why_untied=OTHER_INIT),
    "mup-table9": Scheme(TABLE_8 | {"input": MIDDLE, "vector": MIDDLE, "output": (-0.5, -0.5, -0.5, 0.0, -0.5)}),
    "completep": Scheme(TABLE_8),  # Dey et al., arXiv 2505.01618; also scales with the depth
    # Blake et al., arXiv 2407.17465
    "u-mup": Scheme(None, based=False, why_untied=OTHER_RATES, zero_init=False, grad_clip=0.0),
}

# --- Parametrization: (scheme, role of a tensor, shape) -> init, multipliers of both passes, learning rate, decay, eps

# One tensor: init std and mean; multipliers of the forward pass, of the input's gradient, of its own gradient;
# factor of lr; the part of this factor that divides lambda in the mode "scaled"; eps
Numbers = tuple[float, float, float, float, float, float, float, float]


def tensor_shapes(shape: Shape) -> list[tuple[str, str, list[int]]]:
    """(name, role, shape) of every tensor, in the order of the files."""
    C, V = shape.width, shape.vocab_size
    block = {"ln_1": [C], "attn.c_attn": [3 * C, C], "attn.c_proj": [C, C]}
    block |= {"ln_2": [C], "mlp.c_fc": [4 * C, C], "mlp.c_proj": [C, 4 * C]}
    out = [("wte.weight", "input", [V, C]), ("wpe.weight", "input", [shape.max_seq_len, C])]
    for i in range(shape.depth):
        for name, sizes in block.items():
            out.append((f"h.{i}.{name}.weight", "hidden" if len(sizes) == 2 else "vector", sizes))
            out.append((f"h.{i}.{name}.bias", "vector", sizes[:1]))
    out += [("ln_f.weight", "vector", [C]), ("ln_f.bias", "vector", [C])]
    return out if shape.tie_embeddings else [*out, ("lm_head.weight", "output", [V, C])]


def times_power(value: float, m: float, exponent: float) -> float:
    """value * m^exponent; negative exponents divide: exact for powers of 2, and equal to value at m = 1."""
    power = {0.0: 1.0, 0.5: math.sqrt(m), 1.0: m}[abs(exponent)]
    return value * power if exponent > 0 else value / power


def relative_rule(config: Config, depth: int, powers: Powers, m: float, m_L: float, name: str, role: str) -> Numbers:
    """The rule of a scheme that is a table of powers of m. CompleteP's rule for the depth applies inside blocks.
    depth: of the base model; m_L: depth / base depth."""
    a, b, c_adamw, c_sgd, e = powers[role]
    adamw, alpha, inside = config.optimizer == "adamw", config.depth_alpha, name.startswith("h.")
    std = 0.0 if role == "vector" else times_power(config.init_std, m, b)
    if name.endswith("c_proj.weight"):  # as in GPT-2; with scaled branches the same at all depths
        std /= math.sqrt(2 * depth)
    mean = times_power(1.0, m, b) if role == "vector" and name.endswith("weight") else 0.0  # a layer norm's gain
    A = times_power(config.output_mult if role == "output" else 1.0, m, a)
    width_rate = times_power(1.0, m, c_adamw if adamw else c_sgd)
    depth_rate = m_L ** (alpha - 1 if adamw else 2 * alpha - 1) if inside else 1.0
    eps = times_power(config.eps, m, e) * (m_L**-alpha if inside else 1.0) if config.scale_eps else config.eps
    return std, mean, A, A, A, width_rate * depth_rate, width_rate, eps


def relative_scales(config: Config, shape: Shape, powers: Powers, m: float, m_L: float, base_head_dim: int) -> Rule:
    """Factors of the forward pass; the backward pass is its derivative. Attention logits are attn_mult / head_dim q.k;
    by default attn_mult = sqrt(base head size), so that the base model is exactly sp."""
    embedding = times_power(config.embed_mult, m, powers["input"][0])
    output = times_power(config.output_mult, m, powers["output"][0])
    attn_mult = math.sqrt(base_head_dim) if config.attn_mult is None else config.attn_mult
    branch = m_L**-config.depth_alpha
    residual = [[1.0, branch, 1.0, branch, 1.0]] * (2 * shape.depth)
    return (
        {"embedding": embedding, "wte_grad": embedding, "wpe_grad": embedding}
        | {"attention": attn_mult / shape.head_dim, "attention_out": 1.0, "gelu": 1.0, "loss": 1.0, "loss_grad": 1.0}
        | {"output": output, "output_dinp": output, "output_dweight": output, "residual": residual}
    )


def gelu_rms(mult: float) -> float:
    """Root mean square of gelu(mult z) / mult, z standard normal."""
    z = np.linspace(-12, 12, 4001)
    x = mult * z
    y = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / mult
    density = np.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return math.sqrt((y * y * density).sum() * (z[1] - z[0]))  # trapezoidal rule: the ends are 0


def unit_rule(config: Config, shape: Shape, name: str, role: str) -> Numbers:
    """u-muP: weights, activations and gradients have unit scale at the start, for every shape. The factors of the
    backward pass differ from the chain rule's; they are constant per tensor, so Adam's update does not change."""
    d, inside = shape.width, shape.depth**-0.5 if name.startswith("h.") else 1.0
    own = 1 / math.sqrt(config.total_batch_size)  # gradients of weights are sums over the tokens
    fan_in, fan_out = 4 * d if "mlp.c_proj" in name else d, 4 * d if "mlp.c_fc" in name else d
    std, mean, dinp = 1.0, 0.0, None
    if role == "input":
        multiplier, own, rate = 1.0, 1.0, d**-0.5
    elif role == "hidden":
        carried = 1 / gelu_rms(config.ffn_act_mult) if "mlp.c_proj" in name else 1.0  # unit scale of the activation
        multiplier, own, rate = carried * fan_in**-0.5, carried * own, inside * fan_in**-0.5
        dinp = carried * (fan_out if "mlp" in name else fan_in) ** -0.5
    elif role == "output":
        multiplier, dinp, rate = 1 / d, shape.vocab_size**-0.5, 1.0
    elif "ln_" in name:
        std, mean, multiplier, rate = 0.0, float(name.endswith("weight")), 1.0, inside * d**-0.5
    else:
        std, multiplier, rate = 0.0, fan_in**-0.5, inside
    return std, mean, multiplier, multiplier if dinp is None else dinp, own, rate, rate, config.eps


def unit_scales(config: Config, shape: Shape) -> Rule:
    """u-muP's factors of both passes."""
    d, V, S, tokens = shape.width, shape.vocab_size, config.seq_len, config.total_batch_size
    softmax = config.attn_softmax_mult
    a = 1 / (1 + 4 * shape.head_dim / softmax**2)  # 1: all attention on one key; 0: equal attention
    attention_std = math.exp((1 - a) * math.log(math.sqrt(math.log(S) / S))) if S > 1 else 1.0
    a_mlp = config.residual_mult * math.sqrt(2 / (1 + config.residual_attn_ratio**2))
    a_attn = config.residual_attn_ratio * a_mlp
    residual = []
    for i in range(2 * shape.depth):  # attention, mlp, attention, ...
        before = shape.depth + (i + 1) // 2 * a_attn**2 + i // 2 * a_mlp**2
        tau2 = (a_mlp if i % 2 else a_attn) ** 2 / before
        skip, branch = 1 / math.sqrt(1 + tau2), math.sqrt(tau2 / (1 + tau2))
        residual.append([skip, branch, skip, 1.0, branch])
    loss_grad = tokens * V / math.sqrt(max(1, V - 1)) / config.loss_softmax_mult
    return (
        {"embedding": 2**-0.5, "wte_grad": math.sqrt(V / tokens), "wpe_grad": math.sqrt(S / tokens)}
        | {"attention": softmax / shape.head_dim, "attention_out": 1 / attention_std, "gelu": config.ffn_act_mult}
        | {"loss": config.loss_softmax_mult, "loss_grad": loss_grad}
        | {"output": 1 / d, "output_dinp": V**-0.5, "output_dweight": tokens**-0.5, "residual": residual}
    )


def parametrization(config: Config, shape: Shape) -> Rules:
    """The rule of every tensor and the factors of both passes, as a plain JSON table: doc/formats.md has the formulas.

    Weight decay "scaled": lambda / (width factor of the rate), so that rate x decay, the shrinkage of a step, is the
    same everywhere; "independent": schedule x lambda.
    """
    name, scheme, tied = config.parametrization, SCHEMES[config.parametrization], shape.tie_embeddings
    if tied and scheme.why_untied:
        why = f"{scheme.why_untied}; add --no-tie-embeddings"
        raise UsageError(f"--tie-embeddings has no meaning under --parametrization {name}: {why}")
    own = shape.width, shape.head_dim
    base_width, base_head_dim = base_shape(config, shape.head_dim) if scheme.based else own
    base_depth = config.base_depth or shape.depth
    m, m_L = shape.width / base_width, shape.depth / base_depth
    zero_query = scheme.zero_init if config.zero_init_query is None else config.zero_init_query
    zero_head = scheme.zero_init and not tied if config.zero_init_head is None else config.zero_init_head
    if tied and zero_head:
        what = "--zero-init-head with tied embeddings would start all token embeddings at zero"
        raise UsageError(f"{what}: add --no-tie-embeddings, or drop it")
    if scheme.powers:
        scales = relative_scales(config, shape, scheme.powers, m, m_L, base_head_dim)
        numbers = functools.partial(relative_rule, config, base_depth, scheme.powers, m, m_L)
    else:
        scales, numbers = unit_scales(config, shape), functools.partial(unit_rule, config, shape)
    tensors: list[Rule] = []
    for tensor, role, sizes in tensor_shapes(shape):
        std, mean, multiplier, dinp, dweight, rate, decay_rate, eps = numbers(tensor, role)
        multipliers = {"multiplier": multiplier, "dinp_multiplier": dinp, "dweight_multiplier": dweight}
        decay = 0.0 if role == "vector" else config.weight_decay
        decay = decay / decay_rate if config.weight_decay_mode == "scaled" else decay
        queries = shape.width if zero_query and "c_attn.weight" in tensor else 0  # the first rows of c_attn
        tensors.append(
            {"name": tensor, "role": role, "shape": sizes, "init_mean": mean}
            | {"init_std": 0.0 if role == "output" and zero_head else std, "zero_rows": queries}
            | {key: as_float32(value) for key, value in multipliers.items()}
            | {"lr": config.lr * rate, "weight_decay": decay, "eps": eps if config.optimizer == "adamw" else 0.0}
        )
    return (
        {"scheme": name, "base_width": base_width, "base_head_dim": base_head_dim, "width_mult": m}
        | {"base_depth": base_depth, "depth_mult": m_L, "tensors": tensors}
        | {"scales": {key: as_float32(value) for key, value in scales.items()}}
    )


def as_float32(value: Any) -> Any:
    """The number that C++ computes with; also for lists."""
    return [as_float32(v) for v in value] if isinstance(value, list) else float(np.float32(value))


# --- The model: GPT-2 (Radford et al., 2019). B batch, T sequence length, C width, H heads, D = C / H, V vocabulary,
# Vp padded vocabulary

Observer = Callable[[str, str, Tensor], None]  # kind, name, activation


class Replaced(torch.autograd.Function):
    """`value` in the forward pass; the gradient of x is that of the value times a factor, in the type of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, factor: float) -> Tensor:
        ctx.dtype, ctx.factor = x.dtype, factor
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        grad = grad.to(ctx.dtype)
        return grad if ctx.factor == 1 else grad * ctx.factor, None, None


def scaled(x: Tensor, forward: float, backward: float, value: Tensor | None = None) -> Tensor:
    """forward * x, with the gradient multiplied by `backward`. value: the bf16 copy of x, used for computing; the
    gradient then goes to x, the fp32 master, which accumulates micro-batches."""
    if value is None and forward == backward:
        return x if forward == 1 else x * forward
    value = x.detach() if value is None else value
    value = value if forward == 1 else value * forward
    return cast(Tensor, Replaced.apply(x, value, backward))  # type: ignore[no-untyped-call]


def ratio(backward: float, forward: float) -> float:
    """The factor of the backward pass beyond the derivative of a multiplication by `forward` (which may be 0)."""
    return 1.0 if backward == forward else backward / forward


def stochastic_bf16(master: Tensor, seed: int, name: str, step: int) -> Tensor:
    """Rounds fp32 values to bf16, up with a probability equal to the discarded fraction."""
    index = torch.arange(-(-master.numel() // 4), device=master.device) + (step << 40)
    bits = torch.stack(draw(seed, ROUNDING, stream_of(name), index), 1).view(-1)[: master.numel()] & 0xFFFF
    raised = ((master.view(torch.int32) + bits.view(master.shape).int()) >> 16).to(torch.int16).view(torch.bfloat16)
    return torch.where(master.isfinite(), raised, master.bfloat16())  # inf and NaN are not rounded


class Observed(nn.Module):
    """A module that passes its activations, with the names of doc/formats.md, to an observer: for --coord-check."""

    observer: Observer | None = None
    path = ""

    def announce(self, name: str, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer("activation", self.path + name, x)
        return x


class Weights(nn.Module):
    """A weight and, optionally, a bias, always in fp32. A bf16 model computes with copies, set after every update."""

    weight_bf16: Tensor

    def __init__(self, config: Config, *shape: int, bias: bool = True) -> None:
        super().__init__()
        self.bf16 = config.dtype == "bf16"
        self.weight = nn.Parameter(torch.zeros(shape))
        self.bias = nn.Parameter(torch.zeros(shape[0])) if bias else None
        self.factors = {"weight": (1.0, 1.0), "bias": (1.0, 1.0)}  # multipliers of value and gradient
        self.input_gradient = 1.0  # beyond the weight's multiplier
        for name, parameter in list(self.named_parameters()) if self.bf16 else []:
            self.register_buffer(name + "_bf16", torch.zeros_like(parameter, dtype=torch.bfloat16), persistent=False)

    def use_rule(self, kind: str, rule: Rule) -> None:
        self.factors[kind] = rule["multiplier"], rule["dweight_multiplier"]
        if kind == "weight":
            self.input_gradient = ratio(rule["dinp_multiplier"], rule["multiplier"])

    def tensor(self, kind: str) -> Any:
        """Weight or bias, times its multiplier."""
        master = getattr(self, kind)
        return None if master is None else scaled(master, *self.factors[kind], getattr(self, kind + "_bf16", None))


class Linear(Weights):  # weight (out, in)
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(scaled(x, 1, self.input_gradient), self.tensor("weight"), self.tensor("bias"))


class LayerNorm(Weights):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.tensor("weight"), self.tensor("bias"), eps=1e-5)


class Embedding(Weights):
    """Rows of a table; also the head's matrix, by tensor(), with the factors of the head."""

    rows_gradient = 1.0  # beyond the embedding's multiplier

    def forward(self, index: Tensor) -> Tensor:
        rows = F.embedding(index, self.weight)  # fp32, like the sums of its gradient
        return scaled(rows, 1, self.rows_gradient, F.embedding(index, self.weight_bf16) if self.bf16 else None)


class Attention(Observed):
    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        self.heads, self.scale, self.out_scale = shape.heads, 1.0, 1.0
        self.c_attn = Linear(config, 3 * shape.width, shape.width)
        self.c_proj = Linear(config, shape.width, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        # (B, H, T, D) each
        q, k, v = (a.view(B, T, self.heads, -1).transpose(1, 2) for a in self.c_attn(x).split(C, dim=2))
        if self.observer is not None:
            with torch.no_grad():
                scores = q.float() @ k.float().transpose(2, 3) * self.scale
                past = torch.ones(T, T, dtype=torch.bool, device=x.device).tril()
            for name, a in ((".q", q), (".k", k), (".v", v), (".logits", scores[..., past])):
                self.announce(name, a)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=self.scale)
        y = scaled(y.transpose(1, 2).reshape(B, T, C), self.out_scale, self.out_scale)
        return self.announce(".c_proj", self.c_proj(self.announce("", y)))


def recomputed(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """function(x); only x is kept for the backward pass."""
    return cast(Tensor, torch.utils.checkpoint.checkpoint(function, x, use_reentrant=False))


class MLP(Observed):
    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        self.c_fc = Linear(config, 4 * shape.width, shape.width)
        self.c_proj = Linear(config, shape.width, 4 * shape.width)
        self.recompute, self.mult = config.recompute == "gelu", 1.0

    def project(self, x: Tensor) -> Tensor:
        x = F.gelu(scaled(x, self.mult, self.mult), approximate="tanh")
        return cast(Tensor, self.c_proj(self.announce(".gelu", x if self.mult == 1 else x / self.mult)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.announce(".c_fc", self.c_fc(x))
        return self.announce(".c_proj", recomputed(self.project, x) if self.recompute else self.project(x))


class Block(Observed):
    def __init__(self, config: Config, shape: Shape) -> None:
        super().__init__()
        self.ln_1 = LayerNorm(config, shape.width)
        self.attn = Attention(config, shape)
        self.ln_2 = LayerNorm(config, shape.width)
        self.mlp = MLP(config, shape)
        self.residual = [[1.0] * 5] * 2  # attention, MLP

    def add_branch(self, x: Tensor, norm_name: str, layer: nn.Module, factors: list[float]) -> Tensor:
        skip, branch, dskip, dbranch, dsplit = factors
        y = self.announce("." + norm_name, getattr(self, norm_name)(scaled(x, 1, dsplit)))
        return scaled(x, skip, dskip) + scaled(layer(y), branch, dbranch)

    def forward(self, x: Tensor) -> Tensor:
        x = self.announce(".resid_attn", self.add_branch(x, "ln_1", self.attn, self.residual[0]))
        return self.announce(".resid_mlp", self.add_branch(x, "ln_2", self.mlp, self.residual[1]))


class GPT2(Observed):
    """The parameters have the names and the order of the rule table."""

    def __init__(self, config: Config, shape: Shape, rules: Rules | None = None) -> None:
        super().__init__()
        self.config, self.shape = config, shape
        padded = -(-shape.vocab_size // 128) * 128  # whole tiles; the padding rows stay 0
        self.wte = Embedding(config, padded, shape.width, bias=False)
        self.wpe = Embedding(config, shape.max_seq_len, shape.width, bias=False)
        self.h = nn.ModuleList(Block(config, shape) for _ in range(shape.depth))
        self.ln_f = LayerNorm(config, shape.width)
        self.lm_head = None if shape.tie_embeddings else Embedding(config, padded, shape.width, bias=False)
        self.use_rules(rules or parametrization(config, shape))

    def use_rules(self, rules: Rules) -> None:
        """Sets all numbers of the table that are used in the forward or backward pass."""
        self.rules, self.scales = rules, rules["scales"]
        scales, modules = self.scales, dict(self.named_modules())
        for rule in rules["tensors"]:
            name, kind = rule["name"].rsplit(".", 1)
            cast(Weights, modules[name]).use_rule(kind, rule)
        for i, block in enumerate(cast("list[Block]", self.h)):
            block.attn.scale, block.attn.out_scale = scales["attention"], scales["attention_out"]
            block.mlp.mult, block.residual = scales["gelu"], scales["residual"][2 * i : 2 * i + 2]
        # embeddings and logits are scaled once, in forward(): their sums and products are fp32
        self.wte.rows_gradient = ratio(scales["wte_grad"], scales["embedding"])
        self.wpe.rows_gradient = ratio(scales["wpe_grad"], scales["embedding"])
        head = self.lm_head or self.wte
        head.factors["weight"] = 1.0, ratio(scales["output_dweight"], scales["output"])
        head.input_gradient = ratio(scales["output_dinp"], scales["output"])

    def set_observer(self, observer: Observer | None) -> None:
        for name, module in self.named_modules():
            if isinstance(module, Observed):
                module.observer, module.path = observer, name

    def forward(self, tokens: Tensor, targets: Tensor | None = None, reduction: str = "mean") -> Tensor:
        """tokens, targets: (B, T). Mean loss (nats/token, fp32), or with the reduction "none" that of every target,
        (B T); without targets the last position's logits, (B, V)."""
        scales, head = self.scales, self.lm_head or self.wte
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1], device=tokens.device))  # (B, T, C)
        x = self.announce("embedding", scaled(x, scales["embedding"], scales["embedding"]))
        for block in self.h:
            x = recomputed(block, x) if self.config.recompute == "block" else block(x)
        x = self.announce("ln_f", self.ln_f(x if targets is not None else x[:, -1:]))
        logits = F.linear(scaled(x, 1, head.input_gradient), head.tensor("weight"))  # (B, T, Vp)
        logits = logits[..., : self.shape.vocab_size].float()
        logits = self.announce("logits", scaled(logits, scales["output"], scales["output"]))
        logits = scaled(logits, scales["loss"], scales["loss"] * scales["loss_grad"])
        if targets is None:
            return logits[:, -1]
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction=reduction)

    @torch.no_grad()
    def next_logits(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """(V,) logits of the token after the last seq_len `tokens`."""
        context = torch.tensor([tokens[-self.config.seq_len :]], device=self.wte.weight.device)
        return cast("NDArray[np.float32]", self(context)[0].cpu().numpy())

    def named_rules(self) -> list[tuple[Rule, nn.Parameter]]:
        """(rule, parameter) pairs; a parameter may have padding rows after those of the rule's shape."""
        parameters = dict(self.named_parameters())
        return [(rule, parameters[rule["name"]]) for rule in self.rules["tensors"]]

    @functools.cached_property
    def copies(self) -> list[tuple[str, Tensor, Tensor]]:
        """(name, fp32 master, bf16 copy) of every parameter of a bf16 model."""
        buffers = dict(self.named_buffers())
        return [(n, p.detach(), buffers[n + "_bf16"]) for n, p in self.named_parameters() if n + "_bf16" in buffers]

    @torch.no_grad()
    def round_copies(self, step: int | None = None) -> None:
        """Sets the bf16 copies: to nearest, or with `step` stochastically, with the random numbers of that step."""
        for name, master, copy in self.copies:
            copy.copy_(master if step is None else stochastic_bf16(master, self.config.seed, name, step))

    @torch.no_grad()
    def set_weights(self, values: Callable[[Rule], Tensor]) -> None:
        """values: rule -> tensor of the rule's shape."""
        for rule, parameter in self.named_rules():
            parameter[: rule["shape"][0]].copy_(values(rule))
            if self.config.dtype == "bf16":
                parameter.copy_(parameter.bfloat16())  # a master starts at the value of its bf16 copy
        self.round_copies()


def initial_value(seed: int, rule: Rule) -> Tensor:
    """Initial weights of doc/formats.md: normal with the rule's mean and std; constant if std is 0."""
    if rule["init_std"] == 0:
        return torch.full(rule["shape"], rule["init_mean"])
    drawn = rule["init_mean"] + rule["init_std"] * normals(seed, rule["name"], math.prod(rule["shape"]))
    value = torch.from_numpy(drawn.astype(np.float32)).view(rule["shape"])
    value[: rule["zero_rows"]] = 0
    return value


# --- Optimizer: torch's fused AdamW or SGD. Tensors with equal rules form one group, so an update has few launches


def lr_factor(config: Config, t: int, steps: int) -> float:
    """Learning rate at step t (from 0), relative to the peak. wsd: Hu et al., "MiniCPM"; Haegele et al., both 2024."""
    warmup, f = config.warmup_steps, config.final_lr_frac
    if t < warmup:
        return (t + 1) / warmup
    x = min(1.0, (t - warmup) / max(1, steps - warmup))
    if config.schedule == "cosine":
        return f + (1 - f) * 0.5 * (1 + math.cos(math.pi * x))
    if config.schedule == "linear":
        return 1 - (1 - f) * x
    if config.schedule == "wsd" and x >= 0.8:
        return f + (1 - f) * (1 - math.sqrt(min(1.0, (x - 0.8) / 0.2)))
    return 1.0


class Optimizer:
    """AdamW: m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2;
              w = (1 - decay) w - lr (m/(1-beta1^n)) / (sqrt(v/(1-beta2^n)) + eps)
    SGD:   m = momentum m + g; w = (1 - decay) w - lr m
    Loshchilov, Hutter, "Decoupled weight decay regularization", 2019.

    `set_rates` computes each group's rate from its rule at every step: writing one rate to all groups would undo muP.
    """

    def __init__(self, model: GPT2, config: Config) -> None:
        self.model, self.config, self.updates = model, config, 0
        self.adam = config.optimizer == "adamw"
        self.parameters = list(model.parameters())
        by_rule: dict[tuple[float, float, float], list[nn.Parameter]] = {}
        for rule, parameter in model.named_rules():
            by_rule.setdefault((rule["lr"], rule["weight_decay"], rule["eps"]), []).append(parameter)
        groups: list[dict[str, Any]] = [
            {"params": parameters, "lr": lr, "peak_lr": lr, "rule_decay": decay} | ({"eps": eps} if self.adam else {})
            for (lr, decay, eps), parameters in by_rule.items()
        ]
        kind = torch.optim.AdamW if self.adam else torch.optim.SGD
        own = {"betas": (config.beta1, config.beta2)} if self.adam else {"lr": config.lr, "momentum": config.momentum}
        self.torch = optimizer_of(kind, groups, config.zero_stage, weight_decay=0.0, fused=True, **own)
        self.own = own_part(self.torch)
        self.names = {"m": "exp_avg", "v": "exp_avg_sq"} if self.adam else {"m": "momentum_buffer"}
        for parameter in [parameter for group in self.own.param_groups for parameter in group["params"]]:
            state = {key: torch.zeros_like(parameter) for key in self.names.values()}
            step = {"step": torch.zeros((), device=parameter.device)} if self.adam else {}
            self.own.state[parameter] = state | step

    def set_rates(self, factor: float) -> None:
        """Sets the rates of this step: factor = lr_t / lr_peak."""
        for group in self.torch.param_groups:
            group["lr"] = group["peak_lr"] * factor
            decay = group["rule_decay"] * (group["lr"] if self.config.weight_decay_mode == "scaled" else factor)
            if self.adam and group["lr"] > 0:
                group["weight_decay"] = decay / group["lr"]  # torch multiplies it by the rate
            elif decay > 0:
                torch._foreach_mul_([p.data for p in group["params"]], 1 - decay)

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None]

    def norm(self) -> Tensor:
        """Of all gradients, by rows: torch's own norm loses digits on the CPU, 6.5e-4 of the norm of 2^24 numbers."""
        rows = [torch.linalg.vector_norm(g, dim=-1).view(-1) for g in self.gradients()]
        return torch.linalg.vector_norm(torch.cat(rows), dtype=torch.float64).float()

    def step(self, factor: float, norm: float) -> None:
        """One update, with clipping; norm: of all gradients."""
        self.updates += 1
        self.set_rates(factor)
        clip = self.config.grad_clip
        if clip and clip < norm:
            torch._foreach_mul_(self.gradients(), clip / norm)
        self.torch.step()
        if self.config.dtype == "bf16":
            self.model.round_copies(self.updates if self.config.rounding == "stochastic" else None)

    def tensors(self, states: States) -> dict[str, Tensor]:
        """The tensors of a checkpoint that these states, and the weights, have."""
        out: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            state = states.get(parameter, {})
            out |= {f"{short}.{name}": state[long] for short, long in self.names.items() if state}
            if self.config.dtype == "bf16":
                out["master." + name] = parameter.detach()
        return out

    def set_updates(self, updates: int) -> None:
        self.updates = updates
        for state in self.own.state.values():
            if self.adam:
                state["step"].fill_(updates)


# --- Coordinate check: sizes and changes of every activation, parameter and gradient, to compare between widths


class CoordCheck:
    """--coord-check: one CSV row per tensor and step. The tokens are the same at every step, so that activations change
    only because of the weights."""

    def __init__(self, config: Config, shape: Shape, rules: Rules) -> None:
        self.step = 0
        self.first: dict[tuple[str, str], Tensor] = {}
        self.file = CheckWriter(config, shape, rules)

    @contextlib.contextmanager
    def watch(self, model: GPT2) -> Iterator[None]:
        """Records the forward passes inside as one step; not for backward passes, which may recompute activations."""
        self.step += 1
        model.set_observer(self.add)
        yield
        model.set_observer(None)

    @torch.no_grad()
    def add(self, kind: str, name: str, x: Tensor, role: str = "", multiplier: float = 1.0) -> None:
        x = x.detach().double()
        size, mean, square = x.abs().mean().item(), x.mean().item(), x.square().mean().item()
        std, delta = math.sqrt(max(0.0, square - mean * mean)), None
        if kind != "gradient":
            first = self.first.setdefault((kind, name), x.float())
            delta = (x - first.double()).abs().mean().item()
        self.file.row(self.step, kind, name, role, multiplier, size, std, delta)

    def add_parameters(self, model: GPT2) -> None:
        """Records the weights of this step and their gradients, without padding rows."""
        for kind in ("parameter", "gradient"):
            for rule, parameter in model.named_rules():
                x = parameter if kind == "parameter" else cast(Tensor, parameter.grad)
                self.add(kind, rule["name"], x[: rule["shape"][0]], rule["role"], rule["multiplier"])
        self.file.flush()


# --- The trainer


class Trainer:
    """A run: builds the model, sets its first weights, opens the log, trains."""

    def __init__(self, setup: Setup, rules: Rules, device: torch.device, compiled: bool, begin: float) -> None:
        self.setup, self.rules, self.device, self.rank = setup, rules, device, rank()
        self.config = config = setup.config
        self.step, self.saved_at = 0, -1
        changed = check_weights(setup, rules)
        self.tokenizer = open_tokenizer(setup.tokenizer, setup.tokenizer_file) if config.sample_every else None
        self.model = GPT2(config, setup.shape, rules).to(device)
        initial = functools.partial(initial_value, config.seed)
        init = None if setup.resume_from else setup.weights
        with naming_intact(init.path) if init else contextlib.nullcontext():
            self.model.set_weights(setup.weights.values if setup.weights else initial)
        self.optimizer = Optimizer(self.model, config)
        self.network: Any = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.parallel: Any = self.network if setup.ranks == 1 else data_parallel(self.network)
        self.coord_check = CoordCheck(config, setup.shape, rules) if config.coord_check else None
        state: dict[str, Any] = {"samples": 0, "tokens": 0, "updates": 0, "outlier": {"loss": [], "grad_norm": []}}
        if setup.resume_from and setup.weights:
            state = load_training_state(setup.resume_from, self.optimizer.tensors(self.optimizer.own.state), rules)
            self.step = self.saved_at = setup.weights.step
        self.samples, self.tokens_done = state["samples"], state["tokens"]
        self.optimizer.set_updates(state["updates"])
        self.loss_outliers = Outliers(config.skip_loss_zscore, state["outlier"]["loss"])
        self.norm_outliers = Outliers(config.skip_grad_zscore, state["outlier"]["grad_norm"])
        self.log = RunLog(setup, rules, self.step, device, compiled, changed, begin)
        self.saver = Saver(setup, rules, self.log, state)
        self.choices = ChoiceEvaluation(setup.choices, config.seq_len, config.batch_size)
        self.batches = Batches(setup, device)
        self.stream = self.batches.training(self.step, self.samples)
        self.batch: Any = next(self.stream, None)

    def stopping(self) -> int:
        """The signal that asks to stop, the same on all ranks; 0: none."""
        self.stop = self.stop or int(largest(self.received.signal, self.device))
        return self.stop

    def train_step(self) -> bool:
        """One optimizer step. Waits for the device once, for loss and norm, after reading the next batch. Returns False
        after SIGTERM between two micro-batches: the weights are still those of the step before."""
        config, micro_steps, ranks = self.config, self.setup.micro_steps, self.setup.ranks
        start, factor = time.perf_counter(), lr_factor(config, self.step, self.setup.steps)
        self.model.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for micro in range(micro_steps):
            if micro and ranks == 1 and self.received.signal == SIGTERM:
                return False
            if micro:
                self.log.activity(self.step, "micro-batch", micro, micro_steps)
            last = micro == micro_steps - 1  # ranks exchange gradients once a step
            with contextlib.nullcontext() if last or ranks == 1 else self.parallel.no_sync():
                with self.coord_check.watch(self.model) if self.coord_check else contextlib.nullcontext():
                    loss = self.parallel(*self.batch) / micro_steps
                self.batch = next(self.stream, None)
                loss.backward()
            total += loss.detach()
        if self.coord_check:
            self.coord_check.add_parameters(self.model)
        if ranks > 1:  # mean loss
            total /= ranks
            dist.all_reduce(total)
        mean_loss, norm = torch.stack([total, self.optimizer.norm()]).tolist()
        finite = math.isfinite(mean_loss) and math.isfinite(norm)
        outlier = finite and any([self.loss_outliers.observe(mean_loss), self.norm_outliers.observe(norm)])
        if finite and not outlier:
            self.optimizer.step(factor, norm)
        if self.device.type == "cuda":
            torch.cuda.synchronize()  # for the time measurement; the update is short
        self.step += 1
        self.samples += config.total_batch_size // config.seq_len
        self.tokens_done += config.total_batch_size
        seconds = time.perf_counter() - start
        self.log.train(self.step, mean_loss, norm, config.lr * factor, self.tokens_done, seconds, skipped=outlier)
        if not finite:
            kept = f" (the checkpoint of step {self.saved_at} is intact)" if self.saved_at >= 0 else ""
            self.diverged(f"loss {mean_loss:.6g}, gradient norm {norm:.6g}; lower --lr or raise --warmup-steps{kept}")
        return True

    def diverged(self, what: str) -> NoReturn:
        self.log.finish(self.step, "diverged")
        raise Error(f"training diverged at step {self.step}: {what}", ExitCode.DIVERGED)

    @torch.no_grad()
    def evaluate(self) -> None:
        if not self.setup.val or self.log.evaluated_at == self.step:
            return
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        for done, rounds, own in self.batches.validation():
            if self.stopping():
                return
            self.log.activity(self.step, "evaluating", done, rounds)
            for part, batch in own:
                total += self.network(*batch).double() * part
        if self.setup.ranks > 1:
            dist.all_reduce(total)
        self.log.eval(self.step, total.item())
        if not math.isfinite(total):
            self.diverged(f"validation loss {total:.6g}")
        self.saver.judge(self.step, total.item(), self.checkpoint)

    @torch.no_grad()
    def evaluate_choices(self) -> None:
        def go_on(done: int) -> bool:
            self.log.activity(self.step, "hellaswag", done, self.choices.batches)
            return not self.stopping()

        if not self.setup.choices or self.log.chosen_at == self.step:
            return
        if scores := self.choices.run(self.model, self.device, go_on):  # not compiled: its batches have many shapes
            if not math.isfinite(scores.loss):
                self.diverged("the scores of --hellaswag are not finite")
            self.log.choices(self.step, scores.to_json())

    def sample_text(self) -> None:
        """Of rank 0; all ranks learn whether it diverged."""

        def go_on(done: int) -> bool:
            self.log.activity(self.step, "sampling", done, self.config.sample_tokens)
            return not self.received.signal

        text, infinite, vocab_size = None, False, self.setup.shape.vocab_size
        if self.tokenizer and self.log.sampled_at != self.step and not self.rank:
            try:
                text = generate(self.model.next_logits, self.tokenizer, vocab_size, self.config, self.step, go_on=go_on)
            except NotFinite:
                infinite = True
        if largest(infinite, self.device):
            self.diverged("the logits of the sample are not finite")
        if text is not None:
            self.log.sample(self.step, text)

    def checkpoint(self) -> None:
        if not self.config.out or self.saved_at == self.step:
            return
        self.saved_at = self.step
        weights = dict(self.model.named_parameters()) | {name: copy for name, _, copy in self.model.copies}
        windows = {"loss": self.loss_outliers.window, "grad_norm": self.norm_outliers.window}
        state = {"samples": self.samples, "tokens": self.tokens_done, "updates": self.optimizer.updates}
        optimizer = self.optimizer.tensors(whole_state(self.optimizer.torch))
        self.saver.save(self.step, weights, optimizer, state | {"outlier": windows})

    def do_what_is_due(self, stepped: bool) -> None:
        """After a step, or without one. The checkpoint comes first: evaluation and sample may take longer than the time
        between SIGTERM and SIGKILL."""
        config, last = self.config, self.step == self.setup.steps

        def due(every: int) -> bool:
            return last or (every > 0 and self.step % every == 0)

        if not self.stopping() and (last or largest(self.saver.due(self.step), self.device)):  # clocks differ
            self.checkpoint()
        if due(config.eval_every):
            self.evaluate()
            self.evaluate_choices()
        if self.saver.stopped_early:
            self.checkpoint()
        if stepped:
            self.log.show(self.step, stopping=self.stop > 0)
        if config.sample_every and (due(config.sample_every) or self.saver.stopped_early) and not self.stop:
            self.sample_text()

    def run(self, received: Received) -> int:
        """Trains to the end or to a signal; returns the exit code."""
        self.received, self.stop, first_step = received, 0, self.step
        profiler = StepProfiler(self.config.profile)
        if self.log.evaluated_at == self.step != self.saver.evaluated_at:  # after the checkpoint of this step
            self.saver.judge(self.step, self.log.last["val_loss"], self.checkpoint)
        if self.step == self.setup.steps or self.setup.resume_from:
            self.do_what_is_due(stepped=False)
        while self.step < self.setup.steps and not self.stopping() and not self.saver.stopped_early:
            profiler.before_step(self.step - first_step)
            if self.train_step():
                self.do_what_is_due(stepped=True)
        self.log.note(profiler.table(self.device))
        self.checkpoint()
        stop = self.stopping()
        reason = "signal" if stop else "early_stop" if self.saver.stopped_early else "done"
        self.log.finish(self.step, reason, stop, self.saver.best)
        return 128 + stop if stop else 0


# --- Main

PROGRAM = Program(
    name="train_gpt2.py",
    version=f"llmc-mup train_gpt2.py, PyTorch {torch.__version__}",
    description="Trains a GPT-2 with muP in PyTorch; 'train_gpt2.py sample|eval|info CHECKPOINT' uses one.",
    grad_clips={name: scheme.grad_clip for name, scheme in SCHEMES.items()},
    tying=frozenset(name for name, scheme in SCHEMES.items() if scheme.tie),
    stored_config=stored_config,
    options=TORCH_OPTIONS,
)


def resolve(line: CommandLine, damaged: Sequence[Damaged] = ()) -> tuple[Setup, Rules]:
    """The setup of a run and its rules. Raises UsageErrors and DataErrors; writes nothing. damaged: checkpoints that
    --resume passes over."""
    scheme = SCHEMES[line.config.parametrization]
    setup = prepare(line, scheme.tie, scheme.grad_clip, damaged)
    setup.warnings.extend(warnings_of(setup, lr_factor))
    return setup, parametrization(setup.config, setup.shape)


def train(line: CommandLine) -> int:
    """Trains; returns the exit code."""
    begin, compiled = time.perf_counter(), bool(line.extra["compile"])
    damaged: list[Damaged] = []
    with process_group(line.config, str(line.extra["device"]), line.dry_run) as device:
        while True:
            setup, rules = resolve(line, damaged)
            if line.dry_run:
                if rank() == 0:
                    print(describe(setup, rules, str(device)), table_lines(rules, line.every_block), sep="\n")
                return 0
            if setup.finished:
                if rank() == 0:
                    print(setup.finished)
                return 0
            with contextlib.closing(setup.lock):
                try:
                    trainer = Trainer(setup, rules, device, compiled, begin)
                except DamageError as error:  # found when the values were read; nothing was written yet
                    if not setup.resume_from:
                        raise
                    damaged.append(Damaged(setup.resume_from, str(error)))
                    continue
                with stop_signals() as received:
                    return trainer.run(received)


def main(argv: Sequence[str] | None = None) -> int:
    try:
        line = parse_command_line(PROGRAM, argv, world_size())
        return train(line) if line.command == "train" else run_command(line, GPT2)
    except (torch.OutOfMemoryError, Error, OSError) as problem:  # OSError: a full disk, for example
        return report(problem)
    except KeyboardInterrupt:  # outside of Trainer.run
        return 130


if __name__ == "__main__":
    exit_process(main())
