"""Invalid input ends with one clear sentence, the documented exit code, and unchanged files."""

import json
import resource
import struct

import numpy as np
import pytest
from program import BINARY, TINY, checkpoints, log, run, snapshot
from shards import random_text, write_shard, write_text_shards

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make")
USAGE, DATA, FAILURE, DIVERGED = 2, 3, 1, 4


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return ["--train-data", write_text_shards(tmp_path_factory.mktemp("data"), random_text(30_000), shards=2)]


def refuse(code, mentions, *arguments, **kwargs):
    """The program ends with `code` and one sentence on stderr that contains all `mentions`."""
    _, error = run(*arguments, expect=code, **kwargs)
    lines = error.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("train_gpt2: "), error
    for word in mentions:
        assert word in lines[0], f"'{word}' is not in: {lines[0]}"
    return lines[0]


@pytest.mark.parametrize(
    "arguments, mentions",
    [
        (["--learning-rate", 1], ["unknown argument: --learning-rate; did you mean --lr?"]),
        (["--warmup-stpes", 1], ["--warmup-stpes", "did you mean --warmup-steps"]),
        (["--lr", "abc"], ["--lr", "'abc'", "not a number"]),
        (["--lr", "-1"], ["--lr", "-1", "at least 0"]),
        (["--lr", "nan"], ["--lr", "nan"]),
        (["--steps", "1.5"], ["--steps", "1.5"]),
        (["--beta1", 1], ["--beta1", "between 0 and"]),
        (["--batch-size", 0], ["--batch-size", "'0'"]),
        (["--dtype", "fp16"], ["--dtype", "fp16", "fp32|bf16"]),
        (["--schedule", "cos"], ["--schedule", "'cos'", "cosine"]),
        (["--preset", "gpt5"], ["--preset", "gpt5"]),
        (["--heads", 5, "--width", 48], ["--heads 5", "--width 48"]),
        (["--head-dim", 20, "--width", 48], ["--head-dim 20", "48"]),
        (["--heads", 3, "--head-dim", 16], ["--head-dim", "--heads"]),
        (["--steps", 3, "--epochs", 1], ["--epochs", "--steps"]),
        (["--total-batch-size", 100, "--seq-len", 40, "--batch-size", 2], ["100", "80", "160"]),
        (["--resume"], ["--resume", "--out"]),
        (["--checkpoint-every", 5], ["--checkpoint-every", "--out"]),
        (["--parametrization", "mup"], ["--base-width"]),
        (["--base-width", 32], ["--base-width", "sp"]),
        (["--parametrization", "mup", "--base-width", 40, "--width", 48, "--heads", 3], ["16", "40", "--base-heads"]),
        (
            ["--parametrization", "mup", "--base-width", 48, "--base-heads", 7, "--width", 48, "--heads", 3],
            ["--base-heads 7", "48"],
        ),
        (["--zero-init-head"], ["--zero-init-head", "--no-tie-embeddings"]),
        (["--prompt"], ["--prompt"]),
        (["sample"], ["CHECKPOINT"]),
        (["--config", "/nowhere/c.toml"], ["/nowhere/c.toml"]),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_usage(text, arguments, mentions):
    refuse(USAGE, mentions, *([] if arguments[0] == "sample" else [*text, "--steps", 1]), *arguments)


def test_no_training_data():
    refuse(USAGE, ["--train-data", "dev/data"], "--steps", 1)


def test_config_file(tmp_path):
    (tmp_path / "c.toml").write_text("lrr = 0.1\n")
    refuse(USAGE, ["lrr", "did you mean lr?"], "--config", tmp_path / "c.toml")
    (tmp_path / "c.toml").write_text('lr = "fast"\n')
    refuse(USAGE, ["--lr", "fast"], "--config", tmp_path / "c.toml")


def damaged_shards(folder):
    good = write_shard(folder / "good.bin", np.arange(2000) % 200)
    raw = good.read_bytes()

    def header(field, value):
        return raw[: 4 * field] + struct.pack("<i", value) + raw[4 * field + 4 :]

    return {
        "empty": (b"", ["not a token shard", "0 bytes"]),
        "short": (raw[:500], ["not a token shard", "500 bytes"]),
        "foreign": (b"PK\x03\x04" * 1000, ["magic number"]),
        "llama3": (header(0, 20240801), ["20240801", "Llama-3"]),
        "version": (header(1, 7), ["version 7"]),
        "truncated": (raw[:-2], ["truncated", "with 2,000 tokens it should have 5,024 bytes"]),
        "too long": (raw + b"\0\0", ["5,026"]),
        "one token": (header(2, 1)[:1026], ["holds 1 token: too few"]),
        "tiny": (header(2, 30)[:1084], ["--seq-len", "30 tokens"]),
    }


@pytest.mark.parametrize(
    "kind", ["empty", "short", "foreign", "llama3", "version", "truncated", "too long", "one token", "tiny"]
)
def test_shards(tmp_path, kind):
    content, mentions = damaged_shards(tmp_path)[kind]
    (tmp_path / "bad.bin").write_bytes(content)
    refuse(DATA, mentions, "--train-data", tmp_path / "bad.bin", *TINY, "--steps", 1, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_data(tmp_path, text):
    refuse(DATA, [f"{tmp_path}/none*.bin", "matches no file"], "--train-data", tmp_path / "none*.bin", "--steps", 1)
    refuse(DATA, ["--val-data", "matches no file"], *text, "--val-data", tmp_path / "v.bin", *TINY, "--steps", 1)
    (tmp_path / "folder.bin").mkdir()
    refuse(DATA, ["folder.bin", "is a folder without"], "--train-data", tmp_path / "folder.bin", *TINY, "--steps", 1)


def test_token_beyond_the_vocabulary(tmp_path):
    tokens = np.arange(2000) % 200
    tokens[1234] = 250
    shard = write_shard(tmp_path / "d.bin", tokens, vocab_size=0, tokenizer="unknown")
    refuse(
        DATA,
        ["d.bin", "token 1234 is 250", "--vocab-size"],
        "--train-data",
        shard,
        *TINY,
        *"--vocab-size 201 --no-shuffle --steps 30".split(),
    )
    mixed = [write_shard(tmp_path / f"m{v}.bin", tokens, vocab_size=v) for v in (257, 300)]
    refuse(DATA, [mixed[1].name, "vocabulary"], "--train-data", tmp_path / "m*.bin", *TINY, "--steps", 1)
    refuse(DATA, ["257", "--vocab-size"], "--train-data", mixed[0], *TINY, "--vocab-size", 100, "--steps", 1)


@pytest.fixture(scope="module")
def trained(text, tmp_path_factory):
    out = tmp_path_factory.mktemp("trained") / "run"
    run(*text, *TINY, "--steps", 2, "--out", out)
    return out


def split_safetensors(path):
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join_safetensors(path, header, data):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def corruptions(path):
    header, data = split_safetensors(path)
    raw = path.read_bytes()

    def edited(name, **fields):
        return {**header, name: {**header[name], **fields}}

    bias, weight = "h.0.ln_1.bias", "h.0.mlp.c_fc.weight"
    begin, end = header[bias]["data_offsets"]
    metadata = {**header["__metadata__"], "model": "{}"}
    return {
        "empty": (b"", ["no safetensors"]),
        "text": (b"hello, this is no checkpoint", ["safetensors"]),
        "header length": (struct.pack("<Q", 2**60) + raw[8:], ["header", str(2**60)]),
        "header cut": (raw[:200], ["truncated", "200"]),
        "data cut": (raw[:-4], ["truncated"]),
        "header no json": (raw[:8] + b"x" * 100 + raw[108:], ["JSON"]),
        "dtype": ((edited(bias, dtype="F16"), data), [bias, "F16"]),
        "shape": ((edited(bias, shape=[12]), data), [bias, "[12]"]),
        "other shape": ((edited(weight, shape=[192, 48]), data), [weight, "[192,48]", "[48,192]"]),
        "overlap": ((edited(bias, data_offsets=[begin - 4, end - 4]), data), ["overlap"]),
        "outside": ((edited(bias, data_offsets=[len(data), len(data) + 192]), data), ["truncated or damaged", bias]),
        "trailing": ((header, data + b"\0" * 8), ["8 bytes"]),
        "absent": (({k: v for k, v in header.items() if k != "h.1.ln_2.bias"}, data), ["gap"]),
        "metadata": (({**header, "__metadata__": metadata}, data), ["metadata 'model'"]),
    }


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "text",
        "header length",
        "header cut",
        "data cut",
        "header no json",
        "dtype",
        "shape",
        "other shape",
        "overlap",
        "outside",
        "trailing",
        "absent",
        "metadata",
    ],
)
def test_corrupt_checkpoints(text, trained, tmp_path, kind):
    content, mentions = corruptions(checkpoints(trained)[0] / "model.safetensors")[kind]
    bad = tmp_path / "model.safetensors"
    if isinstance(content, bytes):
        bad.write_bytes(content)
    else:
        join_safetensors(bad, *content)
    refuse(
        DATA,
        ["model.safetensors", *mentions],
        *text,
        "--batch-size",
        2,
        "--init",
        bad,
        "--steps",
        1,
        "--out",
        tmp_path / "run",
    )
    assert not (tmp_path / "run").exists()


def test_checkpoints_that_do_not_fit(text, trained, tmp_path):
    checkpoint = checkpoints(trained)[0]
    refuse(DATA, ["no checkpoint", "/nowhere"], *text, "--init", "/nowhere", "--steps", 1)
    refuse(DATA, ["model.safetensors", str(tmp_path)], *text, "--init", tmp_path, "--steps", 1)
    refuse(DATA, ["--width 64", "48"], *text, "--init", checkpoint, "--width", 64, "--steps", 1)
    refuse(DATA, ["--depth 3", "2"], *text, "--init", checkpoint, "--depth", 3, "--steps", 1)
    refuse(DATA, ["--seq-len 41", "40"], *text, "--init", checkpoint, "--seq-len", 41, "--steps", 1)
    refuse(
        DATA,
        ["parametrization", '"sp"', '"mup"'],
        *text,
        "--init",
        checkpoint,
        *"--parametrization mup --base-width 16 --tie-embeddings --steps 1".split(),
    )
    refuse(DATA, ["parametrization", "scale output"], *text, "--init", checkpoint, "--output-mult", 2, "--steps", 1)
    (tmp_path / "model.bin").write_bytes(struct.pack("<8i", 20240326, 3, 8, 300, 1, 2, 16, 384) + bytes(1024 - 32))
    refuse(DATA, ["truncated"], *text, "--init", tmp_path / "model.bin", "--steps", 1)
    (tmp_path / "model.bin").write_bytes(bytes(2000))
    refuse(DATA, ["magic"], *text, "--init", tmp_path / "model.bin", "--steps", 1)


def test_resume_of_another_run(text, trained):
    before = snapshot(trained)
    refuse(DATA, ["--width 96", "48"], *text, *TINY, "--width", 96, "--out", trained, "--resume", "--steps", 4)
    refuse(DATA, ["parametrization"], *text, *TINY, "--embed-mult", 3, "--out", trained, "--resume", "--steps", 4)
    refuse(
        DATA,
        ["optimizer", "adamw", "sgd"],
        *text,
        *TINY,
        "--optimizer",
        "sgd",
        "--out",
        trained,
        "--resume",
        "--steps",
        4,
    )
    refuse(DATA, ["fp32", "bf16"], *text, *TINY, "--dtype", "bf16", "--out", trained, "--resume", "--steps", 4)
    refuse(USAGE, ["step 2", "--steps"], *text, *TINY, "--out", trained, "--resume", "--steps", 1)
    assert snapshot(trained) == before


def test_an_earlier_run_is_not_overwritten(text, trained):
    before = snapshot(trained)
    refuse(USAGE, [str(trained), "--resume", "--overwrite"], *text, *TINY, "--steps", 1, "--out", trained)
    refuse(
        DATA, ["matches no file"], "--train-data", "/nowhere/*", *TINY, "--steps", 1, "--out", trained, "--overwrite"
    )
    refuse(USAGE, ["--resume", "--overwrite"], *text, *TINY, "--steps", 1, "--out", trained, "--resume", "--overwrite")
    assert snapshot(trained) == before


def test_full_disk(text, tmp_path):
    """A file size limit simulates a full disk: the third checkpoint cannot be written, the earlier ones remain."""
    options = [*text, *TINY, "--out", tmp_path, "--checkpoint-every", 2, "--keep", 9]
    run(*options, "--steps", 4)
    before = snapshot(tmp_path / "checkpoints")
    error = refuse(
        FAILURE,
        ["step_00000006", "earlier checkpoints are intact"],
        *options,
        "--steps",
        8,
        "--resume",
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)),
    )
    assert "File too large" in error or "No space left" in error
    assert snapshot(tmp_path / "checkpoints") == before, "no half-written checkpoint, and nothing lost"
    run(*options, "--steps", 8, "--resume")
    assert [c.name for c in checkpoints(tmp_path)][-1] == "step_00000008"


