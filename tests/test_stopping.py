"""SIGINT and SIGTERM in both programs: noticed during evaluation and sampling, sent twice, sent three times."""

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from program import BINARY, ROOT, TINY, checkpoints, last_wins, log, losses, make_variable
from shards import write_shard

import train_gpt2
from llmc.signals import Stopping

PROGRAMS = {
    "train_gpt2": [str(BINARY)],
    "train_gpt2.py": [sys.executable, str(ROOT / "train_gpt2.py"), "--device", "cpu"],
}
SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(params=PROGRAMS)
def program(request):
    return request.param


def start(program, *options):
    def default_signals():  # a shell ignores SIGINT for background jobs
        for number in SIGNALS:
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [*PROGRAMS[program], *last_wins([*TINY, "--lr", 0.001, *options])],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=default_signals,
    )


def wait_for(process, out, event, step):
    """Waits until the log has an event."""
    while not (out / "log.jsonl").exists() or (event, step) not in [(e["event"], e["step"]) for e in log(out)]:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)


@pytest.fixture(scope="module")
def long_data(tmp_path_factory):
    """Validation data whose evaluation takes minutes."""
    folder = tmp_path_factory.mktemp("long")
    write_shard(folder / "train.bin", np.full(30_000, ord("a")))
    write_shard(folder / "val.bin", np.arange(40_000_000) % 257)
    return ["--train-data", folder / "train.bin", "--val-data", folder / "val.bin", "--eval-tokens", 0]


@pytest.mark.parametrize(("when", "sent"), [("within the run", 15), ("at its end", 2)])
def test_evaluation_is_interrupted_and_repeated_by_resume(long_data, tmp_path, program, sent, when):
    """The checkpoint of the step is written before; what the evaluation would have said comes after --resume."""
    steps = 1 if when == "at its end" else 3
    options = [*long_data, "--eval-every", 1, "--checkpoint-every", 1, "--steps", steps, "--out", tmp_path / "run"]
    process = start(program, *options)
    wait_for(process, tmp_path / "run", "checkpoint", 1)
    assert next(line for line in iter(process.stdout.readline, "") if "evaluating" in line)
    process.send_signal(sent)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, err
    events = [(e["event"], e["step"]) for e in log(tmp_path / "run")]
    assert events == [("config", 0), ("train", 1), ("checkpoint", 1), ("final", 1)]
    assert log(tmp_path / "run", "final")[0]["reason"] == "signal"
    assert "--resume continues from here" in out
    process = start(program, *options, "--eval-tokens", 80, "--resume")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert [e["step"] for e in log(tmp_path / "run", "eval")] == list(range(1, steps + 1))


def test_a_second_run_in_the_folder_is_refused_while_one_runs(long_data, tmp_path, program):
    options = [*long_data, "--eval-every", 1, "--steps", 1, "--out", tmp_path / "run"]
    process = start(program, *options)
    try:
        wait_for(process, tmp_path / "run", "checkpoint", 1)
        for other in PROGRAMS:
            out, err = start(other, *options, "--resume").communicate(timeout=60)
            assert f"--out {tmp_path / 'run'} is in use by process {process.pid}" in err, out
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_ctrl_c_outside_of_training_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(train_gpt2, "run_command", lambda *_: signal.raise_signal(signal.SIGINT))
    assert train_gpt2.main(["info", "x"]) == 130
    assert capsys.readouterr().err == ""


def test_sampling_is_interrupted(long_data, tmp_path, program, sent=signal.SIGINT):
    """Of a model that says "a" and never the end of the text."""
    options = [
        "--no-tie-embeddings",
        "--lr",
        0.1,
        "--sample-every",
        1,
        "--sample-tokens",
        1_000_000,
        "--temperature",
        0,
        "--steps",
        1,
        "--out",
        tmp_path,
    ]
    process = start(program, *long_data[:2], *options)
    wait_for(process, tmp_path, "checkpoint", 1)
    process.send_signal(sent)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + sent, err
    assert not log(tmp_path, "sample") and len(checkpoints(tmp_path)) == 1


# One step of so many micro-batches takes seconds.
LONG_STEP = {"train_gpt2": 160 * 1500, "train_gpt2.py": 160 * 300}


