"""llmc.export.gguf_tool: the files for llama.cpp, read back by the package gguf. tests/test_llama_cpp.py loads them."""

import resource
import subprocess
import sys

import gguf
import numpy as np
import pytest
import torch
from data_tools import write_gpt2_table
from export_tools import CASES, random_checkpoint
from program import ROOT, snapshot
from reference_tools import main as train
from safetensors.torch import load_file, save_file
from shards import random_text, write_shard, write_text_shards
from weight_tools import CONFIG, random_weights, write

from llmc.checkpoint import open_checkpoint
from llmc.errors import DamageError, DataError, Error, UsageError
from llmc.export.fold import fold
from llmc.export.gguf_tool import main
from llmc.export.run_facts import RunEvents, training_facts

WIDTH, HEADS, LENGTH = 64, 4, 16
SHAPE = f"--depth 2 --width {WIDTH} --heads {HEADS} --seq-len {LENGTH} --batch-size 2".split()
BLOCK = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}
NAMES = {
    "token_embd.weight": "wte.weight",
    "position_embd.weight": "wpe.weight",
    **{
        f"blk.{i}.{theirs}.{kind}": f"h.{i}.{ours}.{kind}"
        for i in range(2)
        for ours, theirs in BLOCK.items()
        for kind in ("weight", "bias")
    },
    "output_norm.weight": "ln_f.weight",
    "output_norm.bias": "ln_f.bias",
}
ROUNDED = ("token_embd.weight", "attn_qkv.weight", "output.weight", "ffn_up.weight", "ffn_down.weight")  # ends of names


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_text_shards(tmp_path_factory.mktemp("data"), random_text(5000), shards=1)


@pytest.fixture
def checkpoint(data, tmp_path, one_thread):
    def make(*options):
        return random_checkpoint(data, tmp_path / "run", *SHAPE, *options)

    return make


