"""llmc.mup.jobs: several runs at a time, in order, until all are finished, one fails, or a signal arrives."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from program import ROOT

from llmc.errors import Stopped
from llmc.mup import jobs as runner
from llmc.progress import counter, duration


@dataclass
class Command:
    """A shell command as a job. At its end it writes a file NAME.CODE to its folder."""

    folder: Path
    name: str
    command: str
    work: float = 1
    running: bool = field(default=False)

    def code(self) -> int | None:
        ended = list(self.folder.glob(f"{self.name}.*"))
        return int(ended[0].suffix[1:]) if ended else None

    def state(self) -> runner.State:
        code = self.code()
        if code is None:
            return "unfinished" if self.running else "missing"
        return "done" if code == 0 else "unfinished" if runner.was_stopped(code) else "failed"

    def part(self) -> float | None:
        return 0.5 if self.running else None

    def start(self) -> subprocess.Popen[bytes] | None:
        with open(self.folder / "started", "a") as file:
            file.write(self.name + "\n")
        if not self.command:
            (self.folder / f"{self.name}.127").touch()
            return None
        self.running = True
        return subprocess.Popen(["bash", "-c", self.command], cwd=self.folder, start_new_session=True)

    def end(self, code: int) -> None:
        self.running = False
        (self.folder / f"{self.name}.{code}").touch()


def started(folder: Path) -> list[str]:
    return (folder / "started").read_text().split()


def test_all_are_run_in_their_order_and_not_too_many_at_a_time(tmp_path):
    count = "touch on$$; ls on* | wc -l >>counts; sleep 0.2; rm on$$"
    jobs = [Command(tmp_path, name, count) for name in "abcdefg"]
    assert runner.run(jobs, 3) is None
    assert started(tmp_path) == list("abcdefg")
    assert [job.state() for job in jobs] == ["done"] * 7
    counts = [int(line) for line in (tmp_path / "counts").read_text().split()]
    assert max(counts) == 3


def test_a_failure_stops_nothing_unless_asked(tmp_path):
    jobs = [Command(tmp_path, "a", "exit 3"), Command(tmp_path, "b", ""), Command(tmp_path, "c", "true")]
    assert runner.run(jobs, 1) is None
    assert [job.state() for job in jobs] == ["failed", "failed", "done"]


@pytest.mark.parametrize("command", ["exit 3", ""])
def test_the_first_failure_stops_the_rest(tmp_path, command):
    jobs = [Command(tmp_path, "a", "sleep 60"), Command(tmp_path, "b", command), Command(tmp_path, "c", "true")]
    begin = time.monotonic()
    assert runner.run(jobs, 2, stop_at_failure=True) is jobs[1]
    assert time.monotonic() - begin < 20
    assert started(tmp_path) == ["a", "b"]
    assert jobs[0].code() == -signal.SIGTERM


def default_signals() -> None:
    """As at login: nohup ignores SIGHUP for its program, and a shell ignores SIGINT for background jobs."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def interrupt(folder: Path, command: str, *signals: int) -> tuple[int, float]:
    """Runs three jobs two at a time in another process, sends it signals; its exit code and the seconds it took."""
    code = (
        f"import sys; sys.path[:0] = [{str(ROOT / 'tests')!r}, {str(ROOT / 'python')!r}, {str(ROOT)!r}]\n"
        "from pathlib import Path; from test_jobs import Command; from llmc.mup.jobs import run\n"
        "from llmc.errors import run_main\n"
        f"run_main(lambda: run([Command(Path({str(folder)!r}), name, {command!r}) for name in 'abc'], 2))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=default_signals,
    )
    deadline = time.monotonic() + 30
    while len(list(folder.glob("ready*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    begin = time.monotonic()
    for number in signals:
        process.send_signal(number)
        time.sleep(0.5)
    _, errors = process.communicate(timeout=60)
    assert "interrupted: the same command goes on from here" in errors
    assert "Traceback" not in errors
    return process.returncode, time.monotonic() - begin


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_a_signal_ends_what_runs_and_starts_nothing(tmp_path, number, code):
    returned, seconds = interrupt(tmp_path, "trap 'kill %1; exit 9' TERM; sleep 60 & touch ready$$; wait", number)
    assert returned == code
    assert seconds < 20
    assert started(tmp_path) == ["a", "b"]
    assert sorted(path.name for path in tmp_path.glob("?.*")) == ["a.9", "b.9"]  # they ended by themselves


def test_ctrl_c_three_times_kills(tmp_path):
    command = "trap '' TERM; touch ready$$; while true; do sleep 0.1; done"
    returned, seconds = interrupt(tmp_path, command, signal.SIGINT, signal.SIGINT, signal.SIGINT)
    assert returned == 130
    assert seconds < 20
    assert sorted(path.name for path in tmp_path.glob("?.*")) == ["a.-9", "b.-9"]


def test_a_signal_that_comes_twice_is_sent_on_once(tmp_path):
    """SLURM 22.05 at the time limit: SIGTERM twice within 0.4 s, while the run saves."""
    command = "trap 'echo x >>got$$; kill $!; sleep 1.5; exit 9' TERM; sleep 60 & touch ready$$; wait"
    returned, _ = interrupt(tmp_path, command, signal.SIGTERM, signal.SIGTERM)
    assert returned == 143
    assert sorted(path.name for path in tmp_path.glob("?.*")) == ["a.9", "b.9"]  # they ended by themselves
    assert [path.read_text() for path in tmp_path.glob("got*")] == ["x\n", "x\n"]


def test_when_running_jobs_are_killed():
    interrupt, terminate = signal.SIGINT, signal.SIGTERM
    assert not runner.must_kill([terminate, terminate, terminate], 5)
    assert runner.must_kill([terminate, terminate], 21)
    assert not runner.must_kill([terminate], 60)
    assert not runner.must_kill([interrupt, interrupt], 1)
    assert runner.must_kill([interrupt, interrupt, interrupt], 1)


def test_runs_that_share_the_cpus_are_not_pinned(monkeypatch, capsys):
    """libgomp of GCC 12: OMP_PROC_BIND=true pins the first thread to the first CPU before main, in every run."""
    for name in runner.PINNING:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_PROC_BIND", "true")
    monkeypatch.setenv("GOMP_CPU_AFFINITY", "0-1")
    monkeypatch.setattr(runner, "usable_cpus", lambda: 4)
    runner.share_cpus(1, 4)
    assert os.environ["OMP_PROC_BIND"] == "true"  # one at a time may be pinned
    assert capsys.readouterr() == ("", "")
    runner.share_cpus(2, 2)
    assert "OMP_PROC_BIND" not in os.environ and "GOMP_CPU_AFFINITY" not in os.environ
    printed = capsys.readouterr()
    assert "OMP_PROC_BIND=true is not passed on: it would pin the runs to the same CPUs\n" in printed.out
    assert printed.err == ""
    monkeypatch.setenv("OMP_PROC_BIND", "false")
    runner.share_cpus(3, 2)
    assert os.environ["OMP_PROC_BIND"] == "false"
    assert capsys.readouterr() == (
        "",
        "warning: 3 runs at a time x 2 threads on 4 CPUs: runs slow each other down; JOBS=2 fits\n",
    )


def test_signals_work_as_before_afterwards(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Stopped):
        runner.run([Command(tmp_path, "a", f"kill -TERM {os.getpid()}; sleep 60")], 1)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before


def test_progress_in_a_file_is_lines(tmp_path, capsys):
    jobs = [Command(tmp_path, "a", "sleep 2.5", work=3), Command(tmp_path, "b", "exit 1", work=1)]
    runner.run(jobs, 2, runner.Watch(jobs, every=1))
    out = capsys.readouterr().out
    assert "\r" not in out
    lines = out.splitlines()
    assert lines[0].startswith("0/2 runs (0 running, 0 diverged, 0 failed) |   0% of the work | ETA ")
    assert lines[-1].startswith("2/2 runs (0 running, 0 diverged, 1 failed) | 100% of the work | ETA ")
    # half of 3 and all of 1 of 4
    assert any(line.startswith("1/2 runs (1 running, 0 diverged, 1 failed) |  62% of the work") for line in lines)
    assert 3 <= len(lines) <= 6


def test_lines_by_default_at_once_when_runs_end_and_now_and_then(tmp_path, monkeypatch, capsys):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    jobs = [Command(tmp_path, name, "true") for name in "abcd"]
    watch, lines = runner.Watch(jobs), []
    ends = {2: "a", 3: "b", 4: "c", 50: "d"}
    for second in range(0, 70):
        now[0] = 1000.0 + second
        if second in ends:
            (tmp_path / f"{ends[second]}.0").touch()
        watch.update()
        lines += [(second, line.split(" runs")[0]) for line in capsys.readouterr().out.splitlines()]
    assert lines == [(0, "0/4"), (5, "3/4"), (35, "3/4"), (50, "4/4")]


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "term"), [(io.StringIO, "xterm"), (Terminal, "dumb"), (Terminal, "xterm")])
def test_a_counter_writes_lines_where_none_can_be_rewritten(monkeypatch, stream, term):
    now, file = [1000.0], stream()
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr("sys.stderr", file)
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    with counter(100, "corpus", unit="B") as progress:
        for _ in range(10):
            now[0] += 1
            progress.update(10)
    if (stream, term) == (Terminal, "xterm"):
        assert "\r" in file.getvalue()
        return
    assert "\r" not in file.getvalue()
    lines = file.getvalue().splitlines()
    assert [line.split("[")[0].strip() for line in lines] == [
        *("corpus:   0% 0/100", "corpus:  50% 50/100", "corpus: 100% 100/100", "corpus: 100% 100/100"),
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(7.4, "7s"), (63, "1m03s"), (3600 + 60 * 5 + 9, "1h05m"), (59.6, "1m00s")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
