#!/usr/bin/env bash
# PyPI: nvidia-cuda-nvcc==13.0.88 by itself installs the newest nvidia-nvvm, and cannot compile a kernel with it.
#
# Expected: a pinned compiler package brings the parts of its own release.
# Happens:  nvidia-cuda-nvcc 13.0.88 depends on nvidia-nvvm without a version. pip takes the newest one, whose cicc writes
#           PTX of a later version, which the ptxas of 13.0.88 refuses as unsupported. With nvidia-nvvm==13.0.88 beside
#           it, it compiles; cuda-toolkit[nvcc]==13.0.3.0 pins both.
# Matters:  a lock file that pins nvcc alone breaks with the next CUDA release. requirements-cuda.txt asks for
#           cuda-toolkit[nvcc], never for the compiler by itself.
# Downloads 200 MB from PyPI; needs python3 with venv, and g++.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/pip" install -q "$@" 2> /dev/null; }
version() { "$folder/venv/bin/python" -c "import importlib.metadata as m; print(m.version('nvidia-nvvm'))"; }
echo '__global__ void nothing(int* out) { out[threadIdx.x] = 1; }' > "$folder/nothing.cu"
compile() {
    "$(echo "$folder"/venv/lib/python3*/site-packages/nvidia/cu13/bin/nvcc)" -arch=sm_90 -cubin "$folder/nothing.cu" \
        -o "$folder/nothing.cubin" 2>&1
}
pip nvidia-cuda-nvcc==13.0.88 nvidia-cuda-runtime==13.0.96 nvidia-cuda-crt==13.0.88 nvidia-cuda-cccl==13.0.85
newest=$(version)
[[ "$newest" == 13.0.* ]] && { echo "changed: pip takes nvidia-nvvm $newest"; exit 1; }
if printed=$(compile); then
    echo "changed: nvcc 13.0.88 compiles with nvidia-nvvm $newest"
    exit 1
fi
echo "nvidia-cuda-nvcc 13.0.88 with nvidia-nvvm $newest: $(grep -o 'Unsupported .version.*' <<< "$printed" || true)"
grep -q 'Unsupported .version' <<< "$printed" || { echo "changed: another error"; echo "$printed"; exit 1; }
pip nvidia-nvvm==13.0.88
compile || { echo "changed: it does not compile with its own nvvm"; exit 1; }
echo "with nvidia-nvvm $(version): compiles"
