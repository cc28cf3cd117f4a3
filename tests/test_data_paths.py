"""--train-data and --val-data: files, folders and patterns, the same in both programs."""

import contextlib
import io
import os
import random
import re
import shlex

import numpy as np
import pytest
from both_programs import original, twin
from shards import write_shard

from llmc.data import text
from llmc.data.shard_paths import find_shards
from llmc.errors import DataError

MODEL = [*"--steps 1 --depth 1 --width 32 --heads 2 --seq-len 8 --batch-size 1 --threads 1 --dry-run".split()]


def shard(path, seed=0, count=100):
    return write_shard(path, np.random.default_rng(seed).integers(0, 256, count), 257, "byte", count)


def both(*options):
    """(exit code, what both programs say of data, message): the same from both."""
    results = []
    for program in original, twin:
        code, out, message = program([*map(str, options), *MODEL])
        about = [
            line for line in out.splitlines() if line.startswith(("data", "warning", "note")) and "OMP" not in line
        ]
        about = [re.sub("; .*", "", line) if line.startswith("data") else line for line in about]
        results.append((code, [line for line in about if "thread" not in line], message))
    assert results[0] == results[1]
    return results[0]


def tokens_said(about):
    return int(about[0].split()[1].replace(",", ""))


@pytest.mark.parametrize("folder", ["my [v2]", "a*b", "what?", "[!x]", "it's", "tab\there"])
def test_printed_command_finds_data_in_any_folder(tmp_path, folder):
    (tmp_path / "in.txt").write_text("some text\n" * 200)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        text.main([str(tmp_path / "in.txt"), "--out", str(tmp_path / folder / "data")])
    line = printed.getvalue().splitlines()[-1]
    words = shlex.split(line.removeprefix("train with: "))
    assert [words[0], words[2]] == ["--train-data", "--val-data"]
    code, about, message = both(*words)
    assert (code, message) == (0, "")
    assert about[0].startswith("data    1,911 training tokens in 1 shard, tokenizer byte")


def test_what_exists_is_taken_literally(tmp_path):
    sizes = {"a[12].bin": 50, "a1.bin": 60, "a2.bin": 70, "d[12]/x.bin": 80, "d1/x.bin": 90, "aéé.bin": 100}
    for seed, (name, size) in enumerate(sizes.items()):
        shard(tmp_path / name, seed, size)
    for word, expected in {
        "a[12].bin": 50,
        "a[1-2].bin": 130,
        "a[^1].bin": 70,
        "a[!1].bin": 70,
        "d[12]/x.bin": 80,
        "d[12]/*.bin": 80,
        "d[1-2]/*.bin": 90,
        "d?/../a1.bin": 60,
        "d1//x.bin": 90,
        "*/x.bin": 170,
        "?é[è-ê].bin": 100,  # a character is one of UTF-8
    }.items():
        code, about, message = both("--train-data", tmp_path / "" / word if "//" not in word else f"{tmp_path}/{word}")
        assert (code, message, tokens_said(about)) == (0, "", expected), word


def test_relative_and_absolute_paths_and_several_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("x[1]/b.bin", "x[1]/a.bin", "c"):
        shard(tmp_path / name)
    assert find_shards("x[1]/*", "--train-data") == (["x[1]/a.bin", "x[1]/b.bin"], [])
    assert find_shards(["c", "x[1]/*.bin", "./c"], "--train-data")[0] == ["./c", "c", "x[1]/a.bin", "x[1]/b.bin"]
    assert find_shards(f"{tmp_path}/[c]", "--train-data")[0] == [f"{tmp_path}/c"]
    for word in ("/[n]o/such", "[n]o", "n", "/", "//n", ""):
        with pytest.raises(DataError):
            find_shards(word, "--train-data")
    # as the shell gives an unquoted pattern
    code, about, _ = both("--train-data", f"{tmp_path}/x[1]/a.bin", f"{tmp_path}/x[1]/b.bin")
    assert code == 0 and "in 2 shards" in about[0]


