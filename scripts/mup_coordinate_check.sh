#!/usr/bin/env bash
# Coordinate check: short runs at several widths (or depths), their statistics in one CSV, figures, and a verdict on every tensor.
#   scripts/mup_coordinate_check.sh                                              sp, mup, completep, u-mup; widths 64 to 1024; the CPU trainer
#   PARAMETRIZATIONS="mup mup-table3 mup-table9 u-mup" scripts/mup_coordinate_check.sh
#   HEADS=4 PARAMETRIZATIONS=mup scripts/mup_coordinate_check.sh                 4 heads at every width: the head size grows
#   AXIS=depth scripts/mup_coordinate_check.sh                                   mup and completep, depths 2 to 32
#   PROGRAM=./train_gpt2cu OUT=runs/check_gpu scripts/mup_coordinate_check.sh    or ".venv/bin/python train_gpt2.py"
# Finished runs are kept: a second call goes on where the first one stopped. Exit: 0 all as expected, 1 a parametrization failed
# its check, 2 wrong usage, 3 unusable data or statistics; a trainer that fails ends the check with its own code.
set -euo pipefail
cd "$(dirname "$0")/.."
case ${1:-} in
    '') ;;
    -h | --help) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' scripts/mup_coordinate_check.sh; exit 0 ;;
    *) echo "error: $1: there are no arguments but --help; the check is told what to do by variables" >&2; exit 2 ;;
esac
AXIS=${AXIS:-width}
case $AXIS in
    width) WIDTHS=${WIDTHS:-64 128 256 512 1024} DEPTHS=${DEPTHS:-2} PARAMETRIZATIONS=${PARAMETRIZATIONS:-sp mup completep u-mup} ;;
    depth) WIDTHS=${WIDTHS:-64} DEPTHS=${DEPTHS:-2 4 8 16 32} PARAMETRIZATIONS=${PARAMETRIZATIONS:-mup completep} ;;
    *) echo "error: AXIS=$AXIS: width or depth" >&2; exit 2 ;;
esac
SEEDS=${SEEDS:-3}          # how many; the data is the same for all
STEPS=${STEPS:-10}
HEADS=${HEADS:-}           # number of heads at every width; without it the head size is HEAD_DIM
HEAD_DIM=${HEAD_DIM:-16}
PROGRAM=${PROGRAM:-./train_gpt2}
OUT=${OUT:-runs/coordinate_check}
DATA=${DATA:-data/pystdlib/pystdlib_train_*.bin}
LR=${LR:-}                 # without it: learning_rate() below
EXTRA=${EXTRA:-}           # further options of the trainer
if [[ $PROGRAM == *train_gpt2cu ]]; then JOBS=${JOBS:-1}; else JOBS=${JOBS:-$(nproc)}; fi  # runs at a time, one thread each
python=.venv/bin/python
[[ -x $python ]] || python=python3
read -ra program <<<"$PROGRAM"
read -ra extra <<<"$EXTRA"

# Small enough that ten steps are still a smooth descent: at five times as much, runs of one width differ by more than widths do.
learning_rate() {
    case $1 in
        u-mup) echo "${LR:-0.1}" ;;  # in units of the unit-scaled weights
        *) echo "${LR:-1e-3}" ;;     # sp and the forms of mup are one model at the base width
    esac
}

smallest() { tr ' ' '\n' <<<"$1" | sort -n | head -n 1; }

# The trainer's options for one run: scheme, width, depth, seed. All schemes start alike, from queries and a head of zeros.
options() {
    local scheme=$1 width=$2 depth=$3 seed=$4
    local -a o=(--train-data "$DATA" --overfit-single-batch --seq-len 64 --batch-size 8 --steps "$STEPS" --schedule constant
        --grad-clip 0 --dtype fp32 --depth "$depth" --width "$width" --seed "$seed" --parametrization "$scheme"
        --lr "$(learning_rate "$scheme")" --no-tie-embeddings)
    if [[ -n $HEADS ]]; then o+=(--heads "$HEADS"); else o+=(--head-dim "$HEAD_DIM"); fi
    case $scheme in
        sp) o+=(--zero-init-query --zero-init-head) ;;
        u-mup) ;;
        *) o+=(--base-width "$(smallest "$WIDTHS")" ${HEADS:+--base-heads "$HEADS"}) ;;
    esac
    [[ $scheme != completep ]] || o+=(--base-depth "$(smallest "$DEPTHS")")
    [[ $PROGRAM == *train_gpt2cu ]] || o+=(--threads "${THREADS:-1}")
    printf '%s\n' "${o[@]}" "${extra[@]}"
}

