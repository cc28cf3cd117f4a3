"""The wheel: its contents, the libraries that it loads, and that it runs without the clone."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from program import ROOT

SYSTEM = re.compile(r"^(linux-vdso|ld-linux[^.]*|libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)\.")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", out, ROOT]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, cwd=out)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = out.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """The wheel's files in a separate folder, and the environment in which Python finds them first."""
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder), str(wheel)]
    subprocess.run(command, check=True, capture_output=True)
    return folder, dict(os.environ, PYTHONPATH=str(folder))


def test_the_package_is_whole(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    tracked = subprocess.run(
        ["git", "ls-files", "python/llmc"], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    expected = {str(Path(path).relative_to("python")) for path in tracked}
    assert expected <= names, sorted(expected - names)
    assert {name for name in names if name.endswith(".py")} <= expected, "files that are no longer in the package"
    assert "llmc/py.typed" in names and "llmc/options.json" in names and "llmc/bin/train_gpt2" in names
    compiled = {name for name in names if name.endswith(".so")}
    assert len(compiled) == 1 and next(iter(compiled)).startswith("llmc/_cpu."), compiled
    assert not any(name.startswith("llmc/lib/libstdc++") for name in names)


def test_libraries_come_from_the_wheel_or_the_system(installed):
    """oneDNN and its dependencies are in llmc/lib, and find each other there."""
    folder, _ = installed
    for binary in [*(folder / "llmc").glob("_cpu*.so"), folder / "llmc/bin/train_gpt2"]:
        listing = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=True).stdout
        assert "not found" not in listing
        for name, path in re.findall(r"(\S+) => (/\S+)", listing):
            assert SYSTEM.match(name) or Path(path).is_relative_to(folder), f"{binary.name} loads {path}"


def test_the_installed_package_trains(installed, tmp_path):
    folder, environment = installed
    code = (
        "import llmc, llmc.model; print(llmc.__file__)\n"
        "m = llmc.GPT2(depth=1, width=32, heads=2, seq_len=8, vocab_size=257)\n"
        "m.forward([[1, 2, 3]], [[2, 3, 4]]); m.backward(); print(m.step() > 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.stdout.split() == [str(folder / "llmc" / "__init__.py"), "True"], done.stderr
    for arguments in (["--help"], ["train", "--version"], ["train", "--preset", "gpt2", "--dry-run"]):
        command = [sys.executable, "-m", "llmc", *arguments]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0 and done.stdout, done.stderr