def test_shards_are_in_the_order_of_the_bytes_of_their_paths(tmp_path):
    """Not in that of the language, nor of Python's characters, in which bytes that are no UTF-8 come early."""
    names = [b"a.bin", b"B.bin", b"\xc3\xa9.bin", b"\xff.bin", "\U0001f600.bin".encode(), b"_.bin"]
    for size, name in enumerate(names):
        shard(tmp_path / os.fsdecode(name), size, 50 + size)
    paths = find_shards(str(tmp_path / "*.bin"), "--train-data")[0]
    assert [os.fsencode(os.path.basename(path)) for path in paths] == sorted(names)
    first = os.path.basename(paths[0])  # both programs name the first shard
    for program in original, twin:
        words = ["--train-data", str(tmp_path / "*.bin"), *map(str, MODEL)]
        words[words.index("--seq-len") + 1] = "1000"
        code, _, message = program(words)
        assert code == 3 and f"{first}', ..." in message


def test_a_folder_stands_for_its_shards(tmp_path):
    for seed, name in enumerate(
        ["t_train_000001.bin", "t_train_000002.bin", "t_val_000001.bin", ".hidden_train_1.bin", "constrained_1.bin"]
    ):
        shard(tmp_path / "d" / name, seed, 50)
    (tmp_path / "d" / "t_train_notes.txt").write_text("no shard")
    (tmp_path / "d" / "folder_train_1.bin").mkdir()
    code, about, message = both("--train-data", tmp_path / "d", "--val-data", tmp_path / "d")
    assert (code, message) == (0, "")
    assert about == [
        "data    100 training tokens in 2 shards, tokenizer byte",
        f"note    --train-data {tmp_path}/d is a folder: t_train_000001.bin to t_train_000002.bin are taken, 2 files",
        f"note    --val-data {tmp_path}/d is a folder: t_val_000001.bin is taken",
    ]
    shard(tmp_path / "e" / "u_train_000001.bin", 9, 60)
    code, about, message = both("--train-data", f"{tmp_path}//[de]/")  # a pattern may match folders
    assert (code, message, tokens_said(about)) == (0, "", 160)
    assert [line.split()[2] for line in about[1:]] == [f"{tmp_path}/d/", f"{tmp_path}/e/"]
    (tmp_path / "f").mkdir()
    assert both("--train-data", tmp_path / "?")[2].startswith(f"--train-data '{tmp_path}/f' is a folder without")
    for name in ("tiny_shakespeare_train.bin", "train.bin"):  # llm.c's and nanoGPT's names
        shard(tmp_path / name.removesuffix(".bin") / name)
        assert len(find_shards(tmp_path / name.removesuffix(".bin"), "--train-data")[0]) == 1


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.bin")
    for name in (tmp_path / "pipe.bin", tmp_path / "*.bin", "/dev/null", "/dev/zero"):
        assert both("--train-data", name)[0] == 3


def test_messages_about_what_is_not_there(tmp_path):
    for name in ("some/a.bin", "some/b.bin", "some/c.bin", "some/d.bin", "all/x/x_train_1.bin", "all/y/y_val_1.bin"):
        shard(tmp_path / name)
    (tmp_path / "none").mkdir()
    advice = "make shards with dev/data/*.py, or correct the path"
    for option, word, expected in [
        ("--train-data", "none", f"is a folder without *_train_*.bin: {advice}"),
        ("--train-data", "some", "is a folder without *_train_*.bin: it has a.bin, b.bin, c.bin and 1 more: name the "
         "files to take"),
        ("--train-data", "all", f"is a folder without *_train_*.bin: there are some in x: give such a folder, as "
         f"'{tmp_path}/all/x'"),
        ("--val-data", "all", f"is a folder without *_val_*.bin: there are some in y: give such a folder, as "
         f"'{tmp_path}/all/y'"),
        ("--train-data", "nowhere/x/*.bin", f"matches no file: there is no folder '{tmp_path}/nowhere': {advice}"),
        ("--train-data", "some/x*.bin", f"matches no file: '{tmp_path}/some' has a.bin, b.bin, c.bin and 1 more: "
         "correct the pattern"),
        ("--train-data", "some/x.bin", f"matches no file: '{tmp_path}/some' has a.bin, b.bin, c.bin and 1 more: "
         "correct the name"),
        ("--train-data", "none/*.bin", f"matches no file: {advice}"),
        ("--train-data", "n*/x/*.bin", f"matches no file: {advice}"),
    ]:  # fmt: skip
        others = ["--train-data", tmp_path / "some/a.bin"] if option == "--val-data" else []
        code, _, message = both(*others, option, tmp_path / word)
        assert (code, message) == (3, f"{option} '{tmp_path}/{word}' {expected}")


def test_warning_about_validation_shards_among_the_training_shards(tmp_path):
    for seed, name in enumerate(["t_train_1.bin", "t_val_1.bin", "t_val_2.bin"]):
        shard(tmp_path / name, seed)
    shard(tmp_path / "copy" / "v.bin", 1)
    shard(tmp_path / "other" / "v.bin", 9)
    train, val = ["--train-data", tmp_path / "*.bin"], tmp_path / "t_val_*.bin"
    says = "the validation loss says nothing about text that the model has not seen"
    assert both(*train, "--val-data", val)[1][1:] == [
        f"warning --val-data: {tmp_path}/t_val_1.bin is in --train-data too (and 1 more of 2 shards): {says}"
    ]
    assert both(*train, "--val-data", tmp_path / "copy")[0] == 3
    assert both(*train, "--val-data", tmp_path / "copy/v.bin")[1][1:] == [
        f"warning --val-data: {tmp_path}/copy/v.bin is in --train-data too, as {tmp_path}/t_val_1.bin: {says}"
    ]
    assert both("--train-data", tmp_path / "t_train_1.bin", "--val-data", val)[1][1:] == []
    assert both(*train, "--val-data", tmp_path / "other/v.bin")[1][1:] == []


def test_numbers_of_one_have_no_plural(tmp_path):
    shard(tmp_path / "a.bin")
    code, about, _ = both("--train-data", tmp_path / "a.bin", "--warmup-steps", 3)
    assert code == 0 and "in 1 shard," in about[0] and "the run of 1 step:" in about[1]
    for program in original, twin:
        out = program(["--train-data", str(tmp_path / "a.bin"), *map(str, MODEL)])[1]
        assert "\nrun     1 step of 8 tokens (1 x 1 x 8) = 8 tokens" in out


NAMES = [
    "a",
    "b[1]",
    "b1",
    "*",
    "c_train_1",
    "[!a]",
    "[^b]",
    "\\x",
    "x?",
    "é",
    ".h",
    "d_val_2",
    "[",
    "]",
    "[]",
    "[z-a]",
]
PATTERNS = ["*", "?", "[a-c]*", "[^b]", "[!a]", "*.bin", "..", "", ".", "**", "[é]", "\\*"]


def test_both_programs_take_the_same_files(tmp_path):
    rng, codes = random.Random(0), set()
    for number in range(3):
        folder = tmp_path / str(number)
        for count in range(50, 60):
            path = folder.joinpath(*rng.choices(NAMES, k=rng.randint(1, 3))).with_suffix(rng.choice(["", ".bin"]))
            if not path.exists() and not any(parent.is_file() for parent in path.parents):
                shard(path, count, count)
        for _ in range(30):
            word = "/".join([str(folder), *rng.choices(NAMES + PATTERNS, k=rng.randint(1, 3))])
            codes.add(both("--train-data", word + rng.choice(["", ".bin"]))[0])
    assert codes == {0, 3}
