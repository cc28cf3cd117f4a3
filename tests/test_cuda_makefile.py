"""For which architectures the Makefile compiles the CUDA kernels, and what `make cuda-toolkit` says about the driver:
with programs named nvidia-smi and nvcc that print what real ones would.
"""

import os
import subprocess

import pytest
from program import ROOT

NVCC_13 = "75 80 86 87 88 89 90 100 110 103 120 121"
NVCC_12_4 = "50 52 53 60 61 62 70 72 75 80 86 87 89 90"


def fake(folder, name, script):
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(0o755)
    return path


def make(folder, variable, *arguments, capabilities=None, known=NVCC_13):
    nvcc = fake(folder, "nvcc", f'[[ $1 == --list-gpu-arch ]] && printf "compute_%s\\n" {known}')
    answer = f"printf '%s\\n' {capabilities}" if capabilities else "echo 'NVIDIA-SMI has failed' >&2; exit 9"
    fake(folder, "nvidia-smi", answer)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "CUDA"))}
    environment["PATH"] = f"{folder}:{environment['PATH']}"
    done = subprocess.run(
        ["make", f"NVCC={nvcc}", *arguments, f"print-{variable}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return " ".join(done.stdout.split())


@pytest.mark.parametrize(
    "capabilities, known, expected",
    [
        (None, NVCC_13, "80 90a"),
        ("8.9", NVCC_13, "89"),
        ("9.0 9.0", NVCC_13, "90a"),
        ("8.6 9.0 12.0 8.6", NVCC_13, "86 90a 120"),  # two kinds of GPU and more: code for all
        ("12.0 8.9", NVCC_12_4, "89"),  # an nvcc that does not know the newest
        ("10.0", NVCC_12_4, ""),  # PTX alone
        ("7.5 8.0", NVCC_13, "80"),  # the kernels cannot run on the first
        ("7.0", NVCC_13, "80 90a"),  # nor on this one, for which nvcc 13.0.88 does not compile at all
        ("10.1", NVCC_13, ""),  # sm_101 of nvcc 12 is a fatal error of nvcc 13.0.88
    ],
)
def test_architectures_of_all_gpus_that_nvcc_knows(tmp_path, capabilities, known, expected):
    assert make(tmp_path, "CUDA_ARCH", capabilities=capabilities, known=known) == expected
    gencode = make(tmp_path, "GENCODE", capabilities=capabilities, known=known)
    for architecture in expected.split():
        assert f"-gencode arch=compute_{architecture},code=sm_{architecture}" in gencode
    assert gencode.endswith("-gencode arch=compute_80,code=compute_80"), "PTX, for every other GPU"
    assert gencode.count("-gencode") == len(expected.split()) + 1


def test_no_architecture_is_left_to_nvcc(tmp_path):
    """nvcc 13.0.88: -arch=native without a GPU is a warning, exit 0 and code for sm_75 alone, on which the kernels do
    not run. The Makefile names every architecture."""
    for variable in ("NVFLAGS", "GENCODE"):
        assert "native" not in make(tmp_path, variable) and "-arch" not in make(tmp_path, variable)
        assert "native" not in make(tmp_path, variable, capabilities="8.9")


def test_a_failing_nvcc_fails_the_build(tmp_path):
    """nvcc 13.0.88 exits with 255 for spills with -warn-spills -Werror, and with 1 for errors. The Makefile passes both
    on as a failure with nvcc's words, leaves no object behind, and looks for spills in the report of ptxas instead, for
    the kernels that matter (test_cuda_build.py)."""
    assert "-warn-spills" not in make(tmp_path, "NVFLAGS")
    for code in (1, 255):
        words = "error: Registers are spilled to local memory"
        nvcc = fake(tmp_path, "nvcc", f"echo '{words}' >&2; echo 'ptxas info : x' >&2; exit {code}")
        build = tmp_path / "build"
        command = ["make", f"NVCC={nvcc}", f"CUDA_BUILD={build}", "CUDA_ARCH=80", f"{build}/llmc/cuda/cast.o"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and words in done.stderr and "ptxas info" not in done.stderr
        assert not (build / "llmc/cuda/cast.o").exists()


def test_the_given_architectures_are_used(tmp_path):
    gencode = make(tmp_path, "GENCODE", "CUDA_ARCH=86 120", capabilities="9.0")
    assert "sm_86" in gencode and "sm_120" in gencode and "sm_90" not in gencode
    assert "code=compute_80" in gencode


@pytest.mark.parametrize(
    "driver, release, words",
    [
        ("12.4", "13.0", ["driver supports CUDA 12.4", "nvcc is 13.0", "580"]),
        ("13.0", "13.2", ["CUDA 13.0", "nvcc is 13.2", "CUDA_ARCH"]),
        ("13.1", "13.0", []),
        ("12.8", "12.4", []),
        (None, "13.0", []),
    ],
)
def test_the_toolkit_is_compared_with_the_driver(tmp_path, driver, release, words):
    fake(tmp_path, "nvcc", f'echo "Cuda compilation tools, release {release}, V{release}.88"')
    table = f"| NVIDIA-SMI 550.54.15    Driver Version: 550.54.15    CUDA Version: {driver}     |"
    fake(tmp_path, "nvidia-smi", f'echo "{table}"' if driver else "exit 9")
    environment = dict(os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run(
        ["scripts/setup.sh", "cuda-toolkit"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stderr for word in words), done.stderr
    assert bool(done.stderr) == bool(words), done.stderr
