"""Packages that only some tools need: the same in pyproject.toml and in the requirements of a clone, and named where
they are missing."""

import re
import sys

import pytest
from program import ROOT

from llmc import extras, paths
from llmc.errors import Error
from llmc.toml_options import tomllib

OPTIONAL = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def listed(name):
    """The packages of a requirements file, {name: whole line}, with those of the files that it includes."""
    found = {}
    for line in (ROOT / name).read_text().splitlines():
        included = re.fullmatch(r"-r (\S+)", line)
        if included and included[1] != "requirements.txt":  # what the package itself needs
            found |= listed(included[1])
        elif line and not line.startswith(("#", "-r")):
            found[re.split(r"[<>=]", line)[0]] = line
    return found


def required(extra):
    """{name: whole requirement} of an extra, with those of the extras that it names."""
    found = {}
    for text in OPTIONAL[extra]:
        named = re.fullmatch(r"llmc-mup\[(.+)\]", text)
        found |= required(named[1]) if named else {re.split(r"[<>=]", text)[0]: text}
    return found


@pytest.mark.parametrize("extra", ["export", "track", "eval"])
def test_an_extra_is_the_same_in_both_lists(extra):
    here, there = listed(f"requirements-{extra}.txt"), required(extra)
    here["torch"] = here.get("torch", "").removesuffix(",<2.14")  # in a clone: without the CUDA packages
    assert {name: line for name, line in here.items() if line} == there


@pytest.mark.parametrize(("clone", "advice"), [(True, "-r requirements-export.txt"), (False, "'llmc-mup[export]'")])
def test_a_missing_package_is_named_with_its_extra(clone, advice, monkeypatch):
    monkeypatch.setattr(extras, "clone", lambda: ROOT if clone else None)
    with pytest.raises(Error) as caught:
        extras.load("package_that_is_missing.part", "export")
    message = str(caught.value)
    assert message.startswith("the package package_that_is_missing is missing: install it by")
    assert advice in message
    assert "\n" not in message


def test_a_package_that_fails_says_why(tmp_path, monkeypatch):
    (tmp_path / "package_that_fails.py").write_text("import another_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Error, match=r"package_that_fails cannot be imported \(No module named 'another_that"):
        extras.load("package_that_fails", "export")


def test_load_returns_the_module():
    assert extras.load("llmc.paths", "export") is paths
    assert "llmc.paths" in sys.modules


@pytest.mark.parametrize("extra", ["export", "track"])
def test_the_tests_have_the_packages(extra):
    """Or their tests would be skipped in silence."""
    assert required(extra).keys() <= listed("requirements-dev.txt").keys()
