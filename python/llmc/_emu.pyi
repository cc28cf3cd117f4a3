"""The types of the native modules. Written by dev/generate_stubs.py: make stubs."""

from llmc._cpu import *

def schedule(shuffle: bool = False, seed: int = 1, workers: int = 0) -> None:
    """How the emulated CUDA threads take turns from now on; on how many host threads (0: all)."""
