#!/usr/bin/env bash
# `llmc lm-eval` from a clone without installing it: dev/eval/lm_eval.sh --help
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=${PYTHON:-$root/.venv/bin/python}
command -v "$python" >/dev/null ||
    { echo "error: $python is missing: run scripts/setup.sh lm-eval, or set PYTHON" >&2; exit 2; }
PYTHONPATH=$root/python${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m llmc lm-eval "$@"
