"""`import llmc.cpu` and `from llmc import cpu`: the native module of the CPU. ImportError if it is not built."""

import sys
from typing import TYPE_CHECKING

from llmc.backend import backend as native_module

if TYPE_CHECKING:
    from llmc._cpu import *  # noqa: F403

sys.modules[__name__] = native_module("cpu")  # what import returns
