#!/usr/bin/env bash
# Sweeps a hyperparameter at several model sizes and draws loss against it, to see whether its best value stays.
#
#   scripts/mup_sweep.sh AXIS [--dry-run] [--slurm FILE] [--overwrite] [--verdict] [--no-figures]
#
# AXIS is lr, attn_mult, output_mult, embed_mult, init_std, weight_decay or schedule. Environment variables:
#   SCALE             what grows: width, depth, batch_size, seq_len or tokens                        [width]
#   SCALES            its values; the smallest is where the axis is tuned                            [width: 32 64 128 256]
#   VALUES            values of the axis, 2^-7 or 0.0078125; VALUES_SP, VALUES_U_MUP for one scheme  [a grid of factor 2]
#   SEEDS             seeds of init and data order                                                   [1 2 3]
#   PARAMETRIZATIONS  schemes to compare                                                             [sp mup]
#   BASE_WIDTH        of the schemes with a base model (completep: BASE_DEPTH too)                   [the smallest width]
#   STEPS             optimizer steps of a run, at every scale but tokens                            [as CONFIG says]
#   CONFIG            TOML file of all other options                                                 [scripts/mup_sweep.toml]
#   EXTRA             further options for all runs, such as EXTRA="--schedule cosine"; EXTRA_SP for one scheme
#   PROGRAM           [./train_gpt2]; ./train_gpt2cu, or '.venv/bin/python train_gpt2.py'
#   THREADS, JOBS     CPU threads of a run [1]; runs at a time [cores / THREADS]
#   LOSS              what is compared: val, after the last step, or train, the mean of the last 50 steps (of a long run
#                     the last tenth), which is the better one at a constant learning rate                       [val]
#   SSHLOGINFILE      other machines for GNU parallel, which see this folder at the same path
#   OUT               everything lands here                                                          [runs/sweep_AXIS_SCALE]
# Without --tie-embeddings, and with query and head starting at zero, sp is at the base width the same model as mup.
#
# OUT/jobs.txt has one command a line; --dry-run stops there, --slurm writes an array script for it instead of running. It is
# run by GNU parallel, or by xargs where that is missing. A finished run is skipped, so the same command goes on after an
# interruption, repeats what failed, and adds new VALUES, SCALES or SEEDS. A diverged run is a result. Runs keep their log
# only; their checkpoint is deleted. The results are OUT/sweep.csv, sweep.json, sweep.png and wider.png.
# --overwrite: repeat runs that OUT has of other options. --verdict: exit status 1 unless the optimum transfers.
# --no-figures: tables only.
# Exit codes: 1 runs failed, or the verdict did; 2 wrong usage; 130 interrupted.
set -euo pipefail
cd "$(dirname "$0")/.."
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' scripts/mup_sweep.sh; }
die() { echo "error: $1" >&2; exit 2; }

axis='' dry_run='' slurm='' overwrite=() verdict=() figures=(yes)
while (($#)); do
    case $1 in
        -h | --help) usage; exit 0 ;;
        --dry-run) dry_run=1 ;;
        --slurm) slurm=${2:-}; [[ -n $slurm ]] || die "--slurm needs a file name"; shift ;;
        --overwrite) overwrite=(--overwrite) ;;
        --verdict) verdict=(--verdict) ;;
        --no-figures) figures=() ;;
        -*) die "there is no option $1: see $0 --help" ;;
        *) [[ -z $axis ]] || die "two axes are given, $axis and $1: sweep one at a time"; axis=$1 ;;
    esac
    shift
done
[[ -n $axis ]] || die "no axis is given: choose lr, attn_mult, output_mult, embed_mult, init_std, weight_decay or schedule"

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || die "$python is missing: run scripts/setup.sh, or set PYTHON"
export PYTHON=$python THREADS=${THREADS:-1} PROGRAM=${PROGRAM:-./train_gpt2}
out=${OUT:-runs/sweep_${axis}_${SCALE:-width}}
jobs=$out/jobs.txt
sweep() { "$python" dev/mup_sweep.py "$@"; }
[[ $THREADS =~ ^[1-9][0-9]*$ ]] || die "THREADS is $THREADS: give a whole number from 1 on"
cores=$(nproc)
loss=${LOSS:-auto}
[[ $loss = train || $loss = val || $loss = auto ]] || die "LOSS is $loss: choose train or val"
at_once=${JOBS:-$((cores > THREADS ? cores / THREADS : 1))}
[[ $at_once =~ ^[1-9][0-9]*$ ]] || die "JOBS is $at_once: give a whole number from 1 on"

mkdir -p "$out"
exec 9>"$out/.lock"
flock -n 9 || die "another sweep is running in $out: wait for it, or choose another OUT"
sweep list "$axis" "$out" "${overwrite[@]}"
if [[ -n $dry_run ]]; then exit 0; fi
if [[ -n $slurm ]]; then sweep slurm "$jobs" "$slurm"; exit 0; fi
program=${PROGRAM%% *}
command -v "$program" >/dev/null || die "$program is missing: run make, or set PROGRAM"
[[ -n ${CONFIG:-} ]] || "$python" dev/data/pystdlib.py >/dev/null

runner=xargs
if command -v parallel >/dev/null && parallel --version 2>/dev/null | grep -q '^GNU parallel'; then runner=parallel; fi
[[ -z ${SSHLOGINFILE:-} || $runner = parallel ]] || die "SSHLOGINFILE needs GNU parallel, which is not installed"
echo "$at_once at a time with $THREADS threads each, by $runner"
"$python" dev/mup_sweep.py watch "$jobs" 9>&- &
watch=$!
trap 'kill "$watch" 2>/dev/null || true' EXIT
trap 'echo; echo "interrupted: the same command goes on from here" >&2; exit 130' INT TERM
count=$(wc -l <"$jobs")
if [[ $runner = parallel ]]; then
    sweep prune "$jobs" "$out/joblog.txt"
    ssh=()
    if [[ -n ${SSHLOGINFILE:-} ]]; then ssh=(--sshloginfile "$SSHLOGINFILE" --workdir "$PWD"); fi
    # {} is a line's number; the exit status counts failures, which the report shows
    seq "$count" | parallel --will-cite -j "$at_once" --joblog "$out/joblog.txt" --resume-failed "${ssh[@]}" \
        "$(printf '%q ' "$python" dev/mup_sweep.py job "$jobs")" {} || true
else
    seq "$count" | xargs -P "$at_once" -I{} "$python" dev/mup_sweep.py job "$jobs" {} || true
fi
kill "$watch"
wait "$watch" || true
trap - EXIT

failed=0
sweep report "$jobs" || failed=1
sweep collect "$jobs" "$out/sweep.csv"
status=0
if ((${#figures[@]})); then figures=(--out "$out/sweep.png" --wider "$out/wider.png"); fi
"$python" dev/mup_sweep_visualize.py "$out/sweep.csv" --loss "$loss" "${figures[@]}" --json "$out/sweep.json" \
    "${verdict[@]}" || status=$?
exit $((failed > 0 ? 1 : status))