# A finished run has its CSV under its last name, and beside it the command that made it.
finished() { # csv, command
    [[ -f $1 && $1 -nt ${program[-1]} && $(cat "$1.command" 2>/dev/null) == "$2" ]]
}

train() { # csv, cost, name, options...
    local csv=$1 cost=$2 name=$3 code=0
    shift 3
    rm -f "$csv"
    "${program[@]}" "$@" --coord-check "$csv.part" >"$csv.log" 2>&1 || code=$?
    if ((code)); then
        tail -n 3 "$csv.log" >&2
        echo "error: $name: ${program[*]} ended with exit code $code; all it said is in $csv.log" >&2
        return "$code"
    fi
    printf '%s' "${program[*]} $*" >"$csv.command"
    mv "$csv.part" "$csv"
    echo "$cost" >>"$OUT/.progress"
    awk -v all="$total_cost" -v runs="$pending" -v since="$started" -v name="$name" -v now="$(date +%s)" \
        '{cost += $1; n++} END {printf "run %2d/%d  %-34s ETA %ds\n", n, runs, name, (now - since) * (all - cost) / cost}' "$OUT/.progress"
}

[[ $PROGRAM != ./train_gpt2 || -x ./train_gpt2 ]] || make train_gpt2
[[ $DATA != data/pystdlib/* || -f data/pystdlib/pystdlib_train_000001.bin ]] || "$python" dev/data/pystdlib.py
mkdir -p "$OUT/runs"
: >"$OUT/.progress"
csvs=() todo=() total_cost=0
for width in $(tr ' ' '\n' <<<"$WIDTHS" | sort -rn); do  # the longest first: the last ones finish together
    for depth in $(tr ' ' '\n' <<<"$DEPTHS" | sort -rn); do
        for scheme in $PARAMETRIZATIONS; do
            for seed in $(seq "$SEEDS"); do
                csv=$OUT/runs/$(basename "${program[-1]}")_${scheme}_w${width}_d${depth}${HEADS:+_h$HEADS}_s$seed.csv
                csvs+=("$csv")
                mapfile -t o < <(options "$scheme" "$width" "$depth" "$seed")
                [[ ${o[-1]} ]] || unset 'o[-1]'  # no EXTRA
                if ! finished "$csv" "${program[*]} ${o[*]}"; then
                    cost=$((depth * width * width + 300 * width * depth))
                    total_cost=$((total_cost + cost))
                    todo+=("$csv|$cost|$scheme width $width depth $depth seed $seed|$(printf '%s|' "${o[@]}")")
                fi
            done
        done
    done
done
pending=${#todo[@]} started=$(date +%s)
echo "${#csvs[@]} runs of $STEPS steps, $((${#csvs[@]} - pending)) of them done earlier, $JOBS at a time"
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for job in ${todo[@]+"${todo[@]}"}; do
    while (($(jobs -pr | wc -l) >= JOBS)); do wait -n || exit; done
    IFS='|' read -ra words <<<"$job"
    train "${words[@]}" &
done
while [[ -n $(jobs -p) ]]; do wait -n || exit; done
trap - EXIT
rm -f "$OUT/.progress"
awk 'FNR > 1 || NR == 1' "${csvs[@]}" >"$OUT/coordinate_check.csv.part"
mv "$OUT/coordinate_check.csv.part" "$OUT/coordinate_check.csv"
exec "$python" dev/mup_coordinate_check_visualize.py "$OUT/coordinate_check.csv" --out "$OUT" --json "$OUT/verdict.json"
