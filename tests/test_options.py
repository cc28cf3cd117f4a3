"""The table of options, and that both programs use it in the same way: what they accept and refuse, and the output of
--print-config. train_gpt2.py's command line runs in this process, the C++ program as a program.
"""

import json
import runpy
import subprocess
import sys

import pytest
from both_programs import original, twin
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from program import BINARY, ROOT, TINY, checkpoints, log, losses, run
from shards import random_text, write_shard, write_text_shards

from llmc.options import OPTIONS, OTHER_NAMES, PRESETS

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]
# derandomize: the same examples in every run
GENERATED = settings(max_examples=150, deadline=None, derandomize=True, database=None)
GENERATED = settings(GENERATED, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


# --- One table ---


def test_options_json_is_what_the_program_prints():
    assert (ROOT / "python/llmc/options.json").read_text() == run("--options-json")[0]  # else: make options
    assert both("--options-json") == run("--options-json")[0]


def test_config_py_is_what_the_generator_makes():
    generator = runpy.run_path(str(ROOT / "dev/generate_options.py"))
    assert (ROOT / "python/llmc/config.py").read_text() == generator["config_py"]()  # else: make options


def test_options_need_no_other_packages():
    """Neither PyTorch nor the native module."""
    code = "import sys, llmc.command_line; assert not {'torch', 'numpy', 'llmc._cpu'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "python")}, check=True)


# --- Both programs ---


def both(*arguments, same_message=True):
    """Checks that both programs accept or refuse, with the same message. Returns it."""
    words = [str(word) for word in arguments]
    (code, printed, message), theirs = original(words), twin(words)
    assert theirs[0] == code, f"{words}: {code} {message!r}, train_gpt2.py {theirs[0]} {theirs[2]!r}"
    assert code in (0, 2), message
    if code == 0:
        assert theirs[1] == printed
        return printed
    assert not same_message or theirs[2] == message
    return message


def print_config(*arguments):
    return both("--print-config", *arguments)


ODD_NUMBERS = [
    *"0 -0 +5 5. .5 . 1e3 1E3 1e+3 1e 1e-400 1e999 -1e999 inf -inf Infinity nan NaN 0x10 0b1 1_000 1,000".split(),
    *"1.0 -1 -1.0 ++1 +-1 - + 1- 12abc 0.1 1e15 1e16 123456789012345678 0.30000000000000004 5e-324 1e-5 0.0001".split(),
    *[str(n + d) for n in (2**31, 2**53, 2**60, 2**63, 2**64) for d in (-1, 0, 1)],
    *[str(-(2**63) + d) for d in (-1, 0, 1)],
    *["", " ", " 1", "1 ", "1\n", "١", "1" * 5000, "0" * 30 + "7", "true"],
]
NUMBERS = [option for option in OPTIONS.values() if option.type in ("integer", "number")]


@pytest.mark.parametrize("option", [option.name for option in NUMBERS])
def test_odd_numbers(option):
    for text in ODD_NUMBERS if option in ("lr", "batch-size") else ODD_NUMBERS[::3]:
        print_config(f"--{option}", text)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--lr", "inf"], "--lr: 'inf' is not a number"),
        (["--batch-size", "1__000"], "--batch-size: '1__000' is not a whole number"),
        (["--steps", "1.5e0"], "--steps: '1.5e0' is not a whole number"),
        (["--steps", "1e30"], "--steps: '1e30' is out of range: at most 9223372036854775807"),
        (["--steps", "1e3x"], "--steps: '1e3x' is not a whole number"),
        (["--seed", str(2**64 - 1)], "is out of range: at most 9223372036854775807"),
        (["--depth", "1.5"], "--depth: '1.5' is not a whole number"),
        (["--width", "0"], "--width: '0' is out of range: between 1 and 1000000"),
        (["--dtype", "fp16"], "--dtype: 'fp16' is not one of fp32|bf16"),
        (["--preset", ""], "--preset: '' is not one of gpt2|"),
        (["--lr"], "--lr needs a value: RATE"),
        (["--config"], "--config needs a value: FILE"),
        (["--lr=", "0.1"], "--lr: '' is not a number"),
        (["--shuffle=false"], "--shuffle takes no value"),
        (["--no-shuffle=true"], "--no-shuffle takes no value"),
        (["--dry-run=0"], "--dry-run takes no value"),
        (["--warmup-stpes", "1"], "unknown argument: --warmup-stpes; did you mean --warmup-steps?"),
        (["--batch_size", "1"], "did you mean --batch-size?"),
        (["--no-lr"], "unknown argument: --no-lr"),
        (["-lr", "1"], "unknown argument: -lr; did you mean --lr?"),
        (["lr", "1"], "unknown argument: lr; did you mean --lr?"),
        (["--", "--lr", "1"], "unknown argument: --; --help lists the options"),
        (["--"], "unknown argument: --; --help lists the options"),
        (["--lr", "1", "--lr", "2"], "--lr is given twice, '1' and '2': leave one out"),
        (["--lr=1", "--lr", "abc"], "--lr is given twice, '1' and 'abc': leave one out"),
        (["--config", "a", "--config", "b"], "--config is given twice, 'a' and 'b': leave one out"),
        (["--shuffle", "--shuffle"], "--shuffle is given twice: leave one out"),
        (["--shuffle", "--no-shuffle"], "--shuffle and --no-shuffle are both given: leave one out"),
        (["--resume", "--resume"], "--resume is given twice: leave one out"),
        (["--lr", "0.1", "sample"], "'sample' comes first"),
        (["--heads", "3", "--head-dim", "16"], "--head-dim excludes --heads"),
        (["--steps", "3", "--epochs", "1", "--tokens", "5"], "--tokens excludes --steps"),
        (["--all"], "--all needs --dry-run: it prints the rules of every block"),
        (["--resume"], "--resume needs --out: the folder of the run to continue"),
        (["--checkpoint-every", "5"], "--checkpoint-every 5 needs --out"),
        (["--coord-check", "a.csv"], "--coord-check a.csv needs --overfit-single-batch"),
        (["--resume", "--overwrite", "--out", "x"], "--resume excludes --overwrite"),
        (["--parametrization", "mup"], "--parametrization mup needs --base-width"),
        (["--parametrization", "completep", "--base-width", "64"], "completep needs --base-depth"),
        (["--base-width", "64"], "--base-width 64 has no meaning under --parametrization sp"),
        (["--parametrization", "u-mup", "--init-std", "0.5"], "leave it out, or choose sp, mup, mup-table3,"),
        (["--ffn-act-mult", "0"], "is out of range: greater than 0"),
        (["--heads", "5", "--width", "48"], "--heads 5 does not divide --width 48"),
        (["--head-dim", "20", "--width", "48"], "--head-dim 20 does not divide --width 48"),
        (["--total-batch-size", "100", "--seq-len", "40", "--batch-size", "2"], "the nearest are 80 and 160"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(arguments, words):
    assert words in print_config(*arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompt", "--lr"],
        ["--prompt", "-x", "--out=-y"],
        ["--prompt=", "--lr", "5"],
        ["--prompt", "sample"],
        ["--prompt=a=b"],
        ["--prompt", 'ä "quoted" \\ back\tslash \x7f \x01 €'],
        ["--tie-embeddings"],
        ["--no-tie-embeddings", "--no-overfit-single-batch"],
        ["--steps", "-1", "--tokens", "-1", "--epochs", "2"],
        ["--out", "x", "--resume", "--heads", "7"],  # the checkpoint determines the heads
        ["--init", "x", "--total-batch-size", "7"],
        ["--parametrization", "mup", "--base-width", "64"],
        ["--parametrization", "u-mup", "--output-mult", "1", "--depth-alpha", "1", "--grad-clip", "3"],
        ["--config", ""],
    ],
    ids=" ".join,
)
def test_accepted(arguments):
    assert "lr = " in print_config(*arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--width 0100 --heads 1", "width = 100\n"),
        ("--width +0x10", "--width: '+0x10' is not a whole number"),
        ("--lr 2.877e-3", "lr = 0.002877\n"),
        ("--lr 1_0.5_0", "lr = 10.5\n"),
        ("--tokens 1e6", "tokens = 1000000\n"),
        ("--steps 1_000", "steps = 1000\n"),
        ("--steps 1.5e3", "steps = 1500\n"),
        ("--steps 1200e-2", "steps = 12\n"),
        ("--seed 9223372036854775807e0", "seed = 9223372036854775807\n"),
        ("--seed 0.9223372036854775807e19", "seed = 9223372036854775807\n"),
        ("--seed 9223372036854775808e0", "is out of range: at most 9223372036854775807"),
        ("--seed 0e99999999999999999999", "seed = 0\n"),
        ("--seed 1e-99999999999999999999", "is not a whole number"),
        ("--steps 1e99999999999999999999", "is out of range: at most 9223372036854775807"),
    ],
)
def test_numbers(arguments, words):
    assert words in print_config(*arguments.split())


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        *[
            ("--learning-rate", "--lr"),
            ("--learning_rate=1", "--lr"),
            ("--n-layer", "--depth"),
            ("--n_head", "--heads"),
        ],
        *[("--n-embd", "--width"), ("--d_model", "--width"), ("--max-steps", "--steps"), ("--max_iters", "--steps")],
        *[("--block-size", "--seq-len"), ("--n_ctx", "--seq-len"), ("--num_train_epochs", "--epochs")],
        *[("--output-dir", "--out"), ("--max_grad_norm", "--grad-clip"), ("--wd", "--weight-decay")],
        *[("--eval-iters", "--eval-tokens"), ("--learnin-rate", "--lr"), ("--Learning-Rate", "--lr")],
        *[("--gradient_checkpointing", "--recompute"), ("--per_device_train_batch_size", "--batch-size")],
        *[
            ("smaple", "sample"),
            ("sampel", "sample"),
            ("--no-shufle", "--no-shuffle"),
            ("--no-zero-int-head", "--no-zero-init-head"),
        ],
    ],
)
def test_names_of_other_programs_are_translated(word, meant):
    assert print_config(word) == f"unknown argument: {word}; did you mean {meant}?"


