#!/usr/bin/env bash
# torchrun of torch 2.13.0: Ctrl-C pressed twice reaches the workers as SIGINT and then SIGTERM; pressed three times, it
# ends torchrun and leaves the workers running. SIGTERM sent twice reaches them twice.
#
# Expected: a second request to stop is the first one again (as under a shell, where each Ctrl-C is one SIGINT), and
#           when torchrun is gone its workers are gone.
# Happens:  each worker is the leader of a session of its own, so the terminal's signal reaches torchrun alone, which
#           sends SIGINT for the first, SIGTERM for the second, and leaves with a traceback at the third, while the
#           workers go on (without a third, it kills them 30 s after the first). A second SIGTERM is passed on as well.
# Matters:  a trainer that writes a checkpoint at the first signal and gives up at the second loses it, also when the
#           second is of another kind; and the save must end within 30 s.
set -euo pipefail
folder=$(mktemp -d)
trap 'pkill -f "$folder/worker.py" || true; rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check torch==2.13.0 numpy==2.4.6 2>/dev/null
cat >"$folder/worker.py" <<'PY'
import os, signal, sys, time

def note(number, frame):
    print(signal.Signals(number).name, file=log)

log = open(f"{sys.argv[1]}.{os.environ['RANK']}", "w", buffering=1)
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
open(f"{sys.argv[1]}.ready{os.environ['RANK']}", "w")
time.sleep(60)
PY
# Sends $2 signals of kind $1, a second apart; prints what worker 0 heard and whether torchrun and the worker live.
try() {
    local log=$folder/$1$2 agent
    setsid "$folder/venv/bin/torchrun" --nproc-per-node 2 "$folder/worker.py" "$log" >/dev/null 2>&1 &
    agent=$!
    until [[ -e $log.ready0 && -e $log.ready1 ]]; do sleep 0.1; done
    for _ in $(seq "$2"); do kill "-$1" "$agent" 2>/dev/null || true; sleep 1; done
    sleep 2
    local heard torchrun=runs worker=runs
    heard=$(paste -sd ' ' "$log.0")
    kill -0 "$agent" 2>/dev/null || torchrun=ended
    pgrep -f "$folder/worker.py $log" >/dev/null || worker=ended
    pkill -9 -f "$folder/worker.py $log" || true
    kill -9 "$agent" 2>/dev/null || true
    wait "$agent" 2>/dev/null || true
    echo "$1 x $2: a worker hears $heard; torchrun $torchrun, the worker $worker"
}
echo "torchrun of torch 2.13.0. Expected: the same signal again, and no worker without torchrun. What happens:"
result=$(try INT 2; try INT 3; try TERM 2)
sed 's/^/  /' <<<"$result"
[[ $result == "INT x 2: a worker hears SIGINT SIGTERM; torchrun runs, the worker runs
INT x 3: a worker hears SIGINT SIGTERM; torchrun ended, the worker runs
TERM x 2: a worker hears SIGTERM SIGTERM; torchrun runs, the worker runs" ]] || { echo "changed: see above"; exit 1; }
