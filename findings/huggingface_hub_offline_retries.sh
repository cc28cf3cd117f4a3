#!/usr/bin/env bash
# huggingface_hub 2.4.0: without a network, hf_hub_download(etag_timeout=1) takes more than 20 seconds to say so.
#
# Expected: a connection that is refused at once is an error at once, or after the timeout that the call was given;
#           HfApi().repo_info does that.
# Happens:  listing a repository's files and downloading one try six times, with pauses of 1, 2, 4, 8 and 8 seconds,
#           whatever etag_timeout says.
# Matters:  a data script that promises an answer within five seconds on a machine without a network cannot use
#           these two calls. python/llmc/data/download.py uses requests.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check huggingface_hub==2.4.0 2>/dev/null
cat >"$folder/try.py" <<'PY'
import os, sys, time

os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nothing listens there: refused at once, as without a network
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
import huggingface_hub as hub

calls = {
    "repo_info": lambda: hub.HfApi().repo_info("some/repository"),
    "list_repo_tree": lambda: list(hub.HfApi().list_repo_tree("some/repository", repo_type="dataset")),
    "hf_hub_download(etag_timeout=1)": lambda: hub.hf_hub_download("some/repository", "a.txt", etag_timeout=1),
}
seconds = {}
for name, call in calls.items():
    begin = time.monotonic()
    try:
        call()
        sys.exit(f"{name} found a server: this script is wrong")
    except Exception as error:
        seconds[name] = time.monotonic() - begin
        print(f"{name:32} {seconds[name]:5.1f} s  {type(error).__name__}")
first, *slow = seconds.values()
sys.exit(0 if first < 2 and min(slow) > 15 else "changed: these calls no longer wait more than 15 seconds")
PY
echo "huggingface_hub 2.4.0, connection refused. Expected: errors at once, or after etag_timeout. What happens:"
"$folder/venv/bin/python" "$folder/try.py" 2>"$folder/stderr" || { tail -n 1 "$folder/stderr"; exit 1; }
