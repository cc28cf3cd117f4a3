"""The table of options, and that both programs use it in the same way: what they accept and refuse, and the output of
--print-config. train_gpt2.py's command line runs in this process, the C++ program as a program.
"""

import contextlib
import io
import json
import runpy
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from program import BINARY, ROOT, TINY, checkpoints, log, losses, run
from shards import random_text, write_shard, write_text_shards

import train_gpt2
from llmc.options import OPTIONS, PRESETS

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


def twin(arguments):
    """(exit code, what is printed, the message without the program's name) of train_gpt2.py."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            code = train_gpt2.main(arguments)
        except SystemExit as end:
            code = end.code
    message = error.getvalue().removeprefix("train_gpt2.py: ").replace("train_gpt2.py sample", "train_gpt2 sample")
    return code, out.getvalue(), message.rstrip("\n")


def original(arguments):
    """The same for the C++ program."""
    done = subprocess.run([BINARY, *arguments], cwd=ROOT, capture_output=True, timeout=30)
    message = done.stderr.decode(errors="replace").removeprefix(f"{BINARY.name}: ")
    return done.returncode, done.stdout.decode(errors="replace"), message.rstrip("\n")


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
        (["--batch-size", "1_000"], "--batch-size: '1_000' is not a whole number"),
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
        (["--", "--lr", "1"], "unknown argument: --"),
        (["--lr", "0.1", "sample"], "'sample' comes first"),
        (["--heads", "3", "--head-dim", "16"], "--head-dim excludes --heads"),
        (["--steps", "3", "--epochs", "1", "--tokens", "5"], "--tokens excludes --steps"),
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
        ["--lr", "1", "--lr", "2"],
        ["--lr", "abc", "--lr", "2"],
        ["--shuffle", "--no-shuffle"],
        ["--no-shuffle", "--shuffle"],
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
        ["--all"],
        ["--config", ""],
    ],
    ids=" ".join,
)
def test_accepted(arguments):
    assert "lr = " in print_config(*arguments)


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
    ("base-width = 5\nbase_width = 6\nparametrization = 'mup'\nwidth = 6\nheads = 1", "base-width = 6\n"),
    ("prompt = '''a\nb'''", 'prompt = "a\\nb"\n'),
    ("prompt = '\\'", 'prompt = "\\\\"\n'),
    ('prompt = "\\u007f\\U0001F600"', 'prompt = "\\u007f😀"\n'),
    ("preset = 'gpt2-medium'\nheads = 8", "width = 1024\n"),
    ("steps = -1\nepochs = 3", "epochs = 3.0\n"),
    ("\ufeffdepth = 3\r\nlr = 1\r\n", "depth = 3\n"),
    ("shuffle = false", "shuffle = false\n"),
    ('shuffle = "yes"', "--shuffle: 'yes' is not true or false"),
    ("shuffle = 1", "--shuffle: '1' is not true or false"),
    ("depth = 12.0", "--depth: '12' is not a whole number"),
    ("depth = true", "--depth: 'true' is not a whole number"),
    ("lr = '0.1'", "--lr: '0.1' is not a number"),
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
    ("[[model]]\nwidth = 5", "unknown key 'model'"),
    ("lrr = 1", "unknown key 'lrr'; did you mean --lr?"),
    ("no-shuffle = true", "unknown key 'no-shuffle'"),
    ("config = 'x'", "unknown key 'config'"),
    ("steps = 3\ntokens = 5", "--tokens excludes --steps"),
]
NOT_TOML = [
    *["lr", "lr = ", "= 5", "lr 5", "lr = .5", "lr = 5.", "lr = 1__0", "lr = 1\nlr = 2", "lr = 1\rdepth = 2"],
    *[
        'prompt = "\\x41"',
        'prompt = "\\ud800"',
        'prompt = "a',
        "ключ = 1",
        "lr = {a = 1,}",
        "depth = 9223372036854775808",
    ],
    *["lr = 9223372036854775808", "lr = 1e999", "lr = -1e999", 'prompt = "\x7f"', "lr = 0.1 0.2", "lr = True"],
]


@pytest.mark.parametrize(("text", "words"), TOML, ids=lambda value: value.strip())
def test_toml(tmp_path, text, words):
    (tmp_path / "a.toml").write_bytes(text.encode())
    assert words in print_config("--config", tmp_path / "a.toml")


@pytest.mark.parametrize("text", NOT_TOML)
def test_what_is_not_toml(tmp_path, text):
    """Each parser has its own messages for invalid TOML."""
    (tmp_path / "a.toml").write_bytes(text.encode())
    message = both("--print-config", "--config", tmp_path / "a.toml", same_message=False)
    assert message.startswith(f"--config {tmp_path}/a.toml")


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "latin.toml").write_bytes(b'prompt = "\xff"')
    both("--print-config", "--config", tmp_path / "latin.toml", same_message=False)
    for path in (tmp_path, tmp_path / "none.toml"):
        assert print_config("--config", path) == f"--config {path} cannot be read: give a TOML file"


def test_the_command_line_wins(tmp_path):
    (tmp_path / "a.toml").write_text("lr = 1\nshuffle = false\ndepth = 5")
    printed = print_config("--config", tmp_path / "a.toml", "--lr", "2", "--shuffle")
    assert "lr = 2.0\n" in printed and "shuffle = true\n" in printed and "depth = 5\n" in printed


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
    for program in ([BINARY], [sys.executable, ROOT / "train_gpt2.py"]):
        for data in ([pattern], files[::-1], [files[2], pattern]):
            out = tmp_path / f"run{len(numbers)}"
            run("--train-data", *data, *TINY, "--steps", 3, "--out", out, program=program)
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


@GENERATED
@given(st.lists(command_line_options(), max_size=4))
def test_what_is_printed_can_be_read(tmp_path, options):
    code, printed, _ = twin(["--print-config", *(word for option in options for word in option)])
    if code == 0:
        (tmp_path / "a.toml").write_text(printed)
        assert print_config("--config", tmp_path / "a.toml") == printed
