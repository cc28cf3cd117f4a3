"""Several processes train one model: the same losses as one process, by every launcher; checkpoints that know no ranks;
what happens if a process fails."""

import os
import socket
import subprocess
import time

import numpy as np
import pytest
import ranks
from measures import relative_error
from program import TINY, checkpoints, log, losses, tensors
from program import run as run_program

pytestmark = pytest.mark.skipif(os.environ.get("LLMC_TEST_BACKEND", "cpu") != "cpu", reason="for the CPU's program")

COMMON = ranks.SMALL


@pytest.fixture(scope="module")
def one(data, tmp_path_factory):
    """A run of one process."""
    out = tmp_path_factory.mktemp("one")
    run_program(*data, *COMMON, "--out", out)
    return out


def val_losses(out):
    return [e["val_loss"] for e in log(out, "eval")]


def same_run(one, other):
    """Two runs with other numbers of ranks: sums in another order."""
    assert losses(other) == pytest.approx(losses(one), rel=1e-5)
    assert val_losses(other) == pytest.approx(val_losses(one), rel=1e-5)
    for key in ("grad_norm", "lr", "tokens"):
        expected = [e[key] for e in log(one, "train")]
        assert [e[key] for e in log(other, "train")] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("launcher", ranks.LAUNCHERS)
def test_two_ranks_are_one(data, tmp_path, one, launcher):
    zero = 1 if launcher in ("mpich", "torchrun") else 0
    text = ranks.run(launcher, 2, *data, *COMMON, "--zero-stage", zero, "--out", tmp_path)
    assert "2 processes on 1 host" in text and ("part of the optimizer's state" in text) == bool(zero)
    same_run(one, tmp_path)
    then, now = tensors(checkpoints(one)[-1]), tensors(checkpoints(tmp_path)[-1])
    assert list(then) == list(now)
    for name, value in then.items():
        if not name.startswith("m."):  # AdamW's first moment near 0 has no digits in common
            assert relative_error(now[name], value) < 1e-3, name


def test_same_ranks_same_bits_and_zero_1_is_zero_0(data, tmp_path):
    outs = [tmp_path / name for name in ("a", "b", "zero")]
    for out, zero in zip(outs, (0, 0, 1), strict=True):
        ranks.run("openmpi", 2, *data, *COMMON, "--dtype", "bf16", "--rounding", "stochastic", "--zero-stage", zero,
                  "--out", out, env={"LLMC_EXCHANGED_BYTES": "20000"})  # fmt: skip
    a, b, zero = (tensors(checkpoints(out)[-1]) for out in outs)
    assert losses(outs[0]) == losses(outs[1])
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert losses(outs[2]) == pytest.approx(losses(outs[0]), rel=1e-6)
    for name in a:  # two terms have one sum
        assert relative_error(zero[name], a[name]) < 1e-6, name


def test_checkpoints_know_no_ranks(data, tmp_path, one):
    """2 ranks with parts of the state, then 1, then 4 with all of it."""
    whole = tmp_path / "whole"
    run_program(*data, *COMMON, "--schedule", "constant", "--out", whole)
    part = tmp_path / "part"
    constant = [*data, *COMMON, "--schedule", "constant", "--out", part]
    ranks.run("mpich", 2, *constant, "--steps", 2, "--zero-stage", 1)
    run_program(*constant, "--steps", 4, "--resume")
    ranks.run("openmpi", 4, *constant, "--steps", 6, "--batch-size", 1, "--resume")
    assert losses(part) == pytest.approx(losses(whole), rel=1e-5)


