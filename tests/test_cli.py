"""The command `llmc`, and how errors end a command."""

import os
import shutil
import signal
import subprocess
import sys

import pytest
from program import BINARY, ROOT

from llmc import cli, paths
from llmc.errors import DataError, Error, ExitCode, Stopped, UsageError, run_main
from llmc.mup.transfer import environment


def llmc(*words, expect=0, cwd=ROOT):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    command = [sys.executable, "-m", "llmc", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_lists_the_commands_with_a_line_each():
    lines = llmc("--help").stdout.splitlines()
    for name in ("data", "check", "verdict", "sweep", "transfer", "plot", "report", "bench", "train", "sample"):
        assert any(line.split()[:1] == [name] and len(line.split()) > 3 for line in lines), name
    lines = llmc("data", "--help").stdout.splitlines()
    for name in ("pystdlib", "text", "tinyshakespeare", "tinystories", "fineweb", "synthetic", "tokenizer"):
        assert any(line.split()[:1] == [name] for line in lines), name
    assert llmc(expect=2).stdout == llmc("--help").stdout


@pytest.mark.parametrize("name", [f"{group} {name}" for group, names in cli.GROUPS.items() for name in names])
def test_every_command_of_a_group_has_help(name):
    assert llmc(*name.split(), "--help").stdout.startswith(f"usage: llmc {name} ")


@pytest.mark.parametrize("name", cli.GROUPS["bench"])
def test_an_installed_package_says_that_benchmarks_need_a_clone(name, tmp_path):
    shutil.copytree(ROOT / "python" / "llmc", tmp_path / "llmc", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "llmc", "bench", name]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "needs files that are not installed: run it in a clone of the project\n" in done.stderr
    assert "Traceback" not in done.stderr
    done = subprocess.run([*command, "--help"], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith(f"usage: llmc bench {name} ")
    assert "in a clone of the project" in llmc("--help").stdout


@pytest.mark.parametrize("name", ["check", "verdict", "sweep", "transfer", "report"])
def test_every_command_has_help(name):
    assert f"llmc {name}" in llmc(name, "--help").stdout


def test_unknown_commands_are_named():
    assert llmc("plat", expect=2).stderr.startswith("error: there is no command llmc plat: choose data, plot, export,")
    assert "there is no command llmc data wikipedia" in llmc("data", "wikipedia", expect=2).stderr


def test_a_data_set_is_made_in_the_current_folder(tmp_path):
    (tmp_path / "book.txt").write_text("a line of text\n" * 100)
    done = llmc("data", "text", "book.txt", cwd=tmp_path)
    assert "train with: --train-data 'data/text/text_train_*.bin'" in done.stdout
    assert (tmp_path / "data/text/text_val_000001.bin").exists()
    assert llmc("data", "text", "none.txt", cwd=tmp_path, expect=3).stderr.count("\n") == 1
    assert llmc("data", "text", "book.txt", "--out", "book.txt/x", cwd=tmp_path, expect=3).stderr.count("\n") == 1


@pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2")
def test_train_and_sample_are_the_native_program():
    assert "--base-width" in llmc("train", "--help").stdout
    assert "--nonsense" in llmc("train", "--nonsense", expect=2).stderr
    assert "CHECKPOINT" in llmc("sample", "--help").stdout


def test_train_without_the_program_says_what_to_run(monkeypatch, tmp_path):
    monkeypatch.setattr(cli, "native_program", lambda: None)
    with pytest.raises(Error, match="run make") as error:
        cli.main(["train", "--width", "64"])
    assert error.value.code == 1


def test_the_program_of_check_and_sweep(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert paths.trainer({"PROGRAM": "python3 'my trainer.py'"}) == ["python3", "my trainer.py"]
    assert paths.trainer({}) == [str(ROOT / "train_gpt2")]  # that of the clone
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "python/llmc")
    assert paths.trainer({}) == ["./train_gpt2"]  # neither built nor installed: the caller's message says what to run
    monkeypatch.setattr(paths, "PACKAGE", tmp_path / "package")  # installed, and no program in the current folder
    (tmp_path / "package/bin").mkdir(parents=True)
    (tmp_path / "package/bin/train_gpt2").touch()
    assert paths.trainer({}) == [str(tmp_path / "package/bin/train_gpt2")]
    assert paths.native_program() == tmp_path / "package/bin/train_gpt2"
    (tmp_path / "train_gpt2").touch()
    assert paths.trainer({}) == ["./train_gpt2"]


def test_transfer_keeps_what_is_given_and_sweeps_the_width():
    env = environment({"SEEDS": "7", "SCALE": "", "VALUES": "", "HOME": "/home"})
    assert (env["SEEDS"], env["SCALE"], env["HOME"], env["OUT"]) == ("7", "width", "/home", "runs/mup_transfer")
    assert len(env["VALUES"].split()) == 9
    with pytest.raises(UsageError, match="SCALE is depth, and a transfer compares widths"):
        environment({"SCALE": "depth"})


@pytest.fixture(autouse=True)
def sigterm_as_before():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def fails(error):
    def main():
        raise error

    return main


@pytest.fixture(autouse=True)
def signals_as_before():
    """run_main sets handlers for the process."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize(
    ("main", "code", "line"),
    [
        (lambda: None, 0, ""),
        (lambda: 4, 4, ""),
        (fails(Error("a: b")), 1, "error: a: b\n"),
        (fails(Error("a: b", 77)), 77, "error: a: b\n"),
        (fails(UsageError("x")), 2, "error: x\n"),
        (fails(DataError("x")), 3, "error: x\n"),
        (fails(Stopped("interrupted: go on", ExitCode.TERMINATED)), 143, "interrupted: go on\n"),
        (fails(KeyboardInterrupt()), 130, "interrupted\n"),
        (fails(FileNotFoundError(2, "No such file", "f.txt")), 1, "error: f.txt: No such file\n"),
        (fails(OSError(28, "No space left")), 1, "error: while writing: No space left\n"),
        (fails(MemoryError()), 1, "error: out of memory\n"),
        (
            fails(ModuleNotFoundError("No module named 'scipy.stats'", name="scipy.stats")),
            1,
            "error: No module named 'scipy.stats': install it with pip install scipy\n",
        ),
        (
            fails(ImportError('backend "cpu" is not built: run make')),
            1,
            'error: backend "cpu" is not built: run make\n',
        ),
    ],
)
def test_every_failure_is_one_line_and_an_exit_code(main, code, line, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_main(main)
    assert (stopped.value.code or 0) == code
    assert capsys.readouterr().err == line


def test_unusable_files_have_the_code_that_the_command_says(capsys):
    with pytest.raises(SystemExit) as stopped:
        run_main(fails(PermissionError(13, "Permission denied", "out")), os_error=ExitCode.DATA)
    assert stopped.value.code == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_that_a_library_reports_as_its_own_error(number, code, capsys):
    """safetensors 0.8.0 with PyTorch 2.13 raises ValueError if the signal comes in get_tensor()."""

    def library():
        try:
            signal.raise_signal(number)
        except BaseException:
            raise ValueError("could not determine the shape") from None

    with pytest.raises(SystemExit) as stopped:
        run_main(library)
    assert stopped.value.code == code
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("end", ["raise Stopped('stopped', 143)", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_second_signal_while_python_exits_changes_no_exit_code(end):
    """Python has no handlers any more when it deletes the variables of modules."""
    code = f"""
import os, signal
from llmc.errors import Stopped, run_main

class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)

late = Late()

def main():
    {end}

run_main(main)
"""
    env = os.environ | {"PYTHONPATH": str(ROOT / "python")}
    assert subprocess.run([sys.executable, "-c", code], env=env, capture_output=True).returncode == 143