@pytest.fixture
def out(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "m.gguf"


def export(*words):
    assert main([str(word) for word in words]) == 0
    return gguf.GGUFReader(words[1])


def keys(file):
    return {name: field.contents() for name, field in file.fields.items() if not name.startswith("GGUF.")}


def nearest_bf16(x):
    """The bits of the nearest bfloat16, halves to even, by whole numbers."""
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def expected_bits(name, value, dtype):
    """Of a tensor: the file's type, and its numbers as bits."""
    if dtype == "f32" or not name.endswith(ROUNDED):
        return "F32", value.view(np.uint32)
    return ("F16", value.astype(np.float16).view(np.uint16)) if dtype == "f16" else ("BF16", nearest_bf16(value))


def assert_tensors(file, path, dtype, names=NAMES):
    folded = {rule["name"]: value.numpy() for rule, value in fold(open_checkpoint(path)).tensors()}
    assert {tensor.name: tensor.data.shape[0] for tensor in file.tensors} == {
        name: len(folded[ours]) for name, ours in names.items()
    }
    for tensor in file.tensors:
        value = np.ascontiguousarray(folded[names[tensor.name]])
        assert tensor.shape[::-1].tolist() == list(value.shape), tensor.name
        kind, bits = expected_bits(tensor.name, value, dtype)
        assert tensor.tensor_type.name == kind, tensor.name
        assert np.array_equal(np.ascontiguousarray(tensor.data).view(bits.dtype).reshape(bits.shape), bits), tensor.name


@pytest.mark.parametrize("case", CASES)
def test_tensors_are_the_folded_ones(checkpoint, out, case):
    path = checkpoint(*CASES[case])
    file = export(path, out)
    untied = {} if open_checkpoint(path).shape.tie_embeddings else {"output.weight": "lm_head.weight"}
    assert len(untied) == ("untied" in case or case == "u-mup")  # llama.cpp takes the embedding for a missing head
    assert_tensors(file, path, "f32", NAMES | untied)


@pytest.mark.parametrize("dtype", ["f16", "bf16"])
def test_matrices_are_rounded_to_the_nearest(checkpoint, out, dtype):
    """With numbers that lie halfway, which go to the even neighbour, and the largest and smallest of the type."""
    path = checkpoint("--parametrization", "sp", "--no-tie-embeddings")
    opened, tensors = open_checkpoint(path), load_file(path)
    step = {"f16": 2.0**-10, "bf16": 2.0**-7}[dtype]
    odd = [1 + step / 2, 1 + 3 * step / 2, -(1 + step / 2), 65000.0, 2.0**-24, 2.0**-30, 1.4e-45, 0.0]
    tensors["lm_head.weight"][0, : len(odd)] = torch.tensor(odd)
    save_file(tensors, path, opened.files.metadata)
    file = export(path, out, "--dtype", dtype)
    assert_tensors(file, path, dtype, NAMES | {"output.weight": "lm_head.weight"})
    head = next(tensor for tensor in file.tensors if tensor.name == "output.weight")
    read = gguf.dequantize(head.data, head.tensor_type)[0, :3]
    assert read.tolist() == [1, 1 + 2 * step, -1]


def test_keys(checkpoint, out):
    """All that llama.cpp requires, and no more than is known of the model."""
    path = checkpoint(*CASES["mup untied"])
    found, facts = keys(export(path, out)), training_facts(open_checkpoint(path), RunEvents())
    texts = found.pop("tokenizer.ggml.tokens")
    types = found.pop("tokenizer.ggml.token_type")
    assert found.pop("gpt2.attention.layer_norm_epsilon") == pytest.approx(1e-5)  # stored as float32
    assert found == {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "GPT-2 134K mup",
        "general.size_label": "134K",
        "general.description": "GPT-2 with these factors folded into its weights: "
        f"{fold(open_checkpoint(path)).description()}",
        "general.file_type": gguf.LlamaFileType.ALL_F32,
        "gpt2.context_length": LENGTH,
        "gpt2.embedding_length": WIDTH,
        "gpt2.feed_forward_length": 4 * WIDTH,
        "gpt2.block_count": 2,
        "gpt2.attention.head_count": HEADS,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.merges": ["<|endoftext|> <|endoftext|>"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 256,
        "tokenizer.ggml.add_bos_token": True,
        **{f"llmc.{name.replace(' ', '_').lower()}": value for name, value in facts.items()},
    }
    assert facts.keys() >= {"parametrization", "base width", "steps", "data", "learning rate", "program"}
    assert types == 256 * [gguf.TokenType.NORMAL] + [gguf.TokenType.CONTROL]
    assert [texts[10], texts[32], texts[97], texts[256]] == ["Ċ", "Ġ", "a", "<|endoftext|>"]
    assert len(set(texts)) == 257


def test_gpt2_vocabulary(tmp_path, out, one_thread):
    write_gpt2_table(tmp_path)
    small = "--vocab-size 50304 --width 16 --depth 1".split()
    shard = write_shard(tmp_path / "text.bin", [50256, *range(40)], 50257, "gpt2")
    found = keys(export(random_checkpoint(shard, tmp_path / "run", *SHAPE, *small), out))
    texts, merges = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.merges"]
    assert (len(texts), texts[262], texts[50256]) == (50257, "Ġthe", "<|endoftext|>")
    assert [merge.replace(" ", "") for merge in merges] == texts[256:50256]
    assert (found["tokenizer.ggml.bos_token_id"], found["tokenizer.ggml.eos_token_id"]) == (50256, 50256)
    assert found["tokenizer.ggml.token_type"][50255:] == [gguf.TokenType.NORMAL, gguf.TokenType.CONTROL]


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_the_file_type_is_that_of_the_matrices(checkpoint, out, dtype):
    found = keys(export(checkpoint(), out, "--dtype", dtype.lower()))
    assert found["general.file_type"] == gguf.LlamaFileType[f"MOSTLY_{dtype}"]


def test_the_merge_of_bytes_never_applies(checkpoint, out):
    """llama.cpp takes a text apart into single characters; a merge joins two that stand in a row."""
    found = keys(export(checkpoint(), out))
    single = {text for text in found["tokenizer.ggml.tokens"] if len(text) == 1}
    assert len(single) == 256
    for merge in found["tokenizer.ggml.merges"]:
        assert not set(merge.split(" ")) & single


def test_padding_rows_are_cut(checkpoint, out, capsys):
    """llama.cpp refuses a vocabulary that is smaller than the embedding."""
    file = export(checkpoint("--vocab-size", "300"), out)
    assert len(keys(file)["tokenizer.ggml.tokens"]) == 257
    assert next(t for t in file.tensors if t.name == "token_embd.weight").shape.tolist() == [WIDTH, 257]
    assert "note    vocabulary cut from 300 rows to the 257 tokens of byte\n" in capsys.readouterr().out


def test_an_unknown_tokenizer_is_refused_or_given(tmp_path, out, one_thread):
    for vocabulary, given, says in (
        (300, [], r"does not say which tokenizer .* give --tokenizer"),
        (200, ["--tokenizer", "byte"], "vocabulary of 200 tokens, its tokenizer byte has 257"),
    ):
        shard = write_shard(tmp_path / f"{vocabulary}.bin", range(200), vocabulary, "unknown")
        path = random_checkpoint(shard, tmp_path / f"run{vocabulary}", *SHAPE, "--sample-every", "0")
        with pytest.raises(DataError, match=says):
            main([str(path), str(out), *given])
    assert not snapshot(out.parent)
    found = keys(export(tmp_path / "run300", out, "--tokenizer", "byte"))
    assert len(found["tokenizer.ggml.tokens"]) == 257


def test_another_tokenizer_than_the_checkpoints_is_refused(checkpoint, out):
    """With that of bytes, a model of GPT-2's tokens would be cut to 257 of them in silence."""
    path = checkpoint()
    with pytest.raises(UsageError, match=r"--tokenizer gpt2: the tokens of .* are of byte: leave the option out"):
        main([str(path), str(out), "--tokenizer", "gpt2"])
    export(path, out, "--tokenizer", "byte")


def test_weights_of_transformers(tmp_path, out, capsys):
    """Plain GPT-2 weights, of which nothing but shape and heads is known; without a config.json the heads are given."""
    write(tmp_path / "with", random_weights(), CONFIG)
    file = export(tmp_path / "with", out, "--tokenizer", "byte")
    found = keys(file)
    assert found["general.name"] == "GPT-2 432K"
    assert found["gpt2.attention.head_count"] == CONFIG["n_head"]
    assert not [name for name in found if name.startswith("llmc.") or name == "general.description"]
    assert_tensors(file, tmp_path / "with", "f32")
    capsys.readouterr()
    write(tmp_path / "without", random_weights())
    with pytest.raises(UsageError, match=r"no config.json beside .* says the number of heads: give --heads"):
        main([str(tmp_path / "without"), str(out), "--tokenizer", "byte", "--overwrite"])
    found = keys(export(tmp_path / "without", out, "--tokenizer", "byte", "--overwrite", "--heads", 8))
    assert found["gpt2.attention.head_count"] == 8
    assert "assumed" not in capsys.readouterr().out
    with pytest.raises(DataError, match="3 heads do not divide"):
        main([str(tmp_path / "without"), str(out), "--tokenizer", "byte", "--overwrite", "--heads", "3"])
    with pytest.raises(DataError, match="--heads 8 does not fit"):
        main([str(tmp_path / "with"), str(out), "--tokenizer", "byte", "--overwrite", "--heads", "8"])


def test_what_is_printed(checkpoint, out, capsys):
    path = checkpoint(*CASES["u-mup"])
    capsys.readouterr()
    export(path, out, "--dtype", "bf16")
    lines = capsys.readouterr().out.splitlines()
    plain = fold(open_checkpoint(path))
    assert lines == [
        f"weights {path}",
        f"folded  {plain.description()}",
        f"note    {plain.epsilon_note()}",
        f"wrote   {out}: bf16, {out.stat().st_size:,} bytes, head untied",
        f"length  {LENGTH} tokens at most, with the one that begins a text: llama.cpp does not check",
        "use it in llama.cpp:",
        f"    llama-completion -m {out} -c {LENGTH} -n {LENGTH // 2} -p 'The '",
        "use it in Python (pip install llama-cpp-python):",
        *(f"    {line}" for line in example(out)),
    ]


def example(out):
    return [
        "from llama_cpp import Llama",
        f"model = Llama('{out}', n_ctx={LENGTH}, verbose=False)",
        f"print(model('The ', max_tokens={LENGTH // 2})['choices'][0]['text'])",
    ]


def test_an_existing_file_stays(checkpoint, out):
    path = checkpoint()
    out.write_bytes(b"mine")
    before = snapshot(out.parent)
    with pytest.raises(UsageError, match=r"m.gguf exists: replace it \(--overwrite\), or choose another name"):
        main([str(path), str(out)])
    for wrong in (path, path.parent):
        with pytest.raises(UsageError, match=r"has not the suffix of a GGUF file: name it \w+.gguf"):
            main([str(path), str(wrong), "--overwrite"])
    (out.parent / "folder.gguf").mkdir()
    with pytest.raises(UsageError, match=r"folder.gguf is a folder: name a file"):
        main([str(path), str(out.parent / "folder.gguf"), "--overwrite"])
    assert snapshot(out.parent) == before
    assert export(path, out, "--overwrite").tensors


def test_a_number_that_is_too_large_for_the_type(checkpoint, out):
    path = checkpoint("--parametrization", "sp", "--no-tie-embeddings", "--output-mult", "1e7")
    out.write_bytes(b"mine")
    with pytest.raises(DataError, match=r"lm_head.weight .* too large for f16: choose --dtype bf16"):
        main([str(path), str(out), "--dtype", "f16", "--overwrite"])
    assert snapshot(out.parent) == {"m.gguf": b"mine"}
    export(path, out, "--dtype", "bf16", "--overwrite")


def test_full_disk(checkpoint, out):
    """A file size limit simulates a full disk."""
    path = checkpoint()
    out.write_bytes(b"mine")
    command = [sys.executable, str(ROOT / "dev/export_gguf.py"), str(path), str(out), "--overwrite"]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert done.returncode == 1, done.stderr
    assert f"error: cannot write {out}: " in done.stderr and "free some space" in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(out.parent) == {"m.gguf": b"mine"}


def test_a_damaged_checkpoint_names_an_intact_one(data, tmp_path, out, one_thread):
    words = "--depth 1 --width 32 --heads 2 --seq-len 16 --batch-size 2 --steps 2 --checkpoint-every 1"
    assert train(["--train-data", data, *words.split(), "--out", tmp_path / "run"]) == 0
    path = tmp_path / "run/checkpoints/step_00000002/model.safetensors"
    opened, tensors = open_checkpoint(path), load_file(path)
    tensors["ln_f.weight"][3] = float("nan")
    save_file(tensors, path, opened.files.metadata)
    with pytest.raises(DamageError, match=r"ln_f.weight has NaN .* the checkpoint .*step_00000001 is intact"):
        main([str(tmp_path / "run"), str(out)])
    assert not snapshot(out.parent)


def test_a_missing_package_is_named(monkeypatch, out):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(Error, match=r"gguf.*requirements-export.txt"):
        main(["nowhere", str(out)])
