"""What llmc/comm/nccl_library.cu assumes of NCCL, against the library and the header of PyPI's nvidia-nccl-cu13, which
scripts/setup.sh nccl installs. No GPU is needed: the library loads without a driver."""

import ctypes
import importlib.metadata
import os
import re
import subprocess

import pytest
from program import ROOT

SOURCE = (ROOT / "llmc/comm/nccl_library.cu").read_text()
REAL = SOURCE[: SOURCE.index("#else\nnamespace")]  # without the emulator's


def installed():
    try:
        files = importlib.metadata.files("nvidia-nccl-cu13") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {path.name: path.locate() for path in files}


FILES = installed()
pytestmark = pytest.mark.skipif(not FILES, reason="no nvidia-nccl-cu13 in .venv: scripts/setup.sh nccl installs it")


@pytest.fixture(scope="module")
def header():
    """Without comments."""
    return re.sub(r"/\*.*?\*/", "", FILES["nccl.h"].read_text(), flags=re.S)


def value_in(header, name):
    """Of an enumerator."""
    [value] = re.findall(rf"\b{name}\s*=\s*(\d+)", header)
    return int(value)


def assumed(name):
    [value] = re.findall(rf"\b{name} = (\d+)", REAL)
    return int(value)


def functions():
    """The names that are looked up, with their pointers' result and parameters."""
    members = dict(re.findall(r'set\((\w+), "(\w+)"\)', REAL))
    declared = {
        name: (result.strip(), parameters)
        for result, name, parameters in re.findall(r"^    ([\w* ]+)\(\*(\w+)\)\((.*)\);$", REAL, re.M)
    }
    assert members.keys() == declared.keys() and len(members) > 10
    return {members[name]: declared[name] for name in members}


def kind(parameter):
    """What the ABI sees of a parameter."""
    text = re.sub(r"\b(const|struct)\b", "", parameter).strip()
    if "*" in text:
        return "pointer"
    word = text.split()[0]
    if word in ("int", "ncclDataType_t", "ncclRedOp_t", "ncclResult_t"):
        return "int"
    return {"ncclUniqueId": "id", "UniqueId": "id", "ncclComm_t": "communicator", "Communicator": "communicator"}.get(
        word, word
    )


def test_the_library_has_every_function():
    library = ctypes.CDLL(str(FILES["libnccl.so.2"]))
    missing = [name for name in functions() if not hasattr(library, name)]
    assert not missing


def test_every_function_is_called_as_it_is_declared(header):
    for name, (result, parameters) in functions().items():
        [(theirs, list_of_theirs)] = re.findall(rf"^\s*([\w* ]*?)\s*\b{name}\(([^)]*)\);", header, re.M)
        assert kind(result) == kind(theirs), name
        ours = [kind(p) for p in parameters.split(",") if p.strip()]
        assert ours == [kind(p) for p in list_of_theirs.split(",") if p.strip()], name


def test_the_constants_are_those_of_the_header(header):
    assert assumed("kSum") == value_in(header, "ncclSum")
    assert assumed("kFloat") == value_in(header, "ncclFloat32")
    assert assumed("kBfloat16") == value_in(header, "ncclBfloat16")
    assert assumed("kInProgress") == value_in(header, "ncclInProgress")
    assert value_in(header, "ncclSuccess") == 0
    [length] = re.findall(r"#define NCCL_UNIQUE_ID_BYTES (\d+)", header)
    assert re.findall(r"struct UniqueId \{\s*char internal\[(\d+)\];\s*\};", REAL) == [length]
    assert re.search(r"typedef struct \{\s*char internal\[NCCL_UNIQUE_ID_BYTES\];\s*\}\s*ncclUniqueId;", header)


# The CUDA program's class, with the emulator's types for CUDA's.
PROGRAM = """
#include <cstdio>
#include <exception>
#include "llmc/comm/mpi.h"
#include "llmc/comm/nccl_library.h"
#define __CUDACC__
#include "llmc/comm/nccl_library.cu"
int main() try {
    const auto nccl = llmc::NcclLibrary::load(nullptr);
    std::printf("%s %zu\\n", nccl->version().c_str(), nccl->unique_id().size());
} catch (const std::exception& error) {
    std::printf("%s\\n", error.what());
    return 1;
}
"""


def test_the_library_is_found_beside_the_program(tmp_path):
    (tmp_path / "main.cpp").write_text(PROGRAM)
    words = ["-std=c++20", "-O0", f"-I{ROOT}", "-isystem", ROOT / "build/deps/include", tmp_path / "main.cpp"]
    subprocess.run([os.environ.get("CXX", "g++"), *words, "-o", tmp_path / "main", "-ldl"], check=True)
    site = tmp_path / ".venv/lib/python3.10/site-packages/nvidia/nccl"
    site.parent.mkdir(parents=True)

    def call(**variables):
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("LLMC_NCCL", "NCCL_"))}
        # the loopback interface, which every machine has
        environment = clean | {"NCCL_SOCKET_IFNAME": "lo"} | variables
        return subprocess.run([tmp_path / "main"], env=environment, capture_output=True, text=True, check=False)

    own = str(FILES["libnccl.so.2"])
    version = ".".join(importlib.metadata.version("nvidia-nccl-cu13").split(".")[:3])
    site.symlink_to(FILES["libnccl.so.2"].parent.parent)
    for done in (call(), call(LLMC_NCCL_LIBRARY=own)):
        assert done.returncode == 0, done.stdout + done.stderr
        assert re.fullmatch(r"NCCL \d+\.\d+\.\d+ 128\n", done.stdout)
    assert done.stdout == f"NCCL {version} 128\n"
    wrong = call(LLMC_NCCL_LIBRARY="libm.so.6")
    assert wrong.returncode == 1 and "the NCCL library has no nccl" in wrong.stdout
    none = call(LLMC_NCCL_LIBRARY="/nothing.so")
    assert none.returncode == 1 and "/nothing.so" in none.stdout and "scripts/setup.sh nccl" in none.stdout
