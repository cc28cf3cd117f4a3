"""Packages that only some tools need. They are imported where they are used, and belong to the package's extras."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from llmc.errors import Error
from llmc.paths import clone


def load(module: str, extra: str) -> Any:
    """The module. Error that says what to install if its package is missing, and why if it cannot be imported.

    extra: one of pyproject.toml's optional-dependencies; requirements-EXTRA.txt has the same packages
    """
    try:
        return import_module(module)
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and error.name == module.partition(".")[0]
        problem = f"the package {error.name} is missing" if missing else f"{module} cannot be imported ({error})"
        raise Error(f"{problem}: {_install(extra)}") from None


def _install(extra: str) -> str:
    if clone():
        return f"install it by .venv/bin/pip install -r requirements-{extra}.txt"
    return f"install it by pip install 'llmc-mup[{extra}]'"
