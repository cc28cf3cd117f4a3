"""Options of train_gpt2.py: files, precedence, --help, --dry-run, refusals. test_options.py compares the programs."""

import json

import pytest
from reference_tools import ALL, COMPLETEP, MUP, TINY, UNIT, main, parse, resolved

from llmc.options import OPTIONS

pytestmark = pytest.mark.usefixtures("one_thread")
UNIT_MULTS = ("ffn-act-mult", "attn-softmax-mult", "residual-mult", "residual-attn-ratio", "loss-softmax-mult")


def dry_run(capsys, *options):
    """The rule table that --dry-run prints."""
    assert main([*options, "--dry-run", "--all"]) == 0
    out = capsys.readouterr().out
    return json.loads(out[out.index("{") :])


def test_config_file_and_precedence(tmp_path, capsys):
    file = tmp_path / "a.toml"
    file.write_text('preset = "gpt2-medium"\nwidth = 512\nlr = 0.5\nzero_init_query = true\n')
    args = parse("--config", file, "--lr", "0.25", "--no-shuffle").config
    assert (args.depth, args.width, args.heads, args.lr, args.zero_init_query, args.shuffle) == (
        24,
        512,
        16,
        0.25,
        True,
        False,
    )
    with pytest.raises(SystemExit) as stop:
        parse("--config", file, "--print-config")
    assert stop.value.code == 0
    file.write_text(capsys.readouterr().out)
    again = parse("--config", file).config
    assert (again.depth, again.width, again.heads, again.lr, again.zero_init_query) == (24, 512, 16, 0.5, True)


def test_help_and_dry_run(capsys):
    with pytest.raises(SystemExit) as stop:
        parse("--help")
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for name, option in OPTIONS.items():
        assert (f"--{name} " in text) == ("run" in option.scope)
    rules = dry_run(capsys, *TINY, *MUP["mup"])
    assert (rules["width_mult"], rules["base_width"], rules["base_head_dim"]) == (2, 16, 16)
    assert [rule["name"] for rule in rules["tensors"]][-2:] == ["ln_f.bias", "lm_head.weight"]


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--depth", "0"], 2, "--depth: '0' is out of range"),
        (["--depth", "two"], 2, "not a whole number"),
        (["--schedule", "cosin"], 2, "cosine|linear"),
        (["--widht", "3"], 2, "--widht"),
        (["--width", "100", "--heads", "7"], 2, "--heads 7 does not divide"),
        (["--steps", "3", "--tokens", "5"], 2, "--tokens excludes --steps"),
        (["--parametrization", "mup"], 2, "needs --base-width"),
        (["--base-width", "64"], 2, "no meaning under"),
        (["--parametrization", "mup", "--base-width", "100", "--dry-run"], 2, "give --base-heads"),
        (["--zero-init-head", "--dry-run"], 2, "add --no-tie-embeddings"),
        (["--total-batch-size", "5000"], 2, "the nearest are 4096 and 8192"),
        (["--resume"], 2, "needs --out"),
        ([], 2, "--train-data is missing"),
        (["--train-data", "nowhere/*.bin"], 3, "matches no file"),
        (["--init", "nowhere"], 3, "there is no checkpoint"),
        (["--config", "nowhere.toml"], 2, "cannot be read"),
    ],
)
def test_errors(options, code, words, capsys):
    assert main(options) == code
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_bad_config_key(tmp_path, capsys):
    (tmp_path / "a.toml").write_text("widht = 3\n")
    assert main(["--config", str(tmp_path / "a.toml")]) == 2
    assert "'widht'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--base-depth", "2"], "--base-depth 2 has no meaning under --parametrization sp"),
        ([*MUP["mup"], "--base-depth", "2"], "--base-depth 2 has no meaning under --parametrization mup"),
        ([*UNIT, "--base-width", "16"], "no meaning under --parametrization u-mup"),
        ([*UNIT, "--base-heads", "2"], "no meaning under --parametrization u-mup"),
        ([*UNIT, "--base-depth", "2"], "no meaning under --parametrization u-mup"),
        (["--parametrization", "completep", "--base-width", "16"], "completep needs --base-depth"),
        (["--parametrization", "completep", "--base-depth", "2"], "completep needs --base-width"),
        (["--parametrization", "mup-table9"], "mup-table9 needs --base-width"),
        ([*MUP["mup"], "--depth-alpha", "0.5"], "--depth-alpha 0.5 has no meaning"),
        ([*COMPLETEP, "2", "--depth-alpha", "0.4"], "--depth-alpha: '0.4' is out of range: between 0.5 and 1"),
        (
            [*MUP["mup-table3"], "--tie-embeddings"],
            "--tie-embeddings has no meaning under --parametrization mup-table3",
        ),
        ([*UNIT, "--tie-embeddings"], "--tie-embeddings has no meaning under --parametrization u-mup, whose"),
        ([*UNIT, "--attn-mult", "2"], "--attn-mult 2 has no meaning under --parametrization u-mup"),
        ([*UNIT, "--output-mult", "2"], "--output-mult 2 has no meaning"),
        ([*UNIT, "--embed-mult", "2"], "--embed-mult 2 has no meaning"),
        ([*UNIT, "--init-std", "1"], "--init-std 1 has no meaning"),
        ([*UNIT, "--residual-mult", "0"], "--residual-mult: '0' is out of range: greater than 0"),
        *[
            ([f"--{name}", "2", *MUP["mup"]], f"--{name} 2 has no meaning under --parametrization mup")
            for name in UNIT_MULTS
        ],
        (["--parametrization", "mup-table8"], "mup-table3|mup-table9"),
        (["--coord-check", "a.csv"], "needs --overfit-single-batch"),
        (["--coord-check", "a.csv", "--overfit-single-batch", "--resume", "--out", "x"], "excludes --resume"),
        (["--coord-check", "a.csv", "--overfit-single-batch", "--compile"], "--compile excludes --coord-check"),
        (["--coord-check", "a.csv", "--overfit-single-batch", "--total-batch-size", "64"], "one micro-batch a step"),
    ],
)
def test_refusals(options, words, capsys):
    assert main([*TINY, "--dry-run", *options]) == 2
    message = capsys.readouterr().err
    assert words in message
    assert message.count("\n") == 1


