#!/usr/bin/env bash
# transformers 4.57.1: GPT-2 ignores scale_attn_weights and scale_attn_by_inverse_layer_idx of its config by default.
#
# Expected: a GPT-2 whose config.json says scale_attn_weights = false has attention logits without 1/sqrt(head size),
#           and with scale_attn_by_inverse_layer_idx = true block i divides them by i + 1: another loss than plain GPT-2.
# Happens:  both lose their effect under the default attn_implementation ("sdpa"), in silence: the loss is that of the
#           plain GPT-2. With "eager" they have it. In 5.24.0 they have it under both.
# Matters:  the same weights and config.json are two functions, and which of them was trained depends on the version and
#           on an argument that config.json does not contain.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/losses.py" <<'PY'
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

tokens, changed = torch.arange(16)[None], []
for change in ({}, {"scale_attn_weights": False}, {"scale_attn_by_inverse_layer_idx": True}):
    losses = {}
    for attention in ("eager", "sdpa"):
        torch.manual_seed(0)
        sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 32, "vocab_size": 257, "initializer_range": 0.2}
        model = GPT2LMHeadModel(GPT2Config(**sizes, **change, attn_implementation=attention)).eval()
        with torch.no_grad():
            losses[attention] = round(model(tokens, labels=tokens).loss.item(), 4)
    print("  ", change, losses)
    differ = losses["eager"] != losses["sdpa"]
    changed.append(differ != (bool(change) and sys.argv[1].startswith("4")))
sys.exit("changed: not what the head of this file says" if any(changed) else 0)
PY
for version in 4.57.1 5.24.0; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==$version 2>/dev/null
    echo "transformers $version:"
    "$folder/$version/bin/python" "$folder/losses.py" $version 2>/dev/null
done
