"""Tools for the tests of parametrizations: small models in this process, text to train them on, slopes."""

import numpy as np
from program import BACKEND
from shards import random_text

import llmc

V = 257
SHAPE = {"depth": 2, "width": 64, "head_dim": 16, "seq_len": 32, "batch_size": 8, "vocab_size": V}
# Nothing starts at zero, so that every path has a gradient from the first step on. No clip: with a clip the three
# tables of muP are not equivalent.
PLAIN = {"zero_init_query": False, "zero_init_head": False, "tie_embeddings": False, "grad_clip": 0.0}
MUP_FORMS = ["mup", "mup-table3", "mup-table9"]


def model(**options):
    options = SHAPE | options
    options["heads"] = options.get("heads") or options["width"] // options["head_dim"]
    del options["head_dim"]
    return llmc.backend(BACKEND).GPT2(**options)


def batches(steps, B=8, T=32, seed=0):
    """(tokens, targets) of consecutive windows of a text, (B, T) each."""
    text = np.frombuffer(random_text(steps * B * T + 1, seed).encode(), np.uint8).astype(np.int32)
    assert len(text) > steps * B * T
    for i in range(steps):
        window = text[i * B * T : (i + 1) * B * T + 1]
        yield window[:-1].reshape(B, T), window[1:].reshape(B, T)


def train(gpt, data):
    """The losses of one step on each batch."""
    out = []
    for tokens, targets in data:
        gpt.zero_grad()
        gpt.forward(tokens, targets)
        out.append(gpt.backward())
        gpt.step()
    return out


def gradients(gpt, seed=0, B=8, T=32):
    """All gradients on one batch, by name."""
    ((tokens, targets),) = batches(1, B, T, seed)
    gpt.zero_grad()
    gpt.forward(tokens, targets)
    gpt.backward()
    return gpt.gradients()


def rules(gpt):
    return {t["name"]: t for t in gpt.parametrization["tensors"]}


def slope(widths, values):
    """Slope of log2(values) against log2(widths), by least squares: values (widths) or (widths, seeds)."""
    values = np.asarray(values, dtype=np.float64).reshape(len(widths), -1)
    x = np.repeat(np.log2(widths), values.shape[1])
    return np.polyfit(x, np.log2(values).reshape(-1), 1)[0]