def test_out_is_a_file(text, tmp_path):
    (tmp_path / "run").write_text("mine")
    refuse(FAILURE, ["--out", str(tmp_path / "run")], *text, *TINY, "--steps", 1, "--out", tmp_path / "run")
    assert (tmp_path / "run").read_text() == "mine"


def test_divergence(text, tmp_path):
    options = [*text, *TINY, "--schedule", "constant", "--checkpoint-every", 1, "--keep", 99, "--out", tmp_path]
    error = refuse(
        DIVERGED, ["diverged at step", "nan", "--lr"], *options, "--lr", 1e30, "--grad-clip", 0, "--steps", 50
    )
    assert "is intact" in error
    final = log(tmp_path, "final")[0]
    assert final["reason"] == "diverged"
    assert not any(c.name == f"step_{final['step']:08d}" for c in checkpoints(tmp_path)), (
        "the broken state is not saved"
    )
    assert all(np.isfinite(float(e["loss"])) for e in log(tmp_path, "train")[:-1])


def test_sample_command(trained, text, tmp_path):
    refuse(DATA, ["/nowhere"], "sample", "/nowhere")
    refuse(USAGE, ["--temperature", "hot"], "sample", checkpoints(trained)[0], "--temperature", "hot")
    write_shard(tmp_path / "d.bin", np.arange(2000) % 200, vocab_size=300, tokenizer="unknown")
    run("--train-data", tmp_path / "d.bin", *TINY, "--steps", 0, "--out", tmp_path / "run")
    refuse(DATA, ["tokenizer"], "sample", checkpoints(tmp_path / "run")[0])
    refuse(
        USAGE,
        ["--sample-every", "tokenizer"],
        "--train-data",
        tmp_path / "d.bin",
        *TINY,
        *"--steps 1 --sample-every 1".split(),
    )
