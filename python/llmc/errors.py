"""Errors, exit codes, and the one line on stderr that a command prints when it fails."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from enum import IntEnum
from types import FrameType
from typing import NoReturn


class ExitCode(IntEnum):
    """The exit codes of all commands, as README lists them. The C++ programs use the same."""

    DONE = 0
    FAILED = 1  # no memory, no disk space, a folder that cannot be written
    USAGE = 2  # an option that is unknown, out of range, or contradicts another
    DATA = 3  # data or a checkpoint that is missing, damaged, or of another shape
    DIVERGED = 4
    NO_GPU = 5
    UNDECIDED = 6  # of a check or a sweep: noise may explain the result, or a run that the verdict needs is missing
    INTERRUPTED = 130  # Ctrl-C
    TERMINATED = 143  # SIGTERM


class Error(RuntimeError):
    """An error that a user can fix. The message names the thing, its value, and what to do."""

    code: int = ExitCode.FAILED

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


class UsageError(Error):
    """Invalid options or environment variables."""

    code = ExitCode.USAGE


class DataError(Error):
    """A file that is missing, damaged, or of the wrong kind."""

    code = ExitCode.DATA


class DamageError(DataError):
    """A file of a checkpoint that is missing, damaged or incomplete: another checkpoint of the run may do."""


class Stopped(Error):
    """Stopped by signals, after all running processes have ended."""

    signals: tuple[int, ...] = ()


def run_main(main: Callable[[], int | None], os_error: ExitCode = ExitCode.FAILED) -> NoReturn:
    """Runs a command's main and exits with its code. `os_error` is the code for files that cannot be read or written.

    SIGTERM becomes SystemExit, so that `finally` and `with` clean up.
    """
    received = _watch_signals()
    try:
        sys.exit(main())
    except Stopped as error:
        _ignore_signals()
        _fail(str(error), error.code)
    except SystemExit:
        if received:
            _ignore_signals()
        raise
    except Error as error:
        _fail(f"error: {error}", error.code)
    except OSError as error:
        _fail(f"error: {error.filename or 'while writing'}: {error.strerror or error}", os_error)
    except MemoryError:
        _fail("error: out of memory", ExitCode.FAILED)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        _fail(f"error: {error}: install it with pip install {package}", ExitCode.FAILED)
    except ImportError as error:  # a backend that is not built: the message says what to do
        _fail(f"error: {error}", ExitCode.FAILED)
    except KeyboardInterrupt:
        _ignore_signals()
        _fail("interrupted", ExitCode.INTERRUPTED)
    except Exception:
        if not received:
            raise
        _ignore_signals()
        # a library in which the signal came made an error of its own of the handler's exception
        _fail("interrupted", ExitCode.INTERRUPTED if signal.SIGINT in received else ExitCode.TERMINATED)


def _watch_signals() -> set[int]:
    """The signals that have come; grows."""
    received: set[int] = set()

    def stop(number: int, frame: FrameType | None) -> None:
        received.add(number)
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        sys.exit(ExitCode.TERMINATED)

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a process in the background
        signal.signal(signal.SIGINT, stop)
    return received


def _ignore_signals() -> None:
    """Of a command that a signal has ended: while Python exits, it has no handlers any more, and a second signal, which
    SLURM sends within half a second, would end the process with another exit code."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)


def _fail(line: str, code: int) -> NoReturn:
    print(line, file=sys.stderr)
    sys.exit(code)
