"""The folder of a run in both programs: checkpoints by time, the best one, damaged ones, the lock, changed data, and
--resume with the options of the checkpoint."""

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from program import ROOT, TINY, checkpoints, last_wins, log, losses, run, snapshot, tensors
from safetensors import safe_open
from safetensors.numpy import save_file
from shards import random_text, write_shard, write_text_shards

import llmc
import train_gpt2
from llmc.saver import Saver

RUN = [*TINY, "--lr", 0.01, "--eval-tokens", 400, "--schedule", "constant"]


@pytest.fixture(params=["train_gpt2", "train_gpt2.py"])
def call(request, capfd):
    """Runs one of the programs, the twin in this process; returns what it printed."""

    def call(*options, code=0):
        if request.param == "train_gpt2":
            return "".join(run(*options, expect=code))
        capfd.readouterr()
        assert train_gpt2.main(last_wins(options)) == code, capfd.readouterr()
        return "".join(capfd.readouterr())

    return call


def names(out):
    return [path.name[5:].lstrip("0") for path in checkpoints(out)]


def events(out, *kinds):
    return [(e["event"], e["step"]) for e in log(out) if e["event"] in kinds]


def test_checkpoints_by_time(data, tmp_path, call):
    call(*data, *RUN, "--steps", 3, "--checkpoint-minutes", 1e-9, "--keep", 9, "--out", tmp_path / "often")
    assert names(tmp_path / "often") == ["1", "2", "3"]
    for i, options in enumerate([["--checkpoint-minutes", 0], ["--checkpoint-minutes", 1e6], []]):
        call(*data, *RUN, "--steps", 3, "--keep", 9, "--out", tmp_path / str(i), *options)
        assert names(tmp_path / str(i)) == ["3"]


def test_checkpoints_every_quarter_of_an_hour_by_default(monkeypatch):
    """train_gpt2.py's rule; the number of llmc/train/trainer.cpp is read."""
    saver = object.__new__(Saver)
    saver.config, saver.time = SimpleNamespace(checkpoint_every=0, checkpoint_minutes=None), 1000.0
    for seconds, due in ((899, False), (901, True)):
        monkeypatch.setattr("llmc.saver.time.monotonic", lambda seconds=seconds: 1000.0 + seconds)
        assert saver.due(7) == due
    assert "checkpoint_minutes.value_or(15);" in (ROOT / "llmc/train/trainer.cpp").read_text()


def test_resume_alone_goes_on_with_the_options_of_the_checkpoint(data, tmp_path, call):
    """All of them, bit for bit; what is given wins."""
    options = [*RUN, "--steps", 8, "--total-batch-size", 320, "--parametrization", "mup", "--base-width", 16]
    options += ["--warmup-steps", 2, "--schedule", "cosine", "--weight-decay", 0.2, "--seed", 7]
    call(*data, *options, "--out", tmp_path / "whole")
    call(*data, *options, "--out", tmp_path / "halves", "--checkpoint-every", 5, "--keep", 9)
    shutil.rmtree(tmp_path / "halves/checkpoints/step_00000008")
    out = call("--out", tmp_path / "halves", "--resume")
    assert "step_00000005 at step 5" in out and "changed since" not in out
    assert losses(tmp_path / "halves") == losses(tmp_path / "whole")
    left, right = (tensors(checkpoints(tmp_path / name)[-1]) for name in ("whole", "halves"))
    assert all((left[name] == right[name]).all() for name in left)
    shutil.rmtree(tmp_path / "halves/checkpoints/step_00000008")
    out = call("--out", tmp_path / "halves", "--resume", "--tokens", 320 * 6, "--lr", 0.02, "--batch-size", 2)
    assert "steps = 8 left out: --tokens is given" in out
    assert "changed since the checkpoint: lr: 0.01 -> 0.02" in out
    assert log(tmp_path / "halves", "config")[-1]["config"]["total_batch_size"] == 320
    assert events(tmp_path / "halves", "final") == [("final", 6)]


def test_options_that_must_not_differ_are_refused(data, tmp_path, call):
    call(*data, *RUN, "--steps", 2, "--out", tmp_path)
    for options, words in [
        (["--optimizer", "sgd"], "optimizer"),
        (["--width", 96], "--width 96"),
        (["--dtype", "bf16"], "dtype"),
        (["--parametrization", "mup", "--base-width", 16], "parametrization"),
        (["--seq-len", 20], "seq_len"),
    ]:
        assert words in call("--out", tmp_path, "--resume", "--steps", 3, *options, code=3)


