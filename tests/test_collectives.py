"""The collectives of several processes, element by element: of the CPU by both MPIs, and of GPUs, emulated, with work
on the second stream as early and as late as CUDA may do it. The same with bugs planted, and under ThreadSanitizer."""

import os
import subprocess
from pathlib import Path

import pytest
import ranks
from program import ROOT, make_variable

pytestmark = pytest.mark.skipif(os.environ.get("LLMC_TEST_BACKEND", "cpu") != "cpu", reason="for the CPU's program")

HOST, EMULATED = ROOT / "build/collectives", ROOT / "build/emu/collectives"
COMM = "llmc/comm/nccl_comm.cu"


def collectives(launcher, count, binary, expect=0, **environment):
    if not binary.exists():
        pytest.skip(f"not built: run make {binary.relative_to(ROOT)}")
    return ranks.run(launcher, count, env=environment, binary=binary, expect=expect)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("launcher", ["openmpi", "mpich"])
def test_of_the_cpu(launcher, count):
    assert f"collectives of {count} ranks by " in collectives(launcher, count, HOST)


@pytest.mark.parametrize("streams", ["early", "late"])
@pytest.mark.parametrize("count", [2, 3])
def test_of_gpus(count, streams):
    text = collectives("openmpi", count, EMULATED, LLMC_EMULATOR=f"streams={streams}")
    assert f"collectives of {count} ranks by emulated NCCL on Open MPI" in text


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "options"])
def test_of_four(launcher):
    assert "collectives of 4 ranks by MPICH" in collectives(launcher, 4, HOST)


WAIT = 'check(cudaStreamWaitEvent({}, 0), "cannot order communication");'
BUGS = [  # with these streams, so many ranks get a wrong element
    ("early", 2, WAIT.format("stream_, ready_"), ""),
    ("late", 2, WAIT.format("cuda::stream(), running.done") + "\n        waits_", "waits_"),
    ("late", 3, "size_t(parts[r].count), int(r), stream_", "size_t(parts[r].count), 0, stream_"),
    ("late", 3, "data.dtype, int(r), stream_", "data.dtype, 0, stream_"),
    ("late", 3, "parts[0].count * size() == data.numel() &&", "true ||"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("streams", "count", "old", "new"), BUGS)
def test_planted_bugs(tmp_path, streams, count, old, new):
    text = (ROOT / COMM).read_text()
    assert text.count(old) == 1, f"{COMM} has changed: update the planted bug"
    source, obj, binary = tmp_path / "nccl_comm.cu", tmp_path / "nccl_comm.o", tmp_path / "collectives"
    source.write_text(text.replace(old, new))
    compiler, flags = os.environ.get("CXX", "g++"), make_variable("EMU_FLAGS")
    subprocess.run([compiler, *flags, "-x", "c++", "-c", source, "-o", obj], cwd=ROOT, check=True)
    others = [*make_variable("COMMON_OBJECTS"), *make_variable("EMU_OBJECTS"), "build/tests/comm/collectives.o"]
    others = [name for name in others if Path(name).name != obj.name]
    command = [compiler, *make_variable("FLAGS"), obj, *others, "-o", binary, "-lpthread"]
    subprocess.run(command, cwd=ROOT, check=True)
    out = "".join(ranks.outputs("openmpi", count, env={"LLMC_EMULATOR": f"streams={streams}"}, binary=binary))
    assert "element" in out and ": right" not in out, out


RACE = ROOT / "build/race"
# MPI is not instrumented; UCX would catch the calls that ThreadSanitizer catches
SANITIZER = {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1 exitcode=66", "UCX_MEM_EVENTS": "no"}


def race_checked(program, launcher, *arguments):
    """What two processes print."""
    if not (RACE / program).exists():
        pytest.skip("not built: run make race")
    environment = SANITIZER | {"LLMC_EXCHANGED_BYTES": "20000"}  # several ranges
    return "".join(ranks.outputs(launcher, 2, *arguments, env=environment, binary=RACE / program, timeout=300))


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["openmpi", "mpich"])
def test_races_of_collectives(launcher):
    text = race_checked("collectives", launcher)
    assert "ThreadSanitizer" not in text and ": right" in text, text


@pytest.mark.slow
def test_a_race_is_found():
    assert "ThreadSanitizer: data race" in race_checked("collectives", "mpich", "--wait", 0)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("launcher", ["mpich", "options"])
def test_races_of_training(data, tmp_path, launcher, zero):
    """Between the thread that computes, that of MPI and that of the control connections."""
    common = [*data, *ranks.SMALL, "--zero-stage", zero, "--out", tmp_path / "out", "--checkpoint-every", 2]
    text = race_checked("train_gpt2", launcher, *common)
    assert "ThreadSanitizer" not in text and (tmp_path / "out/checkpoints/step_00000006").exists(), text
