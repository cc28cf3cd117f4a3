"""The table of options, and that both programs use it in the same way: what they accept and refuse, and the output of
--print-config. train_gpt2.py's command line runs in this process, the C++ program as a program.
"""

import runpy
import subprocess
import sys

import pytest
from both_programs import ODD_NUMBERS, both, original, print_config, twin
from program import BINARY, ROOT, TINY, checkpoints, run
from shards import random_text, write_shard, write_text_shards

from llmc.options import OPTIONS, OTHER_NAMES, PRESETS

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]


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
    ("arguments", "words"),
    [
        (["--rank", 1], "--rank 1 needs --world-size"),
        (["--world-size", 2], "--world-size 2 needs --rank: 0 to 1"),
        (["--rank", 2, "--world-size", 2, "--dry-run"], "--rank 2 is not below --world-size 2"),
        (["--rank", 0, "--world-size", 2], "--world-size 2 needs --master HOST:PORT"),
        (["--rank", 0, "--world-size", 2, "--master", "here"], "--master here: give the host and a free port"),
        (["--rank", 0, "--world-size", 2, "--master", "[::1]:99999", "--dry-run"], "--master [::1]:99999: give"),
        (["--world-size", 4, "--dry-run", "--total-batch-size", 100], "--batch-size x --seq-len x processes = "),
    ],
)
def test_places_that_are_refused(arguments, words):
    assert words in both(*arguments)


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
    """CLI11 2.1.2 reads numbers otherwise: 0100 is octal, 0x10 is 16, and decimals are rounded twice, by way of long
    double: 2.877e-3 is not the nearest double. Both programs read the text themselves."""
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


def test_help_of_eval_has_its_defaults():
    """What a checkpoint decides, and no brackets where nothing is given by default."""
    for program in (original, twin):
        code, text, _ = program(["eval", "--help"])
        words = " ".join(text.split())
        assert code == 0 and "without it nothing is evaluated --tokenizer" in words
        assert "must divide the width [12, or those of the weights] " in words
        assert "learned positions of a new model [1024, or all positions of the weights] " in words


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
