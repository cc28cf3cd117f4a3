"""The header of a safetensors file: both programs accept and refuse what safetensors 0.8.0 does."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from program import run
from safetensors.torch import load_file, save_file
from weight_tools import (
    library_accepts,
    raw_file,
)


def header_of(tensors, **changes):
    return {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}} | tensors | changes


def program_accepts(path):
    """Whether the header passes: then both are only missing GPT-2's tensors."""
    error = run("--init", path, "--steps", 0, expect=3)[1]
    passed = "has no matrix 'wte.weight'" in error
    assert passed or "is no safetensors file" in error or "damaged" in error or "format" in error
    return passed


PLAIN = '{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
HEADERS = {
    "plain": (PLAIN, 8, True),
    "spaces in front": ("  " + PLAIN, 8, True),
    "newlines behind": (PLAIN + " \n\n", 8, True),
    "metadata null": (PLAIN.replace("{", '{"__metadata__":null,', 1), 8, True),
    "metadata with a number": (PLAIN.replace("{", '{"__metadata__":{"a":1},', 1), 8, False),
    "an extra key": (PLAIN.replace('"dtype"', '"more":[1],"dtype"'), 8, True),
    "not aligned": (PLAIN + "   ", 8, True),
    "a tensor without elements": (
        PLAIN.replace("{", '{"z":{"dtype":"F64","shape":[0,9],"data_offsets":[0,0]},', 1),
        8,
        True,
    ),
    "no tensor": ("{}", 0, True),
    "bytes behind": (PLAIN, 9, False),
    "a hole": (PLAIN.replace("[0,8]", "[4,12]"), 12, False),
    "a zero byte behind": (PLAIN + "\0\0", 8, False),
    "a byte order mark": ("\ufeff" + PLAIN, 8, False),
    "a shape of 2.0": (PLAIN.replace("[2]", "[2.0]"), 8, False),
    "a negative shape": (PLAIN.replace("[2]", "[-2]"), 8, False),
    "offsets of -0": (PLAIN.replace("[0,8]", "[0.0,8]"), 8, False),
    "three offsets": (PLAIN.replace("[0,8]", "[0,8,8]"), 8, False),
    "an unknown dtype": (PLAIN.replace("F32", "F33"), 8, False),
    "fp8": (PLAIN.replace("F32", "F8_E4M3").replace("[2]", "[8]"), 8, True),
    "a huge shape": (PLAIN.replace("[2]", "[4294967296,4294967296,2]"), 8, False),
    "an overflowing shape of no elements": (
        '{"a":{"dtype":"F64","shape":[18446744073709551615,18446744073709551615,0],"data_offsets":[0,0]}}',
        0,
        False,
    ),
    "a dtype twice": (PLAIN.replace('"dtype"', '"dtype":"F32","dtype"'), 8, False),
    "metadata twice": (PLAIN.replace("{", '{"__metadata__":null,"__metadata__":{},', 1), 8, False),
    "a key of the metadata twice": (PLAIN.replace("{", '{"__metadata__":{"dtype":"a","dtype":"b"},', 1), 8, True),
    "an entry as an array": ('{"a":["F32",[2],[0,8]]}', 8, True),
    "deep": (PLAIN.replace('"dtype"', f'"more":{"[" * 125}{"]" * 125},"dtype"'), 8, True),
    "too deep": (PLAIN.replace('"dtype"', f'"more":{"[" * 126}{"]" * 126},"dtype"'), 8, False),
    "far too deep": (PLAIN.replace('"dtype"', f'"more":{"[" * 1000000}{"]" * 1000000},"dtype"'), 8, False),
    "not UTF-8": (PLAIN.encode().replace(b'"a"', b'"\xff"'), 8, False),
    "an array": ("[]", 0, False),
}


@pytest.mark.parametrize("name", HEADERS)
def test_headers(tmp_path, name):
    text, count, accepted = HEADERS[name]
    path = tmp_path / "a.safetensors"
    path.write_bytes(raw_file(text, bytes(count)))
    assert library_accepts(path) == accepted, "the library's own line"
    assert program_accepts(path) == accepted


NUMBERS = st.sampled_from([0, 1, 2, 3, 8, 16, -1, 2.0, 2**63, "2", None])
ENTRIES = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "F16", "BF16", "BOOL", "I64", "U8", "F64", "f32", 7]),
        "shape": st.one_of(st.lists(NUMBERS, max_size=2), NUMBERS),
        "data_offsets": st.one_of(st.sampled_from([[0, 8], [8, 16], [0, 16], [0, 0]]), st.lists(NUMBERS, max_size=3)),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    entries=st.dictionaries(st.sampled_from(["a", "b", "__metadata__"]), ENTRIES, max_size=2), size=st.integers(0, 2)
)
def test_any_header(tmp_path_factory, entries, size):
    path = tmp_path_factory.mktemp("header") / "a.safetensors"
    path.write_bytes(raw_file(json.dumps(entries), bytes(8 * size)))
    assert program_accepts(path) == library_accepts(path)


def test_arrays_that_are_not_contiguous_are_written_as_they_are(tmp_path):
    """safetensors.numpy.save 0.8.0 writes other data for a transpose, in silence; safetensors.torch refuses it. What
    this project writes goes through stored(), which makes contiguous copies."""
    from llmc.checkpoint import stored

    matrix = torch.arange(6.0).view(2, 3)
    save_file({"w": stored(matrix, {"shape": [2, 3], "role": "hidden"})}, tmp_path / "w.safetensors")
    assert np.array_equal(load_file(tmp_path / "w.safetensors")["w"], matrix.T)
