"""README and the other documents: their links, their options, the files they name, and the length of their lines."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from program import ROOT

DOCUMENTS = sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("doc/*.md"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
TABLE = json.loads((ROOT / "python/llmc/options.json").read_text())["options"]
# Options of the programs that are not in the table, and options of other commands that README shows.
OTHERS = {"help", "config", "dry-run", "all", "print-config", "options-json", "prompt", "file", "out"}
OTHERS |= {"slurm", "sbatch", "time", "mem", "partition", "gpus", "qos"}  # of llmc sweep


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
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loss = float(done.stdout.split()[0])
    assert 1 < loss < 5
