"""--config: TOML files in both programs, and what the command line displaces."""

import os

import pytest
from both_programs import both, original, print_config, twin
from program import BINARY, ROOT, TINY, log, losses
from shards import random_text, write_text_shards

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]


TOML = [
    ("lr = 0.5", "lr = 0.5\n"),
    ("lr = 1_000", "lr = 1000.0\n"),
    ("depth = 0x10", "depth = 16\n"),
    ("lr = 1e-9 # comment", "lr = 1e-09\n"),
    ("base-width = 5\nbase_width = 6", "--base-width is given twice, as base-width = 5 and base_width = 6: leave one"),
    ("steps = 1_0", "steps = 10\n"),
    ("tokens = 1e6", "tokens = 1000000\n"),
    ("tokens = '1_000'", "tokens = 1000\n"),
    ("steps = 1.5", "--steps: '1.5' is not a whole number"),
    ("seed = 1e19", "--seed: '1e+19' is out of range: at most 9223372036854775807"),
    ("width = '64'\nheads = 1", "width = 64\n"),
    ("width = 'wide'", "--width: 'wide' is not a whole number"),
    ("out = 'runs/a#b' # comment", 'out = "runs/a#b"\n'),
    ("shuffle = 2", "--shuffle: '2' is not true or false"),
    ("prompt = '''a\nb'''", 'prompt = "a\\nb"\n'),
    ("prompt = '\\'", 'prompt = "\\\\"\n'),
    ('prompt = "\\u007f\\U0001F600"', 'prompt = "\\u007f😀"\n'),
    ("preset = 'gpt2-medium'\nheads = 8", "width = 1024\n"),
    ("steps = -1\nepochs = 3", "epochs = 3.0\n"),
    ("\ufeffdepth = 3\r\nlr = 1\r\n", "depth = 3\n"),
    ("shuffle = false", "shuffle = false\n"),
    ('shuffle = "yes"', "--shuffle: 'yes' is not true or false"),
    ("shuffle = 1", "--shuffle: '1' is not true or false"),
    ("depth = 13.0", "depth = 13\n"),
    ("depth = true", "--depth: 'true' is not a whole number"),
    ("lr = '0.1'", "lr = 0.1\n"),
    ("lr = 'fast'", "--lr: 'fast' is not a number"),
    ("lr = inf", "--lr: 'inf' is not a finite number"),
    ("lr = -inf", "--lr: '-inf' is not a finite number"),
    ("lr = nan", "--lr: 'nan' is not a finite number"),
    ("lr = -nan", "--lr: 'nan' is not a finite number"),
    ("prompt = 5", "--prompt: '5' is not a text"),
    ("dtype = ''", "--dtype: '' is not one of fp32|bf16"),
    ("lr = [1e-3, 2e-3]", "--lr is a list, [0.001, 0.002]: give one value"),
    ("lr = [1, 'a', true, [2.5], {a = 1}, 07:32:00]", "--lr is a list, [1, a, true, [2.5], ..., ...]: give one value"),
    ("train-data = ['a', 'b*.bin']", 'train-data = ["a", "b*.bin"]\n'),
    ("train-data = ['a']", 'train-data = "a"\n'),
    ("train-data = []", 'tokenizer = "auto"\n'),
    ("val-data = ['a', 5]", "--val-data: '5' is not a text"),
    ("val-data = ['a', '']", "--val-data: '' is empty: leave it out"),
    ("lr = {a = 1}", "--lr is a table"),
    ("lr = 2020-01-01", "--lr is a date or time"),
    ("lr = 07:32:00", "--lr is a date or time"),
    ("[model]\nwidth = 5", "[model] is a table: options stand at the top of the file"),
    ("model.width = 5", "[model] is a table"),
    ("[lr]\na = 1", "--lr is a table"),
    ("[[model]]\nwidth = 5", "[model] is a table: options stand at the top of the file"),
    ("lr = 1\n[default]\nwidth = 5", "[default] is a table: options stand at the top of the file"),
    ("lrr = 1", "unknown key 'lrr'; did you mean lr?"),
    ("learning_rate = 1", "unknown key 'learning_rate'; did you mean lr?"),
    ("no-shuffle = true", "unknown key 'no-shuffle'; did you mean shuffle = false?"),
    ("config = 'x'", "unknown key 'config'"),
    ("steps = 3\ntokens = 5", "--tokens excludes --steps"),
]
NOT_TOML = [
    ("lr", 'line 1: "lr" is not TOML: write one option a line, name = value'),
    ("lr = ", 'line 1: "lr = " is not TOML: a value is missing'),
    ("= 5", "write one option a line"),
    ("lr 5", "write one option a line"),
    ("depth = 3\n\nlr = 0.1 0.2", 'line 3: "lr = 0.1 0.2" is not TOML: give one number, true, false, a text in quotes'),
    ("lr = True", "write true or false"),
    ("lr = 1\n# lr = 3\nlr = 2", 'line 3: "lr = 2" is not TOML: lr is given twice, first in line 1: "lr = 1"'),
    ("lr = 1\rdepth = 2", "line 1: "),
    ("\ufeffdepth = 3\r\nlr = .5\r\n", 'line 2: "lr = .5" is not TOML: '),
    *[(f"lr = {value}", "give one number") for value in (".5", "5.", "1__0", "1e999", "-1e999", "[1,, 2]", "0x", "00")],
    ("lr = {a = 1,}", "line 1: "),
    ("depth = 9223372036854775808", "line 1: "),
    ("depth = 2\nlr = [1, [9223372036854775808]]", "line 2: "),
    ('prompt = """a\nb\n\nc', "line 1: "),
    ("depth = 3\nprompt = '''a\nb'''\nlr = [1,\n2,\n\n", 'line 4: "lr = [1," is not TOML'),
    ('prompt = "a', "line 1: "),
    ('prompt = "\\x41"', 'line 1: "prompt = \\"\\\\x41\\"" is not TOML'),
    ('prompt = "\\ud800"', "line 1: "),
    ('prompt = "\x7f"', "\\u007f"),
    ("ключ = 1", 'line 1: "ключ = 1" is not TOML: write one option a line'),
    ("lr = " + "ä" * 100, 'line 1: "lr = ' + "ä" * 55 + '" is not TOML'),
    ("a.b.c = 1\na.b = 2", "line 2: "),
    *[(text, "line 1: ") for text in ("[a]]", "[a.", "[[a]", "= 1", "lr\0 = 1", "{")],
    ("lr = " + "[" * 300, "line 1: "),
    ("lr = " + "[" * 100_000, "line 1: "),
    ("lr = 1\n" * 300, "line 2: "),
    ("lr = [\n" + "1,\n" * 50, "line 1: "),
]


