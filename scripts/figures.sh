#!/usr/bin/env bash
# `make figures` (scripts/figures.sh): the figures, tables and data of mup.md from new runs, in about a quarter of an
# hour on two cores.
# Finished runs are kept in runs/figures; delete that folder to repeat all measurements.
#   doc/figures/*.png   doc/data/*.csv.gz (the runs' numbers)   doc/data/*.txt (the tables and verdicts, as printed)
# doc/figures/report.png, the page of `make run`, is not among them, because it needs a browser:
#   chromium --headless --hide-scrollbars --window-size=1200,1225 --screenshot=doc/figures/report.png \
#       "file://$PWD/runs/first/report.html"
# THREADS, JOBS, PROGRAM and PYTHON are those of scripts/mup_sweep.sh --help; no other variable, and no argument.
# Last measured on two cores: the three coordinate checks take about a minute each, the transfer eight and a half.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p; }' "$0"; exit; fi
(($# == 0)) || { echo "error: scripts/figures.sh takes no arguments, and got $1: see --help" >&2; exit 2; }
cd "$(dirname "$0")/.."
source scripts/foreground.bash
PYTHONPATH=python run "${PYTHON:-.venv/bin/python}" -m llmc.mup.variables scripts/figures.sh
runs=runs/figures
mkdir -p doc/figures doc/data

show() { # FILE COMMAND ...: the output also in FILE
    local file=$1 code=0 to tee
    shift
    exec {to}> >(exec tee -i "$file")
    tee=$!
    run "$@" >&"$to" || code=$?
    exec {to}>&-
    wait "$tee" || true # it writes until the end of the output
    return "$code"
}
check() { # name, then VARIABLE=value ...: one coordinate check
    local name=$1
    shift
    show "$runs/$name.txt" env OUT="$runs/$name" "$@" scripts/mup_coordinate_check.sh
    grep -v '^wrote \|runs of .* steps\|runs (' "$runs/$name.txt" >"doc/data/$name.txt"
    # only the steps used by the verdict: all steps would be three times as much
    awk -F, 'NR == 1 || $10 == 1 || $10 == 2 || $10 == 4 || $10 == 10' "$runs/$name/coordinate_check.csv" |
        gzip -n9 >"doc/data/$name.csv.gz"
}
mkdir -p "$runs"
check coordinate_check PARAMETRIZATIONS="sp mup"
check coordinate_check_schemes PARAMETRIZATIONS="completep u-mup"
check coordinate_check_depth AXIS=depth PARAMETRIZATIONS="mup completep u-mup"
cp "$runs/coordinate_check/curves.png" doc/figures/coordinate_check.png
cp "$runs/coordinate_check_schemes/curves.png" doc/figures/coordinate_check_schemes.png
cp "$runs/coordinate_check_depth/curves.png" doc/figures/coordinate_check_depth.png

show "$runs/transfer.txt" env OUT="$runs/transfer" scripts/mup_transfer.sh
grep -v '^wrote \|runs (\|^took \|at a time' "$runs/transfer.txt" >doc/data/transfer.txt
gzip -n9 <"$runs/transfer/sweep.csv" >doc/data/transfer.csv.gz
cp "$runs/transfer/sweep.png" doc/figures/transfer.png
cp "$runs/transfer/wider.png" doc/figures/wider.png
