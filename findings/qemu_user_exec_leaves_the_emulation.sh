#!/usr/bin/env bash
# qemu-user 7.2: a program that starts another one runs it on the real processor, not on the emulated one.
#
# Expected: `qemu-x86_64 -cpu Nehalem program` shows whether the program and what it starts run on a processor
#           without AVX.
# Happens:  the first process sees a Nehalem. execve of any x86-64 program, even of itself, is passed to the host,
#           which runs it natively with everything the host has. The loader's own report of x86-64-v3 shows it.
# Matters:  a check "does this binary run without AVX2?" passes wrongly for every program that starts again, as
#           train_gpt2 does to set libgomp's spin count: set GOMP_SPINCOUNT before such a check. A shell wrapper has
#           the same effect.
# Needs Debian bookworm on x86-64, on a host with AVX2, with apt-get.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
grep -q avx2 /proc/cpuinfo || { echo "this host has no AVX2: there is no difference to see here"; exit 1; }
(cd "$folder" && apt-get download -qq qemu-user-static 2>/dev/null && dpkg -x qemu-user-static_*.deb .)
qemu=$folder/usr/bin/qemu-x86_64-static
loader=/lib64/ld-linux-x86-64.so.2
supports() { [[ $1 == *'x86-64-v3 (supported'* ]] && echo yes || echo no; }
first=$(supports "$("$qemu" -cpu Nehalem "$loader" --help)")
second=$(supports "$("$qemu" -cpu Nehalem /bin/sh -c "$loader --help")")
version=$("$qemu" --version)
[[ $version == *' 7.2'* ]] || { echo "this is not qemu 7.2: ${version%%$'\n'*}"; exit 1; }
echo "${version%%$'\n'*}, -cpu Nehalem. Expected: no x86-64-v3 (AVX2) in both. What happens:"
echo "  the program itself                 x86-64-v3: $first"
echo "  the same program, from a shell     x86-64-v3: $second"
[[ $first == no && $second == yes ]] || { echo "changed: a started program is emulated too"; exit 1; }
