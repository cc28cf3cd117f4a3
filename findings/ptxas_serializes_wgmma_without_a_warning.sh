#!/usr/bin/env bash
# nvcc 13.0.88: a Hopper product that ptxas serializes is no warning, and no error with -Werror all-warnings.
#
# Expected: wgmma is asynchronous. If a program makes that impossible (here: it multiplies an accumulator between two
#           products), "Potential Performance Loss: wgmma.mma_async instructions are serialized" is a warning, which
#           `-Werror all-warnings` and `-Xptxas --warning-as-error` turn into an error.
# Happens:  it is a note of ptxas's kind "info": nvcc and ptxas succeed with both flags, and the note blames
#           "insufficient register resources" in a kernel that uses about 30 registers.
# Matters:  the products of a training step would silently wait for each other. A build has to look for the notes
#           C7510 to C7519 in what ptxas prints, which the Makefile does.
# Downloads 100 MB from PyPI; needs python3 with venv, and g++.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'cuda-toolkit[nvcc,cudart,cccl]==13.0.3.0'
nvcc=$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)
cat > "$folder/products.cu" <<'CU'
#include <cstdint>
__global__ void products(float* out, uint64_t a, uint64_t b) {
    float d[4] = {0, 0, 0, 0};
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    for (int i = 0; i < 2; ++i) {
        asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 1, 1, 1, 0, 0;"
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
        asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#ifdef TOUCHED
        d[0] *= 2;
#endif
    }
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = d[i];
}
CU
compile() {
    "$nvcc" -arch=sm_90a -cubin -Werror all-warnings -Xptxas -v -Xptxas --warning-as-error "$@" \
        "$folder/products.cu" -o "$folder/products.cubin" 2>&1
}
untouched=$(compile) || { echo "nvcc does not work:"; echo "$untouched"; exit 1; }
touched=$(compile -DTOUCHED) || { echo "changed: nvcc refuses the serialized product"; echo "$touched"; exit 1; }
echo "untouched: $(grep -c '(C75' <<< "$untouched" || true) notes, exit code 0"
echo "touched:   $(grep -c '(C75' <<< "$touched") notes, exit code 0"
grep -o '(C75.*' <<< "$touched" | cut -c1-110
grep -o 'Used [0-9]* registers' <<< "$touched"
grep -q '(C75' <<< "$untouched" && { echo "changed: a product without accesses between is serialized, too"; exit 1; }
grep -q 'ptxas info *: (C75[0-9]*) Potential Performance Loss' <<< "$touched" ||
    { echo "changed: the note is no info of ptxas any more"; exit 1; }
