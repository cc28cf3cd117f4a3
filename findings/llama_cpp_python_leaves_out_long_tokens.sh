#!/usr/bin/env bash
# llama-cpp-python 0.3.36: the text of a token of more than 32 bytes is left out, in silence.
#
# Expected: Llama.detokenize gives the bytes of every token; llama_token_to_piece says how much room it needs.
# Happens:  detokenize offers room for 32 bytes and takes the negative answer for a length: such a token is b"", and
#           also in completions of Llama(...), which are made by detokenize.
# Matters:  14 tokens of GPT-2's vocabulary have 33 to 128 bytes, such as the line of 64 dashes (token 10097): they are
#           missing in the text of a model that says them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
echo "building llama-cpp-python (minutes)"
CMAKE_ARGS=-DGGML_NATIVE=OFF "$folder/venv/bin/pip" install -q --disable-pip-version-check \
    llama-cpp-python==0.3.36 gguf==0.19.0
cat >"$folder/detokenize.py" <<'PY'
import sys

import gguf
from llama_cpp import Llama

path = f"{sys.argv[1]}/vocabulary.gguf"
writer = gguf.GGUFWriter(path, "gpt2")
writer.add_context_length(8)
writer.add_embedding_length(8)
writer.add_feed_forward_length(32)
writer.add_block_count(1)
writer.add_head_count(1)
writer.add_layer_norm_eps(1e-5)
writer.add_tokenizer_model("gpt2")
writer.add_tokenizer_pre("gpt-2")
writer.add_token_list(["-", "-" * 32, "-" * 33, "-" * 64, "<|endoftext|>"])
writer.add_token_merges(["<|endoftext|> <|endoftext|>"])
writer.add_bos_token_id(4)
writer.add_eos_token_id(4)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
model = Llama(path, vocab_only=True, verbose=False)
found = {expected: len(model.detokenize([token])) for token, expected in enumerate((1, 32, 33, 64))}
print("bytes of a token -> of its text:", found)
whole = {expected for expected, length in found.items() if expected == length}
sys.exit("changed: not what the head of this file says" if whole != {1, 32} else 0)
PY
"$folder/venv/bin/python" "$folder/detokenize.py" "$folder" 2>/dev/null
