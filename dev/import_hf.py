"""`llmc import hf`, from a clone without installing it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from llmc.errors import ExitCode, run_main
from llmc.export.import_hf import main

if __name__ == "__main__":
    run_main(main, os_error=ExitCode.DATA)
