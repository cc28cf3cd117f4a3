#!/usr/bin/env bash
# The run of `make run`, after building: the default corpus, a small muP model, its loss curve, a page about it, and
# what to try next.
#   scripts/first_run.sh [OPTION ...]        options of train_gpt2 in addition to those of scripts/first_run.toml
#   STEPS=200 scripts/first_run.sh           shortens it, like --steps 200
# The output is in runs/first, replacing an earlier one.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p; }' "$0"; exit; fi
cd "$(dirname "$0")/.."
source scripts/foreground.bash
out=runs/first
PYTHONPATH=python run .venv/bin/python -m llmc.mup.variables scripts/first_run.sh
run .venv/bin/python dev/data/pystdlib.py
run ./train_gpt2 --config scripts/first_run.toml ${STEPS:+--steps "$STEPS"} "$@" --out "$out" --overwrite
for option; do # these train nothing, so that there is no loss to draw
    case $option in --dry-run | --print-config | --options-json | --version) exit ;; esac
done
run .venv/bin/python dev/loss_visualize.py "$out/log.jsonl" --out "$out/loss.png"
run .venv/bin/python dev/report.py "$out" --out "$out/report.html"
cat <<TEXT

The loss curve is $out/loss.png, a page about the run $out/report.html. Next:
  ./train_gpt2 sample $out --prompt 'def main('                                 more text from this model
  ./train_gpt2 --config scripts/first_run.toml --width 256 --dry-run             the rules at twice the width
  ./train_gpt2 --config scripts/first_run.toml --width 256 --out runs/wide       train it: same learning rate
  .venv/bin/python dev/data/text.py FOLDER --out data/mine                       your own text
  make test                                                                      test it against PyTorch
TEXT
