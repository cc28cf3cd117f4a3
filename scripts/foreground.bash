# For scripts that run programs one after the other: `run COMMAND ...` is like the command itself, but SIGINT, SIGTERM
# and SIGHUP of the script go on to it. Bash alone would end and leave it running, or wait for it before it hears them.
child=
stopped=

hear() { # name and number of a signal
    stopped=$((128 + $2))
    if [[ -n $child ]]; then kill "-$1" "$child" 2>/dev/null || true; else exit "$stopped"; fi
}
trap 'hear INT 2' INT
trap 'hear TERM 15' TERM
trap 'hear HUP 1' HUP

run() {
    local code
    set -m # without job control, what runs in the background ignores SIGINT
    "$@" &
    child=$!
    set +m
    while :; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break # a signal ends `wait` early
    done
    child=
    [[ -z $stopped ]] || exit "$stopped"
    return "$code"
}
