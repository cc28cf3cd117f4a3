#!/usr/bin/env bash
# One run on several hosts by ssh: starts ./train_gpt2 in this folder, which all hosts must see, with the ARGUMENTS and
# --rank, --world-size and --master.
#   scripts/multi_node/ssh.sh [OPTION ...] HOST1,HOST2,... -- ARGUMENTS
#   scripts/multi_node/ssh.sh [OPTION ...] --hosts-file FILE -- ARGUMENTS      a host a line; # begins a comment
# Options:
#   --slots K              processes on each host: 1 [default], or as many as it has GPUs
#   --master HOST[:PORT]   where the others reach rank 0 [the first host, a random port from 15000 to 29999]
# ssh must need no password. Ctrl-C and SIGTERM go on to all processes: they save and end. If one fails, all end; if a
# connection breaks or this script is killed, they save and end. Exit code: that of rank 0, or of the first process that
# failed, or was killed if one was; 255 is ssh's own. Output: that of rank 0, and what other ranks say, with rank and
# host before it.
# Variables:
#   LLMC_BINARY  the program [./train_gpt2]
#   LLMC_SSH     the command that gets a host and a command line for its shell
#                [ssh -o BatchMode=yes -o ControlPath=none -o ServerAliveInterval=15]
# Variables that begin with LLMC_, OMP_, MPIR_, UCX_ or NCCL_ are set on all hosts.
set -euo pipefail
if [[ ${1:-} == -h || ${1:-} == --help ]]; then sed -n '2,/^set/ { /^set/d; s/^# \{0,1\}//; p; }' "$0"; exit; fi

wrong() {
    echo "error: $*; scripts/multi_node/ssh.sh --help explains it" >&2
    exit 2
}

slots=1 master='' file='' list=''
while [[ $# -gt 0 && $1 != -- ]]; do
    case $1 in
        --slots | --master | --hosts-file) [[ $# -gt 1 && $2 != -- ]] || wrong "$1 needs a value" ;;&
        --slots) slots=$2; shift ;;
        --master) master=$2; shift ;;
        --hosts-file) file=$2; shift ;;
        -*) wrong "$1 is no option of this script: write those of the program after --" ;;
        *)
            [[ -z $list ]] || wrong "$1 is after $list: separate hosts by commas; the program's arguments are after --"
            list=$1
            ;;
    esac
    shift