@pytest.mark.parametrize("word", ["--xyzzyxyzzy", "ab", "--", "-", "--no-"])
def test_what_resembles_nothing(word):
    assert print_config(word) == f"unknown argument: {word}; --help lists the options"


def test_every_translation_leads_to_its_option():
    """No name stands for two options or is the name of one."""
    names = [name for others in OTHER_NAMES.values() for name in others]
    assert len(set(names)) == len(names) and not set(names) & set(OPTIONS) and set(OTHER_NAMES) <= set(OPTIONS)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets(preset):
    assert f"depth = {PRESETS[preset]['depth']}\n" in print_config("--preset", preset)
    assert "depth = 3\n" in print_config("--preset", preset, "--depth", "3")


# --- TOML ---

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


# --- The sample command ---


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    text = write_text_shards(folder / "data", random_text(5_000), shards=1)
    run("--train-data", text, *TINY, "--steps", 2, "--out", folder / "out")
    return folder / "out"


def test_sample_of_a_run_folder_and_of_a_checkpoint(run_folder):
    options = ["--tokenizer", "byte", "--prompt", "ab", "--sample-tokens", 20, "--threads", 1]
    for path in (run_folder, checkpoints(run_folder)[0], checkpoints(run_folder)[0] / "model.safetensors"):
        assert both("sample", path, *options).startswith("ab")


