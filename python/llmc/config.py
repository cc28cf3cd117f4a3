"""Every option as a typed field. dev/generate_options.py makes this file: do not edit it, run `make options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict


@dataclass(frozen=True)
class Config:
    """The options of a run. None: not given, its default depends on other options."""

    # Data
    train_data: str = ""
    """token shards to train on (dev/data/*.py make them)"""
    val_data: str = ""
    """token shards to evaluate on; without it nothing is evaluated"""
    tokenizer: Literal["auto", "byte", "gpt2"] = "auto"
    """how tokens become text; auto: as the shards or the checkpoint say"""
    shuffle: bool = True
    """visit shards and windows in random order (--no-shuffle: in file order)"""
    overfit_single_batch: bool = False
    """train on the first batch in file order only, to see the loss go to 0"""

    # Model
    preset: Literal[
        "",
        "gpt2",
        "gpt2-medium",
        "gpt2-large",
        "gpt2-xl",
        "gpt3-125m",
        "gpt3-350m",
        "gpt3-760m",
        "gpt3-1.3b",
        "gpt3-2.7b",
        "gpt3-6.7b",
        "gpt3-13b",
    ] = ""
    """depth, width, heads and sequence length of a published model; the options below override it"""
    init: str = ""
    """start from the weights of this checkpoint (folder, .safetensors, or llm.c's .bin)"""
    depth: int = 12
    """transformer blocks"""
    width: int = 768
    """channels of the residual stream"""
    heads: int = 12
    """attention heads; must divide the width"""
    head_dim: int | None = None
    """head size, instead of --heads"""
    seq_len: int = 1024
    """tokens per sequence, and learned positions of a new model"""
    vocab_size: int = 0
    """vocabulary; 0: as the training data says"""
    tie_embeddings: bool | None = None
    """the head shares the weights of wte [on for sp, else off]"""
    dtype: Literal["fp32", "bf16"] = "fp32"
    """weights and activations; bf16 keeps fp32 master weights"""
    recompute: Literal["none", "gelu", "block"] = "none"
    """what the backward pass computes again instead of keeping it: less memory, more time"""

    # Batch and length
    batch_size: int = 4
    """sequences per micro-batch (and rank)"""
    total_batch_size: int = 0
    """tokens per optimizer step, a multiple of batch size x sequence length; 0: one micro-batch"""
    steps: int = -1
    """optimizer steps to run; 0 writes the initial checkpoint; -1: one epoch"""
    tokens: int = -1
    """length of the run in tokens, instead of --steps"""
    epochs: float = -1.0
    """length of the run in passes over the data, instead of --steps"""

    # Parametrization (mup.md)
    parametrization: Literal["sp", "mup", "mup-table3", "mup-table9", "completep", "u-mup"] = "sp"
    """how init, learning rates and multipliers follow width and depth"""
    base_width: int = 0
    """width at which it is the standard parametrization; width_mult = width / base width"""
    base_heads: int = 0
    """heads of the base model [what keeps the head size]"""
    base_depth: int = 0
    """depth at which it is the standard parametrization; depth_mult = depth / base depth"""
    depth_alpha: float = 1.0
    """residual branches are multiplied by depth_mult^-alpha"""
    attn_mult: float | None = None
    """attention logits = attn_mult / head_dim * q.k [sqrt of the base head size]"""
    output_mult: float = 1.0
    """multiplies the logits"""
    embed_mult: float = 1.0
    """multiplies the sum of the embeddings"""
    init_std: float = 0.02
    """initial standard deviation of every weight at the base width"""
    zero_init_query: bool | None = None
    """the query weights start at 0 [off for sp and u-mup, else on]"""
    zero_init_head: bool | None = None
    """an untied head starts at 0 [off for sp and u-mup, else on]"""
    scale_eps: bool = True
    """Adam's epsilon follows the size of the gradients"""
    ffn_act_mult: float = 1.0
    """temperature of the GELU: gelu(x) becomes gelu(mult x) / mult"""
    attn_softmax_mult: float = 1.0
    """attention logits = mult / head_dim * q.k"""
    residual_mult: float = 1.0
    """size of the branches in the residual stream"""
    residual_attn_ratio: float = 1.0
    """size of the attention branches over that of the MLPs"""
    loss_softmax_mult: float = 1.0
    """multiplies the logits in the loss"""

    # Optimizer
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """update rule"""
    lr: float = 0.0003
    """peak learning rate of the base model"""
    warmup_steps: int = 0
    """linear warm-up"""
    schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """after the warm-up; wsd: constant, then 1-sqrt over the last fifth"""
    final_lr_frac: float = 0.0
    """learning rate at the end, as a fraction of the peak"""
    weight_decay: float = 0.0
    """of matrices and embeddings (not of biases and layer norms)"""
    weight_decay_mode: Literal["scaled", "independent"] = "scaled"
    """scaled: lr x lambda is the same at every width; independent: schedule x lambda, not x lr"""
    beta1: float = 0.9
    """AdamW, first moment"""
    beta2: float = 0.95
    """AdamW, second moment"""
    eps: float = 1e-08
    """AdamW, of the base model"""
    momentum: float = 0.9
    """SGD"""
    grad_clip: float | None = None
    """largest global gradient norm; 0: no clipping [1, for u-mup 0]"""
    skip_loss_zscore: float = 0.0
    """skip updates whose loss is this many deviations above the last 128; 0: never"""
    skip_grad_zscore: float = 0.0
    """the same for the gradient norm; 0: never"""
    rounding: Literal["nearest", "stochastic"] = "nearest"
    """of bf16 weights from their fp32 masters"""

    # Evaluation and samples
    eval_every: int = 100
    """validate after every so many steps and at the end; 0: at the end only"""
    eval_batches: int = 20
    """validation batches; 0: all of --val-data"""
    sample_every: int = 0
    """generate text after every so many steps and at the end; 0: never"""
    prompt: str = ""
    """text to continue; empty: the start of a document"""
    temperature: float = 0.8
    """0: always the most likely token"""
    top_k: int = 0
    """choose among the k most likely tokens; 0: all"""
    sample_tokens: int = 256
    """length of a sample"""

    # Output
    out: str = ""
    """folder for log.jsonl and checkpoints; without it nothing is written"""
    overwrite: bool = False
    """delete an earlier run's log and checkpoints in --out"""
    resume: bool = False
    """continue from the newest checkpoint in --out; start from step 0 where there is none"""
    checkpoint_every: int = 0
    """checkpoint after every so many steps and at the end; 0: at the end only"""
    keep: int = 2
    """checkpoints that stay"""
    coord_check: str = ""
    """write statistics of every activation, parameter and gradient at each step to this CSV"""
    profile: bool = False
    """time every op of the run's steps but the first"""

    # Machine
    seed: int = 42
    """of initial weights, data order, rounding and samples"""
    threads: int = 0
    """CPU threads; 0: one per core"""


class ModelOptions(TypedDict, total=False):
    """Keyword arguments: the options of a model and its optimizer. What is left out has Config's default."""

    preset: Literal[
        "",
        "gpt2",
        "gpt2-medium",
        "gpt2-large",
        "gpt2-xl",
        "gpt3-125m",
        "gpt3-350m",
        "gpt3-760m",
        "gpt3-1.3b",
        "gpt3-2.7b",
        "gpt3-6.7b",
        "gpt3-13b",
    ]
    """depth, width, heads and sequence length of a published model; the options below override it"""
    init: str
    """start from the weights of this checkpoint (folder, .safetensors, or llm.c's .bin)"""
    depth: int
    """transformer blocks"""
    width: int
    """channels of the residual stream"""
    heads: int
    """attention heads; must divide the width"""
    head_dim: int | None
    """head size, instead of --heads"""
    seq_len: int
    """tokens per sequence, and learned positions of a new model"""
    vocab_size: int
    """vocabulary; 0: as the training data says"""
    tie_embeddings: bool | None
    """the head shares the weights of wte [on for sp, else off]"""
    dtype: Literal["fp32", "bf16"]
    """weights and activations; bf16 keeps fp32 master weights"""
    recompute: Literal["none", "gelu", "block"]
    """what the backward pass computes again instead of keeping it: less memory, more time"""
    batch_size: int
    """sequences per micro-batch (and rank)"""
    total_batch_size: int
    """tokens per optimizer step, a multiple of batch size x sequence length; 0: one micro-batch"""
    parametrization: Literal["sp", "mup", "mup-table3", "mup-table9", "completep", "u-mup"]
    """how init, learning rates and multipliers follow width and depth"""
    base_width: int
    """width at which it is the standard parametrization; width_mult = width / base width"""
    base_heads: int
    """heads of the base model [what keeps the head size]"""
    base_depth: int
    """depth at which it is the standard parametrization; depth_mult = depth / base depth"""
    depth_alpha: float
    """residual branches are multiplied by depth_mult^-alpha"""
    attn_mult: float | None
    """attention logits = attn_mult / head_dim * q.k [sqrt of the base head size]"""
    output_mult: float
    """multiplies the logits"""
    embed_mult: float
    """multiplies the sum of the embeddings"""
    init_std: float
    """initial standard deviation of every weight at the base width"""
    zero_init_query: bool | None
    """the query weights start at 0 [off for sp and u-mup, else on]"""
    zero_init_head: bool | None
    """an untied head starts at 0 [off for sp and u-mup, else on]"""
    scale_eps: bool
    """Adam's epsilon follows the size of the gradients"""
    ffn_act_mult: float
    """temperature of the GELU: gelu(x) becomes gelu(mult x) / mult"""
    attn_softmax_mult: float
    """attention logits = mult / head_dim * q.k"""
    residual_mult: float
    """size of the branches in the residual stream"""
    residual_attn_ratio: float
    """size of the attention branches over that of the MLPs"""
    loss_softmax_mult: float
    """multiplies the logits in the loss"""
    optimizer: Literal["adamw", "sgd"]
    """update rule"""
    lr: float
    """peak learning rate of the base model"""
    weight_decay: float
    """of matrices and embeddings (not of biases and layer norms)"""
    weight_decay_mode: Literal["scaled", "independent"]
    """scaled: lr x lambda is the same at every width; independent: schedule x lambda, not x lr"""
    beta1: float
    """AdamW, first moment"""
    beta2: float
    """AdamW, second moment"""
    eps: float
    """AdamW, of the base model"""
    momentum: float
    """SGD"""
    grad_clip: float | None
    """largest global gradient norm; 0: no clipping [1, for u-mup 0]"""
    rounding: Literal["nearest", "stochastic"]
    """of bf16 weights from their fp32 masters"""
    seed: int
    """of initial weights, data order, rounding and samples"""
