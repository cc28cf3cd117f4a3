#!/usr/bin/env bash
# OpenMPI 4.1.4 (Debian bookworm's openmpi-bin): ranks are killed 2 seconds after mpirun is asked to stop. MPICH's
# mpiexec passes the signal on and waits.
#
# Expected: Ctrl-C or SIGTERM at mpirun is passed on to the ranks, which have time to save, or at least the 30 s that
#           other launchers give (torchrun, SLURM's KillWait).
# Happens:  both are turned into SIGCONT at once, SIGTERM a second later and SIGKILL one more second later; a rank that
#           waits for SIGINT never hears one. The MCA parameter odls_base_sigkill_timeout (default 1) is both pauses:
#           at 20, SIGTERM comes 20 s late and SIGKILL 20 s after it.
# Matters:  a checkpoint that takes more than a second to write is lost. Ranks of a trainer need
#           mpirun --mca odls_base_sigkill_timeout 30, and their scheduler must wait twice as long for mpirun.
# Needs Debian bookworm with apt-get, as root in a machine or container that may be changed.
set -euo pipefail
folder=$(mktemp -d)
trap 'pkill -9 -f "$folder/rank.sh" || true; rm -rf "$folder"' EXIT
[[ -x /usr/bin/mpirun.openmpi ]] || apt-get install -qq -y --no-install-recommends openmpi-bin >/dev/null 2>&1
[[ -x /usr/bin/mpiexec.hydra ]] || apt-get install -qq -y --no-install-recommends mpich >/dev/null 2>&1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cat >"$folder/rank.sh" <<'SH'
#!/bin/bash
# Writes the signals that it hears, and how long it lived after the first, in tenths of a second.
log=$1
for s in CONT INT TERM; do trap "echo $s >>$log.heard" $s; done
for ((i = 0; i < 150; ++i)); do
    echo ready >"$log.ready"
    sleep 0.1
    [[ ! -e $log.heard ]] || echo tenth >>"$log.lived"
done
SH
chmod +x "$folder/rank.sh"
# What one rank hears of signal $1 within 6 seconds, and whether it lives. $2...: the launcher.
try() {
    local log launcher
    log=$(mktemp -u "$folder/log.XXXX")
    setsid "${@:2}" "$folder/rank.sh" "$log" >/dev/null 2>&1 &
    launcher=$!
    until [[ -e $log.ready ]]; do sleep 0.1; done
    kill "-$1" "$launcher"
    sleep 6
    local lives="ended within 6 s"
    ! pgrep -f "$folder/rank.sh $log" >/dev/null || lives="lives after 6 s"
    pkill -9 -f "$folder/rank.sh $log" || true
    wait "$launcher" 2>/dev/null || true
    echo "$1: $(paste -sd ' ' "$log.heard"), $lives"
}
version=$(mpirun.openmpi --version | sed -n '1s/.* //p')
echo "OpenMPI $version. Expected: a rank hears the signal and has time to save. What happens:"
result=$(try INT mpirun.openmpi -np 1; try TERM mpirun.openmpi -np 1
    try TERM mpirun.openmpi --mca odls_base_sigkill_timeout 20 -np 1
    try INT mpiexec.hydra -np 1; try TERM mpiexec.hydra -np 1)
paste -d ' ' <(printf '  %-36s\n' mpirun mpirun "mpirun, sigkill_timeout 20" "MPICH mpiexec" "MPICH mpiexec") <(echo "$result")
[[ $result == "INT: CONT TERM, ended within 6 s
TERM: CONT TERM, ended within 6 s
TERM: CONT, lives after 6 s
INT: INT, lives after 6 s
TERM: TERM, lives after 6 s" ]] || { echo "changed: see above"; exit 1; }
