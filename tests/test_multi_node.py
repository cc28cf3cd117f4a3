"""scripts/multi_node: one run on several hosts, by ssh (here a command that runs everything on this machine) and by
SLURM (make test-slow; measured with SLURM 22.05.8 of Debian)."""

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import ranks
from program import ROOT, checkpoints, last_wins, log, losses
from program import run as run_program
from test_ranks import same_run, train_until

pytestmark = pytest.mark.skipif(os.environ.get("LLMC_TEST_BACKEND", "cpu") != "cpu", reason="for the CPU's program")

SSH, SBATCH = ROOT / "scripts/multi_node/ssh.sh", ROOT / "scripts/multi_node/slurm.sbatch"
MANY = ["--steps", 1000000, "--eval-every", 0, "--checkpoint-every", 1000000]
# Notes what can be seen of it. A host named "broken" cannot be reached; "late" says a second later what ended.
FAKE_SSH = """#!/bin/sh
[ "$1" != broken ] || {{ echo "ssh: connect to host broken: no route" >&2; exit 255; }}
echo "$@" >>{folder}/commands
[ "$1" != late ] || {{ sh -c "$2"; code=$?; sleep 1; exit $code; }}
shift
exec sh -c "$1"
"""


@pytest.fixture
def fake_ssh(tmp_path):
    path = tmp_path / "fake_ssh"
    path.write_text(FAKE_SSH.format(folder=tmp_path))
    path.chmod(0o755)
    return {"LLMC_SSH": str(path)}