def test_sample_of_data_that_does_not_say_its_tokenizer(tmp_path):
    shard = write_shard(tmp_path / "d.bin", [i % 200 for i in range(2000)], vocab_size=257, tokenizer="unknown")
    run("--train-data", shard, *TINY, "--steps", 0, "--out", tmp_path / "out")
    for program in (original, twin):
        code, _, message = program(["sample", str(tmp_path / "out")])
        assert code == 3 and "give --tokenizer" in message
    both("sample", tmp_path / "out", "--tokenizer", "byte", "--sample-tokens", 5, "--threads", 1)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "CHECKPOINT is required"),
        (["a", "b"], "unknown argument: b"),
        (["a", "--lr", "1"], "unknown argument: --lr"),
        (["a", "--tokeniser", "byte"], "unknown argument: --tokeniser; did you mean --tokenizer?"),
        (["a", "--config", "x"], "unknown argument: --config"),
        (["a", "--tokenizer", "bpe"], "--tokenizer: 'bpe' is not one of auto|byte|gpt2"),
        (["a", "--temperature", "hot"], "--temperature: 'hot' is not a number"),
        (["a", "--seed"], "--seed needs a value: SEED"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals_of_the_sample_command(arguments, words):
    assert words in both("sample", *arguments)


# --- Generated ---

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
NUMBER_TEXT = st.one_of(
    st.sampled_from(ODD_NUMBERS),
    st.integers(-(2**65), 2**65).map(str),
    st.integers(1, 64).map(str),
    st.floats().map(repr),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.text("0123456789+-._eE xinfa", max_size=7),
)


@st.composite
def command_line_options(draw):
    option = draw(st.sampled_from(list(OPTIONS.values())))
    if option.type == "flag":
        return [draw(st.sampled_from([f"--{option.name}", f"--no-{option.name}"]))]
    choices = st.sampled_from(option.choices) if option.choices else TEXT
    value = draw(NUMBER_TEXT if option.type in ("integer", "number") else st.one_of(choices, choices, TEXT))
    if option.type == "list" and draw(st.booleans()):
        return [f"--{option.name}={value}", *(f"./{more}" for more in draw(st.lists(TEXT, max_size=3)))]
    return [f"--{option.name}={value}"] if draw(st.booleans()) else [f"--{option.name}", value]


BASES = st.sampled_from([[], "--parametrization mup --base-width 768".split(), "--parametrization u-mup".split()])


@GENERATED
@given(BASES, st.lists(st.one_of(command_line_options(), TEXT.map(lambda word: [word])), max_size=5))
@example([], [["--depth", "--"], ["--prompt", "--"]])
@example([], [["--lr", "1.7976931348623157e308"]])
@example([], [["--lr", "9007199254740993"], ["--eps", "6.123233995736766e-17"]])  # nlohmann's dump needs 17 digits
def test_generated_command_lines(base, options):
    print_config(*base, *(word for option in options for word in option))


def toml_text(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml_text(v)}" for key, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_text, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower()


TOML_VALUES = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(1, 64),
    st.floats(),
    st.booleans(),
    TEXT,
    st.lists(st.integers(1, 9), max_size=2),
    st.dictionaries(st.sampled_from("ab"), st.integers(1, 9), max_size=2),
    st.sampled_from([choice for option in OPTIONS.values() for choice in option.choices]),
)


