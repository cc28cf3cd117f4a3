"""dev/log_follow.py: a log that grows, is continued or overwritten, and both programs that write it."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import wandb_file
from program import BINARY, DEVICE, ROOT, TINY, last_wins, log
from script_tools import run_script
from track_tools import (
    config_event,
    fp32,
    from_tensorboard,
    from_wandb,
    lines,
    no_network,  # noqa: F401 - fixtures
    scalars_of_log,
    services_of_their_own,  # noqa: F401
    train_event,
    wandb_folder,
    write_log,
)

from llmc.errors import Error
from llmc.track.follow import Follower, follow, holds_lock
from llmc.track.sinks import to_tensorboard, to_wandb
from llmc.track.tail import Tail
from llmc.track.wandb_run import Target

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # tbparse 0.0.9 with pandas 3
PROGRAMS = {
    "train_gpt2": [str(BINARY)],
    "train_gpt2.py": [sys.executable, str(ROOT / "train_gpt2.py"), "--device", DEVICE],
}
FINAL = {"event": "final", "reason": "done"}


def until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


@contextlib.contextmanager
def background(*words):
    """A process in a group of its own, as a shell starts one."""
    command = [str(word) for word in words]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def following(out, *words):
    return background(sys.executable, "dev/log_follow.py", out, "--tensorboard", "--wandb", *words)


def steps_logged(out):
    path = out / "log.jsonl"
    return path.read_bytes().count(b'"train"') if path.exists() else 0


def assert_same_as_log(out):
    expected = scalars_of_log(out)
    assert expected["train/loss"]
    assert from_tensorboard(out) == fp32(expected)
    assert from_wandb(out) == expected


# --- Both programs, in their own processes ---


@pytest.mark.parametrize("program", PROGRAMS)
def test_following_a_run_that_is_killed_and_resumed(tmp_path, data, program):
    """kill -9 of the trainer ends the first follower; the second one sees the resumed run to its end."""
    out = tmp_path / "run"
    words = [*TINY, *data, "--steps", 1_000_000, "--eval-every", 25, "--checkpoint-every", 25, "--schedule", "constant"]
    if program == "train_gpt2":  # a thousand steps a second would make a long log
        words += ["--total-batch-size", 3200]
    train = [*PROGRAMS[program], *last_wins([*words, "--out", out])]
    with following(out) as first:
        assert first.stdout.readline() == f"run: waiting for {out}/log.jsonl\n"
        with background(*train) as trainer:
            until(lambda: steps_logged(out) > 60)
            until(lambda: any(path.stat().st_size > 15_000 for path in out.glob("events*")))  # while it trains
            trainer.kill()
        text, errors = first.communicate(timeout=60)
    assert first.returncode == 1, errors
    assert "run: its program ended without a final event after step " in text and not errors
    last = steps_logged(out)
    assert max(from_tensorboard(out)["train/loss"]) == max(from_wandb(out)["train/loss"]) >= last - 1
    with following(out) as second:
        until(lambda: "into" in second.stdout.readline())
        saved = max(int(path.name.removeprefix("step_")) for path in (out / "checkpoints").glob("step_*"))
        resume = [*PROGRAMS[program], *last_wins([*words, "--out", out, "--steps", saved + 30, "--resume"])]
        done = subprocess.run(resume, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        text, errors = second.communicate(timeout=60)
    assert second.returncode == 0, errors
    assert f"run: ended at step {saved + 30}: done\n" in text
    assert len(log(out, "train")) == saved + 30
    assert_same_as_log(out)


def test_ctrl_c_leaves_everything_written(tmp_path):
    """Ctrl-C reaches all processes of the terminal's group, W&B's service, too."""
    write_log(tmp_path, [config_event(), *map(train_event, range(1, 101))])
    before = (tmp_path / "log.jsonl").read_bytes()
    with following(tmp_path) as process:
        until(lambda: "into" in process.stdout.readline())
        until(lambda: len(from_tensorboard(tmp_path).get("train/loss", {})) == 100)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "interrupted\n"
    assert_same_as_log(tmp_path)
    assert (tmp_path / "log.jsonl").read_bytes() == before


def test_a_killed_follower_is_replaced_by_the_next(tmp_path):
    """wandb 0.31.0: killed within some seconds, an offline run has none of its rows; its newest row is never written
    before the next step. tensorboard: what was written is there. The log has all; the next follower begins again."""
    path = write_log(tmp_path, [config_event(), *map(train_event, range(1, 101))])
    with following(tmp_path) as process:
        until(lambda: len(from_tensorboard(tmp_path).get("train/loss", {})) == 100)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=30)
    assert len(wandb_file.read(wandb_folder(tmp_path))[0]) < 100
    with open(path, "a") as file:
        file.write(lines([FINAL | {"step": 100}]))
    done = run_script("dev/log_follow.py", tmp_path, "--tensorboard", "--wandb", "offline")
    assert done.returncode == 0, done.stderr
    assert_same_as_log(tmp_path)


def test_timeout_and_wrong_use(tmp_path):
    write_log(tmp_path, [config_event(), train_event(1)])
    done = run_script("dev/log_follow.py", tmp_path, "--tensorboard", "--timeout", 0.2)
    assert done.returncode == 1
    assert done.stderr == (f"error: nothing new for 0.2 seconds (--timeout) in {tmp_path}/log.jsonl\n")
    assert from_tensorboard(tmp_path) == fp32(scalars_of_log(tmp_path))
    for words, message in (
        ([], "give --tensorboard, --wandb, or both"),
        (["--wandb", tmp_path], "give offline or online, and the runs before the options"),
        (["--tensorboard", "--timeout", "-1"], "is not a number of seconds"),
    ):
        done = run_script("dev/log_follow.py", tmp_path, *words)
        assert done.returncode == 2 and message in done.stderr.splitlines()[-1]


# --- What can happen to a log ---


@pytest.fixture
def follower(tmp_path):
    """Of a log in tmp_path, with both trackers."""
    path = tmp_path / "log.jsonl"
    openers = [to_tensorboard(path, "run", None), to_wandb(path, "run", None, Target("p", "offline"))]
    follower = Follower("run", path, openers)
    yield follower
    follower.close()


def replace_log(folder, events):
    """As the programs do it: another file under the same name."""
    temporary = write_log(folder / "new", events)
    temporary.rename(folder / "log.jsonl")


def test_events_are_on_the_disk_after_each_look(tmp_path, follower):
    """tensorboard's own EventFileWriter writes by a thread; here nothing waits."""
    assert not follower.poll()
    path = write_log(tmp_path, [config_event()])
    for step in (1, 2):
        with open(path, "a") as file:
            file.write(lines([train_event(step)]))
        assert follower.poll()
        assert from_tensorboard(tmp_path) == fp32(scalars_of_log(tmp_path))
    assert not follower.poll()


