"""Four processes, and two hosts with a slow link: each failure many times; memory and time of the exchange by their
models."""

import os
import random
import re
import signal
import socket
import subprocess
import time

import network
import numpy as np
import pytest
import ranks
from data_tools import SHARED
from program import BINARY, checkpoints, log, losses
from program import run as run_program
from test_ranks import same_run, train_until, val_losses

from llmc.bench.programs import write_random_shard
from llmc.data import tinyshakespeare

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.environ.get("LLMC_TEST_BACKEND", "cpu") != "cpu", reason="for the CPU's program"),
]
TIMES = int(os.environ.get("LLMC_FAILURES", "20"))  # of each failure
HERE = socket.gethostname()
FOUR = [*ranks.SMALL, "--batch-size", 1]
WITHIN = 30.0  # seconds until all processes have ended


def ended(processes, expect=1, line=None, killed=(), within=WITHIN):
    """All end in time, with one line that names rank, host and reason."""
    begin = time.monotonic()
    results = ranks.finish(processes, timeout=within)
    took = time.monotonic() - begin
    assert took < within
    for rank, (status, _, err) in enumerate(results):
        if rank in killed:
            continue
        assert status == expect, (rank, results)
        said = [one for one in err.splitlines() if one.startswith("train_gpt2: ")]
        assert len(said) == 1 and (line is None or re.search(line, said[0])), (rank, results)
    return took


@pytest.mark.parametrize("zero", [0, 1])
@pytest.mark.parametrize("launcher", ranks.LAUNCHERS)
def test_four_ranks_are_one(data, tmp_path, launcher, zero):
    run_program(*data, *FOUR, "--out", tmp_path / "one")
    ranks.run(launcher, 4, *data, *FOUR, "--zero-stage", zero, "--out", tmp_path / "four")
    same_run(tmp_path / "one", tmp_path / "four")


def largest_difference(one, other):
    return np.max(np.abs(np.array(other) / np.array(one) - 1))


def test_ranks_against_losses(tmp_path):
    """The table of doc/distributed.md: 100 steps of a muP model, the largest relative differences to one process."""
    source = SHARED / "tinyshakespeare.txt"
    if not source.exists():
        pytest.skip("../shared/data/tinyshakespeare.txt is not there")
    tinyshakespeare.main(["--file", str(source), "--out", str(tmp_path / "data"), "--tokenizer", "byte"])
    common = ["--train-data", tmp_path / "data/tinyshakespeare_train_*.bin", "--overwrite", "--out", tmp_path / "run"]
    common += ["--val-data", tmp_path / "data/tinyshakespeare_val_*.bin", "--eval-tokens", 8192, "--eval-every", 100]
    common += ["--depth", 4, "--width", 128, "--heads", 4, "--seq-len", 64, "--parametrization", "mup"]
    common += ["--base-width", 64, "--steps", 100, "--lr", 1e-3, "--total-batch-size", 1024, "--threads", 1]

    def results(out):
        return losses(out), val_losses(out), [event["grad_norm"] for event in log(out, "train")]

    run_program(*common, "--batch-size", 4)
    one = results(tmp_path / "run")
    print(f"\none process: last loss {one[0][-1]:.8f}")
    plans = [(2, launcher, 0) for launcher in ("openmpi", "mpich", "torchrun")]
    for count, launcher, zero in [*plans, (2, "mpich", 1), (4, "openmpi", 0), (4, "mpich", 1)]:
        ranks.run(launcher, count, *common, "--batch-size", 4, "--zero-stage", zero, timeout=300)
        several = results(tmp_path / "run")
        loss, val, norm = (largest_difference(a, b) for a, b in zip(one, several, strict=True))
        print(f"{count} ranks, {launcher}, stage {zero}: loss {loss:.1e}, validation {val:.1e}, norm {norm:.1e}, "
              f"last loss {several[0][-1]:.8f}")  # fmt: skip
        assert len(several[0]) == 100 and loss < 1e-5 and val < 1e-5


