"""The ops of one GPT-2 training step with their sizes, FLOPs and bytes.

Floor of an op: max(FLOPs / matrix rate, bytes / copy rate), each input read once and each output written once; the two
rates are measured in the same run. N = B*T rows, C channels, Vp padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

Sizes = dict[str, int]


class Model(NamedTuple):
    depth: int
    width: int
    heads: int
    vocab_size: int


MODELS = {
    "124M": Model(12, 768, 12, 50257),
    "355M": Model(24, 1024, 16, 50257),
    "774M": Model(36, 1280, 20, 50257),
    "1558M": Model(48, 1600, 25, 50257),
    "tiny": Model(1, 64, 2, 257),  # shows on a CPU that the benchmark runs
}


@dataclass
class Case:
    op: str  # of llmc's time_op
    name: str
    sizes: Sizes
    flops: float
    bytes: float
    count: int  # calls in a step of the model
    torch: str  # of PyTorchOps
    sets: int = 2  # of arguments, used in turn: one set might stay in the cache


def flops_per_token(depth: int, width: int, vocab_size: int, seq_len: int) -> int:
    """6 N + 12 L C T of forward and backward pass, N the parameters of the matrices (PaLM, appendix B: causality is
    ignored)."""
    return 6 * (12 * depth * width * width + width * vocab_size) + 12 * depth * width * seq_len


def matmul_cases(L: int, C: int, N: int) -> list[Case]:
    """The linear layers of a block: forward with their epilogues, and the two gradients."""
    layers = {"c_attn": (C, 3 * C, ""), "attn.c_proj": (C, C, "_residual"), "c_fc": (C, 4 * C, "_gelu"),
              "mlp.c_proj": (4 * C, C, "_residual")}  # fmt: skip
    cases = []
    for name, (inp, out, epilogue) in layers.items():
        sizes, flops = {"N": N, "C": inp, "OC": out}, 2 * N * inp * out
        weights, moved = 2 * inp * out, 2 * N * (inp + out)
        extra = 2 * N * out if epilogue else 0
        cases.append(Case("matmul_forward" + epilogue, f"{name} forward{epilogue.replace('_', ' + ')}", sizes, flops,
                          moved + weights + extra, L, "matmul_forward" + epilogue))  # fmt: skip
        dgelu = "_gelu" if name == "mlp.c_proj" else ""
        cases.append(Case("matmul_dinp" + dgelu, f"{name} dinp{' + dgelu' if dgelu else ''}", sizes, flops,
                          moved + weights + (2 * N * inp if dgelu else 0), L, "matmul_dinp" + dgelu))  # fmt: skip
        cases.append(Case("matmul_dweight", f"{name} dweight + dbias", sizes, flops, moved + 8 * inp * out, L,
                          "matmul_dweight"))  # fmt: skip
    return cases


def cases_of(model: str, B: int, T: int, logits_rows: int) -> list[Case]:
    """The calls of a step with B sequences of T tokens; the head takes `logits_rows` rows at a time."""
    L, C, H, V = MODELS[model]
    N, D, padded = B * T, C // H, -(-V // 128) * 128
    P = 12 * L * C * C + 13 * L * C + 2 * C + V * C + T * C
    heads = {"B": B, "T": T, "H": H, "D": D}
    rows = min(N, logits_rows)
    head = {"N": rows, "C": C, "OC": padded}
    head_flops, head_bytes, chunks = 2 * rows * C * padded, 2 * (rows * C + padded * C + rows * padded), -(-N // rows)
    return [
        Case("embedding_forward", "embedding forward", {"B": B, "T": T, "C": C, "V": padded}, 0, 4 * N * C, 1,
             "embedding_forward", 4),
        Case("embedding_backward", "embedding backward", {"B": B, "T": T, "C": C, "V": padded}, 0, 4 * N * C, 1,
             "embedding_backward", 2),
        Case("layernorm_forward", "layer norm forward", {"N": N, "C": C}, 0, 4 * N * C + 8 * N, 2 * L + 1,
             "layernorm_forward", 4),
        Case("layernorm_backward", "layer norm backward + residual", {"N": N, "C": C}, 0, 8 * N * C, 2 * L + 1,
             "layernorm_backward", 4),
        Case("attention_forward", "attention forward", heads, 2 * T * C * N, 8 * N * C + 4 * N * H, L,
             "attention_forward", 4),
        Case("attention_backward", "attention backward", heads, 5 * T * C * N, 16 * N * C + 8 * N * H, L,
             "attention_backward", 2),
        *matmul_cases(L, C, N),
        Case("matmul_forward", "head forward", head, head_flops, head_bytes, chunks, "matmul_forward"),
        Case("classifier", "classifier with gradient", {"N": rows, "V": V, "Vp": padded}, 0, 4 * rows * padded,
             chunks, "classifier"),
        Case("matmul_dinp", "head dinp", head, head_flops, head_bytes, chunks, "matmul_dinp"),
        Case("matmul_dweight", "head dweight", head, head_flops, head_bytes + 6 * padded * C, chunks, "matmul_dweight"),
        Case("gelu_forward", "gelu forward (--recompute gelu)", {"N": N, "C": 4 * C}, 0, 16 * N * C, 0, "gelu_forward"),
        Case("global_norm", "global norm", {"P": P}, 0, 4 * P, 1, "global_norm", 1),
        Case("adamw", "AdamW, fp32 masters", {"P": P}, 0, 30 * P, 1, "adamw", 1),
    ]  # fmt: skip
