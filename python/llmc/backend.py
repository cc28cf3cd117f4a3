"""The native modules: one for each backend, with the same functions (python/llmc/_cpu.pyi)."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import sys
from types import ModuleType

from llmc.cpus import short_spinning

MODULES = {"cpu": "_cpu", "cuda": "_cuda", "emulated": "_emu"}
TARGETS = {"cpu": "module", "cuda": "module-cuda", "emulated": "module-emu"}


def backend(name: str) -> ModuleType:
    """The module of a backend. ImportError with the reason if it is not built or cannot be loaded."""
    if name not in MODULES:
        raise ImportError(f"there is no backend {name!r}: choose one of {', '.join(MODULES)}")
    other_build = os.environ.get("LLMC_EMULATED_MODULE")  # of the emulated backend, with a sanitizer
    if name == "emulated" and other_build:
        return _load("llmc._emu", other_build)
    if importlib.util.find_spec(f"llmc.{MODULES[name]}") is None:
        raise ImportError(
            f"the {name} backend of llmc is not built: run `make {TARGETS[name]}` in the clone"
            + (", or `pip install .`" if name == "cpu" else "")
        )
    with short_spinning():
        return importlib.import_module(f"llmc.{MODULES[name]}")


def _load(full_name: str, path: str) -> ModuleType:
    if full_name not in sys.modules:
        loader = importlib.machinery.ExtensionFileLoader(full_name, path)
        spec = importlib.util.spec_from_loader(full_name, loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        loader.exec_module(module)
        sys.modules[full_name] = module
    return sys.modules[full_name]


def backends() -> list[str]:
    """Names of the backends that load on this machine."""
    names = []
    for name in MODULES:
        try:
            backend(name).name()  # needs the device: the CUDA module also loads without a GPU
        except ImportError:
            if name == "emulated" and os.environ.get("LLMC_EMULATED_MODULE"):
                raise  # this build was asked for
            continue
        except RuntimeError:  # no GPU
            if name == "cpu":
                raise  # LLMC_CPU_ISA names a set that this machine does not have
            continue
        names.append(name)
    return names
