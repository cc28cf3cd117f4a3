"""The C++ program as a program: resume, signals, determinism, accumulation, checkpoints, samples, the log."""

import json
import signal
import struct
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from program import BINARY, TINY, checkpoints, log, losses, run, start, tensors
from shards import random_text, write_shard, write_text_shards

pytestmark = pytest.mark.skipif(not BINARY.exists(), reason="train_gpt2 is not built: run make")
TRAINING = ["--lr", 0.003, "--warmup-steps", 3, "--weight-decay", 0.1, "--eval-every", 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    train = write_text_shards(folder, random_text(40_000), shards=3, prefix="train")
    val = write_text_shards(folder, random_text(8_000, seed=1), shards=1, prefix="val")
    return ["--train-data", train, "--val-data", val]


def same(a, b):
    """Two checkpoints have the same bits."""
    left, right = tensors(a), tensors(b)
    assert left.keys() == right.keys()
    different = [name for name in left if not np.array_equal(left[name].view(np.uint32), right[name].view(np.uint32))]
    assert not different, f"differ: {different}"


@pytest.mark.parametrize(
    "extra",
    [
        ["--dtype", "fp32"],
        ["--dtype", "bf16", "--rounding", "stochastic"],
        ["--dtype", "bf16", "--parametrization", "mup", "--base-width", 16],
        ["--optimizer", "sgd", "--lr", 0.1],
        ["--skip-loss-zscore", 3, "--schedule", "wsd"],
    ],
    ids=lambda extra: "-".join(str(word).strip("-") for word in extra),
)
def test_resume_is_bit_exact(data, tmp_path, extra):
    options = [*data, *TINY, *TRAINING, *extra, "--steps", 20, "--total-batch-size", 320]
    run(*options, "--out", tmp_path / "whole")
    # The first ten of twenty steps: the schedule must be that of twenty steps.
    run(*options, "--checkpoint-every", 10, "--keep", 9, "--out", tmp_path / "halves")
    for late in checkpoints(tmp_path / "halves")[1:]:
        late.rename(tmp_path / "set-aside")
    out, _ = run(*options, "--resume", "--out", tmp_path / "halves")
    assert "resumed from" in out and "step 10" in out
    assert losses(tmp_path / "whole") == losses(tmp_path / "halves")
    same(checkpoints(tmp_path / "whole")[-1], checkpoints(tmp_path / "halves")[-1])
    assert log(tmp_path / "halves", "config")[1]["resumed_from"].endswith("step_00000010")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_signal_finishes_the_step_saves_and_resumes(data, tmp_path, sent):
    options = [*data, *TINY, *TRAINING, "--steps", 100_000, "--out", tmp_path / "run"]
    process = start(*options)
    while not (tmp_path / "run" / "log.jsonl").exists() or len(log(tmp_path / "run")) < 10:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    assert Path(f"/proc/{process.pid}/comm").read_text().strip() == "train_gpt2", "the name that pkill and top know"
    process.send_signal(sent)
    out, _ = process.communicate(timeout=20)
    assert process.returncode == 128 + sent
    assert "--resume" in out
    final = log(tmp_path / "run", "final")[0]
    assert final["reason"] == "signal"
    assert checkpoints(tmp_path / "run")[-1].name == f"step_{final['step']:08d}"
    more = [word if word != 100_000 else final["step"] + 3 for word in options]
    run(*more, "--resume")
    steps = [e["step"] for e in log(tmp_path / "run", "train")]
    assert steps == list(range(1, final["step"] + 4)), "every step once"


def test_same_bits_twice_and_same_weights_for_any_thread_count(data, tmp_path):
    options = [*data, *TINY, *TRAINING, "--threads", 2]
    for name in ("a", "b"):
        run(*options, "--dtype", "bf16", "--rounding", "stochastic", "--steps", 5, "--out", tmp_path / name)
    same(checkpoints(tmp_path / "a")[0], checkpoints(tmp_path / "b")[0])
    for threads in (1, 2):
        run(*options, "--threads", threads, "--steps", 0, "--out", tmp_path / f"init{threads}")
        run(*options, "--threads", threads, "--steps", 4, "--out", tmp_path / f"run{threads}")
    same(checkpoints(tmp_path / "init1")[0], checkpoints(tmp_path / "init2")[0])
    np.testing.assert_allclose(
        losses(tmp_path / "run1"), losses(tmp_path / "run2"), rtol=1e-5
    )  # same data, sums in another order


def test_seed_changes_weights_and_data(data, tmp_path):
    for seed in (1, 2):
        run(*data, *TINY, *TRAINING, "--seed", seed, "--steps", 2, "--out", tmp_path / str(seed))
    assert losses(tmp_path / "1") != losses(tmp_path / "2")


def test_accumulation_is_a_larger_batch(data, tmp_path):
    options = [*data, *TINY, *TRAINING, "--steps", 6, "--total-batch-size", 320]
    run(*options, "--batch-size", 8, "--out", tmp_path / "whole")
    run(*options, "--batch-size", 1, "--out", tmp_path / "parts")
    np.testing.assert_allclose(losses(tmp_path / "whole"), losses(tmp_path / "parts"), rtol=2e-6)
    norms = [[e["grad_norm"] for e in log(tmp_path / name, "train")] for name in ("whole", "parts")]
    np.testing.assert_allclose(norms[0], norms[1], rtol=1e-5)


def test_overfits_a_single_batch(data, tmp_path):
    run(
        *data,
        *TINY,
        *"--overfit-single-batch --steps 150 --lr 0.01 --schedule constant --eval-every 0 --out".split(),
        tmp_path,
    )
    assert losses(tmp_path)[0] > 4 and losses(tmp_path)[-1] < 0.3


def test_log_has_what_the_formats_page_says(data, tmp_path):
    run(
        *data,
        *TINY,
        *TRAINING,
        *"--steps 4 --eval-every 2 --sample-every 4 --sample-tokens 5 --checkpoint-every 2 --out".split(),
        tmp_path,
    )
    events = log(tmp_path)
    assert [(e["event"], e["step"]) for e in events] == [
        ("config", 0),
        ("train", 1),
        ("train", 2),
        ("checkpoint", 2),  # before the evaluation, which may take long
        ("eval", 2),
        ("train", 3),
        ("train", 4),
        ("checkpoint", 4),
        ("eval", 4),
        ("sample", 4),
        ("final", 4),
    ]
    config = events[0]
    assert config["config"]["lr"] == 0.003 and config["model"]["channels"] == 48
    assert len(config["parametrization"]["tensors"]) == 2 + 2 * 12 + 2
    assert {"commit", "compiler", "backend", "device", "data_sha256"} <= config["provenance"].keys()
    assert {"loss", "grad_norm", "lr", "tokens", "tokens_per_second", "elapsed"} <= events[1].keys()
    evaluation = events[4]
    tokens_per_byte = 8001 / 8000
    assert evaluation["bits_per_byte"] == pytest.approx(evaluation["val_loss"] / np.log(2) * tokens_per_byte, rel=1e-6)
    final = events[-1]
    assert (
        final["reason"] == "done" and final["val_loss"] == events[8]["val_loss"] and final["loss"] == events[6]["loss"]
    )


def test_keep_leaves_the_newest_checkpoints(data, tmp_path):
    run(*data, *TINY, *TRAINING, "--steps", 5, "--checkpoint-every", 1, "--keep", 2, "--out", tmp_path)
    assert [c.name for c in checkpoints(tmp_path)] == ["step_00000004", "step_00000005"]
    assert not list((tmp_path / "checkpoints").glob(".tmp*"))


def test_outliers_are_skipped(tmp_path):
    """Constant text with one shard of noise between: the noise must not change the weights."""
    rng = np.random.default_rng(0)
    quiet, noise = np.tile(np.arange(40), 4 * 140), rng.integers(0, 256, 40 * 8)
    write_shard(tmp_path / "d.bin", np.concatenate([quiet, noise, quiet]))
    options = [
        "--train-data",
        tmp_path / "d.bin",
        *TINY,
        *"--no-shuffle --steps 150 --lr 0.003 --schedule constant".split(),
    ]
    run(*options, "--skip-loss-zscore", 6, "--out", tmp_path / "run")
    skipped = [e["step"] for e in log(tmp_path / "run", "train") if e.get("skipped")]
    assert skipped and set(skipped) <= {140, 141, 142, 143}


def write_llmc_model(path, version, shape, rng):
    """llm.c's model file with random weights; returns them by name."""
    depth, heads, channels, positions, vocab = shape
    padded = (vocab + 127) // 128 * 128
    header = np.zeros(256, dtype="<i4")
    header[:8] = 20240326, version, positions, vocab, depth, heads, channels, padded
    per_layer = {
        "ln_1.weight": (channels,),
        "ln_1.bias": (channels,),
        "attn.c_attn.weight": (3 * channels, channels),
        "attn.c_attn.bias": (3 * channels,),
        "attn.c_proj.weight": (channels, channels),
        "attn.c_proj.bias": (channels,),
        "ln_2.weight": (channels,),
        "ln_2.bias": (channels,),
        "mlp.c_fc.weight": (4 * channels, channels),
        "mlp.c_fc.bias": (4 * channels,),
        "mlp.c_proj.weight": (channels, 4 * channels),
        "mlp.c_proj.bias": (channels,),
    }
    names = [("wte.weight", (padded, channels)), ("wpe.weight", (positions, channels))]
    names += [(f"h.{layer}.{name}", dims) for name, dims in per_layer.items() for layer in range(depth)]
    names += [("ln_f.weight", (channels,)), ("ln_f.bias", (channels,))]
    weights = {name: rng.normal(0, 0.1, dims).astype(np.float32) for name, dims in names}
    if version == 5:  # keep 16 bits, so that both have the same numbers
        weights = {name: (w.view(np.uint32) & 0xFFFF0000).view(np.float32) for name, w in weights.items()}
    data = [w.view(np.uint32) >> 16 if version == 5 else w for w in weights.values()]
    path.write_bytes(header.tobytes() + b"".join((d.astype("<u2") if version == 5 else d).tobytes() for d in data))
    return weights


@pytest.mark.parametrize("version", [3, 5])
def test_llmc_model_can_be_loaded(tmp_path, version):
    weights = write_llmc_model(tmp_path / "gpt2.bin", version, (2, 3, 48, 64, 300), np.random.default_rng(0))
    run("--init", tmp_path / "gpt2.bin", "--steps", 0, "--out", tmp_path / "run")
    ours = tensors(checkpoints(tmp_path / "run")[0])
    for name, expected in weights.items():
        stored = ours[name].T if expected.ndim == 2 and name.startswith("h.") else ours[name]
        np.testing.assert_array_equal(stored, expected[:300] if name == "wte.weight" else expected, err_msg=name)


def test_hugging_face_layout(data, tmp_path):
    """Names and shapes of GPT2LMHeadModel: a block's matrices are (in, out), no padding, no tied head."""
    run(*data, *TINY, "--steps", 0, "--out", tmp_path)
    found = {
        name: t.shape for name, t in tensors(checkpoints(tmp_path)[0]).items() if not name.startswith(("m.", "v."))
    }
    assert found["wte.weight"] == (257, 48) and found["wpe.weight"] == (40, 48)
    assert found["h.1.attn.c_attn.weight"] == (48, 144) and found["h.1.mlp.c_fc.weight"] == (48, 192)
    assert found["h.1.mlp.c_proj.weight"] == (192, 48) and "lm_head.weight" not in found


def test_sample_command_reproduces_training_logits(data, tmp_path):
    """Training and `train_gpt2 sample` with its checkpoint give the same text: greedy, also with muP's multipliers."""
    for extra in ([], ["--parametrization", "mup", "--base-width", 16, "--output-mult", 3, "--embed-mult", 2]):
        out = tmp_path / str(len(extra))
        run(
            *data,
            *TINY,
            *TRAINING,
            *extra,
            *"--steps 40 --sample-every 40 --sample-tokens 60 --temperature 0 --prompt ab --out".split(),
            out,
        )
        text, _ = run("sample", checkpoints(out)[-1], "--prompt", "ab", "--temperature", 0, "--sample-tokens", 60)
        assert text.rstrip("\n") == "ab" + log(out, "sample")[0]["text"]
        assert len(set(text)) > 3


def test_dry_run_prints_the_rules_and_touches_nothing(data, tmp_path):
    options = [
        *data,
        *TINY,
        *"--parametrization mup --base-width 12 --base-heads 3".split(),
        "--out",
        tmp_path / "none",
    ]
    out, _ = run(*options, "--dry-run", "--all")
    assert "width_mult 4 " in out and "h.1.mlp.c_proj.weight" in out and "memory" in out
    folded, _ = run(*options, "--dry-run")  # the rules of both blocks are equal
    assert "h.*.mlp.c_proj.weight" in folded and "h.1." not in folded
    assert "\nh.* x 2: every block has these tensors" in folded
    assert folded.count("\n") == out.count("\n") - 12 - 1 + 1  # 12 tensors, the note about queries; that of the blocks
    assert not (tmp_path / "none").exists()


def test_dry_run_shows_every_scale_of_u_mup(data):
    out, _ = run(*data, *TINY, *"--parametrization u-mup --dry-run".split())
    for title in ("loss ", "head's input ", "head ", "wte ", "wpe "):
        assert title in out[out.index("gradient scales: ") :].splitlines()[0]
    table = out[out.index("residual h.0.attn:") :]
    assert "residual h.1.mlp:" in table
    out, _ = run(*data, *TINY, *"--parametrization u-mup --depth 4 --dry-run".split())
    assert "residual h.1." not in out and "--all shows every block" in out
    out, _ = run(*data, *TINY, *"--parametrization u-mup --depth 4 --dry-run --all".split())
    assert all(f"residual h.{block}.attn:" in out for block in range(4))


def test_dry_run_of_every_preset_needs_no_data():
    presets = json.loads(run("--options-json")[0])["presets"]
    assert len(presets) == 11
    counts = {}
    for name, preset in presets.items():
        dry_run = [BINARY, "--preset", name, "--dry-run"]
        done = subprocess.run(dry_run, capture_output=True, text=True, timeout=60)
        assert done.returncode == ("out of memory" in done.stderr)  # exit code 1 on machines with too little for it
        out = done.stdout
        L, C, T = preset["depth"], preset["width"], preset["seq_len"]
        counts[name] = 50257 * C + T * C + L * (12 * C * C + 13 * C) + 2 * C  # the head is tied
        assert f"{counts[name]:,} parameters" in out
    assert counts["gpt2"] == 124_439_808  # as Hugging Face's GPT-2


def test_config_file_and_print_config_round_trip(data, tmp_path):
    out, _ = run(*data, *TINY, "--lr", 0.01, "--tie-embeddings", "--print-config")
    (tmp_path / "c.toml").write_text(out)
    again, _ = run("--config", tmp_path / "c.toml", "--print-config")
    assert again == out
    overridden, _ = run("--config", tmp_path / "c.toml", "--lr", 0.02, "--print-config")
    assert "lr = 0.02" in overridden


def test_uint32_shards(tmp_path):
    write_shard(tmp_path / "wide.bin", np.arange(4000) % 70_000 + 1, vocab_size=70_001, tokenizer="unknown")
    run("--train-data", tmp_path / "wide.bin", *TINY, "--width", 12, "--steps", 1, "--out", tmp_path / "run")
    assert log(tmp_path / "run", "config")[0]["model"]["vocab_size"] == 70_001


def test_metadata_of_a_checkpoint(data, tmp_path):
    run(*data, *TINY, *TRAINING, "--steps", 2, "--out", tmp_path)
    raw = (checkpoints(tmp_path)[0] / "model.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    metadata = header["__metadata__"]
    assert metadata["step"] == "2" and metadata["tokenizer"] == "byte"
    assert json.loads(metadata["parametrization"])["scheme"] == "sp"
    assert json.loads(metadata["config"])["width"] == 48


def test_the_first_run_scales_as_its_closing_words_say(data, tmp_path):
    """The next command that `make run` suggests: the same options at another width."""
    out, _ = run("--config", "scripts/first_run.toml", *data, "--width", 256, "--dry-run")
    assert "width_mult 2 " in out
    short = "--width 64 --steps 2 --sample-every 2".split()
    run("--config", "scripts/first_run.toml", *data, *short, "--out", tmp_path)
    assert log(tmp_path, "config")[0]["parametrization"]["width_mult"] == 0.5


def test_profile(data, tmp_path):
    """Every op with its time; the shares and the rest add up to the step."""
    out, _ = run(*data, *TINY, "--steps", 4, "--profile", "--out", tmp_path / "out")
    event = log(tmp_path / "out", "profile")[0]
    assert event["steps"] == 3 and all(op["ms"] > 0 for op in event["ops"])
    calls = {op["op"]: op["calls"] for op in event["ops"]}
    assert calls["attention_forward 4 x 40 x 48"] == calls["matmul_backward 160 x 48 -> 192"] == 2
    assert calls["layernorm_forward 160 x 48"] == 5 and calls["adamw_step"] == calls["global_norm"] == 1
    assert 0 < sum(op["share"] for op in event["ops"]) <= 1
    assert "profile of 3 steps" in out and "attention_backward" in out
    run(*data, *TINY, "--steps", 4, "--out", tmp_path / "plain")
    assert losses(tmp_path / "plain") == losses(tmp_path / "out")