@GENERATED
@given(
    st.dictionaries(st.sampled_from([*OPTIONS, *(option.key for option in OPTIONS.values()), "lrr"]), TOML_VALUES),
    st.lists(command_line_options(), max_size=2),
)
def test_generated_toml(tmp_path, values, options):
    lines = [f"{key} = {toml_text(value)}\n" for key, value in values.items()]
    (tmp_path / "a.toml").write_text("".join(lines))
    print_config("--config", tmp_path / "a.toml", *(word for option in options for word in option))


TOML_KEYS = st.sampled_from([*"lr depth width prompt train-data lr.x a.b [t] [[t]] # 'lr' \"lr\"".split(), "", "x y"])
TOML_WORDS = (
    "1 -2 1e3 'a' true False [1] {a=1} 2020-01-01 1979-13-01 07:00 'open [ 1_0 1__0 inf -nan 1. 0b1 0o7 +5".split()
)
TOML_WORDS += ["-0", "1e400", "#c", "[[1],[2]]", "{}", '"b"', '"\\u00e9"', '"\\q"', '"' * 3, "'" * 3 + "x\ny" + "'" * 3]
TOML_WORDS += ["[1,\n2]", "{a=1,\nb=2}", '"\t"', "00"]
STATEMENTS = st.builds("{}{}{}".format, TOML_KEYS, st.sampled_from([" = ", "=", " "]), st.sampled_from(TOML_WORDS))
NOISE = st.text("lr =1.[]{}'\"\\#,\n\r\t\0é", max_size=8)


@GENERATED
@given(st.lists(st.one_of(STATEMENTS, STATEMENTS, NOISE), max_size=4), st.sampled_from(["\n", "\r\n"]))
def test_both_parsers_take_the_same_for_toml(tmp_path, lines, end):
    """And name the same line of what is not."""
    (tmp_path / "a.toml").write_bytes(end.join(lines).encode())
    print_config("--config", tmp_path / "a.toml")


@GENERATED
@given(st.lists(command_line_options(), max_size=4))
def test_what_is_printed_can_be_read(tmp_path, options):
    """Of either program by either program: backslashes, quotes, newlines, lists, every character."""
    code, printed, _ = twin(["--print-config", *(word for option in options for word in option)])
    if code == 0:
        (tmp_path / "a.toml").write_text(printed)
        assert print_config("--config", tmp_path / "a.toml") == printed
