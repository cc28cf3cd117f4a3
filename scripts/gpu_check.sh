#!/usr/bin/env bash
# `make gpu-check` (scripts/gpu_check.sh): all checks that need a GPU, in at most 8 minutes. Builds with the installed
# nvcc and g++ and with build/deps/include. Tests with the Python that has PyTorch: $PYTHON, .venv's, or python3.
# Exit code 5: no GPU.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p; }' "$0"; exit; fi
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [[ -z $python ]]; then
    python=.venv/bin/python
    "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || python=python3
fi
exec "$python" dev/cuda/gpu_check.py "$@"
