"""Generated command lines and TOML files: both programs accept or refuse, with the same configuration or message."""

import json

import pytest
from both_programs import ODD_NUMBERS, print_config, twin
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from program import BINARY

from llmc.options import OPTIONS

pytestmark = [
    pytest.mark.skipif(not BINARY.exists(), reason="not built: run make train_gpt2"),
    pytest.mark.usefixtures("one_thread"),
]
# derandomize: the same examples in every run
GENERATED = settings(max_examples=150, deadline=None, derandomize=True, database=None)
GENERATED = settings(GENERATED, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

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


# -h: each program prints its own help
WORD = TEXT.filter(lambda word: not word.startswith("-h")).map(lambda word: [word])
BASES = st.sampled_from([[], "--parametrization mup --base-width 768".split(), "--parametrization u-mup".split()])


@GENERATED
@given(BASES, st.lists(st.one_of(command_line_options(), WORD), max_size=5))
@example([], [["--depth", "--"], ["--prompt", "--"]])
@example([], [["--lr", "1.7976931348623157e308"]])
@example([], [["info"]])
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
