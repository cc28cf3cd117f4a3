"""What both programs write on terminals (a pty of a given width), on dumb ones, and into pipes."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest
from program import BINARY, ROOT, TINY, last_wins, run
from shards import write_shard

from llmc.step_line import Status, status_line

PROGRAMS = {
    "train_gpt2": [str(BINARY)],
    "train_gpt2.py": [sys.executable, str(ROOT / "train_gpt2.py"), "--device", "cpu"],
}
RUN = [*TINY, "--lr", 0.001, "--steps", 12, "--eval-every", 5, "--eval-tokens", 400]


@pytest.fixture(params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]


def on_terminal(program, *options, columns=80, term="xterm", code=0):
    """The bytes that a program writes to a terminal."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**os.environ, "TERM": term}
    command = [*program, *last_wins(options)]
    with subprocess.Popen(command, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        output = b""
        while True:
            try:
                part = os.read(master, 65536)
            except OSError:  # Linux: the other side is closed
                break
            if not part:
                break
            output += part
    os.close(master)
    assert process.returncode == code, output.decode()
    return output.decode()


def screen(output):
    """The lines that remain on a wide screen: \\r goes to the first column, ESC [K clears the rest of the line."""
    lines = []
    for line in output.replace("\r\n", "\n").split("\n"):
        *_, kept = line.split("\r\x1b[K")
        lines.append(kept)
    return lines


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_and_evaluations_stay(data, program, columns):
    if columns != 80 and len(program) > 1:
        pytest.skip("slow to start; test_fields_are_dropped_by_importance has the widths")
    output = on_terminal(program, *data, *RUN, columns=columns)
    steps = [part for part in re.split(r"\r\x1b\[K|\r?\n", output) if part.startswith("step ")]
    assert steps and max(map(len, steps)) < columns
    kept = [line for line in screen(output) if line.startswith("step ")]
    assert [int(line.split("/")[0][5:]) for line in kept] == [5, 10, 12]
    assert all(" | val " in line for line in kept)
    others = [line for line in steps if not re.match(r"step +(5|10|12)/", line)]
    assert not any(" val " in line for line in others), "a validation loss beside another step than its own"
    assert "ETA" not in [line for line in steps if line.startswith("step  1/")][-1], "the first step is start-up"


@pytest.mark.parametrize("term", ["dumb", ""])
def test_dumb_terminals_get_no_control_codes(data, program, term):
    output = on_terminal(program, *data, *RUN, term=term).replace("\r\n", "\n")
    assert "\x1b" not in output and "\r" not in output
    assert "\nstep 12/12 | " in output


def test_an_error_has_a_line_of_its_own(data, program):
    options = [*data, *TINY, "--steps", 50, "--lr", "1e30", "--grad-clip", 0, "--eval-every", 0]
    output = on_terminal(program, *options, code=4).replace("\r\n", "\n")
    name = os.path.basename(program[-1] if len(program) == 1 else program[1])
    assert f"\n{name}: training diverged at step " in output
    assert "-nan" not in output


def test_divergence_is_said_in_the_same_words(data):
    options = [*data, *TINY, "--steps", 50, "--lr", "1e30", "--grad-clip", 0, "--eval-every", 0]
    said = [run(*options, program=p, expect=4)[1].splitlines()[-1].split(": ", 1)[1] for p in PROGRAMS.values()]
    number = r"(nan|inf|-?[0-9][0-9.e+]*)"
    form = rf"training diverged at step \d+: loss {number}, gradient norm {number}; lower --lr or raise --warmup-steps"
    assert all(re.fullmatch(form, line) for line in said), said


def test_pipes_get_whole_lines(data, program):
    out, _ = run(*data, *RUN, program=program)
    assert "\x1b" not in out and "\r" not in out
    lines = [line for line in out.splitlines() if line.startswith("step ")]
    assert lines[0].startswith("step  1/12 | loss ") and " tok/s" in lines[0] and "ETA" not in lines[0]
    assert lines[-1].startswith("step 12/12 | ") and " | val " in lines[-1] and "ETA" not in lines[-1]
    assert re.search(r"^done in \S+: validation loss \S+ nats/token, \S+ bits/byte$", out, re.M)


def test_fields_are_dropped_by_importance():
    status = Status(7, 100, 2.5, 2.25, 3.25, 0.5, 1e-3, 1234, 75)
    assert status_line(status) == (
        "step   7/100 | loss 2.5000 | val 2.2500 (3.250 bits/byte) | norm 0.500 | lr 1.00e-03 | 1234 tok/s | ETA 1m15s"
    )
    assert (
        status_line(status, 90) == "step   7/100 | loss 2.5000 | val 2.2500 (3.250 bits/byte) | 1234 tok/s | ETA 1m15s"
    )
    assert status_line(status, 79) == "step   7/100 | loss 2.5000 | val 2.2500 | 1234 tok/s | ETA 1m15s"
    assert status_line(status, 30) == "step   7/100 | loss 2.5000"
    assert status_line(Status(7, 100, 2.5, activity="evaluating 3/20"), 45) == (
        "step   7/100 | loss 2.5000 | evaluating 3/20"
    )
    assert status_line(Status(7, 100, 2.5, activity="evaluating 3/20"), 32) == "step   7/100 | evaluating 3/20"
    assert status_line(status, 5) == "step "
    status.acc, status.acc_norm = 0.25, 0.375
    assert " (3.250 bits/byte) | hellaswag 0.2500 (by tokens 0.3750) | norm 0.500 | " in status_line(status)
    assert status_line(status, 60) == "step   7/100 | loss 2.5000 | val 2.2500 | hellaswag 0.2500"


@pytest.mark.parametrize(("term", "lines"), [("xterm", False), ("dumb", True)])
def test_progress_of_several_runs(term, lines):
    code = "from llmc.progress import Progress; p = Progress(2, 'begin', every=0); p.show(1, 'half'); p.close(2, 'end')"
    output = on_terminal([sys.executable, "-c", f"import sys; sys.path.insert(0, 'python'); {code}"], term=term)
    assert ("\r" not in output.replace("\r\n", "\n")) == lines
    assert "end | 100% of the work" in output


def test_a_long_evaluation_in_a_pipe_says_how_far_it_is(tmp_path, program):
    tokens = np.random.default_rng(0).integers(0, 257, 4_000_000)
    data = write_shard(tmp_path / "data.bin", tokens)
    run("--train-data", data, "--depth", 4, "--width", 256, "--heads", 4, "--seq-len", 64, "--batch-size", 8,
        "--steps", 0, "--out", tmp_path / "run")  # fmt: skip
    start = [word for word in program if word not in ("--device", "cpu")]  # the command comes first
    command = [*start, "eval", str(tmp_path / "run"), "--val-data", str(data), "--eval-tokens", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stderr.readline()
        process.kill()
        assert process.stdout.read() == ""  # the result alone
    done, segments = map(int, re.fullmatch(r"evaluating (\d+)/(\d+)\n", line).groups())
    assert 0 < done < segments
