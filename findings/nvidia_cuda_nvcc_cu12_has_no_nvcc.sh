#!/usr/bin/env bash
# PyPI: nvidia-cuda-nvcc-cu12 12.9.86 has no nvcc. nvidia-cuda-nvcc 13.0.88 has one, but not its compiler.
#
# Expected: `pip install nvidia-cuda-nvcc-cu12` gives a CUDA 12 compiler without the toolkit's installer, as its name
#           says and as the packages of CUDA 13 do.
# Happens:  the wheel's only program is ptxas (33 MiB). In CUDA 13 the package without a suffix has nvcc, cudafe++,
#           fatbinary and ptxas; cicc, which nvcc calls for every kernel, is in nvidia-nvvm, on which it depends: with
#           --no-deps nvcc starts and cannot compile.
# Matters:  kernels are compiled on machines without a GPU from wheels (make cuda-toolkit, the tests of the compiled
#           kernels). For CUDA 12 there is no such way: requirements-cuda.txt asks for 13.0, and so for a driver of 580
#           or newer.
# Downloads 80 MB from PyPI; needs python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" download -q --no-deps --only-binary :all: --platform manylinux_2_17_x86_64 \
    --platform manylinux2010_x86_64 --platform manylinux2014_x86_64 -d "$folder" \
    nvidia-cuda-nvcc-cu12==12.9.86 nvidia-cuda-nvcc==13.0.88
programs() {
    "$folder/venv/bin/python" - "$folder"/$1 <<'PY'
import sys, zipfile
names = zipfile.ZipFile(sys.argv[1]).namelist()
known = {"nvcc", "cicc", "cudafe++", "fatbinary", "ptxas"}
print(*sorted({name.rsplit("/", 1)[-1] for name in names} & known))
PY
}
old=$(programs 'nvidia_cuda_nvcc_cu12-*.whl')
new=$(programs 'nvidia_cuda_nvcc-*.whl')
echo "nvidia-cuda-nvcc-cu12 12.9.86: $old"
echo "nvidia-cuda-nvcc 13.0.88:      $new"
[[ "$old" == ptxas ]] || { echo "changed: the package for CUDA 12 has $old"; exit 1; }
[[ "$new" == "cudafe++ fatbinary nvcc ptxas" ]] || { echo "changed: the package for CUDA 13 has $new"; exit 1; }