def start(environment, *words):
    return subprocess.Popen(
        list(map(str, [SSH, *words])), env=os.environ | environment, text=True, errors="replace",
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(process, timeout=60):
    """(exit code, stdout, stderr). Nothing that it started is left."""
    try:
        out, err = process.communicate(timeout=timeout)
        deadline = time.monotonic() + 10  # what was told to end may need a moment
        while (left := members(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, left
    finally:
        for pid in members(process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait()
    return process.returncode, out, err


def members(leader):
    """Pids of what runs in the same session of terminals as a process that began it."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[3]) == leader and fields[0] not in "ZX":
            found.append(int(entry.name))
    return found


@pytest.fixture
def two(data, tmp_path):
    """Hosts and arguments of a run of two ranks, and its folder."""
    ranks.need("options")
    out = tmp_path / "it's out"
    return out, lambda *more: ["127.0.0.1,localhost", "--", *last_wins([*data, *ranks.SMALL, *more, "--out", out])]


# ---- ssh


def test_two_hosts_are_one_process(data, tmp_path, fake_ssh, two):
    out, words = two
    status, text, err = finish(start(fake_ssh | {"OMP_NUM_THREADS": "1"}, *words("--zero-stage", 1)))
    assert status == 0, err
    assert "2 processes on 1 host" in text + err
    run_program(*data, *ranks.SMALL, "--out", tmp_path / "one")
    same_run(tmp_path / "one", out)
    commands = (tmp_path / "commands").read_text()
    assert "--world-size" in commands and "TOKEN" not in commands and not re.search("[0-9a-f]{32}", commands)


def test_slots_and_a_file_of_hosts(tmp_path, fake_ssh, two):
    out, words = two
    hosts = tmp_path / "hosts"
    hosts.write_text("# all\nroot@localhost  # the first\n")
    master = f"127.0.0.1:{ranks.free_port()}"
    options = ["--slots", 2, "--hosts-file", hosts, "--master", master]
    status, _, err = finish(start(fake_ssh, *options, *words()[1:]))
    assert status == 0, err
    assert len(losses(out)) == 6
    commands = (tmp_path / "commands").read_text().splitlines()
    assert len(commands) == 2 and all(c.startswith("root@localhost ") and master in c for c in commands)


@pytest.mark.parametrize("how", ["Ctrl-C", "SIGTERM", "SIGHUP", "SIGKILL"])
def test_stopped_it_saves_and_leaves_nothing(fake_ssh, two, how):
    out, words = two
    process = start(fake_ssh, *words(*MANY))
    train_until(out, 5)
    if how == "Ctrl-C":
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to all of the group
    else:
        process.send_signal(signal.Signals[how])
    begin = time.monotonic()
    while how == "SIGKILL" and members(process.pid) and time.monotonic() < begin + 30:
        time.sleep(0.1)
    status, _, err = finish(process)
    assert status == {"Ctrl-C": 130, "SIGKILL": -9}.get(how, 143), err
    assert "ssh.sh: rank" not in err
    assert [p.name for p in checkpoints(out)] == [f"step_{log(out, 'train')[-1]['step']:08d}"]
    assert log(out)[-1]["reason"] == "signal"


@pytest.mark.parametrize("host", ["localhost", "late"])
def test_a_killed_rank_ends_all(fake_ssh, two, host):
    """Rank 1 is named, also if rank 0 has ended before that is known."""
    out, words = two
    process = start(fake_ssh, f"127.0.0.1,{host}", *words(*MANY)[1:])
    train_until(out, 5)
    [victim] = [
        pid for pid in members(process.pid)
        if b"\0--rank\x001\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
        and Path(f"/proc/{pid}/comm").read_text().strip() == "train_gpt2"
    ]  # fmt: skip
    os.kill(victim, signal.SIGKILL)
    status, _, err = finish(process)
    assert status == 137, err
    assert f"ssh.sh: rank 1 on {host} ended with exit code 137: all end" in err
    assert "ended without a word" in err


def test_a_host_that_cannot_be_reached_ends_all(fake_ssh, two):
    out, words = two
    status, _, err = finish(start(fake_ssh, "127.0.0.1,broken", *words("--rank-timeout", 4)[1:]))
    assert status == 255, err
    assert "[1 broken] ssh: connect to host broken: no route" in err
    assert "rank 1 of 2 did not come" in err
    assert not out.exists()


def test_an_error_of_the_program_is_its_exit_code(fake_ssh, two):
    _, words = two
    status, _, err = finish(start(fake_ssh, *words("--lr", "fast")))
    assert status == 2, err
    assert "--lr" in err and re.search(r"^\[1 localhost\] train_gpt2: .*--lr", err, re.M)


@pytest.mark.parametrize(
    ("words", "environment", "message"),
    [
        (["a,b"], {}, "-- is missing"),
        (["--"], {}, "no hosts: give HOST1,HOST2,... or --hosts-file FILE"),
        (["a", "b", "--"], {}, "b is after a: separate hosts by commas"),
        (["--lr", "a", "--"], {}, "--lr is no option of this script: write those of the program after --"),
        (["--slots", "none", "a", "--"], {}, "--slots is 'none': give the number of processes of each host"),
        (["--slots", "--"], {}, "--slots needs a value"),
        (["--hosts-file", "nothing", "--"], {}, "--hosts-file nothing: cannot be read"),
        (["--hosts-file", "nothing", "a", "--"], {}, "a and --hosts-file nothing: give one of them"),
        (["--hosts-file", "/dev/null", "--"], {}, "/dev/null names no host"),
        (["a,-oProxyCommand=x", "--"], {}, "the host '-oProxyCommand=x' is no name that ssh takes"),
        (["a;b", "--"], {}, "the host 'a;b' is no name that ssh takes"),
        (["a", "--", "--rank=1"], {}, "--rank=1: this script gives --rank itself"),
        (["a", "--"], {"LLMC_BINARY": "./nothing"}, "has no program ./nothing: run make, or set LLMC_BINARY"),
        (["a", "--"], {"LLMC_SSH": "nothing -v"}, "there is no nothing: install it, or set LLMC_SSH"),
    ],
)
def test_wrong_words(words, environment, message):
    status, out, err = finish(start(environment, *words))
    assert (status, out) == (2, "")
    assert err.startswith("error: ") and message in err and "--help" in err


def test_help():
    status, out, _ = finish(start({}, "--help"))
    assert status == 0
    assert "--slots K" in out and "LLMC_SSH" in out and "set -" not in out


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck")
def test_shellcheck():
    # SC2317: it takes the functions of traps for unreachable
    done = subprocess.run(["shellcheck", "-s", "bash", "-e", "SC2317", SSH, SBATCH], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


# ---- SLURM


def wait_for(what, seconds=90):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)


def submit(cluster, output, options, words):
    placed = ["--nodes=1", "--ntasks-per-node=2", f"--output={output}"]
    return cluster.submit(*placed, *options, SBATCH, *last_wins(words), cwd=ROOT)


@pytest.mark.slow
def test_slurm_two_tasks_are_one_process(cluster, data, tmp_path):
    ranks.need("options")
    out, text = tmp_path / "out", tmp_path / "text"
    # no variable of the shell that submits: the token must reach the tasks all the same
    number = submit(cluster, text, ["--export=NONE"], [*data, *ranks.SMALL, "--out", out])
    wait_for(lambda: cluster.ended(number))
    assert cluster.state(number) == "COMPLETED", text.read_text()
    assert "2 processes on 1 host" in text.read_text()
    run_program(*data, *ranks.SMALL, "--out", tmp_path / "one")
    same_run(tmp_path / "one", out)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["time limit", "cancelled", "killed"])
def test_slurm_ends_a_run(cluster, data, tmp_path, how):
    """The time limit: USR1 to the script, as --signal=B:USR1@120 does. Cancelled: SIGTERM twice, SIGKILL 30 s later."""
    ranks.need("options")
    out, text = tmp_path / "out", tmp_path / "text"
    number = submit(cluster, text, [], [*data, *ranks.SMALL, *MANY, "--out", out])
    wait_for(lambda: out.exists() and (out / "log.jsonl").exists() and len(log(out, "train")) > 5)
    if how == "time limit":
        cluster.call("scancel", "--batch", "--signal=USR1", number)
    elif how == "cancelled":
        cluster.call("scancel", number)
    else:
        cluster.call("scancel", "--signal=KILL", f"{number}.0")
    begin = time.monotonic()
    wait_for(lambda: cluster.ended(number))
    assert time.monotonic() - begin < 25
    job = cluster.job(number)
    if how == "killed":
        assert job["JobState"] in ("FAILED", "CANCELLED") and job["ExitCode"] != "0:0"
        return
    assert job["JobState"] == ("CANCELLED" if how == "cancelled" else "FAILED"), text.read_text()
    assert job["ExitCode"] == ("143:0" if how == "time limit" else job["ExitCode"])
    assert ("the time limit is near" in text.read_text()) == (how == "time limit")
    assert [p.name for p in checkpoints(out)] == [f"step_{log(out, 'train')[-1]['step']:08d}"]
    assert log(out)[-1]["reason"] == "signal"


@pytest.mark.slow
def test_slurm_says_what_is_missing(cluster, tmp_path):
    text = tmp_path / "text"
    number = cluster.submit("--nodes=1", f"--output={text}", SBATCH, cwd=ROOT, env={"LLMC_BINARY": "./nothing"})
    wait_for(lambda: cluster.ended(number))
    assert cluster.job(number)["ExitCode"] == "2:0"
    assert "has no program ./nothing" in text.read_text()


def test_the_sbatch_script_outside_of_slurm():
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    done = subprocess.run(["bash", SBATCH], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "SLURM_JOB_ID is not set: start this script with sbatch" in done.stderr


# ---- a real sshd


@pytest.fixture
def real_ssh(tmp_path):
    """An sshd of this user on a free port, with keys of its own."""
    sshd = shutil.which("sshd", path=os.environ["PATH"] + ":/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("no sshd: apt-get install openssh-server")
    folder, port = tmp_path / "ssh", ranks.free_port()
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    config = f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nAuthorizedKeysFile {folder}/user.pub\n"
    config += f"StrictModes no\nUsePAM no\nPermitRootLogin yes\nPidFile {folder}/pid\n"
    (folder / "config").write_text(config)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it
    daemon = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=subprocess.PIPE, text=True)
    options = f"-p {port} -i {folder}/user -o UserKnownHostsFile={folder}/known -o StrictHostKeyChecking=no"
    ssh = f"ssh -F none -o LogLevel=ERROR -o BatchMode=yes {options}"
    try:
        for _ in range(50):
            if subprocess.run([*ssh.split(), "127.0.0.1", "true"], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.1)
        else:
            daemon.kill()
            pytest.skip(f"sshd lets nobody in: {daemon.stderr.read()}")
        yield {"LLMC_SSH": ssh}
    finally:
        daemon.kill()
        daemon.wait()


def programs(out):
    """Pids of what has a folder in its command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and str(out).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def finish_all(process, out):
    """`finish` when sshd starts the programs."""
    result = finish(process)
    deadline = time.monotonic() + 60
    while programs(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    left = programs(out)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left
    return result


@pytest.mark.slow
@pytest.mark.parametrize("how", ["to the end", "Ctrl-C", "SIGTERM", "SIGKILL", "connection"])
def test_a_real_sshd(real_ssh, two, how):
    """sshd passes no signals on, and leaves processes running when a connection breaks: the script sees to both."""
    out, words = two
    process = start(real_ssh | {"OMP_NUM_THREADS": "1"}, *words(*([] if how == "to the end" else MANY)))
    if how != "to the end":
        train_until(out, 5)
        mine = [str(pid) for pid in members(process.pid) if b"ssh\0-F" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        assert len(mine) >= 2
        if how == "Ctrl-C":
            os.killpg(process.pid, signal.SIGINT)
        elif how == "connection":
            os.kill(int(mine[-1]), signal.SIGKILL)
        else:
            process.send_signal(signal.Signals[how])
    status, _, err = finish_all(process, out)
    expected = {"to the end": (0,), "Ctrl-C": (130,), "SIGTERM": (143,), "SIGKILL": (-9,), "connection": (137, 143)}
    assert status in expected[how], err
    assert [p.name for p in checkpoints(out)] == [f"step_{log(out, 'train')[-1]['step']:08d}"]
    assert log(out)[-1].get("reason") == ("done" if how == "to the end" else "signal")