@pytest.mark.parametrize(("text", "words"), TOML, ids=lambda value: value.strip())
def test_toml(tmp_path, text, words):
    """Among them what CLI11 2.1.2's own reader of files gets wrong: `#` within quotes starts a comment there, and 0x10,
    0100 and decimals are read as on its command line. toml++ reads the files."""
    (tmp_path / "a.toml").write_bytes(text.encode())
    assert words in print_config("--config", tmp_path / "a.toml")


@pytest.mark.parametrize(("text", "words"), NOT_TOML, ids=lambda value: value.strip()[:30])
def test_what_is_not_toml(tmp_path, text, words):
    (tmp_path / "a.toml").write_bytes(text.encode())
    message = print_config("--config", tmp_path / "a.toml")
    assert message.startswith(f"--config {tmp_path}/a.toml, line ") and words in message


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'prompt = "\xff"')
    (tmp_path / "utf16.toml").write_bytes("lr = 1".encode("utf-16"))
    for name in ("latin.toml", "utf16.toml"):
        assert "is not UTF-8: save it as UTF-8 text" in print_config("--config", tmp_path / name)
    for path in (tmp_path, tmp_path / "none.toml"):
        assert print_config("--config", path) == f"--config {path} cannot be read: give a TOML file"


def test_the_command_line_wins(tmp_path):
    (tmp_path / "a.toml").write_text("lr = 1\nshuffle = false\ndepth = 5")
    printed = print_config("--config", tmp_path / "a.toml", "--lr", "2", "--shuffle")
    assert "lr = 2.0\n" in printed and "shuffle = true\n" in printed and "depth = 5\n" in printed


PRECEDENCE = [  # the file, the command line, in the configuration, in the note
    ("steps = 5", "--tokens 7", ["tokens = 7"], ["steps = 5 left out: --tokens is given"]),
    ("steps = 5", "--epochs 2", ["epochs = 2.0"], ["steps = 5 left out: --epochs is given"]),
    ("tokens = 5", "--steps 7", ["steps = 7"], ["tokens = 5 left out: --steps is given"]),
    ("head-dim = 32", "--heads 2", ["heads = 2"], ["head-dim = 32 left out: --heads is given"]),
    ("heads = 2", "--head-dim 32", ["heads = 24"], ["heads = 2 left out: --head-dim is given"]),
    ("eval-batches = 5", "--eval-tokens 9", ["eval-tokens = 9"], ["eval-batches = 5 left out: --eval-tokens is given"]),
    ("overwrite = true\nout = 'x'", "--resume", ["resume = true"], ["overwrite = true left out: --resume is given"]),
    (
        "width = 64\nseq-len = 8",
        "--preset gpt2-medium",
        ["width = 1024", "seq-len = 1024"],
        ["seq-len = 8, width = 64 left out: --preset gpt2-medium is given"],
    ),
    (
        "parametrization = 'mup'\nbase-width = 64\noutput-mult = 2.0",
        "--parametrization sp",
        ["base-width = 0", "output-mult = 2.0"],
        ["base-width = 64 left out: no meaning under --parametrization sp"],
    ),
    (
        "parametrization = 'mup'\nbase-width = 64\noutput-mult = 2.0",
        "--parametrization u-mup",
        ["base-width = 0", "output-mult = 1.0"],
        ["base-width = 64, output-mult = 2 left out: no meaning under --parametrization u-mup"],
    ),
    (
        "parametrization = 'completep'\nbase-width = 768\nbase-depth = 2",
        "--parametrization mup",
        ["base-width = 768", "base-depth = 0"],
        ["base-depth = 2 left out: no meaning under --parametrization mup"],
    ),
    ("tie-embeddings = true", "--parametrization u-mup", ["lr = "], ["tie-embeddings = true left out: no meaning"]),
    ("steps = 5\nhead-dim = 32", "--tokens 7 --heads 2", ["tokens = 7", "heads = 2"], ["head-dim", "steps"]),
    ("steps = 5", "--steps 6", ["steps = 6"], []),
    ("steps = 5", "--tokens -1", ["steps = 5"], []),
    ("width = 48\nheads = 3", "--width 96", ["width = 96", "heads = 3"], []),
]