@pytest.mark.parametrize(("first", "second"), [(15, 15), (2, 15)])
def test_a_repeated_signal_does_not_end_the_save(long_data, tmp_path, program, first, second):
    """SLURM's slurmstepd sends SIGTERM twice within 0.4 s, torchrun turns the second Ctrl-C into SIGTERM."""
    options = [*long_data[:2], "--total-batch-size", LONG_STEP[program], "--steps", 100, "--out", tmp_path]
    process = start(program, *options)
    wait_for(process, tmp_path, "train", 1)
    process.send_signal(first)
    time.sleep(0.4)
    process.send_signal(second)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 128 + first, err
    assert checkpoints(tmp_path)[-1].name == f"step_{log(tmp_path, 'final')[0]['step']:08d}"


def test_sigterm_gives_up_a_long_step(long_data, tmp_path, program):
    """In a step that takes hours. What --resume trains then is what a new run trains."""
    options = [*long_data[:2], "--out", tmp_path / "run"]
    process = start(program, *options, "--total-batch-size", 160 * 10**7, "--steps", 2)
    assert next(line for line in iter(process.stdout.readline, "") if "micro-batch" in line)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert [(e["event"], e["step"]) for e in log(tmp_path / "run")] == [("config", 0), ("checkpoint", 0), ("final", 0)]
    steps = ["--total-batch-size", 160, "--steps", 3]
    for out, more in ((tmp_path / "run", ["--resume"]), (tmp_path / "new", [])):
        _, err = start(program, *long_data[:2], *steps, "--out", out, *more).communicate(timeout=60)
        assert not err
    assert losses(tmp_path / "run") == losses(tmp_path / "new")


def test_ctrl_c_three_times_ends_at_once(long_data, tmp_path, program):
    """In a step that takes hours; the first one says so."""
    options = [*long_data[:2], "--total-batch-size", 160 * 10**7, "--steps", 2, "--out", tmp_path]
    process = start(program, *options)
    lines = iter(process.stdout.readline, "")
    assert next(line for line in lines if "micro-batch" in line)  # a piped run says where it is
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.count("Ctrl-C: stopping after this step; two more end at once, without saving\n") == 1
    assert not checkpoints(tmp_path)


RULES = [
    ([(0, 15), (0.4, 15), (19.9, 15), (19.91, 2), (20, 15)], [False, False, False, False, True]),
    # a launcher repeats each Ctrl-C at once
    ([(0, 2), (0.01, 2), (0.02, 15), (1, 2), (1.01, 2), (2, 2)], [False, False, False, False, False, True]),
    # the 20 seconds begin with the first signal of either kind
    ([(5, 2), (24.9, 15), (25, 15)], [False, False, True]),
    ([(0, 2), (0.049, 2), (0.051, 2), (0.11, 2)], [False, False, False, True]),
]


@pytest.mark.parametrize(("signals", "ends"), RULES)
def test_rules_of_repeated_signals(signals, ends):
    times = iter([seconds for seconds, _ in signals])
    stopping = Stopping(clock=lambda: next(times))
    assert [stopping.ends_at_once(number) for _, number in signals] == ends


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_rules_of_repeated_signals_in_cpp(tmp_path):
    """A program that reads times in milliseconds and signals, one line of RULES each; stopping.h judges them."""
    source, program = tmp_path / "rules.cpp", tmp_path / "rules"
    source.write_text("""
#include <iostream>
#include <sstream>
#include "llmc/train/stopping.h"
int main() {
    for (std::string line; std::getline(std::cin, line); std::cout << "\\n") {
        llmc::Stopping stopping;
        std::istringstream words(line);
        for (int time, signal; words >> time >> signal;) {
            const llmc::Stopping::Time now{std::chrono::milliseconds(time)};
            std::cout << stopping.ends_at_once(signal, now);
        }
    }
}
""")
    flags = [*make_variable("COMMON_FLAGS"), "-Werror"]
    subprocess.run(["g++", *flags, source, "-o", program], cwd=ROOT, check=True)
    lines = [" ".join(f"{round(1000 * time)} {number}" for time, number in signals) for signals, _ in RULES]
    printed = subprocess.run([program], input="\n".join(lines), capture_output=True, text=True, check=True).stdout
    assert [[digit == "1" for digit in line] for line in printed.split()] == [ends for _, ends in RULES]


def test_ranks_stop_together_in_an_evaluation(long_data, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [*TINY, *long_data, "--eval-every", 1, "--steps", 3, "--checkpoint-every", 1, "--out", tmp_path]
    process = subprocess.Popen(
        [*command, str(ROOT / "train_gpt2.py"), *map(str, options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    wait_for(process, tmp_path, "checkpoint", 1)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=100)
    assert log(tmp_path, "final")[0]["reason"] == "signal", out
    assert checkpoints(tmp_path)[-1].name == "step_00000001"
    assert "FutureWarning" not in out
