"""Files of train_gpt2.py: logs, checkpoints, files of other projects; signals and errors."""

import json
import math
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from program import ROOT
from reference_tools import (
    ALL,
    MUP,
    TINY,
    UNIT,
    assert_same,
    initialise,
    log,
    main,
    model_with,
    resolved,
    run,
    tensors,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from shards import write_shard

import train_gpt2
from llmc.checkpoint import Shape, newest_checkpoint, open_checkpoint, stored
from llmc.run_log import RunLog
from train_gpt2 import GPT2

pytestmark = pytest.mark.usefixtures("one_thread")


def test_log_and_metadata(data, tmp_path):
    run(
        tmp_path,
        *data,
        *TINY,
        *MUP["mup"],
        "--steps",
        3,
        "--eval-every",
        3,
        "--sample-every",
        3,
        "--sample-tokens",
        5,
        "--prompt",
        "ab",
    )
    assert [x["event"] for x in log(tmp_path, None)] == [
        "config",
        "train",
        "train",
        "train",
        "checkpoint",
        "eval",
        "sample",
        "final",
    ]
    config, final = log(tmp_path, "config")[0], log(tmp_path, "final")[0]
    assert config["config"]["total_batch_size"] == 32
    assert config["model"] == {
        "num_layers": 2,
        "num_heads": 2,
        "channels": 32,
        "max_seq_len": 16,
        "vocab_size": 257,
        "tie_embeddings": False,
    }
    assert config["parameters"] == sum(math.prod(t["shape"]) for t in config["parametrization"]["tensors"])
    assert final["reason"] == "done"
    evaluation = log(tmp_path, "eval")[0]
    assert evaluation["bits_per_byte"] == pytest.approx(evaluation["val_loss"] / math.log(2) * 3001 / 3000)
    with safe_open(newest_checkpoint(tmp_path) / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    assert [metadata[key] for key in ("format", "writer", "step", "tokenizer")] == ["pt", "llmc-mup 1", "3", "byte"]
    assert json.loads(metadata["parametrization"]) == config["parametrization"]


def test_init_and_sample(data, tmp_path, capsys):
    run(tmp_path / "a", *data, *TINY, *MUP["mup"], "--steps", 2)
    again = run(tmp_path / "b", *data, "--init", tmp_path / "a", *MUP["mup"], "--batch-size", 2, "--steps", 1)
    assert log(tmp_path / "b", "config")[0]["model"] == log(tmp_path / "a", "config")[0]["model"]
    assert again[0]["loss"] < math.log(257)
    capsys.readouterr()
    outputs = []
    for _ in range(2):
        assert main(["sample", str(tmp_path / "a"), "--prompt", "abc", "--sample-tokens", "20"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].startswith("abc")


def test_huggingface_names(tmp_path):
    """A file as written by transformers: a prefix, other metadata, attention masks that are not used."""
    model = model_with(*"--vocab-size 130 --depth 1 --width 64 --heads 1 --seq-len 8".split())
    initialise(model, 3)
    file = {"transformer." + r["name"]: stored(p, r) for r, p in model.named_rules()}
    save_file(file | {"transformer.h.0.attn.bias": torch.ones(1)}, tmp_path / "hf.safetensors")
    loaded, shape = resolved("--init", tmp_path / "hf.safetensors")
    assert shape == Shape(depth=1, width=64, heads=1, max_seq_len=8, vocab_size=130, tie_embeddings=True)
    assert loaded.seq_len == 8
    other = GPT2(loaded, shape)
    other.set_weights(open_checkpoint(loaded.init).values)
    assert_same(dict(model.state_dict()), dict(other.state_dict()))


def test_llmc_model_files_are_left_to_the_other_program(tmp_path, capsys):
    (tmp_path / "a.bin").write_bytes(np.array([20240326, 3, 4, 10, 2, 2, 8, 128], dtype="<i4").tobytes() + bytes(4096))
    assert main(["--init", str(tmp_path / "a.bin"), "--steps", "0"]) == 3
    assert f"./train_gpt2 --init {tmp_path}/a.bin --steps 0" in capsys.readouterr().err


@pytest.mark.parametrize("scheme", ALL)
def test_samples_follow_the_checkpoints_table(data, tmp_path, capsys, scheme):
    """`sample` has no options of the scheme; its text is that of the trained model."""
    run(
        tmp_path,
        *data,
        *TINY,
        *ALL[scheme],
        "--steps",
        30,
        "--lr",
        0.3 if scheme == "u-mup" else 0.02,
        "--sample-every",
        30,
        "--sample-tokens",
        40,
        "--prompt",
        "ab",
        "--temperature",
        0,
    )
    text = log(tmp_path, "sample")[0]["text"]
    capsys.readouterr()
    assert main(["sample", str(tmp_path), *"--sample-tokens 40 --prompt ab --temperature 0".split()]) == 0
    assert capsys.readouterr().out == "ab" + text + "\n"
    checkpoint = open_checkpoint(tmp_path)
    model, tokens = model_with(*TINY, *ALL[scheme], "--vocab-size", "257"), torch.arange(97, 105)[None]
    model.set_weights(checkpoint.values)
    logits = model(tokens)
    model.use_rules(train_gpt2.parametrization(*resolved(*TINY, "--vocab-size", "257", "--no-tie-embeddings")))
    # the stored table is used; Table 3 has no multipliers
    assert torch.allclose(logits, model(tokens), rtol=1e-3) == (scheme == "mup-table3")


def test_weights_of_another_function_are_refused(data, tmp_path, capsys):
    def error(*options):
        capsys.readouterr()
        code = main([*map(str, data), *TINY, *options, "--steps", "2"])
        return code, capsys.readouterr().err

    run(tmp_path / "u", *data, *TINY, *UNIT, "--steps", 1)
    start, go_on = ["--init", str(tmp_path / "u")], ["--resume", "--out", str(tmp_path / "u")]
    assert error(*start, *UNIT, "--residual-mult", "2")[0] == 3
    assert error(*start, *UNIT, "--ffn-act-mult", "2")[0] == 3
    assert error(*start, *UNIT, "--total-batch-size", "64") == (0, "")  # the same function of the same weights
    code, message = error(*go_on, *UNIT, "--total-batch-size", "64")  # but the moments belong to other gradients
    assert code == 3
    assert "its scale wte_grad is" in message
    assert error(*go_on, *UNIT) == (0, "")
    run(tmp_path / "sp", *data, *TINY, "--no-tie-embeddings", "--steps", 1)
    sp = newest_checkpoint(tmp_path / "sp") / "model.safetensors"
    save_file(load_file(sp), tmp_path / "hf.safetensors")
    hf = ["--init", str(tmp_path / "hf.safetensors")]
    width9 = ["--parametrization", "mup-table9", "--base-width"]
    assert error(*hf, *width9, "32") == (0, "")
    m4 = [*width9, "8", "--base-heads", "1"]
    assert "whose scale embedding is 1.0, this run's is 2.0" in error(*hf, *m4)[1]
    scales_undone = ["--embed-mult", "0.5", "--output-mult", "2", "--attn-mult", "4"]
    assert "whose multiplier of h.0.ln_1.weight is 1.0, this run's is 2.0" in error(*hf, *m4, *scales_undone)[1]


def test_bad_shards(tmp_path, capsys):
    def error(path):
        assert main([*TINY, "--steps", "1", "--train-data", str(path)]) == 3
        return capsys.readouterr().err

    good = write_shard(tmp_path / "good.bin", np.arange(200), 257).read_bytes()
    for name, at, value, words in (
        ("magic", 0, 7, "magic number is 7"),
        ("version", 4, 9, "shard version 9"),
        ("count", 8, 300, "truncated or damaged"),
    ):
        (tmp_path / name).write_bytes(good[:at] + int(value).to_bytes(4, "little") + good[at + 4 :])
        assert words in error(tmp_path / name)
    assert "a token in window" in error(write_shard(tmp_path / "big.bin", np.full(200, 300), 257))
    assert "shorten --seq-len" in error(write_shard(tmp_path / "short.bin", np.arange(10), 257))
    (tmp_path / "empty.bin").write_bytes(b"")
    assert "not a token shard" in error(tmp_path / "empty.bin")


def test_out_is_not_overwritten(data, tmp_path, capsys):
    run(tmp_path, *data, *TINY, "--steps", 1)
    assert main([*data, *TINY, "--steps", "1", "--out", str(tmp_path)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    run(tmp_path, *data, *TINY, "--steps", 2, "--overwrite")
    assert [x["step"] for x in log(tmp_path)] == [1, 2]
    assert (
        main([*data, *TINY, *MUP["mup"], "--tie-embeddings", "--steps", "3", "--out", str(tmp_path), "--resume"]) == 3
    )
    assert "another parametrization" in capsys.readouterr().err
    assert main([*data, *TINY, "--dtype", "bf16", "--steps", "3", "--out", str(tmp_path), "--resume"]) == 3
    assert "has dtype = fp32, this run bf16" in capsys.readouterr().err
    assert main(["--train-data", data[1], "--steps", "3", "--lr", "0", "--out", str(tmp_path), "--resume"]) == 0
    assert [x["step"] for x in log(tmp_path)] == [1, 2, 3]  # the shape is the checkpoint's
    assert main([*data, *TINY, "--width", "64", "--steps", "3", "--out", str(tmp_path), "--resume"]) == 3
    assert "--width 64 does not fit" in capsys.readouterr().err


def test_steps_0_writes_the_initial_checkpoint(data, tmp_path):
    assert run(tmp_path, *TINY, "--vocab-size", 257, "--steps", 0) == []
    assert tensors(tmp_path)["h.0.ln_1.weight"].sum() == 32
    assert not any(value.any() for value in tensors(tmp_path, "optimizer").values())


def test_divergence(data, tmp_path, capsys):
    run(tmp_path, *data, *TINY, "--steps", 50, "--lr", "1e30", "--grad-clip", 0, "--checkpoint-every", 1, code=4)
    assert "training diverged" in capsys.readouterr().err
    assert log(tmp_path, "final")[0]["reason"] == "diverged"
    assert log(tmp_path)[-1]["loss"] is None or log(tmp_path)[-1]["grad_norm"] is None
    assert not (tmp_path / f"checkpoints/step_{log(tmp_path)[-1]['step']:08d}").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save(data, tmp_path, monkeypatch, number):
    handler = signal.getsignal(number)
    monkeypatch.setattr(
        RunLog, "show", lambda self, step, stopping: os.kill(os.getpid(), number) if step == 3 else None
    )
    lines = run(tmp_path, *data, *TINY, "--steps", 100, code=128 + number)
    assert lines[-1]["step"] == 3
    assert signal.getsignal(number) == handler
    assert log(tmp_path, "final")[0]["reason"] == "signal"
    assert newest_checkpoint(tmp_path).name == f"step_{lines[-1]['step']:08d}"


def test_import_has_no_side_effects(tmp_path):
    """It also does not load packages that training does not need."""
    code = (
        "import sys, torch; n = torch.get_num_threads(); import train_gpt2; assert torch.get_num_threads() == n\n"
        "assert not {'llmc._cpu', 'requests', 'tiktoken', 'scipy', 'matplotlib'} & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.returncode, result.stdout, result.stderr, list(tmp_path.iterdir())) == (0, "", "", [])


def test_resume_names_what_changed(data, tmp_path, capsys):
    run(tmp_path, *data, *TINY, "--steps", 1)
    capsys.readouterr()
    run(tmp_path, *data, *TINY, "--steps", 2, "--lr", "0.02", "--resume")
    out = capsys.readouterr().out
    assert "changed since the checkpoint: lr: 0.01 -> 0.02\n" in out
    assert "changed since the checkpoint: steps: 1 -> 2\n" in out
    assert out.count("changed since") == 2
    assert f"resumed from {tmp_path}/checkpoints/step_00000001 at step 1\n" in out
    assert main([*data, *TINY, "--steps", "1", "--out", str(tmp_path), "--resume"]) == 2
    assert "the checkpoint is at step 2, beyond the 1 step asked for" in capsys.readouterr().err


def test_profile(data, tmp_path, capsys):
    """Prints a table of PyTorch's ops; the losses are those of a run without --profile."""
    plain = run(tmp_path / "plain", *data, *TINY, "--steps", 3)
    capsys.readouterr()
    assert run(tmp_path / "profiled", *data, *TINY, "--steps", 3, "--profile")[-1]["loss"] == plain[-1]["loss"]
    assert "aten::addmm" in capsys.readouterr().out


def test_damaged_files_are_named(data, tmp_path, capsys):
    """A data error that names the file, for every file of a checkpoint."""
    run(tmp_path, *data, *TINY, "--steps", 1)
    folder = newest_checkpoint(tmp_path)
    for name, option in (("optimizer", ["--resume", "--out", str(tmp_path)]), ("model", ["--init", str(folder)])):
        path = folder / f"{name}.safetensors"
        good = path.read_bytes()
        path.write_bytes(good[:-4])
        assert main([*data, *TINY, "--steps", "2", *option]) == 3
        assert str(path) in capsys.readouterr().err
        path.write_bytes(good)
    with safe_open(folder / "model.safetensors", "pt") as file:
        metadata = file.metadata()
    save_file(tensors(tmp_path), folder / "model.safetensors", metadata | {"model": "{}"})
    assert main([*data, *TINY, "--steps", "2", "--init", str(folder)]) == 3
    assert "its metadata cannot be read" in capsys.readouterr().err
