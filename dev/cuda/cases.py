"""The ops of one GPT-2 training step with their sizes, FLOPs and bytes, and what PyTorch offers in their place.

Floor of an op: max(FLOPs / matrix rate, bytes / copy rate), each input read once and each output written once; the two
rates are measured in the same run. N = B*T rows, C channels, Vp padded vocabulary.
"""

from dataclasses import dataclass, field

# depth, width, heads, vocabulary; the last shows on a CPU that the benchmark runs
MODELS = {"124M": (12, 768, 12, 50257), "355M": (24, 1024, 16, 50257), "774M": (36, 1280, 20, 50257),
          "1558M": (48, 1600, 25, 50257), "tiny": (1, 64, 2, 257)}  # fmt: skip


@dataclass
class Case:
    op: str  # of llmc's time_op
    name: str
    sizes: dict
    flops: float
    bytes: float
    count: int  # calls in a step of the model
    torch: str  # of PyTorchOps
    sets: int = field(default=2)


def matmul_cases(L, C, N):
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


def cases_of(model, B, T, logits_rows):
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


class PyTorchOps:
    """The same calls on the same sizes by PyTorch: cuBLAS, flash attention (SDPA), torch.compile for what it fuses.

    Each method returns a list of calls, one per set of arguments; None: PyTorch has no single call for it.
    """

    def __init__(self, torch, device, dtype, compiled=True):
        self.torch, self.device, self.dtype = torch, device, dtype
        self.compile = torch.compile if compiled else lambda f: f

    def calls(self, case):
        return [getattr(self, case.torch)(**case.sizes) for _ in range(case.sets)]

    def randn(self, *shape, dtype=None):
        return self.torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    def tokens(self, high, *shape):
        return self.torch.randint(0, high, shape, device=self.device)

    def matmul_forward(self, N, C, OC):
        F, x, w, b = self.torch.nn.functional, self.randn(N, C), self.randn(OC, C), self.randn(OC)
        return lambda: F.linear(x, w, b)

    def matmul_forward_residual(self, N, C, OC):
        F, x, w, b, r = self.torch.nn.functional, self.randn(N, C), self.randn(OC, C), self.randn(OC), self.randn(N, OC)
        f = self.compile(lambda x, w, b, r: r + F.linear(x, w, b))
        return lambda: f(x, w, b, r)

    def matmul_forward_gelu(self, N, C, OC):
        F, x, w, b = self.torch.nn.functional, self.randn(N, C), self.randn(OC, C), self.randn(OC)

        def both(x, w, b):
            y = F.linear(x, w, b)
            return y, F.gelu(y, approximate="tanh")

        f = self.compile(both)
        return lambda: f(x, w, b)

    def matmul_dinp(self, N, C, OC):
        d, w = self.randn(N, OC), self.randn(OC, C)
        return lambda: d @ w

    def matmul_dinp_gelu(self, N, C, OC):
        F, d, w, x = self.torch.nn.functional, self.randn(N, OC), self.randn(OC, C), self.randn(N, C)
        gelu_backward = self.torch.ops.aten.gelu_backward
        f = self.compile(lambda d, w, x: gelu_backward(d @ w, x, approximate="tanh"))
        del F
        return lambda: f(d, w, x)

    def matmul_dweight(self, N, C, OC):
        d, x = self.randn(N, OC), self.randn(N, C)
        total, bias = self.torch.zeros(OC, C, device=self.device), self.torch.zeros(OC, device=self.device)

        def accumulate():
            total.add_(d.T @ x)
            bias.add_(d.sum(0))

        return accumulate

    def attention(self, B, T, H, D):
        qkv = self.randn(B, T, 3 * H * D).requires_grad_()
        q, k, v = (a.view(B, T, H, D).transpose(1, 2) for a in qkv.split(H * D, dim=2))
        return qkv, self.torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v)

    def attention_forward(self, B, T, H, D):
        _, _, (q, k, v) = self.attention(B, T, H, D)
        q, k, v = q.detach(), k.detach(), v.detach()
        return lambda: self.torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def attention_backward(self, B, T, H, D):
        _, out, inputs = self.attention(B, T, H, D)
        d = self.torch.randn_like(out)
        return lambda: self.torch.autograd.grad(out, inputs, d, retain_graph=True)

    def layernorm_forward(self, N, C):
        F, x, w, b = self.torch.nn.functional, self.randn(N, C), self.randn(C), self.randn(C)
        f = self.compile(lambda x, w, b: F.layer_norm(x, (C,), w, b))
        return lambda: f(x, w, b)

    def layernorm_backward(self, N, C):
        F = self.torch.nn.functional
        x, w, b = (self.randn(*s).requires_grad_() for s in ((N, C), (C,), (C,)))
        out = self.compile(lambda x, w, b: F.layer_norm(x, (C,), w, b))(x, w, b)
        d = self.torch.randn_like(out)
        return lambda: self.torch.autograd.grad(out, (x, w, b), d, retain_graph=True)

    def embedding_forward(self, B, T, C, V):
        F, tokens, wte, wpe = self.torch.nn.functional, self.tokens(V, B, T), self.randn(V, C), self.randn(T, C)
        f = self.compile(lambda tokens, wte, wpe: F.embedding(tokens, wte) + wpe)
        return lambda: f(tokens, wte, wpe)

    def embedding_backward(self, B, T, C, V):
        tokens, d = self.tokens(V, B, T), self.randn(B, T, C)
        return lambda: self.torch.ops.aten.embedding_dense_backward(d, tokens, V, -1, False)

    def classifier(self, N, V, Vp):
        F = self.torch.nn.functional
        logits, targets = self.randn(N, Vp).requires_grad_(), self.tokens(V, N)
        loss = self.compile(lambda x, t: F.cross_entropy(x[:, :V].float(), t))
        return lambda: self.torch.autograd.grad(loss(logits, targets), logits)

    def gelu_forward(self, N, C):
        F, x = self.torch.nn.functional, self.randn(N, C)
        return lambda: F.gelu(x, approximate="tanh")

    def global_norm(self, P):
        x = self.randn(P, dtype=self.torch.float32)
        return lambda: self.torch.linalg.vector_norm(x)

    def adamw(self, P):
        p = self.torch.nn.Parameter(self.randn(P, dtype=self.torch.float32))
        p.grad = self.torch.randn_like(p)
        optimizer = self.torch.optim.AdamW([p], fused=self.device != "cpu")
        return optimizer.step
