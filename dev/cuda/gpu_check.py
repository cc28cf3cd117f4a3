"""`llmc bench gpu-check`, from a clone without installing it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from llmc.bench.gpu_check import main
from llmc.errors import run_main

if __name__ == "__main__":
    run_main(main)
