"""C++ sources, not a package. Python started in the folder of the clone finds this folder under the name llmc before
the package python/llmc: this file imports that one in its place.
"""

import importlib
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))
del sys.modules["llmc"]
importlib.import_module("llmc")  # import takes what stands in sys.modules after this file has run
