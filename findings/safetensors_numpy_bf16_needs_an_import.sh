#!/usr/bin/env bash
# safetensors 0.8.0, NumPy: a file with BF16 tensors is read or refused by what else the program has imported.
#
# Expected: safetensors.numpy reads BF16 files, or refuses them and says that NumPy has no bfloat16.
# Happens:  load_file raises TypeError "data type 'bfloat16' not understood", until some module has imported ml_dtypes,
#           which registers the name with NumPy; then it works. safetensors does not import it, even where it is
#           installed: JAX or another package does. load, of the same bytes, raises KeyError 'BF16' in both cases.
# Matters:  bf16 checkpoints are read in a notebook that has imported JAX and refused in the script made from it. A
#           reader of them imports ml_dtypes itself, or reads through PyTorch, as this project does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy==2.4.6 ml_dtypes==0.6.0 2>/dev/null
echo "safetensors.numpy of safetensors 0.8.0 on a BF16 file, ml_dtypes 0.6.0 installed. Expected: the same twice."
cat >"$folder/read.py" <<'PY'
import struct, sys

if sys.argv[1] == "imported":
    import ml_dtypes  # noqa: F401 - not used
from safetensors.numpy import load, load_file

header = b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}'
content = struct.pack("<Q", len(header)) + header + struct.pack("<HH", 0x3F80, 0x4000)  # 1 and 2
with open(sys.argv[2], "wb") as file:
    file.write(content)
for name, read in (("load_file", lambda: load_file(sys.argv[2])), ("load", lambda: load(content))):
    try:
        print(name, *read()["a"], end="; ")
    except (TypeError, KeyError) as error:
        print(name, type(error).__name__, error, end="; ")
PY
without=$("$folder/venv/bin/python" "$folder/read.py" installed "$folder/bf16.safetensors")
with=$("$folder/venv/bin/python" "$folder/read.py" imported "$folder/bf16.safetensors")
echo "ml_dtypes not imported: $without"
echo "ml_dtypes imported:     $with"
if [[ $without != "load_file TypeError"*"load KeyError"* || $with != "load_file 1 2; load KeyError"* ]]; then
    echo "changed: whether BF16 is read no longer depends on the import" >&2
    exit 1
fi
