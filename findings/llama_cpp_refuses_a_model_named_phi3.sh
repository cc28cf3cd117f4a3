#!/usr/bin/env bash
# llama.cpp in llama-cpp-python 0.3.36: a GGUF file whose general.name has "phi3" or "phi-3" in it does not load.
#
# Expected: general.name is the model's name, for people to read.
# Happens:  a name with "phi3" or "phi-3", in any case, makes llama.cpp change properties of the tokens </s>, <unk>, <s>
#           and <|endoftext|>, of any architecture. A vocabulary without one of them ends the loading with
#           "error loading model vocabulary: unordered_map::at", in which no name and no token appears.
# Matters:  a converter that takes the name from the folder of a run writes files that load or not by what the user
#           called the run.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
echo "building llama-cpp-python (minutes)"
CMAKE_ARGS=-DGGML_NATIVE=OFF "$folder/venv/bin/pip" install -q --disable-pip-version-check \
    llama-cpp-python==0.3.36 gguf==0.19.0
cat >"$folder/load.py" <<'PY'
import sys

import gguf
from llama_cpp import Llama


def loads(name):
    path = f"{sys.argv[1]}/{name}.gguf"
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_name(name)
    writer.add_context_length(8)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(32)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "<|endoftext|>"])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(3)
    writer.add_eos_token_id(3)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    try:
        return Llama(path, vocab_only=True, verbose=False).tokenize(b"ab", add_bos=False) == [2]
    except ValueError:
        return False


found = {name: loads(name) for name in ("mine", "my-phi3-run", "Phi-3")}
print(found)
sys.exit("changed: not what the head of this file says" if list(found.values()) != [True, False, False] else 0)
PY
"$folder/venv/bin/python" "$folder/load.py" "$folder" 2>/dev/null
