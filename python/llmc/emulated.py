"""`import llmc.emulated` and `from llmc import emulated`: CUDA's kernels on the CPU.

The native module; ImportError if it is not built.
"""

import sys
from typing import TYPE_CHECKING

from llmc.backend import backend as native_module

if TYPE_CHECKING:
    from llmc._emu import *  # noqa: F403

sys.modules[__name__] = native_module("emulated")  # what import returns
