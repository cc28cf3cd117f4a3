#!/usr/bin/env bash
# `make gpu-check`: everything that needs a GPU, in at most 8 minutes on one. Builds with what is here (nvcc, g++, this tree's
# build/deps/include) and tests with the Python that has PyTorch: .venv's, or $PYTHON, or python3. Exit 5: no GPU here.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-}
if [[ -z $python ]]; then
    python=.venv/bin/python
    "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null || python=python3
fi
exec "$python" dev/cuda/gpu_check.py "$@"
