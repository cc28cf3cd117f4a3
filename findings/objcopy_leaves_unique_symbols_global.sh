#!/usr/bin/env bash
# GNU objcopy 2.40: --localize-symbol and --keep-global-symbol leave a "unique" symbol as it is, without a word.
#
# Expected: after objcopy --localize-symbol=shared, or --keep-global-symbol=entry, `shared` is a local symbol.
# Happens:  it stays UNIQUE, which the dynamic linker treats as global for the whole process; objcopy exits 0. g++
#           makes such symbols for static data of inline functions and templates, such as an inline thread_local
#           variable.
# Matters:  objects that are to be separate share that variable, or a link fails with "multiple definition". A test
#           of a separated object must look for UNIQUE, not only for GLOBAL and WEAK (tests/test_cpu_build.py).
# Needs Debian bookworm on x86-64 with apt-get.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cd "$folder"
version=2.40-2
apt-get download -qq "binutils-x86-64-linux-gnu=$version" "libbinutils=$version" "libctf0=$version" \
    "libctf-nobfd0=$version" "libgprofng0=$version" libjansson4 libzstd1 zlib1g 2>/dev/null
for package in ./*.deb; do dpkg -x "$package" root; done
export LD_LIBRARY_PATH=$folder/root/usr/lib/x86_64-linux-gnu:$folder/root/lib/x86_64-linux-gnu
tool() { "$folder/root/usr/bin/x86_64-linux-gnu-$1" "${@:2}"; }

cat >unique.s <<'ASM'
    .data
    .globl shared
    .type shared,@gnu_unique_object
    .size shared,4
shared: .long 1
    .text
    .globl entry
entry: ret
ASM
tool as unique.s -o unique.o
tool objcopy --localize-symbol=shared unique.o localized.o
tool objcopy --keep-global-symbol=entry unique.o kept.o
binding() { tool readelf -sW "$1" | awk '$8 == "shared" {print $5}'; }
echo "GNU objcopy 2.40. Expected: LOCAL after each. What happens:"
echo "  --localize-symbol=shared       $(binding localized.o)"
echo "  --keep-global-symbol=entry     $(binding kept.o)"
[[ $(binding localized.o) == UNIQUE && $(binding kept.o) == UNIQUE ]] ||
    { echo "changed: objcopy makes unique symbols local now"; exit 1; }
