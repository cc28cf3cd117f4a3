#!/usr/bin/env bash
# transformers 5.24.0: with the padding token set to <|endoftext|>, generate() hides a prompt's first token from the model
# if it is told another eos_token_id, and says that the warning may be ignored.
#
# Expected: generate(ids, eos_token_id=10), to stop at the end of a line, gives the tokens that generate(ids) gives up to
#           there. A model trained on documents that begin with <|endoftext|> wants it at the start of a prompt.
# Happens:  where no attention_mask is given, one is made from the padding token, unless that is an eos token. With
#           another eos_token_id it no longer is one, so the leading <|endoftext|> counts as padding: other tokens. The
#           warning adds that one may ignore it if the padding token is identical to the bos token, which it is.
# Matters:  pad_token_id = eos_token_id in config.json is what many exports write to silence a message. This project's
#           export leaves it null, as GPT-2's published files do.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 transformers==5.24.0 2>/dev/null
echo "transformers 5.24.0, GPT-2, generate() without an attention_mask. Expected: the same tokens in each line."
"$folder/venv/bin/python" - <<'PY' 2>"$folder/stderr"
import sys
import torch
from transformers import GPT2Config, GPT2LMHeadModel

end, line_feed = 256, 10
ids = torch.tensor([[end, 84, 104, 101]])  # <|endoftext|>The
changed = False
for pad in (None, end):
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 64, "n_positions": 64, "vocab_size": 257, "initializer_range": 0.4}
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": pad}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **ends)).eval()
    found = {}
    for eos in (end, line_feed):
        for mask in (None, torch.ones_like(ids)):
            more = {} if mask is None else {"attention_mask": mask}
            out = model.generate(ids, do_sample=False, max_new_tokens=6, eos_token_id=eos, **more)
            found[eos, mask is not None] = out[0, 4:].tolist()
            print(f"pad_token_id {pad}, eos_token_id {eos}, mask {mask is not None}: {found[eos, mask is not None]}")
    wrong = found[line_feed, False] != found[line_feed, True]
    changed |= wrong != (pad == end) or found[end, False] != found[end, True]
sys.exit("changed: the tokens no longer depend on the padding token" if changed else 0)
PY
grep -m 1 "You may ignore this warning" "$folder/stderr" || { echo "changed: no warning that may be ignored" >&2; exit 1; }