def test_what_is_not_refused(capsys):
    """Defaults may be given explicitly, and the output of --print-config can be read again."""
    rules = dry_run(capsys, *TINY, *UNIT, *"--output-mult 1 --init-std 0.02 --depth-alpha 1".split())
    assert len({tuple(factors) for factors in rules["scales"]["residual"]}) == 4
    rules = dry_run(capsys, *TINY, *COMPLETEP, "1", "--residual-mult", "1")
    assert (rules["depth_mult"], rules["base_depth"]) == (2, 1)
    assert rules["scales"]["residual"] == [[1, 0.5, 1, 0.5, 1]] * 4
    rules = dry_run(capsys, *TINY, *MUP["mup-table9"])
    gains = {rule["init_mean"] for rule in rules["tensors"] if "ln_" in rule["name"] and "weight" in rule["name"]}
    assert gains == {1 / 2**0.5}


@pytest.mark.parametrize("scheme", ALL)
def test_print_config_can_be_read(scheme, tmp_path, capsys):
    with pytest.raises(SystemExit):
        parse(*TINY, *ALL[scheme], "--print-config")
    (tmp_path / "a.toml").write_text(capsys.readouterr().out)
    assert resolved("--config", tmp_path / "a.toml") == resolved(*TINY, *ALL[scheme])


def test_options_of_this_program_alone(tmp_path, capsys):
    """--device and --compile: read from files, printed if given, refused if they cannot be used."""
    (tmp_path / "a.toml").write_text('device = "cpu"\ncompile = false\n')
    line = parse("--config", tmp_path / "a.toml", "--compile")
    assert line.extra == {"device": "cpu", "compile": True}
    assert parse().extra == {"device": "auto", "compile": False}
    for options, printed in (([], ""), (["--device", "cpu"], 'device = "cpu"\n'), (["--compile"], "compile = true\n")):
        with pytest.raises(SystemExit):
            parse(*options, "--print-config")
        assert capsys.readouterr().out.split("zero-stage = 0\n")[1] == printed
    assert main(["--device", "gpu"]) == 2
    assert "--device: 'gpu' is not one of auto|cpu|cuda" in capsys.readouterr().err
    assert parse("sample", "x", "--device", "cpu").extra["device"] == "cpu"
    assert main(["sample", "x", "--compile"]) == 2
    assert "unknown argument: --compile" in capsys.readouterr().err


def test_the_command_line_is_not_kept(capsys):
    """Two parses in one process are independent."""
    assert parse("--lr", "0.5", "--no-shuffle").config != parse().config
    assert parse().config == parse().config
    assert parse().given == frozenset()
    assert parse("--lr", "0.5").given == {"lr"}
