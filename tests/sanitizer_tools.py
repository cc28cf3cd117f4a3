"""Python with an emulated module that was built with a sanitizer."""

import fcntl
import functools
import os
import subprocess
import sys

from program import ROOT


@functools.cache
def make(*arguments):
    """What make prints. Once for the same arguments: the sources do not change while the tests run."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")}  # of `make test`
    with open(ROOT / "build" / "lock", "w") as lock:  # two test files of two workers use the same objects
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(["make", "-j2", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout.strip()


def runtime(name):
    return subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()


def run_python(kind, module, *arguments, emulator=""):
    """Python with an emulated module of that kind (emu, asan, tsan); returns (exit code, everything printed)."""
    environment = dict(os.environ, LLMC_EMULATED_MODULE=str(module), LLMC_EMULATOR=emulator)
    if kind != "emu":  # Python itself is not instrumented: the sanitizer's runtime must be loaded first
        environment |= {
            "LD_PRELOAD": f"{runtime(f'lib{kind}.so')}:{runtime('libstdc++.so')}",
            "ASAN_OPTIONS": "detect_leaks=0",
            "UBSAN_OPTIONS": "print_stacktrace=1",
            "TSAN_OPTIONS": "ignore_noninstrumented_modules=1 exitcode=66",
        }
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr
