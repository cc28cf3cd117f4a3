"""Files and folders that are given as a checkpoint and are none: both programs say what they are, in the same words."""

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program import BINARY, run
from shards import write_shard
from weight_tools import CONFIG, LENGTH, VOCAB, library_accepts, random_weights, raw_file, write

import llmc
from train_gpt2 import main

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make")
CONVERT = "it was written by torch.save; dev/import_hf.py {} OUT makes safetensors of it"


@pytest.fixture
def refused(capsys):
    """What both programs say of --init PATH, without their names."""

    def say(path, *options, code=3):
        words = ["--init", path, "--steps", 0, *options]
        here = run(*words, expect=code)[1].removeprefix("train_gpt2: ").strip()
        capsys.readouterr()
        assert main([str(word) for word in words]) == code
        assert capsys.readouterr().err.removeprefix("train_gpt2.py: ").strip() == here
        return here

    return say


def old_torch_file(path):
    torch.save({"a": torch.ones(1)}, path, _use_new_zipfile_serialization=False)


KINDS = {
    "model.pt": (lambda path: torch.save({"a": torch.ones(1)}, path), f": {CONVERT}"),
    "old.pt": (old_torch_file, f": {CONVERT}"),
    "pytorch_model.bin": (lambda path: torch.save({"a": torch.ones(1)}, path), f": {CONVERT}"),
    "pointer.safetensors": (
        lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ": it is a pointer of Git LFS instead of the file: run git lfs pull in its folder",
    ),
    "a.gguf": (lambda path: path.write_bytes(b"GGUF\3\0\0\0" + bytes(90)), ": it is a GGUF file, llama.cpp's format"),
    "tf_model.h5": (
        lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)),
        ": it is an HDF5 file, as TensorFlow and Keras write them",
    ),
    "page.safetensors": (
        lambda path: path.write_text("<!DOCTYPE html><html></html>"),
        ": it is a web page: download the file itself",
    ),
    "README.md": (
        lambda path: path.write_text("# Some text"),
        f": its header should have {int.from_bytes(b'# Some t', 'little')} bytes, more than the format allows",
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_a_file_of_another_format_is_named(refused, tmp_path, name):
    make, words = KINDS[name]
    make(tmp_path / name)
    assert refused(tmp_path / name) == f"{tmp_path}/{name} is no safetensors file{words.format(tmp_path / name)}"
    assert main(["info", str(tmp_path / name)]) == 3


def test_what_is_too_short_or_cut(refused, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"abc")
    assert refused(path) == f"{path} is no safetensors file: it has 3 bytes"
    path.write_bytes(np.array([500], "<u8").tobytes() + b"{}")
    assert refused(path).endswith("or truncated: its header should have 500 bytes, the file has 10")
    with open(path, "wb") as file:  # safetensors 0.8.0 reads headers of at most 100 MB
        file.write(np.array([100_000_001], "<u8").tobytes() + b"{}")
        file.truncate(100_000_100)
    assert refused(path).endswith("its header should have 100000001 bytes, more than the format allows")


def test_a_folder_without_a_model(refused, tmp_path):
    none = f"the folder {tmp_path} holds no model.safetensors"
    assert refused(tmp_path) == f"{none}: name a checkpoint, such as OUT/checkpoints/step_00000100"
    (tmp_path / "log.jsonl").write_text("{}\n")
    assert refused(tmp_path) == f"{none}: the run in it has not saved one yet"
    torch.save({"a": torch.ones(1)}, tmp_path / "pytorch_model.bin")
    file = tmp_path / "pytorch_model.bin"
    assert refused(tmp_path) == f"{none}, but pytorch_model.bin: {CONVERT.format(file)}"
    (tmp_path / "pytorch_model.bin.index.json").write_text("{}")
    assert refused(tmp_path) == f"{none}, but pytorch_model.bin: {CONVERT.format(tmp_path)}"
    (tmp_path / "other.safetensors").write_bytes(b"")
    assert refused(tmp_path) == f"{none}, but other.safetensors: name the file"


# What is put into a header at random: words of the format, and what JSON parsers disagree about.
WORDS = ['"', "{", "}", "[", "]", ",", ":", " ", "\n", "\0", "0", "8", "-", ".", "e", "null", "\\", "\\u0061"]
WORDS += ["\xff", '"dtype"', '"a"', "4", "true", "\ufeff", '"__metadata__"', '"dtype":"F32",']
PLACES = [
    '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    '{"z":{"dtype":"F32","shape":[0],"data_offsets":[4,4]},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
    '{"__metadata__":{"a":"b"},"a":{"dtype":"I64","shape":[],"data_offsets":[0,8]}}',
]


@settings(max_examples=400, deadline=None)
@given(
    text=st.sampled_from(PLACES),
    changes=st.lists(st.tuples(st.integers(0, 110), st.integers(0, 4), st.sampled_from([*WORDS, ""])), max_size=3),
)
def test_damaged_headers_are_read_as_by_the_library(tmp_path_factory, text, changes):
    """safetensors 0.8.0. In one process, so that many can be tried."""
    for at, removed, word in changes:
        text = text[:at] + word + text[at + removed :]
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    path.write_bytes(raw_file(text, bytes(8)))
    try:
        llmc.cpu.checkpoint_options(str(path))
        accepted = True
    except llmc.DataError as error:
        accepted = "has no matrix 'wte.weight'" in str(error)
    assert accepted == library_accepts(path), text


def test_pipes_are_not_waited_for(refused, tmp_path):
    for name in ("a.bin", "a.safetensors", "model.safetensors"):
        os.mkfifo(tmp_path / name)
        assert refused(tmp_path / name) == f"{tmp_path}/{name} is no checkpoint: it is neither a file nor a folder"
    assert "but a.safetensors" in refused(tmp_path)


def test_metadata_of_other_programs_may_have_our_keys(refused, tmp_path):
    """It is not taken for a checkpoint of this project."""
    model = write(tmp_path / "model", random_weights(), CONFIG, metadata={"model": "gpt2", "config": "{}"})
    write_shard(tmp_path / "val.bin", np.arange(LENGTH + 1), VOCAB)
    assert "a standard GPT-2" in run("info", model)[0]
    assert main(["info", str(model)]) == 0


def test_data_of_another_vocabulary_and_init(refused, tmp_path):
    """--init and --vocab-size do not send from one to the other."""
    model = write(tmp_path / "model", random_weights(), CONFIG)
    shard = write_shard(tmp_path / "train.bin", np.arange(300), 50257)
    text = refused(model, "--train-data", shard)
    assert text == (
        f"the training data has a vocabulary of 50257 tokens, the model of {VOCAB}: make the data with the tokenizer "
        f"of {model}/model.safetensors, or choose other data"
    )
    assert "leave the option out, or choose another checkpoint" in refused(model, "--vocab-size", 50257)


def test_numbers_that_are_not_finite_in_llmcs_files(tmp_path):
    from test_program import write_llmc_model

    shape = (2, 3, 48, 64, 300)
    path = tmp_path / "gpt2.bin"
    write_llmc_model(path, 3, shape, np.random.default_rng(0))
    raw = bytearray(path.read_bytes())
    raw[1024 + 4 * 7 : 1024 + 4 * 8] = np.float32(np.nan).tobytes()
    path.write_bytes(raw)
    error = run("--init", path, "--steps", 0, expect=3)[1]
    assert f"{path}: tensor wte.weight has NaN at element 7" in error
    with pytest.raises(llmc.DataError, match="has NaN"):
        llmc.load(path)
