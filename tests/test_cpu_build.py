"""The vector code of the CPU kernels also compiles for processors that this machine is not."""

import platform
import shutil
import subprocess

import pytest
from program import ROOT

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="-march names x86 processors"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
]
SOURCES = ["attention_forward", "attention_backward", "matmul", "layernorm", "gelu", "classifier", "optimizer"]


# 4, 8 and 16 lanes; without and with products of bf16 pairs
@pytest.mark.parametrize("arch", ["x86-64", "haswell", "skylake-avx512", "cooperlake"])
def test_kernels_compile_for(arch):
    done = subprocess.run(
        [
            "g++",
            "-std=c++20",
            "-I.",
            "-isystem",
            "build/deps/include",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-missing-field-initializers",
            "-fopenmp",
            f"-march={arch}",
            "-fsyntax-only",
            *(f"llmc/cpu/{name}.cpp" for name in SOURCES),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
