#!/usr/bin/env bash
# NCCL 2.32.3 (nvidia-nccl-cu13): ncclGetUniqueId, which sounds like the making of a random number, opens a TCP port on
# the first interface that is not loopback, and the id is that port's address. It does so without a GPU or a driver, and
# for a job whose processes are all on this host.
#
# Expected: an id is bytes; ports are opened by ncclCommInitRank, where the caller has said who the ranks are.
# Happens:  the library starts a thread that listens on the address of eth0 or the like, on a free port, from the moment
#           the id is made. NCCL_SOCKET_IFNAME=lo keeps it on this host.
# Matters:  a trainer that is careful to listen on --master only, and asks who connects for a token, has another port
#           open to the network. It must set the variable when all ranks are on one host, and say so otherwise.
set -euo pipefail
[[ $(grep -cvE '^ *(lo|Inter-|face)' /proc/net/dev) -gt 0 ]] || { echo "this machine has loopback only"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check nvidia-nccl-cu13==2.32.3
cat >"$folder/id.py" <<'PY'
import ctypes, glob, os, sys

class Id(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_char * 128)]

def listening():
    """The IPv4 and IPv6 sockets of this process that listen."""
    mine = {os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{fd}")}
    found = []
    for table in ("/proc/self/net/tcp", "/proc/self/net/tcp6"):
        for line in open(table).readlines()[1:] if os.path.exists(table) else []:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in mine:
                found.append(words[1].split(":")[0])
    return found

[path] = glob.glob(sys.prefix + "/lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2")
before = listening()
status = ctypes.CDLL(path).ncclGetUniqueId(ctypes.byref(Id()))
after = listening()
where = {"0100007F": "loopback", "00000000000000000000000001000000": "loopback"}
print(f"status {status}, listening before: {len(before)}, after: {[where.get(a, 'another address') for a in after]}")
PY
echo "ncclGetUniqueId of NCCL 2.32.3. Expected: no port is opened. What happens:"
result=$(for own in '' lo; do
    echo "NCCL_SOCKET_IFNAME=$own: $(NCCL_SOCKET_IFNAME=$own "$folder/venv/bin/python" "$folder/id.py")"
done)
sed 's/^/  /' <<<"$result"
[[ $result == "NCCL_SOCKET_IFNAME=: status 0, listening before: 0, after: ['another address']
NCCL_SOCKET_IFNAME=lo: status 0, listening before: 0, after: ['loopback']" ]] || { echo "changed: see above"; exit 1; }
