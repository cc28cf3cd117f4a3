"""`pip install .`: make builds the native module and the program, as in a clone; this file puts them into the package.

All other metadata is in pyproject.toml. The list of sources is in the Makefile.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# Libraries that every Linux with the same glibc has. All other libraries of the module go into the wheel, so that it
# runs on machines without oneDNN.
SYSTEM_LIBRARIES = re.compile(r"^(linux-vdso|ld-linux[^.]*|libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)\.")


def libraries_of(binary: Path) -> list[Path]:
    """The shared libraries that `binary` loads, without those of the system."""
    listing = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(\S+) => (/\S+)", listing)
    return [Path(path) for name, path in found if not SYSTEM_LIBRARIES.match(name)]


class BuildWithMake(build_ext):
    def run(self) -> None:
        jobs = os.environ.get("JOBS", str(os.cpu_count() or 1))
        # relative for the clone's .venv, as in the Makefile, so that nothing is compiled twice
        python = Path(sys.executable)
        python = python.relative_to(ROOT) if python.is_relative_to(ROOT) else python
        command = ["make", f"-j{jobs}", f"PYTHON={python}", "module", "train_gpt2"]
        print(" ".join(command), flush=True)
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            sys.exit(
                "llmc: make failed; see the lines above. If you are not root, first run: scripts/setup.sh toolchain"
            )
        if self.editable_mode or self.inplace:
            return  # the module is already in python/llmc
        package = Path(self.build_lib, "llmc")
        name = Path(self.get_ext_filename("llmc._cpu")).name
        for folder in ("bin", "lib"):
            (package / folder).mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / "python" / "llmc" / name, package / name)
        shutil.copy2(ROOT / "train_gpt2", package / "bin" / "train_gpt2")
        for library in libraries_of(package / name):
            shutil.copy2(library, package / "lib" / library.name)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in Path(self.build_lib, "llmc").rglob("*") if path.is_file()]


shutil.rmtree(ROOT / "build" / "pip", ignore_errors=True)  # or files that are gone would be in the next wheel
setup(ext_modules=[Extension("llmc._cpu", sources=[])], cmdclass={"build_ext": BuildWithMake})
