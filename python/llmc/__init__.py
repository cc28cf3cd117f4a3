"""llmc-µP from Python: the backends built beside this file, each a module with the ops of llmc/ops/ops.h and the model.

import llmc
llmc.backends()              # ["cpu", "emulated"]: those that are built and can run here
llmc.cpu.gelu_forward(x)     # x: a float32 NumPy array
"""

import importlib
import importlib.machinery
import importlib.util
import os
import sys

_MODULES = {"cpu": "_cpu", "emulated": "_emu", "cuda": "_cuda"}


def backend(name):
    """The module of a backend. Raises ImportError, with the reason, where it is not built or cannot be loaded."""
    if name not in _MODULES:
        raise ImportError(f'no backend "{name}": choose from {", ".join(_MODULES)}')
    other_build = os.environ.get("LLMC_EMULATED_MODULE")  # of the emulated backend: one with a sanitizer
    if name == "emulated" and other_build:
        return _load(f"{__name__}._emu", other_build)
    if importlib.util.find_spec(f"{__name__}.{_MODULES[name]}") is None:
        raise ImportError(f'backend "{name}" is not built: run make')
    return importlib.import_module(f".{_MODULES[name]}", __name__)


def _load(full_name, path):
    if full_name not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(full_name, path)
        module = importlib.util.module_from_spec(importlib.util.spec_from_loader(full_name, loader))
        loader.exec_module(module)
        sys.modules[full_name] = module
    return sys.modules[full_name]


def backends():
    """Names of the backends that load on this machine."""
    names = []
    for name in _MODULES:
        try:
            module = backend(name)
            module.name()  # finds the device: without a GPU the CUDA module loads, and is of no use
        except (ImportError, RuntimeError):
            if name == "emulated" and os.environ.get("LLMC_EMULATED_MODULE"):
                raise  # it was asked for
            continue
        names.append(name)
    return names


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return backend(name)
    except ImportError as error:
        raise AttributeError(str(error)) from error
