#!/usr/bin/env bash
# Installs what is missing: scripts/setup.sh headers | toolchain | python PATH | venv | venv-dev | cuda-toolkit |
# browser | lm-eval | llama-cpp | mpi | nccl
#   headers       g++; CLI11, nlohmann-json and toml++ from Debian's or Ubuntu's packages, copied to build/deps/include
#                 for use on machines without a network
#   toolchain     the same, and oneDNN (as root, or with sudo)
#   python PATH   for native modules: Python's headers; pybind11 if PATH is .venv's Python
#   venv          .venv with requirements.txt: data scripts and figures
#   venv-dev      the same with requirements-dev.txt, and Python's headers: tests, PyTorch reference
#   cuda-toolkit  nvcc and CUDA's headers into .venv, if there is no nvcc
#   browser       Chromium, for tests of the pages of llmc report (Debian; not part of make test)
#   lm-eval       .venv with requirements-eval.txt, too: lm-evaluation-harness (0.6 GB)
#   mpi           Open MPI and MPICH, for runs of several processes on CPUs (one of them is enough) and their tests
#   nccl          NVIDIA's NCCL for CUDA 13 into .venv, for runs on several GPUs (0.4 GB)
#   llama-cpp     llama-cpp-python into .venv, built from source (minutes)
# CXX is the compiler [g++]; nvcc is looked for on PATH and in CUDA_HOME; CMAKE_ARGS are for the build of llama-cpp.
# Takes milliseconds if nothing is missing. On systems other than Debian and Ubuntu it lists what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

# make -j runs this several times at once, but only one apt-get or pip may run at a time.
mkdir -p build
exec 9>build/.setup.lock
! command -v flock >/dev/null || flock 9

install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "setup: this machine has no apt-get; install the equivalents of these Debian packages: $*" >&2
        exit 1
    fi
    local sudo=()
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || { echo "setup: run as root, or install: apt-get install $*" >&2; exit 1; }
        sudo=(sudo)
    fi
    echo "setup: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq || echo "setup: apt-get update failed; using the existing package lists" >&2
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

has_header() {
    echo "#include <$1>" | "${CXX:-g++}" -std=c++20 -isystem build/deps/include -x c++ -E - >/dev/null 2>&1
}

compiler() { command -v "${CXX:-g++}" >/dev/null || install_packages g++ make; }

