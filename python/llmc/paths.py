"""The location of the package, in a clone of the project or installed, and how messages show a path."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from llmc.errors import Error, UsageError

PACKAGE = Path(__file__).resolve().parent


def clone() -> Path | None:
    """The root of the clone that contains this package; None if the package is installed."""
    root = PACKAGE.parents[1]
    return root if (root / "train_gpt2.cu").is_file() else None


def require_clone(what: str) -> Path:
    root = clone()
    if root is None:
        raise Error(f"{what} needs files that are not installed: run it in a clone of the project")
    return root


def native_program() -> Path | None:
    """The trainer for the CPU: installed, or built by `make` in a clone. None: neither."""
    root = clone()
    places = [PACKAGE / "bin" / "train_gpt2", *([root / "train_gpt2"] if root else [])]
    return next((path for path in places if path.is_file()), None)


def trainer(env: Mapping[str, str]) -> list[str]:
    """The command that trains: PROGRAM, ./train_gpt2 in the current folder, or that of the package or its clone."""
    if env.get("PROGRAM", "").strip():
        try:
            return shlex.split(env["PROGRAM"])
        except ValueError as error:
            raise UsageError(f"PROGRAM is {env['PROGRAM']!r}: {error}: quote it as in a shell") from None
    program = native_program()
    return [str(program)] if program and not Path("train_gpt2").exists() else ["./train_gpt2"]


def require_program(command: list[str]) -> None:
    """UsageError if the command of a trainer cannot run: no such program, or no such script for Python."""
    program, *rest = command
    if shutil.which(program) is None:
        raise UsageError(f"{program} is missing: run make, or set PROGRAM")
    script = next((word for word in rest if word.endswith(".py")), None)
    if script is not None and not Path(script).is_file():
        raise UsageError(f"{script} is missing: set PROGRAM to a command that trains, such as {program} train_gpt2.py")


def shown_path(path: Path) -> Path:
    """Relative to the current folder where it is below it."""
    resolved, here = path.resolve(), Path.cwd().resolve()
    return resolved.relative_to(here) if resolved.is_relative_to(here) else path
