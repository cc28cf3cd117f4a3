#!/usr/bin/env bash
# Open MPI 4.1.4 (Debian bookworm): btl_tcp_if_include=lo limits which addresses processes use, not those at which they
# listen; and with the tcp transport excluded, the ofi transport opens a port on the network in its place.
#
# Expected: with btl_tcp_if_include lo, or without tcp, processes of one host have no port that other hosts reach.
# Happens:  each process listens at 0.0.0.0 in both cases of tcp, from port 1024 on; with btl ^tcp it listens at the
#           address of the first interface, by libfabric. Only ^tcp,ofi (or self,vader) opens none.
# Matters:  MPI's ports ask for no token. A trainer whose processes are all on one host has to exclude both.
# Needs Debian bookworm with apt-get, as root in a machine or container that may be changed.
set -euo pipefail
[[ $(grep -cvE '^ *(lo|Inter-|face)' /proc/net/dev) -gt 0 ]] || { echo "this machine has loopback only"; exit 1; }
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
[[ -x /usr/bin/mpirun.openmpi ]] || apt-get install -qq -y --no-install-recommends openmpi-bin >/dev/null 2>&1
command -v python3 >/dev/null || apt-get install -qq -y --no-install-recommends python3 >/dev/null 2>&1
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
cat >"$folder/rank.py" <<'PY'
import ctypes, os

def listening():
    """IPv4 addresses at which this process listens."""
    mine = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            mine.add(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    rows = [line.split() for line in open("/proc/self/net/tcp").readlines()[1:]]
    return {words[1].split(":")[0] for words in rows if words[3] == "0A" and f"socket:[{words[9]}]" in mine}

mpi = ctypes.CDLL("libmpi.so.40", ctypes.RTLD_GLOBAL)
before = listening()
mpi.MPI_Init(None, None)
opened = listening() - before
mpi.MPI_Barrier(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.in_dll(mpi, "ompi_mpi_comm_world"))))
names = {"00000000": "all addresses", "0100007F": "loopback"}
if os.environ["OMPI_COMM_WORLD_RANK"] == "0":
    print(", ".join(sorted(names.get(address, "the network's address") for address in opened)) or "nothing")
mpi.MPI_Finalize()
PY
echo "Open MPI 4.1.4, two processes of one host listen at (expected: nothing, or loopback, in all but the first):"
result=$(for own in '' '--mca btl_tcp_if_include lo' '--mca btl ^tcp' '--mca btl ^tcp,ofi'; do
    # shellcheck disable=SC2086
    echo "mpirun $own: $(mpirun.openmpi $own -n 2 python3 "$folder/rank.py" 2>/dev/null)"
done)
sed 's/^/  /' <<<"$result"
[[ $result == "mpirun : all addresses
mpirun --mca btl_tcp_if_include lo: all addresses
mpirun --mca btl ^tcp: the network's address
mpirun --mca btl ^tcp,ofi: nothing" ]] || { echo "changed: see above"; exit 1; }
