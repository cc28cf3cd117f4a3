"""`llmc.bench.ranks`, from a clone: two processes against one, and against torchrun and DDP."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from llmc.bench.ranks import main
from llmc.errors import run_main

if __name__ == "__main__":
    run_main(main)
