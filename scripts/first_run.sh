#!/usr/bin/env bash
# The run of `make run`, after building: the default corpus, a small muP model, its loss curve, and what to try next.
# STEPS=200 scripts/first_run.sh shortens it. The output is in runs/first, replacing an earlier one.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p; }' "$0"; exit; fi
cd "$(dirname "$0")/.."
out=runs/first
.venv/bin/python dev/data/pystdlib.py
./train_gpt2 --config scripts/first_run.toml ${STEPS:+--steps "$STEPS"} --out "$out" --overwrite
.venv/bin/python dev/loss_visualize.py "$out/log.jsonl" --out "$out/loss.png"
cat <<TEXT

The loss curve is $out/loss.png. Next:
  ./train_gpt2 sample $out --prompt 'def main('                                 more text from this model
  ./train_gpt2 --config scripts/first_run.toml --width 256 --dry-run             the rules at twice the width
  ./train_gpt2 --config scripts/first_run.toml --width 256 --out runs/wide       train it: same learning rate
  .venv/bin/python dev/data/text.py FOLDER --out data/mine                       your own text
  make test                                                                      test it against PyTorch
TEXT
