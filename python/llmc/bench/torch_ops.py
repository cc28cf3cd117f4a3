"""PyTorch's equivalents of the ops of cases.py."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from llmc.bench.cases import Case

Call = Callable[[], Any]


class PyTorchOps:
    """The same calls on the same sizes by PyTorch: cuBLAS, attention by SDPA's kernels (flash and cuDNN on a GPU),
    torch.compile if it can fuse them.

    Each method allocates its arguments and returns the call; `calls` does this once for each set of arguments.
    """

    def __init__(self, torch: Any, device: str, dtype: Any, compiled: bool = True) -> None:
        self.torch, self.device, self.dtype = torch, device, dtype
        self.compile: Callable[[Any], Any] = torch.compile if compiled else lambda f: f

    def backends(self, case: Case) -> list[str]:
        """Of SDPA, for attention on a GPU; "": PyTorch's choice."""
        is_attention = case.torch.startswith("attention") and self.device == "cuda"
        return ["FLASH_ATTENTION", "CUDNN_ATTENTION"] if is_attention else [""]

    def using(self, backend: str) -> contextlib.AbstractContextManager[Any]:
        if not backend:
            return contextlib.nullcontext()
        attention = self.torch.nn.attention
        context: contextlib.AbstractContextManager[Any] = attention.sdpa_kernel(getattr(attention.SDPBackend, backend))
        return context

    def calls(self, case: Case) -> list[Call]:
        return [getattr(self, case.torch)(**case.sizes) for _ in range(case.sets)]

    def randn(self, *shape: int, dtype: Any = None) -> Any:
        return self.torch.randn(*shape, device=self.device, dtype=dtype or self.dtype)

    def tokens(self, high: int, *shape: int) -> Any:
        return self.torch.randint(0, high, shape, device=self.device)

    def matmul_forward(self, N: int, C: int, OC: int) -> Call:
        F, x, w, b = self.torch.nn.functional, self.randn(N, C), self.randn(OC, C), self.randn(OC)
        return lambda: F.linear(x, w, b)

    def matmul_forward_residual(self, N: int, C: int, OC: int) -> Call:
        F, x, w, b, r = self.torch.nn.functional, self.randn(N, C), self.randn(OC, C), self.randn(OC), self.randn(N, OC)
        f = self.compile(lambda x, w, b, r: r + F.linear(x, w, b))
        return lambda: f(x, w, b, r)

    def matmul_forward_gelu(self, N: int, C: int, OC: int) -> Call:
        F, x, w, b = self.torch.nn.functional, self.randn(N, C), self.randn(OC, C), self.randn(OC)

        def both(x: Any, w: Any, b: Any) -> tuple[Any, Any]:
            y = F.linear(x, w, b)
            return y, F.gelu(y, approximate="tanh")

        f = self.compile(both)
        return lambda: f(x, w, b)

    def matmul_dinp(self, N: int, C: int, OC: int) -> Call:
        d, w = self.randn(N, OC), self.randn(OC, C)
        return lambda: d @ w

    def matmul_dinp_gelu(self, N: int, C: int, OC: int) -> Call:
        d, w, x = self.randn(N, OC), self.randn(OC, C), self.randn(N, C)
        gelu_backward = self.torch.ops.aten.gelu_backward
        f = self.compile(lambda d, w, x: gelu_backward(d @ w, x, approximate="tanh"))
        return lambda: f(d, w, x)

    def matmul_dweight(self, N: int, C: int, OC: int) -> Call:
        d, x = self.randn(N, OC), self.randn(N, C)
        total, bias = self.torch.zeros(OC, C, device=self.device), self.torch.zeros(OC, device=self.device)

        def accumulate() -> None:
            total.add_(d.T @ x)
            bias.add_(d.sum(0))

        return accumulate

    def attention(self, B: int, T: int, H: int, D: int) -> tuple[Any, Any, tuple[Any, Any, Any]]:
        """The packed q, k and v, the output, and q, k, v as views."""
        qkv = self.randn(B, T, 3 * H * D).requires_grad_()
        q, k, v = (a.view(B, T, H, D).transpose(1, 2) for a in qkv.split(H * D, dim=2))
        return qkv, self.torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True), (q, k, v)

    def attention_forward(self, B: int, T: int, H: int, D: int) -> Call:
        _, _, (q, k, v) = self.attention(B, T, H, D)
        q, k, v = q.detach(), k.detach(), v.detach()
        return lambda: self.torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)

    def attention_backward(self, B: int, T: int, H: int, D: int) -> Call:
        _, out, inputs = self.attention(B, T, H, D)
        d = self.torch.randn_like(out)
        return lambda: self.torch.autograd.grad(out, inputs, d, retain_graph=True)

    def layernorm_forward(self, N: int, C: int) -> Call:
        F, x, w, b = self.torch.nn.functional, self.randn(N, C), self.randn(C), self.randn(C)
        f = self.compile(lambda x, w, b: F.layer_norm(x, (C,), w, b))
        return lambda: f(x, w, b)

    def layernorm_backward(self, N: int, C: int) -> Call:
        F = self.torch.nn.functional
        x, w, b = (self.randn(*s).requires_grad_() for s in ((N, C), (C,), (C,)))
        out = self.compile(lambda x, w, b: F.layer_norm(x, (C,), w, b))(x, w, b)
        d = self.torch.randn_like(out)
        return lambda: self.torch.autograd.grad(out, (x, w, b), d, retain_graph=True)

    def embedding_forward(self, B: int, T: int, C: int, V: int) -> Call:
        F, tokens, wte, wpe = self.torch.nn.functional, self.tokens(V, B, T), self.randn(V, C), self.randn(T, C)
        f = self.compile(lambda tokens, wte, wpe: F.embedding(tokens, wte) + wpe)
        return lambda: f(tokens, wte, wpe)

    def embedding_backward(self, B: int, T: int, C: int, V: int) -> Call:
        tokens, d = self.tokens(V, B, T), self.randn(B, T, C)
        return lambda: self.torch.ops.aten.embedding_dense_backward(d, tokens, V, -1, False)

    def classifier(self, N: int, V: int, Vp: int) -> Call:
        F = self.torch.nn.functional
        logits, targets = self.randn(N, Vp).requires_grad_(), self.tokens(V, N)
        loss = self.compile(lambda x, t: F.cross_entropy(x[:, :V].float(), t))
        return lambda: self.torch.autograd.grad(loss(logits, targets), logits)

    def gelu_forward(self, N: int, C: int) -> Call:
        F, x = self.torch.nn.functional, self.randn(N, C)
        return lambda: F.gelu(x, approximate="tanh")

    def global_norm(self, P: int) -> Call:
        x = self.randn(P, dtype=self.torch.float32)
        return lambda: self.torch.linalg.vector_norm(x)

    def adamw(self, P: int) -> Call:
        p = self.torch.nn.Parameter(self.randn(P, dtype=self.torch.float32))
        p.grad = self.torch.randn_like(p)
        optimizer = self.torch.optim.AdamW([p], fused=self.device != "cpu")
        step: Call = optimizer.step
        return step
