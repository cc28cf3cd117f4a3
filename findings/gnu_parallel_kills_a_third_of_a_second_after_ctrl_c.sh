#!/usr/bin/env bash
# GNU parallel 20221122 (Debian bookworm): jobs are killed a third of a second after Ctrl-C or SIGTERM.
#
# Expected: the signal is passed on to the jobs once, and they have some seconds to save, as under other launchers.
# Happens:  at either signal each job gets those of --termseq, by default TERM, 200 ms, TERM, 100 ms, TERM, 50 ms, KILL.
# Matters:  a sweep of trainers under parallel loses the checkpoints of all running jobs, also because of the second TERM
#           if a trainer takes that as "at once". It needs --termseq TERM,60000,KILL (python/llmc/mup/jobs.py).
# Needs Debian bookworm with apt-get and perl.
set -euo pipefail
folder=$(mktemp -d)
trap 'pkill -9 -f "$folder/job.sh" || true; rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq parallel=20221122+ds-2 2>/dev/null && dpkg -x parallel_*.deb root)
cat >"$folder/job.sh" <<'SH'
#!/bin/bash
# Notes the signals that it hears, and wants two seconds to save after the first.
log=$1 left=-1
trap 'echo TERM >>$log.heard; ((left >= 0)) || left=20' TERM
trap 'echo INT >>$log.heard; ((left >= 0)) || left=20' INT
for ((i = 0; i < 60 && left != 0; ++i)); do
    echo >"$log.ready"
    sleep 0.1
    ((left < 0)) || ((left--)) || true
done
((left != 0)) || echo saved >>"$log.heard"
SH
chmod +x "$folder/job.sh"
try() { # signal, options
    local log parallel
    log=$(mktemp -u "$folder/log.XXXX")
    setsid env --default-signal=INT perl "$folder/root/usr/bin/parallel" --will-cite "${@:2}" -j1 "$folder/job.sh" ::: "$log" >/dev/null 2>&1 &
    parallel=$!
    until [[ -e $log.ready ]]; do sleep 0.1; done
    kill "-$1" "$parallel"
    sleep 4
    pkill -9 -f "$folder/job.sh" || true
    wait "$parallel" 2>/dev/null || true
    echo "$1: $(paste -sd ' ' "$log.heard" 2>/dev/null || echo nothing is heard)"
}
echo "GNU parallel 20221122. Expected: a job hears the signal once and has time to save. What happens:"
result=$(try INT; try TERM; try INT --termseq TERM,60000,KILL)
paste -d ' ' <(printf '  %-30s\n' parallel parallel "parallel --termseq TERM,60000,KILL") <(echo "$result")
[[ $result == "INT: TERM TERM TERM
TERM: TERM TERM TERM
INT: TERM saved" ]] || { echo "changed: see above"; exit 1; }
