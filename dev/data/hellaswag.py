"""`llmc data hellaswag`, from a clone without installing it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))

from llmc.data.hellaswag import main
from llmc.errors import ExitCode, run_main

if __name__ == "__main__":
    run_main(main, os_error=ExitCode.DATA)
