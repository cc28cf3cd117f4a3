"""The ops of one GPT-2 training step with their sizes. llmc/ops/cost.h has their FLOPs and bytes.

Floor of an op: max(FLOPs / matrix rate, bytes / copy rate); the two rates are measured in the same run. N = B*T rows,
C width, Vp padded vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

from llmc.tokenizer import GPT2_VOCAB_SIZE

Sizes = dict[str, int]


class Model(NamedTuple):
    depth: int
    width: int
    heads: int
    vocab_size: int


MODELS = {
    "124M": Model(12, 768, 12, GPT2_VOCAB_SIZE),
    "355M": Model(24, 1024, 16, GPT2_VOCAB_SIZE),
    "774M": Model(36, 1280, 20, GPT2_VOCAB_SIZE),
    "1558M": Model(48, 1600, 25, GPT2_VOCAB_SIZE),
    "6658M": Model(32, 4096, 32, GPT2_VOCAB_SIZE),  # heads of 128 channels
    "tiny": Model(1, 64, 2, 257),  # to test the benchmark on a CPU
}


class Cost(NamedTuple):
    flops: float
    bytes: float


@dataclass
class Case:
    op: str  # of llmc's time_op
    name: str
    sizes: Sizes
    count: int  # calls in a step of the model
    torch: str  # of PyTorchOps
    sets: int = 2  # sets of arguments, used in turn: one set could stay in the cache

    def cost(self, backend: ModuleType, dtype: str) -> Cost:
        return Cost(**backend.cost(self.op, self.sizes, dtype))


def matmul_cases(L: int, C: int, N: int) -> list[Case]:
    """The linear layers of a block: forward with their epilogues, and the two gradients."""
    layers = {
        "c_attn": (C, 3 * C, ""),
        "attn.c_proj": (C, C, "_residual"),
        "c_fc": (C, 4 * C, "_gelu"),
        "mlp.c_proj": (4 * C, C, "_residual"),
    }
    cases = []
    for name, (inp, out, epilogue) in layers.items():
        sizes = {"N": N, "C": inp, "OC": out}
        forward = "matmul_forward" + epilogue
        dinp = "matmul_dinp" + ("_gelu" if name == "mlp.c_proj" else "")
        cases.append(Case(forward, f"{name} forward{epilogue.replace('_', ' + ')}", sizes, L, forward))
        cases.append(Case(dinp, f"{name} dinp{' + dgelu' if dinp.endswith('_gelu') else ''}", sizes, L, dinp))
        cases.append(Case("matmul_dweight", f"{name} dweight + dbias", sizes, L, "matmul_dweight"))
    return cases


def cases_of(model: str, B: int, T: int, logits_rows: int) -> list[Case]:
    """The calls of a step with B sequences of T tokens; the head takes `logits_rows` rows at a time."""
    L, C, H, V = MODELS[model]
    N, padded = B * T, -(-V // 128) * 128
    P = 12 * L * C * C + 13 * L * C + 2 * C + V * C + T * C
    rows = min(N, logits_rows)
    tokens = {"B": B, "T": T, "C": C, "V": padded}
    heads = {"B": B, "T": T, "H": H, "D": C // H}
    norm, head = {"N": N, "C": C}, {"N": rows, "C": C, "OC": padded}
    chunks, norms = -(-N // rows), 2 * L + 1
    return [
        Case("embedding_forward", "embedding forward", tokens, 1, "embedding_forward", 4),
        Case("embedding_backward", "embedding backward", tokens, 1, "embedding_backward", 2),
        Case("layernorm_forward", "layer norm forward", norm, norms, "layernorm_forward", 4),
        Case("layernorm_backward", "layer norm backward + residual", norm, norms, "layernorm_backward", 4),
        Case("attention_forward", "attention forward", heads, L, "attention_forward", 4),
        Case("attention_backward", "attention backward", heads, L, "attention_backward", 2),
        *matmul_cases(L, C, N),
        Case("matmul_forward", "head forward", head, chunks, "matmul_forward"),
        Case("classifier", "classifier with gradient", {"N": rows, "V": V, "Vp": padded}, chunks, "classifier"),
        Case("matmul_dinp", "head dinp", head, chunks, "matmul_dinp"),
        Case("matmul_dweight", "head dweight", head, chunks, "matmul_dweight"),
        Case("gelu_forward", "gelu forward (--recompute gelu)", {"N": N, "C": 4 * C}, 0, "gelu_forward"),
        Case("global_norm", "global norm", {"P": P}, 1, "global_norm", 1),
        Case("adamw", "AdamW, fp32 masters", {"P": P}, 1, "adamw", 1),
    ]
