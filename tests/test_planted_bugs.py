"""Tests of the emulator and the sanitizers: each bug that is planted into a copy of the kernels must be reported."""

import os
import re
import subprocess
import sysconfig

import pytest
from planted_bugs import BUGS, EMULATOR, PREAMBLE, PROBES
from program import ROOT
from sanitizer_tools import make, run_python

import llmc

pytestmark = pytest.mark.skipif("emulated" not in llmc.backends(), reason="not built: run make module-emu")
OTHER_PROGRAMS = ("faults", "counting")  # of tests/cuda

# The source whose kernels a probe calls: only this one is compiled again with the bug, and linked before the others,
# so that its copies of inline functions are taken.
CALLED = {
    "matmul": "matmul_forward",
    "weight gradient": "matmul_backward",
    "wgmma": "matmul_forward",
    "wgmma, gradients": "matmul_backward",
    "attention": "attention_forward",
    "attention on wgmma": "attention_forward",
    "attention backward": "attention_backward",
    "attention backward on wgmma": "attention_backward",
    "gelu": "gelu",
    "classifier": "classifier",
    "column_sums": "column_sums",
    "embedding": "embedding",
    "layernorm": "layernorm",
}


def called(probe):
    """The source of a probe, or of the one that its name begins with."""
    if probe == "conformance":
        return ROOT / "tests/cuda/conformance.cu"
    names = [name for name in CALLED if probe == name or probe.startswith(name + ", ")]
    return ROOT / f"llmc/cuda/{CALLED[max(names, key=len)]}.cu"


def compile_with(bug, folder, compiler, flags):
    """The object of the source that the probe calls, with one text replaced: {name: object}."""
    kind, path, old, new, what = bug[:5]
    text = (ROOT / path).read_text()
    assert text.count(old) == 1, f"{path} has changed: update the planted bug\n{old}"
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_text(text.replace(old, new))
    name = called(what).relative_to(ROOT)
    assert path in (ROOT / "build" / kind / name).with_suffix(".d").read_text().split(), f"{name} does not use {path}"
    changed, result = folder / name if str(name) == path else called(what), folder / f"{name.stem}.o"
    command = [
        compiler,
        f"-I{folder}",
        *make("print-EMU_FLAGS").split(),
        *flags,
        "-x",
        "c++",
        "-c",
        changed,
        "-o",
        result,
    ]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name.with_suffix(""): result}


def build_with(bug, folder):
    """The emulated module, or the conformance program, with the bug; all other objects come from build/."""
    kind, what = bug[0], bug[4]
    make(f"module-{kind}", f"build/{kind}/conformance")
    flags = {
        "emu": ["-O1"],
        "asan": ["-O1", "-g1", "-gdwarf-4", *make("print-ASAN").split()],
        "tsan": ["-O1", "-g1", "-gdwarf-4", "-fsanitize=thread"],
    }[kind]
    compiler = make("print-CXX")
    objects = compile_with(bug, folder, compiler, flags)
    for path in (ROOT / "build" / kind).rglob("*.o"):
        if has_source(path, kind):
            objects.setdefault(path.relative_to(ROOT / "build" / kind).with_suffix(""), path)
    if what == "conformance":
        result, others = folder / "conformance", make("print-COMMON_OBJECTS").split()
        objects = {name: o for name, o in objects.items() if name.name not in OTHER_PROGRAMS}
    else:
        result = folder / f"_emu{sysconfig.get_config_var('EXT_SUFFIX')}"
        others = ["-shared", f"{make('print-PY_BUILD')}/bindings_emu.o", *make("print-BINDING_OBJECTS").split()]
        objects = {name: o for name, o in objects.items() if name.parts[0] != "tests"}
    command = [compiler, *make("print-FLAGS").split(), *flags, *objects.values(), *others, "-o", result]
    done = subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return result


def has_source(path, kind):
    """Whether an object's source still exists: build/ keeps the objects of files that were renamed."""
    name = ROOT / path.relative_to(ROOT / "build" / kind)
    return any(name.with_suffix(suffix).exists() for suffix in (".cu", ".cpp"))


def probe(bug, module):
    kind, *_, what, dtype, _ = bug
    if what == "conformance":
        code, output = 0, ""
        for seed in range(1, 5):  # an order of the copies in which the bug shows
            environment = dict(os.environ, LLMC_EMULATOR=f"shuffle=1 seed={seed}")
            done = subprocess.run([module], env=environment, capture_output=True, text=True)
            code, output = code or done.returncode, output + done.stdout + done.stderr
            if re.search(bug[-1], output):
                break
        return code, output
    program = PREAMBLE + PROBES[what].replace("DTYPE", repr(dtype))
    # ThreadSanitizer shows a race between blocks only if they run at the same time: not always on a busy machine.
    for seed in range(1, 13):
        emulator = f"{EMULATOR} shuffle=1 seed={seed}" if what.endswith("shuffled") else EMULATOR
        code, output = run_python(kind, module, "-c", program, emulator=emulator)
        if re.search(bug[-1], output):
            break
    return code, output


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_found(name, tmp_path):
    bug = BUGS[name]
    code, output = probe(bug, build_with(bug, tmp_path))
    assert re.search(bug[-1], output), f"not found: exit {code}\n{output[:4000]}"
    assert code != 0 or "wrong result" in output


@pytest.mark.parametrize("kind", ["emu", "asan", "tsan"])
def test_without_a_bug_nothing_is_found(kind):
    """The same calls on the unchanged kernels."""
    make(f"module-{kind}", f"build/{kind}/conformance")
    module = next((ROOT / "python" / "llmc").glob("_emu*.so")) if kind == "emu" else ROOT / "build" / kind / "_emu.so"
    environment = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    for seed in range(4):
        environment["LLMC_EMULATOR"] = f"shuffle={seed} seed={seed}"
        program = [ROOT / "build" / kind / "conformance"]
        done = subprocess.run(program, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout.count("ok  ") == 31, done.stdout + done.stderr
    calls = sorted({bug[4:6] for bug in BUGS.values() if bug[4] != "conformance"})
    program = PREAMBLE  # one process for all: it takes seconds to start with a sanitizer
    for what, dtype in calls:
        program += f"\nemulated.choose_matmul_kernel('mma')\nprint({f'{what}, {dtype}'!r}, end=': ')"
        program += PROBES[what].replace("DTYPE", repr(dtype))
    code, output = run_python(kind, module, "-c", program, emulator=EMULATOR)
    expected = [f"{what}, {dtype}: same result" for what, dtype in calls]
    assert code == 0 and output.splitlines() == expected, f"exit {code}\n{output[:4000]}"
