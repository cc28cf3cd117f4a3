#!/usr/bin/env bash
# nvcc 13.0.88, sm_90a: ptxas moves `asm volatile` exponentials from before wgmma.wait_group to after it.
#
# Expected: two products are in flight; the program waits for the first (wait_group 1), computes exponentials of it, and
#           then waits for the second (wait_group 0). All statements are `asm volatile` with a "memory" clobber, so
#           their order is that of the source, and the exponentials run under the second product.
# Happens:  in the machine code some of the exponentials stand after the second wait, and no note says so. A branch
#           before that wait (here: a loop on an mbarrier) keeps them in place.
# Matters:  attention hides its exponentials under products exactly so. They were all after the wait at first, in both
#           passes: nothing is wrong, only slow. Read the machine code; tests/test_cuda_build.py counts them between
#           the waits.
# Downloads 100 MB from PyPI; needs python3 with venv, and g++. Compiles, and runs nothing.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q 'cuda-toolkit[nvcc,cudart,cccl]==13.0.3.0' nvidia-cuda-cuobjdump==13.2.78 nvidia-cuda-nvdisasm==13.2.78
tools=$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13/bin)
cat > "$folder/softmax.cu" <<'CU'
#include <cstdint>
__device__ void product(float (&d)[4], uint64_t a, uint64_t b) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, 0, 1, 1, 0, 0;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
__global__ void softmax(float* out, uint64_t a, uint64_t b, uint32_t barrier) {
    float score[4], sum[4];
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
    product(score, a, b);
    product(sum, a, b + 64);
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
    for (float& x : score) asm volatile("" : "+f"(x)::"memory");
    for (float& x : score) asm volatile("ex2.approx.ftz.f32 %0, %0;" : "+f"(x)::"memory");
#ifdef BRANCH
    asm volatile("{ .reg .pred over; AGAIN: mbarrier.try_wait.parity.shared::cta.b64 over, [%0], 0;"
                 "  @over bra DONE; bra AGAIN; DONE: }" ::"r"(barrier) : "memory");
#endif
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
    for (float& x : sum) asm volatile("" : "+f"(x)::"memory");
    for (int i = 0; i < 4; ++i) out[4 * threadIdx.x + i] = score[i] + sum[i];
}
CU
order() {  # of waits and exponentials in the machine code
    "$tools/nvcc" -arch=sm_90a -cubin "$@" "$folder/softmax.cu" -o "$folder/softmax.cubin"
    "$tools/cuobjdump" -sass "$folder/softmax.cubin" | grep -oE 'DEPBAR.LE gsb0, 0x[01]|MUFU.EX2' |
        sed 's/DEPBAR.LE gsb0, 0x/wait/; s/MUFU.EX2/ex2/' | tr '\n' ' '
}
plain=$(order) with_branch=$(order -DBRANCH)
echo "source:             wait1 ex2 ex2 ex2 ex2 wait0"
echo "machine code:       $plain"
echo "... with a branch:  $with_branch"
[[ $with_branch == "wait1 ex2 ex2 ex2 ex2 wait0 " ]] || { echo "changed: a branch does not keep them in place"; exit 1; }
[[ $plain == *"wait0 ex2"* ]] || { echo "changed: no exponential is moved past the wait"; exit 1; }
