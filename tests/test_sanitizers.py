"""The emulated kernels under AddressSanitizer (with UndefinedBehaviorSanitizer) and ThreadSanitizer.

`make test` runs the ops once under each sanitizer; `make test-sanitizers` (LLMC_SANITIZE_ALL=1) runs every op test,
under several schedules of the CUDA threads.
"""

import os

import pytest
from program import ROOT
from sanitizer_tools import make, run_python

import llmc

pytestmark = pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
ALL = os.environ.get("LLMC_SANITIZE_ALL") == "1"
SCHEDULES = ["", "shuffle=1 seed=1 workers=1", "shuffle=1 seed=2"] if ALL else ["shuffle=1 seed=1"]
# Reduced: one call of every op, all head sizes, and what the ops refuse.
SELECTION = "emulated" if ALL else "emulated and (same_bits_twice or test_attention or wrong_shapes)"


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["asan", "tsan"])
def test_op_tests_are_clean(kind, schedule):
    make(f"module-{kind}")
    tests = sorted(str(path) for path in (ROOT / "tests").glob("test_op*.py"))
    command = ["-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *tests, "-k", SELECTION]
    code, output = run_python(kind, ROOT / "build" / kind / "_emu.so", *command, emulator=schedule)
    assert code == 0 and " passed" in output, output[:6000]
    assert "WARNING: ThreadSanitizer" not in output and "ERROR: AddressSanitizer" not in output, output[:6000]
