"""The CUDA toolkit's programs as functions: what ptxas reports, what cuobjdump prints. No GPU or driver is needed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from llmc.errors import Error
from llmc.paths import clone

Key = tuple[str, str]  # architecture, kernel


def tool(name: str) -> str | None:
    """A program of the CUDA toolkit: in CUDA_HOME, on PATH, or from pip."""
    places = [Path(os.environ["CUDA_HOME"], "bin", name)] if "CUDA_HOME" in os.environ else []
    if root := clone():
        places += root.glob(f".venv/lib/python3*/site-packages/nvidia/cu*/bin/{name}")
    return shutil.which(name) or next((str(p) for p in places if p.exists()), None)


def demangle(names: Iterable[str]) -> dict[str, str]:
    """{mangled: readable name}."""
    names = list(dict.fromkeys(names))
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def short_name(readable: str) -> str:
    """`void a::f<int>(float*)` without its return type and arguments: `a::f<int>`."""
    if not readable.endswith(")"):
        return readable
    depth = 0
    for i in range(len(readable) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(readable[i], 0)
        if depth == 0:
            return readable[:i].removeprefix("void ")
    return readable


def resources(report: str) -> dict[Key, dict[str, int]]:
    """{(architecture, kernel): registers, stack, spilled, shared} from what ptxas -v printed; all but the first in
    bytes. `shared` is static: what a launch gives in addition is not known here."""
    found: dict[Key, dict[str, int]] = {}
    readable = demangle(re.findall(r"Compiling entry function '(\w+)'", report))
    used: dict[str, int] = {}
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            used = found[match[2], readable[match[1]]] = {}
        elif match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            used |= {"stack": int(match[1]), "spilled": int(match[2]) + int(match[3])}
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            used |= {"registers": int(match[1]), "shared": int(shared[1]) if shared else 0}
    return found


def cuobjdump(path: Path, *options: str) -> str:
    program = tool("cuobjdump")
    if program is None:
        raise Error("no cuobjdump: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm")
    done = subprocess.run([program, *options, str(path)], capture_output=True, text=True)
    if done.returncode:
        raise Error(f"{path}: cuobjdump {' '.join(options)}: {done.stderr.strip()}")
    return done.stdout


def listings(path: Path) -> dict[Key, list[str]]:
    """{(architecture, kernel): lines of SASS} of an object or cubin; names are readable and have their arguments."""
    found: dict[Key, list[str]] = {}
    architecture, lines = "", []
    for line in cuobjdump(path, "-sass").splitlines():
        if line.startswith("        "):  # an instruction, or the rest of its encoding
            if line.startswith("        /*"):
                lines.append(line)
        elif match := re.match(r"\s+\.target\s+(\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s+Function : ([\w$.]+)", line):
            lines = found.setdefault((architecture, match[1]), [])
    readable = demangle(name for _, name in found)
    return {(architecture, readable[name]): lines for (architecture, name), lines in found.items()}


def disassembly(path: Path) -> dict[Key, Counter[str]]:
    """{(architecture, kernel): Counter of opcodes}, such as LDG.E.128, of an object or cubin."""
    opcode = re.compile(r"\s+/\*[0-9a-f]+\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
    return {
        key: Counter(match[1] for line in lines if (match := opcode.match(line)))
        for key, lines in listings(path).items()
    }


def launch_bounds(path: Path) -> dict[Key, int]:
    """{(architecture, kernel): threads of a block} of the kernels that have __launch_bounds__."""
    found: dict[Key, int] = {}
    architecture, kernel, awaited = "", "", False
    for line in cuobjdump(path, "-elf").splitlines():
        if match := re.match(r"64-bit ELF:.* sm=(\w+)", line):
            architecture, kernel = f"sm_{match[1]}", ""
        elif match := re.match(r"(\.nv\.info)\.([\w$.]+)$", line):
            kernel = match[2]
        elif "EIATTR_" in line:
            awaited = "EIATTR_MAX_THREADS" in line
        elif awaited and kernel and (match := re.search(r"Value:\s+0x(\w+) 0x(\w+) 0x(\w+)", line)):
            found[architecture, kernel] = int(match[1], 16) * int(match[2], 16) * int(match[3], 16)
    readable = demangle(name for _, name in found)
    return {(architecture, readable[name]): threads for (architecture, name), threads in found.items()}
