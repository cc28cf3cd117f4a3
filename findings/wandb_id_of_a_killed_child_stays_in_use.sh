#!/usr/bin/env bash
# wandb 0.31.0: a program that uses wandb itself cannot restart a killed child under the child's run id.
#
# Expected: a supervisor that logs its progress to W&B starts a training process with WANDB_RUN_ID or id=...; when it is
#           killed (out of memory, preempted), a second start under the same id goes on, as it does without a supervisor.
# Happens:  init() of the supervisor puts the socket of its service into WANDB_SERVICE, which children inherit. The
#           service keeps the killed child's run open: the second init() fails with "run ID ... is in use", an error that
#           is not a wandb.Error, so that the usual except clause does not catch it. WANDB_MODE=offline does not help.
# Matters:  sweeps restart crashed runs. Here runs are exported from their logs by a process of its own for this reason;
#           who starts runs from a program with wandb removes WANDB_SERVICE from their environment.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check wandb==0.31.0 2>/dev/null
cat >"$folder/child.py" <<'PY'
import os, signal, sys
import wandb

try:
    run = wandb.init(project="p", id="run-1")
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error} (a wandb.Error: {isinstance(error, wandb.Error)})")
run.log({"loss": 1.0})
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
run.finish()
sys.exit("finished")
PY
cat >"$folder/parent.py" <<'PY'
import os, subprocess, sys
import wandb

folder, kind = sys.argv[1:]
os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": folder}
if kind == "uses wandb":
    wandb.init(project="p", id="supervisor")
said = ""
for end in ("killed", "finished"):
    done = subprocess.run([sys.executable, f"{folder}/child.py", end], capture_output=True, text=True)
    said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    print(f"parent {kind}: {'first' if end == 'killed' else 'second'} start: {said}")
sys.exit(said != ("finished" if kind == "does not" else "ServerResponseError: run ID run-1 is in use (a wandb.Error: False)"))
PY
for kind in "does not" "uses wandb"; do
    "$folder/venv/bin/python" "$folder/parent.py" "$folder" "$kind" 2>/dev/null || { echo "changed: not what the head says" >&2; exit 1; }
done
