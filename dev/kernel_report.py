"""`make kernel-report`, when its objects are built: what the CUDA kernels ask of a GPU, counted without one."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from llmc.bench.kernel_report import main
from llmc.errors import run_main

if __name__ == "__main__":
    run_main(main)
