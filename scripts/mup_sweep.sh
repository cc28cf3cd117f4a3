#!/usr/bin/env bash
# `llmc sweep` in this clone, without installing it: scripts/mup_sweep.sh --help
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null ||
    { echo "error: $python is missing: run scripts/setup.sh venv, or set PYTHON" >&2; exit 2; }
PYTHONPATH=$PWD/python${PYTHONPATH:+:$PYTHONPATH} PYTHON=$python exec "$python" -m llmc sweep "$@"
