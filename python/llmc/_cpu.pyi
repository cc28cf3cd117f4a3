"""The types of the native modules. Written by dev/generate_stubs.py: make stubs."""

from __future__ import annotations

import collections.abc
import typing

import numpy
import numpy.typing

from llmc.errors import Error

__all__ = [
    "GPT2",
    "Error",
    "accumulate_sum",
    "activation_bytes",
    "adamw_step",
    "attention_backward",
    "attention_forward",
    "attention_logits",
    "backend",
    "cast",
    "checkpoint_options",
    "choose_token",
    "classifier",
    "cost",
    "decode",
    "embedding_backward",
    "embedding_forward",
    "encode",
    "flops_per_token",
    "gelu_backward",
    "gelu_forward",
    "global_norm",
    "initialize",
    "layernorm_backward",
    "layernorm_forward",
    "matmul_backward",
    "matmul_forward",
    "memory_total",
    "name",
    "parametrization",
    "peak_flops",
    "plan_arena",
    "sgd_step",
    "statistics",
    "threads",
    "time_op",
]

class GPT2:
    """
    GPT-2 with its optimizer. Keyword arguments are train_gpt2's long options with underscores (width=128,
    parametrization="mup", ...); batch_size and seq_len are the largest batch; logits_rows: rows of logits in memory at
    a time (0: automatic).
    """
    def __init__(self, logits_rows: typing.SupportsInt | typing.SupportsIndex = 0, **kwargs: typing.Any) -> None: ...
    def activations(
        self,
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        targets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    ) -> dict[str, typing.Any]:
        """
        Every activation of a forward pass by name, (B*T, channels).
        """
    def backward(self, total_tokens: typing.SupportsInt | typing.SupportsIndex = 0) -> float:
        """
        Adds the gradients of the last forward()'s loss, sum / total_tokens (default: B*T), and returns that loss.
        """
    def forward(
        self,
        tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
        targets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None,
    ) -> typing.Any:
        """
        tokens (B, T) -> logits (B, T, V), or with targets (B, T) the mean loss in nats.
        """
    def generate(
        self,
        tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex],
        count: typing.SupportsInt | typing.SupportsIndex,
        temperature: typing.SupportsFloat | typing.SupportsIndex = 0.8,
        top_k: typing.SupportsInt | typing.SupportsIndex = 0,
        seed: typing.SupportsInt | typing.SupportsIndex = 42,
        cache: bool = True,
    ) -> list[int]:
        """
        `count` tokens sampled after `tokens`. cache=False computes the whole context again for every one.
        """
    def gradients(self) -> dict[str, typing.Any]:
        """
        Copies of all gradients by name, accumulated since zero_grad().
        """
    def load(self, checkpoint: str) -> None:
        """
        Takes the weights of a checkpoint.
        """
    def optimizer_state(self) -> dict[str, typing.Any]:
        """
        Copies of the moments and master weights by name.
        """
    def parameters(self) -> dict[str, typing.Any]:
        """
        Copies of all parameters by name, (out, in), without padding rows.
        """
    def set_parameter(self, name: str, values: typing.Annotated[numpy.typing.ArrayLike, numpy.float32]) -> None:
        """
        Overwrites one parameter.
        """
    def step(self, schedule: typing.SupportsFloat | typing.SupportsIndex = 1.0) -> float:
        """
        One optimizer step with all learning rates times `schedule`; returns the gradient norm before clipping.
        """
    def zero_grad(self) -> None:
        """
        Sets all gradients to 0.
        """
    @property
    def backend(self) -> str: ...
    @property
    def config(self) -> typing.Any:
        """
        All options as resolved, by name with underscores.
        """
    @property
    def parametrization(self) -> typing.Any:
        """
        The resolved rule table.
        """

def accumulate_sum(
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    out: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
) -> numpy.typing.NDArray[numpy.float32]:
    """
    out (1) += scale * sum(inp); `out` is the value before.
    """

def activation_bytes(train: bool = True, **kwargs: typing.Any) -> int:
    """
    Bytes of a model's activations.
    """

def adamw_step(
    parameters: collections.abc.Sequence[dict[str, typing.Any]],
    *,
    step: typing.SupportsInt | typing.SupportsIndex,
    beta1: typing.SupportsFloat | typing.SupportsIndex,
    beta2: typing.SupportsFloat | typing.SupportsIndex,
    grad_norm: typing.SupportsFloat | typing.SupportsIndex | None = None,
    grad_clip: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    stochastic_rounding: bool = False,
    seed: typing.SupportsInt | typing.SupportsIndex = 0,
    dtype: str = "fp32",
) -> list[dict[str, typing.Any]]:
    """
    One AdamW step over dicts of arrays {param, grad, m, v, master?} and numbers {lr, decay, eps, stream}. Returns a
    dict of the updated arrays for each.
    """

