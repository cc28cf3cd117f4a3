"""`llmc log follow`, from a clone without installing it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

from llmc.errors import run_main
from llmc.track.follow import main

if __name__ == "__main__":
    run_main(main)
