"""The package's imports go only downwards, and the command `llmc` starts without the large packages."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter

import pytest
from program import ROOT

# A module imports modules of its own line and of the lines above. Its line is that of the longest matching name.
LEVELS = [
    ["llmc.version"],
    ["llmc.cpus", "llmc.errors"],
    ["llmc.backend", "llmc.config"],  # the native modules; code generated from the table of options
    ["llmc.cpu", "llmc.cuda", "llmc.emulated"],  # the native modules under their public names
    ["llmc", "llmc.model"],  # GPT2
    ["llmc.options", "llmc.command_line", "llmc.numbers", "llmc.precedence", "llmc.suggest", "llmc.toml_options"],
    ["llmc.wording"],
    [
        "llmc.atomic",
        "llmc.extras",
        "llmc.json_file",
        "llmc.log",
        "llmc.outliers",
        "llmc.paths",
        "llmc.progress",
        "llmc.random",
        "llmc.signals",
        "llmc.step_line",
        "llmc.tokenizer",
    ],
    ["llmc.bpe_table"],
    ["llmc.data"],  # from text to token shards
    ["llmc.config_json", "llmc.other_formats", "llmc.weight_files"],
    ["llmc.foreign"],
    [
        "llmc.checkpoint",
        "llmc.choice_evaluation",
        "llmc.log_writer",
        "llmc.ranks",
        "llmc.resume",
        "llmc.run_folder",
        "llmc.rule_table",
        "llmc.run_setup",
        "llmc.run_warnings",
        "llmc.sampling",
        "llmc.torch_profile",
    ],
    [
        "llmc.batches",
        "llmc.check_writer",
        "llmc.info",
        "llmc.run_log",
        "llmc.saver",
        "llmc.zero",
    ],
    ["llmc.commands"],  # this line and the two above: used by train_gpt2.py
    ["llmc.export.arguments", "llmc.export.fold", "llmc.export.run_facts", "llmc.export.vocabulary"],
    [
        "llmc.export.card",
        "llmc.export.folder",
        "llmc.export.hf_files",
        "llmc.export.torch_files",
        "llmc.export.weights",
    ],
    ["llmc.export"],  # models for other programs
    ["llmc.plot.style", "llmc.plot.smoothing"],
    ["llmc.track.values", "llmc.track.tail", "llmc.track.tensorboard_file", "llmc.track.wandb_run"],
    ["llmc.track"],  # curves for TensorBoard, W&B and CSV
    ["llmc.mup"],  # coordinate checks and sweeps: runs, results, verdicts
    ["llmc.plot"],  # figures
    ["llmc.report"],  # one HTML page of all of these
    ["llmc.bench", "llmc.harness"],
    ["llmc.cli", "llmc.__main__"],
]
PACKAGE = ROOT / "python"


def modules():
    """{name: path} of the package's files."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(text, known):
    """The package's modules that a source imports anywhere, also in functions and for type checking."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute in this package"
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    parents = {name.rpartition(".")[0] for name in found & known}
    return {name for name in found & known if name not in parents or name == "llmc"}


def level(module):
    fits = [
        (len(name), number)
        for number, names in enumerate(LEVELS)
        for name in names
        if module == name or (module.startswith(name + ".") and name != "llmc")
    ]
    assert fits, f"{module} has no place in LEVELS: add it"
    return max(fits)[1]


def upward(graph):
    return [f"{a} imports {b}" for a, targets in graph.items() for b in sorted(targets) if level(b) > level(a)]


def cycle(graph):
    """The modules of a circular import, or []."""
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        return error.args[1]
    return []


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: imports(path.read_text(), set(known)) - {name} for name, path in known.items()}


def test_no_module_imports_one_of_a_later_line(graph):
    assert len(graph) > 40
    assert not upward(graph)


def test_no_imports_are_circular(graph):
    assert not cycle(graph)


def test_wrong_imports_are_found():
    known = {"llmc", "llmc.mup", "llmc.mup.check", "llmc.plot", "llmc.plot.check"}
    text = "def f():\n    from llmc.plot.check import main\n"
    assert upward({"llmc.mup.check": imports(text, known)}) == ["llmc.mup.check imports llmc.plot.check"]
    text = "from llmc.plot import check\nimport llmc.mup.check"
    assert imports(text, known) == {"llmc.plot.check", "llmc.mup.check"}
    assert cycle({"a": {"b"}, "b": {"c"}, "c": {"a"}})
    with pytest.raises(AssertionError, match="add it"):
        level("llmc.unknown")


def test_the_command_starts_without_heavy_packages():
    code = "import sys, llmc.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=PACKAGE, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "llmc" in loaded
    assert not loaded & {"torch", "matplotlib", "scipy", "numpy"}