def attention_backward(
    dout: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    out: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    lse: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    qkv: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    logit_scale: typing.SupportsFloat | typing.SupportsIndex,
    out_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> numpy.typing.NDArray[numpy.float32]:
    """
    dqkv (B,T,3C) from dout (B,T,C) and the forward pass's out (B,T,C), lse (B,H,T), qkv (B,T,3C).
    """

def attention_forward(
    qkv: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    num_heads: typing.SupportsInt | typing.SupportsIndex,
    logit_scale: typing.SupportsFloat | typing.SupportsIndex,
    out_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    first_query: typing.SupportsInt | typing.SupportsIndex = 0,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    out (B,T,C) = out_scale * softmax(logit_scale * q k^T, causal) v per head, lse (B,H,T); qkv (B,T,3C). Returns {out,
    lse}, of which rows before first_query hold anything.
    """

def attention_logits(
    qkv: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    num_heads: typing.SupportsInt | typing.SupportsIndex,
    logit_scale: typing.SupportsFloat | typing.SupportsIndex,
    dtype: str = "fp32",
) -> numpy.typing.NDArray[numpy.float32]:
    """
    (B,H,T(T+1)/2): logit_scale * q_i k_j for j <= i, row i after row i-1; qkv (B,T,3C).
    """

def backend() -> str:
    """
    "cpu", "cuda" or "emulated".
    """

def cast(
    src: typing.Annotated[numpy.typing.ArrayLike, numpy.float32], *, src_dtype: str = "fp32", dst_dtype: str = "bf16"
) -> numpy.typing.NDArray[numpy.float32]:
    """
    dst = src in dst_dtype, rounded to nearest even; src is first rounded to src_dtype.
    """

def checkpoint_options(checkpoint: str) -> typing.Any:
    """
    The options of a model that a checkpoint was trained with; empty for files of other projects.
    """

def choose_token(
    logits: collections.abc.Sequence[typing.SupportsFloat | typing.SupportsIndex],
    temperature: typing.SupportsFloat | typing.SupportsIndex,
    top_k: typing.SupportsInt | typing.SupportsIndex,
    uniform: typing.SupportsFloat | typing.SupportsIndex,
) -> int:
    """
    The sampler's choice from logits, given a uniform number.
    """

def classifier(
    logits: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    targets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    *,
    vocab_size: typing.SupportsInt | typing.SupportsIndex,
    logit_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dloss: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    losses (N) = -log softmax(logit_scale * logits[:, :vocab_size])[targets]; if dloss is not 0, logits (N,Vp) becomes
    d(dloss * sum of losses)/d logits. Returns {losses, logits}.
    """

def cost(
    op: str, sizes: collections.abc.Mapping[str, typing.SupportsInt | typing.SupportsIndex], dtype: str = "bf16"
) -> dict[str, typing.Any]:
    """
    What an op of time_op has to do at these sizes: {flops, bytes}, by llmc/ops/cost.h: FLOPs of matrix products (a
    multiply-add is 2), bytes of every input read once and every output written once. Nothing is allocated.
    """

def decode(tokens: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], tokenizer: str = "") -> bytes:
    """
    The text of tokens, as bytes.
    """

def embedding_backward(
    dout: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    dwte: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    dwpe: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    dwte_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dwpe_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    dwte (Vp,C) += dwte_scale * sum of dout (B,T,C) per token; dwpe (maxT,C) += dwpe_scale * sum over b. Returns {dwte,
    dwpe}.
    """

def embedding_forward(
    tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32],
    wte: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    wpe: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> numpy.typing.NDArray[numpy.float32]:
    """
    out (B,T,C) = scale * (wte[tokens] + wpe[t]); tokens (B,T), wte (Vp,C), wpe (maxT,C).
    """

def encode(text: str, tokenizer: str = "") -> list[int]:
    """
    Tokens of a text, by bytes or by a tokenizer.bin.
    """

def flops_per_token(
    depth: typing.SupportsInt | typing.SupportsIndex,
    width: typing.SupportsInt | typing.SupportsIndex,
    seq_len: typing.SupportsInt | typing.SupportsIndex,
    vocab_size: typing.SupportsInt | typing.SupportsIndex,
) -> float:
    """
    FLOPs of a training step for each token: 6 (12 L C^2 + V C) + 12 L C T, attention without regard to causality
    (PaLM, appendix B).
    """

def gelu_backward(
    dout: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    dinp_is_dout: bool = False,
    gelu_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> numpy.typing.NDArray[numpy.float32]:
    """
    dinp (N,C) = dout * gelu'(inp). dinp_is_dout: written into dout's memory.
    """

def gelu_forward(
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    gelu_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> numpy.typing.NDArray[numpy.float32]:
    """
    out (N,C) = u(gelu_scale * inp) / gelu_scale, u the tanh form of GELU.
    """

def global_norm(
    tensors: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.float32]],
) -> numpy.typing.NDArray[numpy.float32]:
    """
    out (1) = sqrt(sum of all squared elements of all tensors).
    """

def initialize(threads: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
    """
    Chooses the device and the number of host threads (0: one per usable core).
    """

def layernorm_backward(
    dout: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    mean: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    rstd: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    dskip: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    dinp_is_dskip: bool = False,
    dweight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    dbias: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    weight_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    skip_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dinp_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dweight_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dbias_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    dinp (N,C) = skip_scale * dskip + dinp_scale * (input gradient); dweight (C) += ..., dbias (C) += ....
    dinp_is_dskip: dinp is written into dskip's memory. Returns {dinp, dweight, dbias}.
    """

def layernorm_forward(
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    weight_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    bias_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    out (N,C) = weight_scale * weight * (inp - mean) * rstd + bias_scale * bias, rstd = 1/sqrt(var + 1e-5). Returns
    {out, mean, rstd}.
    """

def matmul_backward(
    dout: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    pre_gelu: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    dweight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    dbias: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    dinp_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dweight_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dbias_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    gelu_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    overwrite_dweight: bool = False,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    dinp (N,C) = dinp_scale * dout (N,OC) @ weight (OC,C) [* gelu'(pre_gelu)], if weight is given; dweight +=
    dweight_scale * dout^T @ inp and dbias += dbias_scale * column sums, each if given; overwrite_dweight: dweight =
    .... Returns those.
    """

def matmul_forward(
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    weight: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    bias: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    *,
    with_gelu: bool = False,
    residual: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    bias_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    skip_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    gelu_scale: typing.SupportsFloat | typing.SupportsIndex = 1.0,
    dtype: str = "fp32",
) -> dict[str, typing.Any]:
    """
    linear = scale * inp (N,C) @ weight (OC,C)^T + bias_scale * bias; out (N,OC) = skip_scale * residual + (with_gelu ?
    gelu(linear) : linear). Returns {out} and, with_gelu, {pre_gelu}.
    """

def memory_total() -> int:
    """
    Bytes of memory a model may hope for.
    """

def name() -> str:
    """
    The device, in words.
    """

def parametrization(**kwargs: typing.Any) -> typing.Any:
    """
    The resolved rule of every tensor, as train_gpt2 --dry-run prints it: a dict. Keyword arguments are train_gpt2's
    long options with underscores.
    """

def peak_flops(dtype: str = "fp32", seen: typing.SupportsFloat | typing.SupportsIndex = 0.0) -> float:
    """
    The rate of the backend's own matmul on large square matrices, FLOP/s, measured once. It is measured again when
    `seen`, a rate that something else reached, is higher, and is at least that.
    """

def plan_arena(
    buffers: collections.abc.Sequence[
        tuple[
            typing.SupportsInt | typing.SupportsIndex,
            collections.abc.Sequence[
                tuple[typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex]
            ],
        ]
    ],
) -> dict[str, typing.Any]:
    """
    Places for buffers [(bytes, [(first, last moment), ...]), ...] in one arena: {offsets, bytes, most_alive}.
    """

def sgd_step(
    parameters: collections.abc.Sequence[dict[str, typing.Any]],
    *,
    step: typing.SupportsInt | typing.SupportsIndex,
    momentum: typing.SupportsFloat | typing.SupportsIndex,
    grad_norm: typing.SupportsFloat | typing.SupportsIndex | None = None,
    grad_clip: typing.SupportsFloat | typing.SupportsIndex = 0.0,
    stochastic_rounding: bool = False,
    seed: typing.SupportsInt | typing.SupportsIndex = 0,
    dtype: str = "fp32",
) -> list[dict[str, typing.Any]]:
    """
    One SGD step over dicts of arrays {param, grad, m, master?} and numbers {lr, decay, stream}. Returns a dict of the
    updated arrays for each.
    """

def statistics(
    inp: typing.Annotated[numpy.typing.ArrayLike, numpy.float32],
    *,
    minus: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None,
    first_column: typing.SupportsInt | typing.SupportsIndex = 0,
    columns: typing.SupportsInt | typing.SupportsIndex = 0,
    dtype: str = "fp32",
) -> numpy.typing.NDArray[numpy.float32]:
    """
    [mean |x|, mean x, root mean square of x, max |x|] of x = inp - minus in columns [first_column, first_column +
    columns); 0 columns: all from the first on.
    """

def threads() -> int:
    """
    Host threads in use.
    """

def time_op(
    op: str,
    sizes: collections.abc.Mapping[str, typing.SupportsInt | typing.SupportsIndex],
    dtype: str = "bf16",
    sets: typing.SupportsInt | typing.SupportsIndex = 4,
    repeats: typing.SupportsInt | typing.SupportsIndex = 10,
) -> list[float]:
    """
    Seconds a call of an op takes on the device, `repeats` figures, each the mean over `sets` sets of arguments.
    """
