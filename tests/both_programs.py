"""Runs train_gpt2 (a program) and train_gpt2.py (in this process) with the same arguments."""

import contextlib
import io
import re
import subprocess

from program import BINARY, ROOT

import train_gpt2

ODD_NUMBERS = [
    *"0 -0 +5 5. .5 . 1e3 1E3 1e+3 1e 1e-400 1e999 -1e999 inf -inf Infinity nan NaN 0x10 0b1 1_000 1,000".split(),
    *"1.0 -1 -1.0 ++1 +-1 - + 1- 12abc 0.1 1e15 1e16 123456789012345678 0.30000000000000004 5e-324 1e-5 0.0001".split(),
    *[str(n + d) for n in (2**31, 2**53, 2**60, 2**63, 2**64) for d in (-1, 0, 1)],
    *[str(-(2**63) + d) for d in (-1, 0, 1)],
    *["", " ", " 1", "1 ", "1\n", "١", "1" * 5000, "0" * 30 + "7", "true"],
]


def without_name(text):
    """Notes may stand before the line that begins with the program's name."""
    return re.sub(rf"^(train_gpt2\.py|{re.escape(BINARY.name)}): ", "", text, flags=re.MULTILINE)


def twin(arguments):
    """(exit code, what is printed, the message without the program's name) of train_gpt2.py."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = train_gpt2.main(arguments)
        except SystemExit as end:
            code = end.code
    message = re.sub(r"train_gpt2\.py (sample|eval|info)", r"train_gpt2 \1", without_name(error.getvalue()))
    return code, out.getvalue(), message.rstrip("\n")


def original(arguments):
    """The same for the C++ program."""
    done = subprocess.run([BINARY, *arguments], cwd=ROOT, capture_output=True, timeout=30)
    message = without_name(done.stderr.decode(errors="replace"))
    return done.returncode, done.stdout.decode(errors="replace"), message.rstrip("\n")


def both(*arguments, same_message=True):
    """Checks that both programs accept or refuse, with the same message. Returns it."""
    words = [str(word) for word in arguments]
    (code, printed, message), theirs = original(words), twin(words)
    assert theirs[0] == code, f"{words}: {code} {message!r}, train_gpt2.py {theirs[0]} {theirs[2]!r}"
    assert code in (0, 2), message
    if code == 0:
        assert theirs[1] == printed
        return printed
    assert not same_message or theirs[2] == message
    return message


def print_config(*arguments):
    return both("--print-config", *arguments)
