#!/usr/bin/env bash
# Debian bookworm's oneDNN (libdnnl2 2.6.3-1): the library for CPUs does not load without an OpenCL loader.
#
# Expected: libdnnl.so.2, used for matrix products on a CPU, needs the C and C++ libraries and OpenMP.
# Happens:  it is built with the GPU engine and is linked with libOpenCL.so.1, which has to be there to load it.
# Matters:  a wheel that brings libdnnl.so.2 along and not libOpenCL.so.1 fails on machines without an OpenCL
#           loader, which is most of them; and since RUNPATH does not hold for libraries of libraries, the module
#           needs RPATH to find both beside it (setup.py, Makefile).
# Needs Debian bookworm on x86-64 with apt-get and readelf.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq libdnnl2=2.6.3-1 2>/dev/null && dpkg -x libdnnl2_*.deb .)
needed=$(readelf -d "$folder"/usr/lib/x86_64-linux-gnu/libdnnl.so.2 | sed -n 's/.*NEEDED.*\[\(.*\)\]/\1/p')
echo "libdnnl2 2.6.3-1. Expected: no GPU library among what it needs. What happens:"
sed 's/^/  /' <<<"$needed"
grep -q '^libOpenCL' <<<"$needed" || { echo "changed: it no longer needs libOpenCL.so.1"; exit 1; }
