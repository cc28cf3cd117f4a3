"""`import llmc.cuda` and `from llmc import cuda`: the native module of NVIDIA GPUs. ImportError if it is not built."""

import sys
from typing import TYPE_CHECKING

from llmc.backend import backend as native_module

if TYPE_CHECKING:
    from llmc._cuda import *  # noqa: F403

sys.modules[__name__] = native_module("cuda")  # what import returns
