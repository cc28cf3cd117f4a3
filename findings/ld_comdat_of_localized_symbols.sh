#!/usr/bin/env bash
# GNU ld and objcopy 2.40: making an inline function local does not keep two copies of it apart.
#
# Expected: two objects each contain their own copy of an inline function (a COMDAT group, as C++ compilers make for
#           inline functions and templates). After `ld -r` and objcopy --keep-global-symbol the copies are local
#           symbols, and each object calls its own.
# Happens:  the COMDAT groups are still there, and the final link keeps one group of each name whatever its symbols
#           are: it drops the other object's copy and fails with "defined in discarded section". With ld -r
#           --force-group-allocation the groups are gone and each object calls its own.
# Matters:  the usual way to ship kernels for several instruction sets in one program is to compile the same sources
#           several times and to localize everything but a table. Without that flag the sets are not separate
#           (Makefile, doc/kernels.md).
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

object() { # name, value that its copy of `helper` returns
    cat >"$1.s" <<ASM
    .section .text.helper,"axG",@progbits,helper,comdat
    .weak helper
    .type helper,@function
helper: movl \$$2, %eax
    ret
    .text
    .globl entry_$1
entry_$1: call helper
    ret
ASM
    tool as "$1.s" -o "$1.o"
}
object a 1
object b 2
cat >main.s <<'ASM'
    .globl _start
_start: call entry_a
    imull $10, %eax, %ebx
    call entry_b
    addl %eax, %ebx
    movl %ebx, %edi
    movl $60, %eax
    syscall
ASM
tool as main.s -o main.o

separated() { # options of ld -r; prints what the program says, 12 if each object calls its own copy
    local name
    for name in a b; do
        tool ld -r "$@" "$name.o" -o "whole_$name.o"
        tool objcopy --keep-global-symbol="entry_$name" "whole_$name.o" "local_$name.o"
    done
    if ! tool ld main.o local_a.o local_b.o -o program 2>link.txt; then
        grep -o 'defined in discarded section' link.txt
        return
    fi
    local code=0
    ./program || code=$?
    echo "$code"
}
echo "GNU binutils 2.40. Expected: 12, each object calls its own local copy. What happens:"
plain=$(separated)
forced=$(separated --force-group-allocation)
echo "  ld -r                            $plain"
echo "  ld -r --force-group-allocation   $forced"
[[ $plain == 'defined in discarded section' && $forced == 12 ]] ||
    { echo "changed: localized COMDAT functions behave differently now"; exit 1; }
