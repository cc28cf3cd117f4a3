"""The types of the native modules. Written by dev/generate_stubs.py: make stubs."""

from llmc._cpu import *
