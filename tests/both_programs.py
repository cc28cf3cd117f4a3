"""Runs train_gpt2 (a program) and train_gpt2.py (in this process) with the same arguments."""

import contextlib
import io
import subprocess

from program import BINARY, ROOT

import train_gpt2


def twin(arguments):
    """(exit code, what is printed, the message without the program's name) of train_gpt2.py."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = train_gpt2.main(arguments)
        except SystemExit as end:
            code = end.code
    message = error.getvalue().removeprefix("train_gpt2.py: ").replace("train_gpt2.py sample", "train_gpt2 sample")
    return code, out.getvalue(), message.rstrip("\n")


def original(arguments):
    """The same for the C++ program."""
    done = subprocess.run([BINARY, *arguments], cwd=ROOT, capture_output=True, timeout=30)
    message = done.stderr.decode(errors="replace").removeprefix(f"{BINARY.name}: ")
    return done.returncode, done.stdout.decode(errors="replace"), message.rstrip("\n")
