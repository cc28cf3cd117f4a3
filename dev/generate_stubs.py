"""Writes python/llmc/_cpu.pyi, the types of the native module, with pybind11-stubgen: `make stubs`.

The modules of the other backends have the same functions: _cuda.pyi and _emu.pyi import from it.
"""

import re
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "python" / "llmc"
sys.path.insert(0, str(ROOT / "python"))

# What pybind11 cannot know, for mypy --strict: the types of keys and values.
REPLACEMENTS = [
    (r"-> dict:", "-> dict[str, typing.Any]:"),
    (r"-> list:", "-> list[dict[str, typing.Any]]:"),
    (r"Sequence\[dict\]", "Sequence[dict[str, typing.Any]]"),
    (r"\*\*kwargs\)", "**kwargs: typing.Any)"),
    (r"^__all__: list\[str\] = ", "__all__ = "),
]
HEADER = '"""The types of the native modules. Written by dev/generate_stubs.py: make stubs."""\n'
OTHERS = {
    "_cuda.pyi": "from llmc._cpu import *\n",
    "_emu.pyi": (
        "from llmc._cpu import *\n\ndef schedule(shuffle: bool = False, seed: int = 1, workers: int = 0) -> None:\n"
        '    """How the emulated CUDA threads take turns from now on; on how many host threads (0: all)."""\n'
    ),
}


def wrapped(line: str) -> str:
    """A line of a docstring, cut where it is too long."""
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= 120 or line.lstrip().startswith(("def ", "class ")):
        return line
    return textwrap.fill(line.strip(), 119, initial_indent=indent, subsequent_indent=indent) + "\n"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "llmc._cpu", "-o", folder]
        subprocess.run(command, check=True, env={"PYTHONPATH": str(ROOT / "python")})
        text = Path(folder, "llmc", "_cpu.pyi").read_text(encoding="utf-8")
    text = text.split('"""\n', 2)[2]  # without the module's docstring
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text, flags=re.M)
    text = "".join(wrapped(line) for line in text.splitlines(keepends=True))
    (PACKAGE / "_cpu.pyi").write_text(HEADER + text, encoding="utf-8")
    for name, content in OTHERS.items():
        (PACKAGE / name).write_text(HEADER + content, encoding="utf-8")
    for name in ("_cpu.pyi", *OTHERS):
        subprocess.run([sys.executable, "-m", "ruff", "format", "-q", str(PACKAGE / name)], check=True)
        subprocess.run([sys.executable, "-m", "ruff", "check", "-q", "--fix", str(PACKAGE / name)], check=True)
        print(f"wrote {(PACKAGE / name).relative_to(ROOT)}")


if __name__ == "__main__":
    main()