def test_resume_without_a_checkpoint_starts_with_the_options_in_the_log(data, tmp_path, call):
    call(*data, *RUN, "--steps", 2, "--out", tmp_path)
    first = losses(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    assert "nothing to resume" in call("--out", tmp_path, "--resume")
    assert losses(tmp_path) == first


@pytest.mark.parametrize(("steps", "all_of_them"), [(1, "its 1 step"), (2, "all of its 2 steps")])
def test_a_finished_run_says_so(data, tmp_path, call, steps, all_of_them):
    call(*data, *RUN, "--steps", steps, "--out", tmp_path)
    before = snapshot(tmp_path)
    out = call("--out", tmp_path, "--resume")
    assert out == f"the run in {tmp_path} is finished: it did {all_of_them}; to go on, raise --steps\n"
    assert snapshot(tmp_path) == before
    call("--out", tmp_path, "--resume", "--steps", 3)
    assert len(losses(tmp_path)) == 3


def test_a_run_that_is_not_kept_says_so(data, tmp_path, call):
    words = "no --out: nothing of this run is kept, neither log nor checkpoints\n"
    assert words in call(*data, *RUN, "--steps", 1)
    assert words not in call(*data, *RUN, "--steps", 1, "--out", tmp_path)


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def truncate_optimizer(folder):
    path = folder / "optimizer.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def remove(folder):
    (folder / "optimizer.safetensors").unlink()


def spoil_header(folder):
    path = folder / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[8:40] = bytes(32)
    path.write_bytes(content)


def mix(folder):
    shutil.copy(folder.parent / "step_00000002/optimizer.safetensors", folder)


def rewrite(path, change):
    """Writes a file of a checkpoint again, with another content and the same metadata."""
    with safe_open(path, "np") as file:
        values, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    change(values)
    save_file(values, path, metadata)


def lacking_weights(folder):
    rewrite(folder / "model.safetensors", lambda values: values.pop("h.1.mlp.c_fc.weight"))


def lacking_moments(folder):
    rewrite(folder / "optimizer.safetensors", lambda values: values.pop("v.ln_f.bias"))


def nan_in_weights(folder):
    rewrite(folder / "model.safetensors", lambda values: values["wpe.weight"].fill(np.nan))


def nan_in_moments(folder):
    rewrite(folder / "optimizer.safetensors", lambda values: values["m.h.0.ln_1.weight"].fill(np.inf))


IN_THE_VALUES = [lacking_weights, lacking_moments, nan_in_weights, nan_in_moments]


@pytest.mark.parametrize("damage", [truncate, remove, spoil_header, mix, *IN_THE_VALUES])
def test_damaged_checkpoints(data, tmp_path, call, damage):
    """The newest two are damaged: resume goes on from the third, and says so; their names do not count as new ones."""
    call(*data, *RUN, "--steps", 8, "--checkpoint-every", 2, "--keep", 4, "--out", tmp_path)
    whole = losses(tmp_path)
    damage(tmp_path / "checkpoints/step_00000008")
    damage(tmp_path / "checkpoints/step_00000006")
    out = call("--out", tmp_path, "--resume", "--keep", 1, "--steps", 9)
    for step in (8, 6):
        folder = tmp_path / f"checkpoints/step_{step:08d}"
        assert f"warning the checkpoint {folder} is damaged (" in out
    assert f"going on from {tmp_path}/checkpoints/step_00000004\n" in out
    assert losses(tmp_path)[:8] == whole
    assert names(tmp_path) == ["9"]
    call("--out", tmp_path, "--resume", "--steps", 10)


def test_a_damaged_checkpoint_names_an_intact_one(data, tmp_path, call):
    call(*data, *RUN, "--steps", 4, "--checkpoint-every", 2, "--out", tmp_path)
    truncate(tmp_path / "checkpoints/step_00000004")
    for given in (tmp_path, tmp_path / "checkpoints/step_00000004", tmp_path / "checkpoints/step_00000004/"):
        out = call("sample", given, code=3)
        assert out.endswith(f"; the checkpoint {tmp_path}/checkpoints/step_00000002 is intact\n")
    truncate(tmp_path / "checkpoints/step_00000002")
    assert "is intact" not in call("sample", tmp_path, code=3)
    out = call("--out", tmp_path, "--resume", code=3)
    assert f"no checkpoint in {tmp_path} is intact" in out and "delete" in out


@pytest.mark.parametrize("damage", [lacking_weights, nan_in_weights])
def test_damage_in_the_values_names_an_intact_checkpoint(data, tmp_path, call, damage):
    """One that holds NaN, too, is not called intact."""
    call(*data, *RUN, "--steps", 3, "--checkpoint-every", 1, "--keep", 9, "--out", tmp_path)
    damage(tmp_path / "checkpoints/step_00000003")
    nan_in_moments(tmp_path / "checkpoints/step_00000002")
    words = f"; the checkpoint {tmp_path}/checkpoints/step_00000001 is intact\n"
    for given in (tmp_path, tmp_path / "checkpoints/step_00000003/model.safetensors"):
        assert call("sample", given, code=3).endswith(words)
        assert call("eval", given, *data[2:], code=3).endswith(words)
        assert call(*data, *RUN, "--init", given, "--steps", 1, code=3).endswith(words)


def test_no_checkpoint_whose_values_can_be_read(data, tmp_path, call):
    call(*data, *RUN, "--steps", 2, "--checkpoint-every", 1, "--out", tmp_path)
    nan_in_moments(tmp_path / "checkpoints/step_00000001")
    nan_in_weights(tmp_path / "checkpoints/step_00000002")
    before = snapshot(tmp_path)
    out = call("--out", tmp_path, "--resume", "--steps", 3, code=3)
    assert f"no checkpoint in {tmp_path} is intact" in out and "wpe.weight has NaN" in out
    assert snapshot(tmp_path) == before
    assert "is intact" not in call("sample", tmp_path, code=3)


@pytest.mark.parametrize("damage", [remove, truncate_optimizer, lacking_moments, nan_in_moments])
def test_llmc_load_names_an_intact_checkpoint(data, tmp_path, damage):
    run(*data, *RUN, "--steps", 2, "--checkpoint-every", 1, "--out", tmp_path)
    damage(tmp_path / "checkpoints/step_00000002")
    words = re.escape(f"; the checkpoint {tmp_path}/checkpoints/step_00000001 is intact") + "$"
    for given in (tmp_path, tmp_path / "checkpoints/step_00000002"):
        with pytest.raises(llmc.DataError, match=words):
            llmc.load(given, resume=True)
    model = llmc.load(tmp_path)  # the weights alone
    before = model.parameters()
    with pytest.raises(llmc.DataError, match=words):
        model.load(tmp_path, resume=True)
    assert all((before[name] == value).all() for name, value in model.parameters().items())
    llmc.load(tmp_path / "checkpoints/step_00000001", resume=True)


def test_llmc_load_names_no_other_checkpoint_for_another_model(data, tmp_path):
    run(*data, *RUN, "--steps", 2, "--checkpoint-every", 1, "--out", tmp_path)
    model = llmc.load(tmp_path, optimizer="sgd")
    with pytest.raises(llmc.DataError, match=r"resume=False\)$"):
        model.load(tmp_path, resume=True)


def test_info_names_an_intact_checkpoint(data, tmp_path, call):
    call(*data, *RUN, "--steps", 2, "--checkpoint-every", 1, "--out", tmp_path)
    truncate_optimizer(tmp_path / "checkpoints/step_00000002")
    out = call("info", tmp_path, code=3)
    assert "optimizer.safetensors" in out
    assert out.endswith(f"; the checkpoint {tmp_path}/checkpoints/step_00000001 is intact\n")


def test_what_killed_runs_leave_is_no_checkpoint(data, tmp_path, call):
    call(*data, *RUN, "--steps", 2, "--out", tmp_path)
    folder = tmp_path / "checkpoints"
    for name in (".tmp-step_00000009", ".old-step_00000001", "step_backup"):
        shutil.copytree(folder / "step_00000002", folder / name)
    call("--out", tmp_path, "--resume", "--steps", 3)
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000002", "step_00000003", "step_backup"]


def test_the_lock_names_its_holder(data, tmp_path, call):
    out = tmp_path / "run"
    call(*data, *RUN, "--steps", 2, "--out", out)
    before = snapshot(out)
    holder = (out / ".lock").read_text()
    assert f" on {socket.gethostname()} (train_gpt2" in holder and holder.startswith("process ")
    with open(out / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for options in (["--resume", "--steps", 4], ["--overwrite"], []):
            text = call(*data, *RUN, "--steps", 2, "--out", out, *options, code=1)
            assert f"--out {out} is in use by {holder.strip()}: wait until it ends, or choose another folder" in text
        call(*data, *RUN, "--dry-run", "--out", out)  # writes nothing
    assert snapshot(out) == before
    call("--out", out, "--resume", "--steps", 3)  # the file of a run that has ended does not block


def test_a_first_run_is_locked_too(data, tmp_path, call):
    """Two runs that start at the same time in a new folder: the lock is taken before anything else is written."""
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run/.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert "is in use by another process" in call(*data, *RUN, "--steps", 1, "--out", tmp_path / "run", code=1)
    assert os.listdir(tmp_path / "run") == [".lock"]


@pytest.fixture
def own_data(tmp_path):
    """Data of a test that changes it."""
    train = write_text_shards(tmp_path / "data", random_text(6000), 3, "train")
    val = write_text_shards(tmp_path / "data", random_text(3000, 1), 1, "val")
    return ["--train-data", train, "--val-data", val]


def more(folder):
    shutil.copy(folder / "train_000.bin", folder / "train_007.bin")
    return "training", "4 shards, not 3: with train_007.bin"


def fewer(folder):
    (folder / "train_001.bin").unlink()
    return "training", "2 shards, not 3: without train_001.bin"


def one(folder):
    for name in ("train_001.bin", "train_002.bin"):
        (folder / name).unlink()
    return "training", "1 shard, not 3: without train_001.bin, train_002.bin"


def longer(folder):
    text = random_text(6000)[:2000]
    write_text_shards(folder, text, 1, "train")
    write_text_shards(folder, text + "abc", 1, "train")
    return "training", "train_000.bin has 2,004 tokens, not 2,001"


def another_text(folder):
    path = folder / "train_000.bin"
    content = bytearray(path.read_bytes())
    content[32:64] = bytes(range(32))
    path.write_bytes(content)
    return "training", "other content in train_000.bin"


def another_text_later(folder):
    """Not in the first shard, of the same length."""
    before = (folder / "train_001.bin").stat().st_size
    for name in ("train_001.bin", "train_002.bin"):
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    assert (folder / "train_001.bin").stat().st_size == before
    return "training", "other content in train_001.bin, train_002.bin"


def validation(folder):
    write_text_shards(folder, random_text(3000, 1), 2, "val")
    return "validation", "2 shards, not 1: with val_001.bin; val_000.bin has 1,501 tokens, not 3,001"


@pytest.mark.parametrize("change", [more, fewer, one, longer, another_text, another_text_later, validation])
def test_changed_data_is_refused(own_data, tmp_path, call, change):
    out = tmp_path / "run"
    call(*own_data, *RUN, "--steps", 2, "--out", out)
    which, what = change(tmp_path / "data")
    before = snapshot(out)
    text = call("--out", out, "--resume", "--steps", 3, code=3)
    start = f"--resume: the {which} data is not that of the checkpoint {out}/checkpoints/step_00000002: {what}"
    assert f"{start}; give the same data, or --allow-data-change to go on with this\n" in text
    assert snapshot(out) == before
    text = call("--out", out, "--resume", "--steps", 3, "--allow-data-change")
    assert f"changed since the checkpoint: {which} data: {what}\n" in text
    call("--out", out, "--resume", "--steps", 4)  # the new checkpoint knows the new data


def remade(folder):
    write_text_shards(folder / "n2", random_text(2000, 5), 1, "text")
    return ["n1", "n2"], "other content in text_000.bin (shard 2 of 2)"


def without_the_second(folder):
    return ["n1"], "1 shard, not 2: without text_000.bin (shard 2 of 2)"


def without_the_first(folder):
    return ["n2"], "1 shard, not 2: without text_000.bin (shard 1 of 2)"


def with_a_third(folder):
    write_text_shards(folder / "n3", random_text(2000, 3), 1, "text")
    return ["n1", "n2", "n3"], "3 shards, not 2: with text_000.bin (shard 3 of 3)"


def exchanged(folder):
    for old, new in (("n1", "aside"), ("n2", "n1"), ("aside", "n2")):
        (folder / old).rename(folder / new)
    return ["n1", "n2"], "in another order"


@pytest.mark.parametrize("lengths", [(2000, 2000), (2000, 2600)])
@pytest.mark.parametrize("change", [remade, without_the_second, without_the_first, with_a_third, exchanged])
def test_changed_data_of_folders_whose_shards_have_the_same_name(tmp_path, call, change, lengths):
    for seed, length in enumerate(lengths, start=1):
        write_text_shards(tmp_path / f"n{seed}", random_text(length, seed), 1, "text")
    options = [*RUN, "--out", tmp_path / "run"]
    call("--train-data", *(tmp_path / f"n{i}/text_000.bin" for i in (1, 2)), *options, "--steps", 2)
    folders, what = change(tmp_path)
    if change is remade and lengths[0] != lengths[1]:
        what = "text_000.bin (shard 2 of 2) has 2,001 tokens, not 2,601"
    data = ["--train-data", *(tmp_path / folder / "text_000.bin" for folder in folders)]
    text = call(*data, *options, "--steps", 3, "--resume", code=3)
    assert f"step_00000002: {what}; give the same data" in text


def test_the_hash_of_a_shards_content(tmp_path, call):
    """As doc/formats.md defines it, of a file with 1 MiB and of one with one token more."""
    folder = tmp_path / "data"
    tokens = np.random.default_rng(0).integers(0, 256, (1 << 19) - 511)
    paths = [write_shard(folder / f"{i}.bin", tokens[: len(tokens) - 1 + i]) for i in range(2)]
    whole, large = (path.read_bytes() for path in paths)
    assert (len(whole), len(large)) == (1 << 20, (1 << 20) + 2)
    blocks = b"".join(large[i * (len(large) - 65536) // 15 :][:65536] for i in range(16))
    call("--train-data", *paths, *RUN, "--steps", 1, "--out", tmp_path / "run")
    with safe_open(checkpoints(tmp_path / "run")[-1] / "optimizer.safetensors", "np") as file:
        content = json.loads(file.metadata()["state"])["data"]["train"]["content"]
    assert content == [hashlib.sha256(part).hexdigest() for part in (whole, blocks)]


def test_moved_data_is_the_same_data(own_data, tmp_path, call):
    call(*own_data, *RUN, "--steps", 2, "--out", tmp_path / "run")
    (tmp_path / "data").rename(tmp_path / "moved")
    moved = [word.replace("/data/", "/moved/") for word in own_data]
    call(*moved, "--out", tmp_path / "run", "--resume", "--steps", 3)


def best(out):
    return os.readlink(out / "checkpoints/best")[5:].lstrip("0")


# Learns at this rate for some steps, then not at all: the best validation is not the last one.
PEAK = ["--lr", 0.02, "--schedule", "constant", "--overfit-single-batch", "--eval-every", 5, "--weight-decay", 0]


def test_the_best_checkpoint_is_kept(data, tmp_path, call):
    call(*data, *RUN, *PEAK, "--steps", 60, "--keep", 1, "--keep-best", "--out", tmp_path)
    evals = {e["step"]: e["val_loss"] for e in log(tmp_path, "eval")}
    least = min(evals, key=evals.get)
    assert least < 60, "no minimum before the end"
    assert names(tmp_path) == [str(least), "60"] and best(tmp_path) == str(least)
    final = log(tmp_path, "final")[0]
    assert final["best"] == {"step": least, "val_loss": evals[least]}
    assert log(tmp_path, "best")[-1] == {
        **{"event": "best", "step": least, "val_loss": evals[least]},
        "path": str(tmp_path / f"checkpoints/step_{least:08d}"),
    }
    call("sample", tmp_path / "checkpoints/best", "--sample-tokens", 2)
    out = call("--out", tmp_path, "--resume", "--steps", 70)
    assert f"best    validation loss {evals[least]:.4f} at step {least}: {tmp_path}/checkpoints/best\n" in out
    assert names(tmp_path) == [str(least), "70"] and best(tmp_path) == str(least)


def test_without_keep_best_the_newest_are_kept(data, tmp_path, call):
    call(*data, *RUN, *PEAK, "--steps", 60, "--checkpoint-every", 5, "--keep", 1, "--out", tmp_path)
    assert names(tmp_path) == ["60"] and not (tmp_path / "checkpoints/best").exists()


def test_early_stop(data, tmp_path, call):
    """Ends after two evaluations without improvement, also if a resume is between them; then it is finished."""
    options = [*data, *RUN, *PEAK, "--steps", 500, "--early-stop", 2]
    out = call(*options, "--out", tmp_path / "whole")
    evals = {e["step"]: e["val_loss"] for e in log(tmp_path / "whole", "eval")}
    least = min(evals, key=evals.get)
    last = max(evals)
    assert last == least + 10 < 500
    final = log(tmp_path / "whole", "final")[0]
    assert (final["reason"], final["step"], final["best"]["step"]) == ("early_stop", last, least)
    assert f"stopped early at step {last}: 2 evaluations without a validation loss below that of step {least}\n" in out
    assert names(tmp_path / "whole") == [str(last)]
    call(*options, "--checkpoint-every", 5, "--keep", 99, "--out", tmp_path / "parts")
    for folder in checkpoints(tmp_path / "parts"):  # go on from the evaluation before the last
        if int(folder.name[5:]) > last - 5:
            shutil.rmtree(folder)
    call("--out", tmp_path / "parts", "--resume")
    assert events(tmp_path / "parts", "eval", "final") == events(tmp_path / "whole", "eval", "final")
    before = snapshot(tmp_path / "parts")
    assert f"finished: it stopped early at step {last}" in call("--out", tmp_path / "parts", "--resume")
    assert snapshot(tmp_path / "parts") == before


def test_the_checkpoint_comes_before_the_last_sample(data, tmp_path, call):
    """Also where it is the evaluation of this step that ends the run."""
    options = [*data, *RUN, *PEAK, "--steps", 500, "--early-stop", 2, "--sample-every", 1000, "--sample-tokens", 3]
    call(*options, "--out", tmp_path)
    assert [event["event"] for event in log(tmp_path)][-4:] == ["eval", "checkpoint", "sample", "final"]


def test_the_programs_take_each_others_state(data, tmp_path):
    """The best evaluation, the fingerprint of the data, and the lock."""
    programs = {"c": lambda *o: run(*o), "py": lambda *o: train_gpt2.main(last_wins(o))}
    for first, second in (("c", "py"), ("py", "c")):
        out = tmp_path / first
        programs[first](*data, *RUN, *PEAK, "--steps", 60, "--keep", 1, "--keep-best", "--out", out)
        least = best(out)
        programs[second]("--out", out, "--resume", "--steps", 65)
        assert best(out) == least and names(out) == [least, "65"]
        assert len(json.loads((Path(out) / "log.jsonl").read_text().splitlines()[-1])["best"]) == 2


def test_evaluation_events_are_not_repeated(data, tmp_path, call):
    """Resuming at a step that was evaluated: the log has one evaluation, one sample and one best of it."""
    options = ["--steps", 4, "--eval-every", 2, "--checkpoint-every", 2, "--keep", 9, "--keep-best"]
    options += ["--sample-every", 2, "--sample-tokens", 3]
    call(*data, *RUN, *options, "--out", tmp_path)
    kinds = "train", "checkpoint", "eval", "best", "sample", "final"
    before = events(tmp_path, *kinds)
    shutil.rmtree(tmp_path / "checkpoints/step_00000004")
    call("--out", tmp_path, "--resume")
    assert events(tmp_path, *kinds) == before


def test_python_saves_into_no_folder_of_a_running_program(data, tmp_path):
    run(*data, *RUN, "--steps", 2, "--out", tmp_path)
    model = llmc.load(tmp_path, resume=True)
    with open(tmp_path / ".lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(RuntimeError, match="is in use by process"):
            model.save(tmp_path)
    model.save(tmp_path)


def test_resume_without_a_log(data, tmp_path, call):
    """Of a checkpoint alone: the folder was copied, or Python saved it."""
    call(*data, *RUN, "--steps", 2, "--out", tmp_path)
    (tmp_path / "log.jsonl").unlink()
    call("--out", tmp_path, "--resume", "--steps", 3)
    assert names(tmp_path) == ["2", "3"]