done
[[ $# -gt 0 ]] || wrong "-- is missing: write it between the hosts and the program's arguments"
shift
[[ $slots =~ ^[1-9][0-9]{0,3}$ ]] || wrong "--slots is '$slots': give the number of processes of each host"
[[ -z $list || -z $file ]] || wrong "$list and --hosts-file $file: give one of them"
[[ -n $list || -n $file ]] || wrong "no hosts: give HOST1,HOST2,... or --hosts-file FILE"
if [[ -n $file ]]; then
    [[ -r $file ]] || wrong "--hosts-file $file: cannot be read"
    list=$(sed -e 's/#.*//' "$file")
fi
read -rd '' -a hosts <<<"${list//,/ }" || true
[[ ${#hosts[@]} -gt 0 ]] || wrong "${file:-$list} names no host"
for host in "${hosts[@]}"; do
    [[ $host =~ ^[A-Za-z0-9_@.:%-]+$ && $host != -* ]] || wrong "the host '$host' is no name that ssh takes"
done
for word; do
    case ${word%%=*} in --rank | --world-size | --master) wrong "$word: this script gives ${word%%=*} itself" ;; esac
done

cd "$(dirname "$0")/../.."
binary=${LLMC_BINARY:-./train_gpt2}
[[ -x $binary ]] || wrong "$PWD has no program $binary: run make, or set LLMC_BINARY"
read -ra ssh <<<"${LLMC_SSH:-ssh -o BatchMode=yes -o ControlPath=none -o ServerAliveInterval=15}"
command -v "${ssh[0]}" >/dev/null || wrong "there is no ${ssh[0]}: install it, or set LLMC_SSH"

[[ -n $master ]] || master=${hosts[0]#*@}
[[ $master =~ ^(\[.*\]|[^:]*):[0-9]+$ ]] || master+=:$((15000 + RANDOM % 15000)) # below the ports of clients
size=$((${#hosts[@]} * slots))

# On standard input: command lines can be read by everyone on a host.
settings=("LLMC_JOB_TOKEN=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')")
while IFS= read -r name; do
    case $name in
        LLMC_SSH | LLMC_BINARY | LLMC_JOB_TOKEN) ;;
        LLMC_* | OMP_* | MPIR_* | UCX_* | NCCL_*) settings+=("$name=${!name//$'\n'/ }") ;;
    esac
done < <(compgen -e)

# What runs on a host: sh -c REMOTE sh FOLDER PROGRAM ARGUMENTS. After the settings and an empty line, each line of
# standard input is the name of a signal for the program; the end of the input is the end of the connection. ssh passes
# no signals on, and sshd leaves processes without a terminal running when a connection breaks.
# shellcheck disable=SC2016
remote='while IFS= read -r line && [ -n "$line" ]; do export "$line"; done; cd "$1" && shift || exit; exec 3<&0; '
# shellcheck disable=SC2016
remote+='"$@" </dev/null 3<&- & run=$!; '
# shellcheck disable=SC2016
remote+='{ while read -r name; do kill -s "$name" "$run"; done; kill -s TERM "$run"; '
# shellcheck disable=SC2016
remote+='for i in 1 2 3 4 5 6; do sleep 5; done; kill -s KILL "$run"; } <&3 3<&- >/dev/null 2>&1 & watcher=$!; '
# shellcheck disable=SC2016
remote+='exec 3<&-; wait "$run"; code=$?; kill -s KILL "$watcher"; exit "$code"'

quoted() { # words for any POSIX shell
    local word
    for word; do printf " '%s'" "${word//\'/\'\\\'\'}"; done
}

temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
mkfifo "$temporary/ends"
exec {ends}<>"$temporary/ends" # a line for each process that ended: its rank and exit code
pipes=()                       # to the standard inputs; both ends are open here, so that no write fails
pids=()

prefixed() {
    local line
    exec {ends}>&-
    while IFS= read -r line; do printf '%s%s\n' "$1" "$line"; done >&2
}

start() { # a rank
    local rank=$1 host=${hosts[$(($1 / slots))]} input pipe command
    command="exec sh -c$(quoted "$remote" sh "$PWD" "$binary" --rank "$rank" --world-size "$size" --master "$master" \
        "${@:2}")"
    mkfifo "$temporary/$rank"
    exec {pipe}<>"$temporary/$rank"
    exec {input}<"$temporary/$rank"
    pipes+=("$pipe")
    printf '%s\n' "${settings[@]}" '' >&"$pipe"
    ( # Ctrl-C reaches the whole group: ssh would close the connection
        trap '' INT TERM HUP
        trap - EXIT
        # the others must see the end of their input when this script is gone
        for pipe in "${pipes[@]}"; do exec {pipe}>&-; done
        code=0
        if [[ $rank == 0 ]]; then
            "${ssh[@]}" "$host" "$command" {ends}>&- || code=$?
        else
            "${ssh[@]}" "$host" "$command" 2>&1 {ends}>&- | prefixed "[$rank $host] " || code=${PIPESTATUS[0]}
        fi
        echo "$rank $code" >&"$ends"
    ) <&"$input" {input}<&- &
    pids+=($!)
    exec {input}<&-
}

send() { # the name of a signal, to all
    local pipe
    for pipe in "${pipes[@]}"; do echo "$1" >&"$pipe"; done
}

stopped=
hear() { stopped=1; send "$1"; }
trap 'hear INT' INT
trap 'hear TERM' TERM
trap 'hear TERM' HUP
for ((rank = 0; rank < size; ++rank)); do start "$rank" "$@"; done
rm -rf "$temporary"

declare -A codes=()
failed='' culprit='' give_up=''
announce() {
    [[ -n $culprit ]] || return 0
    echo "ssh.sh: rank $culprit on ${hosts[$((culprit / slots))]} ended with exit code $failed: all end" >&2
    culprit=
}
while [[ ${#codes[@]} -lt $size ]]; do
    if read -r -t 1 -u "$ends" rank code; then
        [[ -z ${codes[$rank]:-} ]] || continue
        codes[$rank]=$code
        [[ $code == 0 || -n $stopped ]] && continue
        if [[ -z $failed ]]; then
            failed=$code culprit=$rank
            give_up=$((SECONDS + 5)) # the others notice it themselves, and say so, unless they wait for the first step
        elif [[ -n $give_up && $failed -le 128 && $code -gt 128 ]]; then
            failed=$code culprit=$rank # the one that was killed may be heard of after those that report it
        fi
    else
        for ((rank = 0; rank < size; ++rank)); do # one whose shell here was killed writes no line
            [[ -n ${codes[$rank]:-} ]] || kill -0 "${pids[$rank]}" 2>/dev/null || echo "$rank 137" >&"$ends"
        done
    fi
    if [[ -n $give_up && $SECONDS -ge $give_up ]]; then
        give_up=
        announce
        send TERM
    fi
done
announce
wait || true # a signal ends it early
exit "${failed:-${codes[0]}}"