def test_killed_again_and_again(data, tmp_path):
    """Any rank, at any time; the run goes on from its last checkpoint each time. At the end it is the run that was not
    disturbed."""
    common = [*data, *FOUR, "--schedule", "constant", "--eval-every", 0, "--checkpoint-every", 2, "--keep", 3]
    out, chance = tmp_path / "out", random.Random(1)
    step = 0
    for _ in range(TIMES):
        again = ["--resume"] if step else []
        processes = ranks.start("options", 4, *common, "--steps", 100000, "--zero-stage", 1, "--out", out, *again)
        train_until(out, step + 3)
        time.sleep(chance.uniform(0, 0.1))
        victim = chance.randrange(4)
        processes[victim].kill()
        ended(processes, line=f"rank {victim} on {HERE}: ended without a word", killed=[victim])
        step = int(checkpoints(out)[-1].name.removeprefix("step_"))
    ranks.run("options", 4, *common, "--steps", step + 1, "--resume", "--out", out)
    run_program(*common, "--steps", step + 1, "--out", tmp_path / "one")
    assert losses(out) == pytest.approx(losses(tmp_path / "one"), rel=1e-4)  # 100 steps and more, not 6


@pytest.mark.parametrize("launcher", ["openmpi", "mpich", "torchrun"])
def test_killed_under_a_launcher(data, tmp_path, launcher):
    """All are gone in time; the launcher may end them before they write a line."""
    common = [*data, *FOUR, "--eval-every", 0, "--checkpoint-every", 2, "--keep", 2, "--out", tmp_path]
    chance, step = random.Random(2), 0
    for _ in range(TIMES):
        processes = ranks.start(launcher, 4, *common, "--steps", 100000, *(["--resume"] if step else []))
        train_until(tmp_path, step + 3)
        pids = ranks.children(processes[0].pid)
        assert len(pids) == 4
        os.kill(chance.choice(pids), signal.SIGKILL)
        ((status, _, _),) = ranks.finish(processes, timeout=WITHIN)
        assert status != 0
        deadline = time.monotonic() + WITHIN
        while any(os.path.exists(f"/proc/{pid}/exe") for pid in pids):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        step = int(checkpoints(tmp_path)[-1].name.removeprefix("step_"))
    assert [e["step"] for e in log(tmp_path, "train")][:step] == list(range(1, step + 1))


def test_no_sign_of_life(data, tmp_path):
    """A process that is stopped, as on a host that hangs."""
    chance = random.Random(3)
    for i in range(TIMES):
        out = tmp_path / str(i)
        common = [*data, *FOUR, "--steps", 100000, "--checkpoint-every", 2, "--rank-timeout", 3, "--out", out]
        processes = ranks.start("options", 4, *common)
        train_until(out, 3)
        victim = chance.randrange(4)
        processes[victim].send_signal(signal.SIGSTOP)
        others = [p for rank, p in enumerate(processes) if rank != victim]
        try:
            ended(others, line=f"rank {victim} on {HERE}: gave no sign of life for 3 s")
        finally:
            processes[victim].kill()
            processes[victim].communicate()
        assert checkpoints(out)