def test_an_incomplete_line_waits(tmp_path, follower):
    path = write_log(tmp_path, [config_event(), train_event(1)])
    line = lines([train_event(2)])
    with open(path, "a") as file:
        for part in (line[:10], line[10:-1]):
            file.write(part)
            file.flush()
            follower.poll()
            assert list(from_tensorboard(tmp_path)["train/loss"]) == [1]
        file.write("\n" + "no event\n" + line.replace("2", "3", 1)[:5])
        file.flush()
        assert follower.poll()
    assert list(from_tensorboard(tmp_path)["train/loss"]) == [1, 2]


def test_a_resume_that_takes_nothing_back_goes_on(tmp_path, follower, capsys):
    events = [config_event(), *map(train_event, range(1, 6))]
    write_log(tmp_path, events)
    follower.poll()
    replace_log(tmp_path, [*events, config_event(5, resumed_from="x"), train_event(6), FINAL | {"step": 6}])
    follower.poll()
    assert follower.reason == "done"
    follower.close()
    assert "beginning again" not in capsys.readouterr().out
    assert_same_as_log(tmp_path)


@pytest.mark.parametrize("appended", [False, True])
def test_a_resume_that_takes_steps_back_begins_again(tmp_path, follower, capsys, appended):
    events = [config_event(), *map(train_event, range(1, 9))]
    later = [config_event(5, resumed_from="x"), *(train_event(step, loss=step) for step in range(6, 8))]
    path = write_log(tmp_path, events)
    follower.poll()
    if appended:
        with open(path, "a") as file:
            file.write(lines(later))
    else:
        replace_log(tmp_path, events[:6] + later)
    follower.poll()
    follower.close()
    assert "run: the log no longer has what was read before: beginning again\n" in capsys.readouterr().out
    write_log(tmp_path, events[:6] + later)
    assert_same_as_log(tmp_path)