def sockets(pid):
    """The inodes of a process's sockets."""
    found = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.add(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return found


def listening(own):
    """The addresses, as the kernel writes them, at which these sockets wait for connections."""
    found = set()
    for table in ("tcp", "tcp6"):
        with open(f"/proc/net/{table}") as file:
            rows = [line.split() for line in file.read().splitlines()[1:]]
        found |= {words[1].split(":")[0] for words in rows if words[3] == "0A" and f"socket:[{words[9]}]" in own}
    return found


@pytest.mark.parametrize("launcher", ranks.LAUNCHERS)
def test_processes_of_one_host_open_no_ports_to_others(data, tmp_path, launcher):
    processes = ranks.start(launcher, 2, *data, *COMMON, "--steps", 100000, "--out", tmp_path)
    train_until(tmp_path, 2)
    pids = [p.pid for p in processes] if launcher == "options" else ranks.children(processes[0].pid)
    own = set().union(*map(sockets, pids))
    if launcher != "options":
        own -= sockets(processes[0].pid)  # MPICH's mpirun leaves its own open in them
    found = listening(own)
    for process in processes:
        process.terminate()
    ranks.finish(processes)
    assert len(pids) == 2 and found <= {"0100007F", "00000000000000000000000001000000"}, found


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("streams", ["early", "late"])
def test_the_cuda_path(data, tmp_path, one, streams, zero):
    """The emulated GPU, with work on its second stream done as early and as late as CUDA may do it: a wait that is
    missing gives other numbers."""
    common = [*data, *COMMON, "--steps", 3, "--eval-every", 0, "--eval-tokens", 320, "--vocab-size", 300]
    whole = tmp_path / "whole"
    run_program(*common, "--out", whole)
    out = tmp_path / "out"
    binary = ranks.ROOT / "train_gpt2emu"
    environment = {"LLMC_EMULATOR": f"streams={streams}", "LLMC_EXCHANGED_BYTES": "20000"}  # several ranges
    ranks.run("mpich", 2, *common, "--zero-stage", zero, "--out", out, env=environment, binary=binary)
    assert losses(out) == pytest.approx(losses(whole), rel=1e-5)
    assert [e["grad_norm"] for e in log(out, "train")] == pytest.approx(
        [e["grad_norm"] for e in log(whole, "train")], rel=1e-4
    )


def test_two_ranks_on_one_gpu(data, tmp_path):
    environment = {"LLMC_EMULATOR": "uuid=GPU-1"}
    binary = ranks.ROOT / "train_gpt2emu"
    text = ranks.run("options", 2, *data, *COMMON, "--out", tmp_path, env=environment, binary=binary, expect=1)
    assert f"ranks 0 and 1 are on one GPU of {socket.gethostname()}: start as many processes" in text


def failed(processes, *, expect=1, within=30.0):
    """Waits for the end of all; what they wrote on stderr."""
    begin = time.monotonic()
    results = ranks.finish(processes, timeout=within)
    assert time.monotonic() - begin < within
    assert all(status == expect for status, _, _ in results), results
    return [err for _, _, err in results]


def train_until(out, step, seconds=30):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if (out / "log.jsonl").exists() and any(e["step"] >= step for e in log(out, "train")):
            return
        time.sleep(0.05)
    raise AssertionError(f"no step {step} after {seconds} s")


def test_a_killed_rank_ends_all(data, tmp_path):
    many = [*data, *COMMON, "--steps", 100000, "--checkpoint-every", 5, "--out", tmp_path]
    processes = ranks.start("options", 2, *many)
    train_until(tmp_path, 12)
    processes[1].kill()
    begin = time.monotonic()
    _, err = processes[0].communicate(timeout=30)
    assert time.monotonic() - begin < 30
    assert processes[0].returncode == 1
    assert f"rank 1 on {socket.gethostname()}: ended without a word" in err, err
    processes[1].communicate()
    resumed_at = int(checkpoints(tmp_path)[-1].name.removeprefix("step_"))
    assert resumed_at >= 10
    ranks.run("options", 2, *many, "--resume", "--steps", resumed_at + 2)
    assert [e["step"] for e in log(tmp_path, "train")] == list(range(1, resumed_at + 3))


def test_a_rank_that_never_comes(data, tmp_path):
    command, _ = ranks.commands("options", 2, *data, *COMMON, "--out", tmp_path / "out", "--rank-timeout", 2)
    ranks.need("options")
    _, err = run_program(program=command, expect=1)
    assert "rank 1 of 2 did not come" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("what", ["option", "data", "token", "missing file"])
def test_ranks_that_do_not_fit(data, tmp_path, what):
    ranks.need("options")
    common = [*data, *COMMON, "--out", tmp_path / "out", "--rank-timeout", 6]
    first, second = ranks.commands("options", 2, *common)
    environments = [ranks.ENVIRONMENT, ranks.ENVIRONMENT]
    if what == "option":
        second[second.index("--lr") + 1] = "0.01"
        expect, text = 2, "has --lr 0.01, not 0.003 (as rank 0 on "
    elif what == "data":
        second[second.index("--val-data") + 1] = second[second.index("--train-data") + 1]
        expect, text = 2, "has other validation data"
    elif what == "missing file":
        second[second.index("--val-data") + 1] = str(tmp_path / "nothing_*.bin")
        expect, text = 3, "nothing_*.bin"
    else:
        environments = [ranks.ENVIRONMENT | {"LLMC_JOB_TOKEN": token} for token in ("this", "that")]
        expect, text = 1, ""
    processes = [
        subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command, env in zip((first, second), environments, strict=True)
    ]
    errors = failed(processes, expect=expect)
    if what == "token":
        assert "rank 1 of 2 did not come" in errors[0] and "LLMC_JOB_TOKEN" in errors[1]
    else:
        for err in errors:
            assert f"rank 1 on {socket.gethostname()}: " in err and text in err, errors
    assert not (tmp_path / "out").exists()


def test_the_plan_of_several_processes(data):
    plan = [*data, *TINY, "--total-batch-size", 320, "--dry-run", "--world-size", 4, "--batch-size", 1]
    plan += ["--depth", 8, "--width", 240]
    state = {}
    for stage in (0, 1):
        text, _ = run_program(*plan, "--zero-stage", stage)
        assert "(2 x 1 x 40 x 4 processes)" in text
        value, unit = text.split("optimizer ")[1].split(",")[0].split()
        state[stage] = float(value) * {"KiB": 1, "MiB": 1024}[unit]
    assert state[1] == pytest.approx(state[0] / 4, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "environment", "text"),
    [
        (["--world-size", 2], {}, "--world-size 2 needs --rank"),
        (["--rank", 2, "--world-size", 2], {}, "--rank 2 is not below --world-size 2"),
        (["--rank", 0, "--world-size", 2], {}, "needs --master HOST:PORT"),
        (["--rank", 0, "--world-size", 2, "--master", "here"], {}, "--master here: give the host and a free port"),
        ([], {"RANK": "x", "WORLD_SIZE": "2"}, "the variable RANK is 'x'"),
        ([], {"RANK": "0", "WORLD_SIZE": "2"}, "not MASTER_ADDR"),
    ],
)
def test_bad_places(data, arguments, environment, text):
    _, err = run_program(*data, *COMMON, *arguments, expect=2, env=os.environ | environment)
    assert text in err