def four(arguments, other, change, environments=None):
    """Four ranks; the command line of one is changed."""
    commands = ranks.commands("options", 4, *arguments)
    commands[other] = change(commands[other])
    return [
        subprocess.Popen(
            command, env=ranks.ENVIRONMENT | (environments or {}).get(rank, {}), text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for rank, command in enumerate(commands)
        if command
    ]  # fmt: skip


def with_option(name, value):
    return lambda command: [*command[: command.index(name) + 1], value, *command[command.index(name) + 2 :]]


@pytest.fixture(scope="module")
def other_build(tmp_path_factory):
    """The program with another commit in it."""
    source = (ranks.ROOT / "build/version.cpp").read_text()
    commit = re.search(r'kGitCommit = "([^"]+)"', source).group(1).encode()
    path = tmp_path_factory.mktemp("other") / "train_gpt2"
    path.write_bytes(BINARY.read_bytes().replace(commit, commit[::-1]))
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize("what", ["option", "data", "build", "missing file", "token", "never comes"])
def test_ranks_that_do_not_fit(data, tmp_path, what, other_build):
    ranks.need("options")
    chance = random.Random(4)
    train = str(data[data.index("--train-data") + 1])
    nothing = str(tmp_path / "nothing.bin")
    cases = {
        "option": (with_option("--lr", "0.01"), 2, "rank {} on {}: has --lr 0.01, not 0.003"),
        "data": (with_option("--val-data", train), 2, "rank {} on {}: has other validation data"),
        "build": (lambda command: [other_build, *command[1:]], 1, "rank {} on {} is another build"),
        "missing file": (with_option("--val-data", nothing), 3, "rank {} on {}: .*nothing.bin"),
        "token": (lambda command: command, 1, "rank {} of 4 did not come to {}.*the job's token that were refused: 1$"),
        "never comes": (lambda command: [], 1, "rank {} of 4 did not come to {}"),
    }
    change, expect, line = cases[what]
    for i in range(TIMES):
        other = chance.randrange(1, 4)
        common = [*data, *FOUR, "--out", tmp_path / str(i), "--rank-timeout", 4]
        environments = {other: {"LLMC_JOB_TOKEN": "that"}} if what == "token" else {}
        processes = four(common, other, change, environments)
        alone = [other] if what == "token" else []  # says that it does not have the token
        ended(processes, expect, line.format(other, re.escape(HERE)), killed=alone)
        assert not (tmp_path / str(i)).exists()


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_memory(shard, tmp_path, dtype):
    """Peak memory of a rank with and without its part of the state: as much less as --dry-run says."""
    sizes = ["--depth", 6, "--width", 512, "--heads", 8, "--seq-len", 64, "--batch-size", 1, "--threads", 1]
    common = ["--train-data", shard, *sizes, "--steps", 3, "--eval-every", 0, "--dtype", dtype, "--overwrite"]
    peak, state = {}, {}
    for stage in (0, 1):
        plan, _ = run_program(*common, "--zero-stage", stage, "--dry-run", "--world-size", 2)
        value, unit = plan.split("optimizer ")[1].split(",")[0].split()
        assert unit == "MiB"
        state[stage] = float(value)
        processes = ranks.start("options", 2, *common, "--zero-stage", stage, "--out", tmp_path / str(stage))
        peaks = []
        for process in processes:
            _, status, usage = os.wait4(process.pid, 0)
            assert status == 0, process.stderr.read()
            process.returncode = 0
            peaks.append(usage.ru_maxrss / 1024)
        peak[stage] = min(peaks)  # others may hold a page more of the libraries
    assert state[1] == pytest.approx(state[0] / 2, rel=0.01)
    assert peak[0] - peak[1] == pytest.approx(state[0] - state[1], rel=0.1)


# --- Two hosts ---


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    path = tmp_path_factory.mktemp("shard") / "257.bin"
    write_random_shard(path, 257, 500_000)
    return path


def plan(shard, out, *more):
    """A model whose exchange takes longer than its steps compute."""
    sizes = ["--depth", 4, "--width", 128, "--heads", 4, "--seq-len", 32, "--batch-size", 1, "--threads", 1]
    return ["--train-data", shard, *sizes, "--steps", 6, "--eval-every", 0, "--out", out, "--profile", *more]


@pytest.mark.parametrize(("rate", "megabytes_per_second"), [("100mbit", 12.5), ("400mbit", 50)])
def test_time_of_the_exchange(shard, tmp_path, rate, megabytes_per_second):
    """Two ranks: each sends as many bytes as the gradients have (doc/distributed.md)."""
    with network.two_hosts(rate):
        for status, out, err in ranks.finish(network.start(*plan(shard, tmp_path)), timeout=120):
            assert status == 0, out + err
    exchange = next(e for e in log(tmp_path, "profile"))["exchange"]
    expected = exchange["bytes"] / megabytes_per_second / 1e3  # ms
    assert exchange["ms"] > 0.95 * expected  # the opposite would be an assertion on this machine's speed
    print(f"{rate}: {exchange['bytes'] / 1e6:.2f} MB in {exchange['ms']:.0f} ms, by the model {expected:.0f} ms")


def test_a_link_that_is_cut(data, tmp_path):
    chance = random.Random(5)
    with network.two_hosts():
        for i in range(TIMES):
            out = tmp_path / str(i)
            common = [*data, *ranks.SMALL, "--steps", 100000, "--checkpoint-every", 2, "--rank-timeout", 4]
            processes = network.start(*common, "--out", out)
            train_until(out, 3)
            time.sleep(chance.uniform(0, 0.1))
            network.ip("-n llmc-a link set veth-a down")
            ended(processes, line=r"rank [01] on host-[ab]: (gave no sign of life for 4 s|ended without a word)")
            assert checkpoints(out)
            network.ip("-n llmc-a link set veth-a up")
            network.wait_until_up()