def test_an_overwritten_run_begins_again(tmp_path, follower):
    write_log(tmp_path, [config_event(), *map(train_event, range(1, 9))])
    follower.poll()
    replace_log(tmp_path, [])
    assert not follower.poll()
    replace_log(tmp_path, [config_event(parameters=8), train_event(1, loss=0.5)])
    follower.poll()
    follower.close()
    assert from_tensorboard(tmp_path) == fp32(scalars_of_log(tmp_path))
    folders = (tmp_path / "wandb").glob("offline-run-*")  # the other run's record is the last that there is of it
    assert sorted(len(wandb_file.read_finished(folder)[0]) for folder in folders) == [1, 8]


def test_the_log_may_move_away_and_come_back(tmp_path):
    path = write_log(tmp_path, [config_event(), train_event(1)])
    tail = Tail(path)
    assert len(tail.poll()[0]) == 2
    shutil.move(path, tmp_path / "aside")
    assert tail.poll() == ([], False)
    shutil.copy(tmp_path / "aside", path)  # the same lines in another file
    with open(path, "a") as file:
        file.write(lines([train_event(2)]))
    assert tail.poll() == ([train_event(2)], False)
    tail.close()


def test_staying_after_a_final_event(tmp_path, capsys):
    write_log(tmp_path, [config_event(), train_event(1), FINAL | {"step": 1}])
    path = tmp_path / "log.jsonl"
    follower = Follower("run", path, [to_tensorboard(path, "run", None)])
    with pytest.raises(Error, match=r"nothing new for 0\.1 seconds"):
        follow([follower], stay=True, timeout=0.1)
    with open(path, "a") as file:
        file.write(lines([config_event(1, resumed_from="x"), train_event(2), FINAL | {"step": 2}]))
    assert follow([follower], stay=False, timeout=0) == 0
    assert "run: ended at step 2: done\n" in capsys.readouterr().out
    assert list(from_tensorboard(tmp_path)["train/loss"]) == [1, 2]


def test_several_runs_each_end_for_themselves(tmp_path):
    for name, reason in (("a", "done"), ("b", "diverged")):
        write_log(tmp_path / name, [config_event(), train_event(1, loss=1), FINAL | {"step": 1, "reason": reason}])
    words = ["--tensorboard", tmp_path / "tb", "--wandb"]
    done = run_script("dev/log_follow.py", tmp_path / "a", tmp_path / "b", *words)
    assert done.returncode == 0, done.stderr
    assert "a: ended at step 1: done\n" in done.stdout and "b: ended at step 1: diverged\n" in done.stdout
    for name in ("a", "b"):
        assert from_tensorboard(tmp_path / "tb" / name)["train/loss"] == {1: 1}
        assert wandb_folder(tmp_path / name).is_dir()


def test_the_lock_of_a_running_program_is_seen(tmp_path):
    import fcntl

    assert not holds_lock(tmp_path)
    with open(tmp_path / ".lock", "w") as file:
        assert not holds_lock(tmp_path)
        fcntl.flock(file, fcntl.LOCK_EX)
        if f":{os.stat(tmp_path / '.lock').st_ino} " not in Path("/proc/locks").read_text():
            pytest.skip("this file system's locks are not in /proc/locks under its inode numbers")
        assert holds_lock(tmp_path)
    assert not holds_lock(tmp_path)
