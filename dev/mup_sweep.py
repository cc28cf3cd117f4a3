"""The single steps of a sweep, for GNU parallel and SLURM scripts in a clone that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from llmc.errors import run_main
from llmc.mup.sweep_tool import main
from llmc.paths import clone

if __name__ == "__main__":
    run_main(lambda: main(folder=clone()))