# Header-only libraries, copied into the tree.
headers() {
    local deps=build/deps/include missing=() library
    compiler
    for library in CLI nlohmann toml++; do
        [[ -d $deps/$library ]] || missing+=("$library")
    done
    [[ ${#missing[@]} -gt 0 ]] || return 0
    has_header CLI/CLI.hpp && has_header nlohmann/json.hpp && has_header toml++/toml.h ||
        install_packages libcli11-dev nlohmann-json3-dev libtomlplusplus-dev
    mkdir -p "$deps"
    for library in "${missing[@]}"; do
        for from in /usr/include /usr/local/include; do
            [[ -d $from/$library ]] || continue
            rm -rf "$deps/.$library"
            cp -r "$from/$library" "$deps/.$library"
            mv -T "$deps/.$library" "$deps/$library"
            break
        done
    done
}

toolchain() {
    headers
    has_header dnnl.hpp || install_packages libdnnl-dev
}

# A program of a newer toolkit than the driver's does not start (another major version), or only with code compiled for
# this very GPU (the driver cannot compile newer PTX). PyPI's packages of CUDA 12 have no nvcc, so there is no choice.
compare_with_driver() {
    local driver release
    driver=$(nvidia-smi 2>/dev/null | sed -nE 's/.*CUDA Version *: *([0-9]+\.[0-9]+).*/\1/p' | head -n 1) || true
    release=$("$1" --version 2>/dev/null | sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p' | head -n 1) || true
    if [[ -z $driver || -z $release ]]; then return; fi
    if ((${driver%.*} < ${release%.*})); then
        echo "setup: this machine's driver supports CUDA $driver, nvcc is $release: what it builds will not run here;" \
            "update the driver (CUDA 13 needs 580 or newer), or install CUDA 12.4 to 12.9 from NVIDIA" >&2
    elif ((${driver%.*} == ${release%.*} && ${driver#*.} < ${release#*.})); then
        echo "setup: this machine's driver is for CUDA $driver, nvcc is $release: what it builds runs here only with" \
            "code for this GPU (the default; or CUDA_ARCH), because the driver cannot compile newer PTX" >&2
    fi
}

nvcc_here() {
    command -v nvcc ||
        ls "${CUDA_HOME:-/nonexistent}/bin/nvcc" .venv/lib/python3*/site-packages/nvidia/cu*/bin/nvcc 2>/dev/null |
        head -n 1 || true
}

cuda_toolkit() {
    if [[ -z $(nvcc_here) ]]; then
        echo "setup: installing requirements-cuda.txt into .venv"
        .venv/bin/pip install -q --disable-pip-version-check -r requirements-cuda.txt
    fi
    compare_with_driver "$(nvcc_here)"
}

llama_cpp() {
    if .venv/bin/python -c 'import llama_cpp' 2>/dev/null; then return; fi
    echo "setup: building llama.cpp for requirements-llama.txt (minutes)"
    # the same code on every processor that has AVX2
    CMAKE_ARGS="${CMAKE_ARGS:--DGGML_NATIVE=OFF}" \
        .venv/bin/python -m pip install -q --disable-pip-version-check -r requirements-llama.txt
}

venv() {
    local requirements=$1 stamp
    stamp=.venv/.$requirements.installed
    # of all files, because they include each other
    if [[ -e $stamp ]] && cat requirements*.txt | cmp -s - "$stamp"; then return; fi
    command -v python3 >/dev/null || install_packages python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "setup: Python 3.10 or newer is needed, this is $(python3 --version)" >&2; exit 1; }
    if [[ ! -x .venv/bin/python ]]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
        python3 -m venv .venv
    fi
    echo "setup: installing $requirements into .venv"
    .venv/bin/pip install -q --disable-pip-version-check -r "$requirements"
    cat requirements*.txt >"$stamp"
}

python_headers() { # of this Python
    local code='import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))'
    "$1" -c "$code" || install_packages python3-dev
}

for_modules() { # of this Python
    if [[ $1 == .venv/bin/python ]] && ! .venv/bin/python -c 'import pybind11' 2>/dev/null; then
        [[ -x .venv/bin/python ]] || venv requirements.txt
        echo "setup: installing pybind11 into .venv"
        .venv/bin/pip install -q --disable-pip-version-check "$(grep ^pybind11 requirements-dev.txt)"
    fi
    "$1" -c 'import pybind11' ||
        { echo "setup: $1 has no pybind11: install it with $1 -m pip install pybind11" >&2; exit 1; }
    python_headers "$1"
}

mpi() {
    if command -v mpirun.openmpi >/dev/null && command -v mpirun.mpich >/dev/null; then return; fi
    install_packages openmpi-bin mpich
}

nccl() {
    if compgen -G '.venv/lib/python3*/site-packages/nvidia/nccl/lib/libnccl.so.2' >/dev/null; then return; fi
    [[ -x .venv/bin/python ]] || venv requirements.txt
    echo "setup: installing nvidia-nccl-cu13 into .venv (0.4 GB)"
    .venv/bin/pip install -q --disable-pip-version-check nvidia-nccl-cu13
}

browser() { command -v chromium chromium-browser google-chrome >/dev/null || install_packages chromium; }

usage() { sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; }

case ${1:-} in
    headers) headers ;;
    toolchain) toolchain ;;
    cuda-toolkit) cuda_toolkit ;;
    llama-cpp) llama_cpp ;;
    venv) venv requirements.txt ;;
    python) for_modules "$2" ;;
    lm-eval) venv requirements-eval.txt ;;
    venv-dev) venv requirements-dev.txt; python_headers .venv/bin/python ;;
    browser) browser ;;
    mpi) mpi ;;
    nccl) nccl ;;
    -h | --help) usage ;;
    *) usage >&2; exit 2 ;;
esac
