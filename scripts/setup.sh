#!/usr/bin/env bash
# Installs what is missing, and only that: scripts/setup.sh toolchain | venv | venv-dev
#   toolchain  g++, oneDNN, CLI11, nlohmann-json from Debian's or Ubuntu's packages (as root, or with sudo)
#   venv       .venv with requirements.txt: data scripts and figures
#   venv-dev   the same with requirements-dev.txt, and Python's headers: tests, PyTorch reference
# Does nothing, in milliseconds, where everything is there. Elsewhere than on Debian or Ubuntu it says what to install.
set -euo pipefail
cd "$(dirname "$0")/.."

install_packages() {
    if ! command -v apt-get >/dev/null; then
        echo "setup: this machine has no apt-get; install by hand what Debian calls: $*" >&2
        exit 1
    fi
    local sudo=()
    if [[ $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || { echo "setup: run as root, or install: apt-get install $*" >&2; exit 1; }
        sudo=(sudo)
    fi
    echo "setup: installing $*"
    export DEBIAN_FRONTEND=noninteractive
    "${sudo[@]}" apt-get update -qq || echo "setup: the package lists could not be refreshed; trying with those that are here" >&2
    "${sudo[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

has_header() { echo "#include <$1>" | "${CXX:-g++}" -std=c++20 -x c++ -E - >/dev/null 2>&1; }

toolchain() {
    local missing=()
    command -v "${CXX:-g++}" >/dev/null || missing+=(g++)
    if [[ ${#missing[@]} -gt 0 ]]; then
        missing+=(libdnnl-dev libcli11-dev nlohmann-json3-dev)
    else
        has_header dnnl.hpp || missing+=(libdnnl-dev)
        has_header CLI/CLI.hpp || missing+=(libcli11-dev)
        has_header nlohmann/json.hpp || missing+=(nlohmann-json3-dev)
    fi
    [[ ${#missing[@]} -eq 0 ]] || install_packages "${missing[@]}"
}

venv() {
    local requirements=$1 stamp
    stamp=.venv/.$requirements.installed
    if [[ -e $stamp ]] && cmp -s "$requirements" "$stamp"; then return; fi
    command -v python3 >/dev/null || install_packages python3 python3-venv
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "setup: Python 3.10 or newer is needed, this is $(python3 --version)" >&2; exit 1; }
    if [[ ! -x .venv/bin/python ]]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
        python3 -m venv .venv
    fi
    echo "setup: installing $requirements into .venv"
    .venv/bin/pip install -q --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$stamp"
}

python_headers() {
    .venv/bin/python -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' || install_packages python3-dev
}

case ${1:-} in
    toolchain) toolchain ;;
    venv) venv requirements.txt ;;
    venv-dev) venv requirements-dev.txt; python_headers ;;
    *) sed -n 2,6p "$0"; exit 2 ;;
esac