@pytest.mark.parametrize(("text", "options", "words", "notes"), PRECEDENCE, ids=lambda value: str(value)[:30])
def test_the_command_line_displaces_what_it_excludes(tmp_path, text, options, words, notes):
    """A line for each reason, in both programs the same; the file alone and the command line alone are accepted."""
    (tmp_path / "a.toml").write_text(text)
    arguments = ["--print-config", "--config", str(tmp_path / "a.toml"), *options.split()]
    code, printed, said = original(arguments)
    assert (code, printed, said) == twin(arguments)
    assert code == 0 and all(f"\n{word}" in printed for word in words), (printed, said)
    lines = said.splitlines()
    assert len(lines) == len(notes)
    for line, note in zip(lines, notes, strict=True):
        assert line.startswith(f"note: --config {tmp_path}/a.toml: ") and note in line


def test_an_option_of_the_command_line_must_fit_the_scheme_of_the_file(tmp_path):
    (tmp_path / "a.toml").write_text("parametrization = 'u-mup'")
    assert "--output-mult 2 has no meaning" in print_config("--config", tmp_path / "a.toml", "--output-mult", "2")


@pytest.mark.parametrize("scheme", ["sp", "mup", "u-mup", "mup-table9"])
def test_the_first_experiment_is_one_file_under_two_schemes(tmp_path, scheme):
    """scripts/first_run.toml under muP, and under SP: trained by both programs."""
    text = (ROOT / "scripts/first_run.toml").read_text()
    data = write_text_shards(tmp_path / "data", random_text(20_000), shards=1)
    options = ["--config", str(ROOT / "scripts/first_run.toml"), "--parametrization", scheme, "--steps", "2"]
    options += ["--width", "64", "--train-data", data, "--val-data", data, "--sample-every", "0", "--warmup-steps", "1"]
    options += ["--eval-tokens", "500", "--threads", "1"]
    assert 'parametrization = "mup"' in text and "base-width = 128" in text
    losses_of = []
    for number, program in enumerate((original, twin)):
        code, _, said = program([*options, "--out", str(tmp_path / f"{number}")])
        assert code == 0, said
        assert ("base-width = 128" in said and "left out" in said) == (scheme in ("sp", "u-mup"))
        losses_of.append(losses(tmp_path / f"{number}"))
        assert log(tmp_path / f"{number}", "config")[0]["parametrization"]["scheme"] == scheme
    assert losses_of[0] == pytest.approx(losses_of[1], rel=1e-4)


def test_data_may_be_a_list(tmp_path):
    """Several words, several options, or a list in a file; the command line replaces the list of the file."""
    words = ["--train-data", "a*.bin", "b.bin", "--lr", "1", "--train-data=c.bin", "d.bin"]
    printed = print_config(*words)
    assert 'train-data = ["a*.bin", "b.bin", "c.bin", "d.bin"]\n' in printed and "lr = 1.0\n" in printed
    (tmp_path / "a.toml").write_text(printed)
    assert print_config("--config", tmp_path / "a.toml") == printed
    assert 'train-data = "e"\n' in print_config("--config", tmp_path / "a.toml", "--train-data", "e")


def test_the_order_of_a_list_of_data_does_not_matter(tmp_path):
    """Patterns, files, and files named twice: the same shards in the same order, by both programs."""
    folder = tmp_path / "data"
    pattern = write_text_shards(folder, random_text(9_000), shards=3)
    files = sorted(folder.glob("*.bin"))
    assert len(files) == 3
    numbers = []
    for program in (original, twin):
        for data in ([pattern], files[::-1], [files[2], pattern]):
            out = tmp_path / f"run{len(numbers)}"
            options = [*TINY, "--steps", 3, "--out", out]
            assert program(["--train-data", *map(str, [*data, *options])])[0] == 0
            numbers.append(losses(out))
            assert log(out, "config")[0]["config"]["train_data"] == [str(word) for word in data]
    assert numbers[0] == numbers[1] == numbers[2] and numbers[3] == numbers[4] == numbers[5]


# --- Bytes that are not UTF-8 ---


@pytest.mark.parametrize("option", ["prompt", "out", "train-data", "init"])
def test_texts_of_a_run_are_utf8(option):
    """Otherwise its log and checkpoints could not hold them: refused before anything is trained."""
    message = both("--dry-run", f"--{option}", os.fsdecode(b"caf\xe9"))
    assert message == f'--{option} "caf\ufffd" is not UTF-8, as the log and checkpoints are: give other text'
