"""Errors and exit codes of the data scripts: 0 done, 2 wrong usage, 3 data unusable, 130/143 stopped by a signal."""

from __future__ import annotations

import signal
import sys


class DataError(Exception):
    """Data that cannot be had or used. The message names the thing, its value, and what to do."""


def run(main) -> None:
    """Runs a script's main and turns what goes wrong into one line on stderr and an exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as an exception, so that temporary files are removed
    try:
        main()
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(3)
    except OSError as error:
        print(f"error: {error.strerror or error}: {error.filename or 'while writing'}", file=sys.stderr)
        sys.exit(3)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
