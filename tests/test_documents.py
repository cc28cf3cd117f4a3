"""README and the other documents: their links, their options, the files they name, and the length of their lines."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT

from llmc.mup import check_runs, sweep
from llmc.mup.check_settings import read_settings
from llmc.mup.sweep_jobs import make_plan
from llmc.mup.transfer import environment

DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("doc/*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = json.loads((ROOT / "python/llmc/options.json").read_text())["options"]
# Options of the programs that are not in the table, and options of other commands that README shows.
OTHERS = {"help", "config", "dry-run", "all", "print-config", "options-json", "prompt", "file", "out"}
OTHERS |= {"slurm", "sbatch", "time", "mem", "partition", "gpus", "qos"}  # of llmc sweep
OTHERS |= {"pattern", "separator", "field", "workers"}  # of llmc data text
OTHERS |= {"x", "last", "ylim"}  # of llmc plot loss
OTHERS |= {"to", "tensorboard", "wandb"}  # of llmc log
OTHERS |= {"tasks"}  # of llmc lm-eval


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        if "://" in target:
            continue
        linked = path if not file else path.parent / file
        assert linked.exists(), f"{path.name} links to {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.M)
            anchors = {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
            assert anchor in anchors, f"{path.name} links to {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_lines_are_short(path):
    """At most 120 characters, except for rows of wide tables, which cannot be wrapped."""
    lines = path.read_text(encoding="utf-8").splitlines()
    long = [i for i, line in enumerate(lines, 1) if len(line) > 120 and not line.startswith("|")]
    assert not long, f"{path.name}: lines {long}"
    if path.name == "README.md":
        assert max(map(len, lines)) <= 120


def test_readme_names_every_option_and_no_other():
    in_readme = set(re.findall(r"--([a-z][a-z0-9-]+)", README))
    names = {option["name"] for option in TABLE}
    flags = {option["name"] for option in TABLE if option["type"] == "flag"}
    known = names | {f"no-{name}" for name in flags} | OTHERS
    assert not in_readme - known, "README has options that do not exist"
    missing = {name for name in names if name not in in_readme and f"no-{name}" not in in_readme}
    assert not missing, "README lacks options"


def test_readme_lists_the_rooms_and_the_files_it_names_exist():
    block = README[README.index("## Where things are") :].split("```")[1]
    for room in (p.name for p in (ROOT / "llmc").iterdir() if p.is_dir() and p.name != "__pycache__"):
        assert re.search(rf"^ .*\b{room}/", block, re.M), f"README's list lacks llmc/{room}"
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a git clone")
    known = {*tracked, *(str(p) for t in tracked for p in Path(t).parents)}
    for name in re.findall(r"(?:dev|scripts|llmc|doc|python|tests)/[\w./-]*[\w/]", README):
        assert name.rstrip("/") in known or (ROOT / name).exists(), f"README names {name}"


def test_readme_example_in_python_runs(tmp_path):
    code = README.split("```python")[1].split("```")[0]
    code = code.replace('"mup.md"', repr(str(ROOT / "mup.md"))).replace("range(200)", "range(20)")
    code = code.replace('"runs/notes"', repr(str(tmp_path / "notes")))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.split()[0])
    assert 1 < loss < 5


def printed_commands():
    """The commands of checks and sweeps that README.md, mup.md and their --help print."""
    texts = [README, (ROOT / "mup.md").read_text(encoding="utf-8"), check_runs.__doc__, sweep.__doc__]
    found = []
    for text in texts:
        for match in re.finditer(
            r"(?:^|`)\s*((?:[A-Z_]+=(?:\"[^\"]*\"|\S+) )*scripts/mup_\w+\.sh[^`\n#]*)", text, re.M
        ):
            found.append(re.sub(r"   .*", "", match[1]).strip())
    return sorted(set(found))


@pytest.mark.parametrize("command", printed_commands())
def test_printed_checks_and_sweeps_are_accepted(command, tmp_path, monkeypatch):
    """Everything but the runs: variables and options are read, and the list of jobs is made."""
    monkeypatch.chdir(ROOT)
    words = shlex.split(command)
    if any(word in command for word in ("my-scheme", "AXIS [", "--help")):
        return  # not to be typed as printed
    at = next(i for i, word in enumerate(words) if word.startswith("scripts/"))
    env = {"OUT": str(tmp_path / "out")} | dict(word.split("=", 1) for word in words[:at])
    assert os.access(words[at], os.X_OK)
    if "coordinate_check" in words[at]:
        assert len(words) == at + 1
        check_runs.make_jobs(read_settings(env))
        return
    transfer = "transfer" in words[at]
    args = sweep.parse((["lr", "--verdict"] if transfer else []) + words[at + 1 :], None)
    make_plan(args.axis, env["OUT"], environment(env) if transfer else env, args.verdict)


def test_commands_are_found_in_the_documents():
    assert len(printed_commands()) > 10, printed_commands()
