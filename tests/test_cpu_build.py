"""One build for every x86-64 machine: the CPU kernels are compiled once per instruction set, code of one set cannot
call functions of another, and every set that this machine can run passes the op tests."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from program import BACKEND, BINARY, ROOT, make_variable, run

pytestmark = [
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the instruction sets are x86-64's"),
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
]
built = pytest.mark.skipif(BACKEND != "cpu" or not BINARY.exists(), reason="train_gpt2 is not built: run make")
BUILD = ROOT / "build"
ISAS = make_variable("ISAS")
FLAGS = set(" ".join(re.findall(r"^flags\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.M)).split())
NEEDS = {"avx2": {"avx2", "fma"}, "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"}}
NEEDS["avx512_bf16"] = NEEDS["avx512"] | {"avx512_vnni", "avx512_bf16"}
HERE = [isa for isa in ISAS if NEEDS.get(isa, set()) <= FLAGS]


# 4, 8 and 16 lanes; without and with products of bf16 pairs
@pytest.mark.parametrize("arch", ["x86-64", "haswell", "skylake-avx512", "cooperlake"])
def test_kernels_compile_for(arch):
    command = ["g++", "-std=c++20", "-I.", "-isystem", "build/deps/include", "-Wall", "-Wextra", "-Werror"]
    command += ["-Wno-missing-field-initializers", "-fopenmp", f"-march={arch}", "-fsyntax-only"]
    done = subprocess.run([*command, *make_variable("CPU_KERNELS")], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def symbols(path, *options):
    """[(type, name)] of the symbols that an object or program defines; types as in nm, lower case for local ones."""
    done = subprocess.run(["nm", "--defined-only", *options, path], capture_output=True, text=True, check=True)
    return [tuple(line.split(maxsplit=2)[1:]) for line in done.stdout.splitlines()]


def visible(path):
    """Symbols that the linker could merge with those of another object: global, weak, unique and common ones."""
    return [name for kind, name in symbols(path, "-C") if kind.isupper() or kind in "uvw"]


@built
@pytest.mark.parametrize("isa", ISAS)
def test_no_code_of_a_set_can_be_merged_with_another_object_s(isa):
    """An inline function or template compiled for AVX-512 must not become the copy that all code calls."""
    kernels = BUILD / f"kernels_{isa}.o"
    assert visible(kernels) == [f"llmc::cpu::{isa}::kernels"]
    groups = subprocess.run(["readelf", "-gW", kernels], capture_output=True, text=True).stdout
    assert "COMDAT" not in groups, "the linker keeps one section group of each name, even if its symbols are local"
    single = visible(BUILD / isa / "llmc" / "cpu" / "reductions.o")
    assert any(name.startswith("std::") for name in single), "the kernels have no such function: is this test needed?"


@built
@pytest.mark.parametrize("isa", ISAS)
def test_no_code_of_a_set_runs_before_it_is_chosen(isa):
    """A constructor of a static object would run at program start, on every machine."""
    sections = subprocess.run(["readelf", "-SW", BUILD / f"kernels_{isa}.o"], capture_output=True, text=True).stdout
    assert " .text" in sections and not re.search(r"\.(init_array|ctors|preinit_array|init)\b", sections)


@built
def test_program_and_module_have_every_set():
    for path in [BINARY, *(ROOT / "python" / "llmc").glob("_cpu*.so")]:
        tables = {name for _, name in symbols(path, "-C") if name.endswith("::kernels")}
        assert tables == {f"llmc::cpu::{isa}::kernels" for isa in ISAS}, path


@built
@pytest.mark.parametrize("isa", ISAS)
def test_environment_chooses_the_set(isa):
    environment = dict(os.environ, LLMC_CPU_ISA=isa)
    if isa in HERE:
        out, _ = run("--preset", "gpt2", "--dry-run", env=environment)
        assert re.search(rf"device +cpu \(.* threads?.*, {isa}\)", out)
    else:
        _, error = run("--preset", "gpt2", "--dry-run", env=environment, expect=2)
        assert f'LLMC_CPU_ISA is "{isa}", this machine has {", ".join(HERE)}' in error


@built
def test_best_set_is_the_default():
    environment = {key: value for key, value in os.environ.items() if key != "LLMC_CPU_ISA"}
    out, _ = run("--preset", "gpt2", "--dry-run", env=environment)
    assert f", {HERE[-1]})" in out


@built
def test_unknown_set_is_named():
    _, error = run("--preset", "gpt2", "--dry-run", env=dict(os.environ, LLMC_CPU_ISA="avx1024"), expect=2)
    here = ", ".join(HERE)
    assert (
        error == f'train_gpt2: LLMC_CPU_ISA is "avx1024", this machine has {here}: set it to one of these or unset it\n'
    )


@built
@pytest.mark.parametrize("isa", [isa for isa in HERE if isa != os.environ.get("LLMC_CPU_ISA", HERE[-1])])
def test_op_tests_pass_with(isa):
    """The op tests on the CPU, with the sets that the rest of the tests do not use."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_optimizers.py"]
    command += [str(path) for path in sorted((ROOT / "tests").glob("test_ops*.py"))]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
    environment["LLMC_CPU_ISA"] = isa
    done = subprocess.run([*command, "-k", "cpu"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-6000:]


@built
@pytest.mark.skipif(shutil.which("qemu-x86_64") is None, reason="there is no qemu-x86_64 (Debian: qemu-user)")
@pytest.mark.skipif("-march=haswell" not in make_variable("CXXFLAGS"), reason="this build is not for every machine")
def test_old_processor_is_told_what_it_lacks():
    program = ["qemu-x86_64", "-cpu", "Nehalem", BINARY]
    _, error = run("--version", program=program, expect=1)
    assert "this processor lacks AVX2 FMA BMI BMI2 F16C MOVBE LZCNT. Compile it on this machine: make ARCH=" in error
    out, _ = run("--version", program=["qemu-x86_64", "-cpu", "Haswell", BINARY])
    assert out.startswith("llmc-mup ")
