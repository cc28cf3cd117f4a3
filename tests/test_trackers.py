"""dev/log_export.py: what TensorBoard, W&B and CSV have is what the log has."""

from __future__ import annotations

import csv
import json
import math

import pytest
import wandb_file
from program import TINY, log, run
from script_tools import imported_by_help, run_script
from track_tools import (
    START,
    config_event,
    floats,
    fp32,
    from_csv,
    from_tensorboard,
    from_wandb,
    lines,
    no_network,  # noqa: F401 - fixtures
    samples_from_wandb,
    scalars_of_log,
    services_of_their_own,  # noqa: F401
    texts_from_tensorboard,
    train_event,
    wandb_folder,
    write_log,
)

from llmc import cli
from llmc.errors import Error
from llmc.track import export

pytestmark = pytest.mark.filterwarnings("ignore:The inplace keyword")  # tbparse 0.0.9 with pandas 3


def exported(folder, *trackers):
    for tracker in trackers:
        export.main([str(folder), "--to", tracker])


@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A run of the program with everything that a log can have."""
    out = tmp_path_factory.mktemp("trained") / "run"
    watch = ["--eval-every", 20, "--sample-every", 100, "--keep-best", "--profile", "--checkpoint-every", 100]
    run(*TINY, *data, "--steps", 200, *watch, "--prompt", "  <b>a|b\n", "--out", out, "--temperature", 0.01)
    return out


@pytest.fixture(scope="module")
def real(trained):
    """The same, brought to all trackers."""
    before = (trained / "log.jsonl").read_bytes()
    exported(trained, "tensorboard", "wandb", "csv")
    assert (trained / "log.jsonl").read_bytes() == before
    return trained


def test_all_scalars_of_a_run_come_back(real):
    expected = scalars_of_log(real)
    assert {name: len(curve) for name, curve in expected.items()} == {
        **dict.fromkeys(("train/loss", "train/grad_norm", "train/lr", "train/tokens"), 200),
        **dict.fromkeys(("perf/tokens_per_second", "perf/elapsed_seconds"), 200),
        **dict.fromkeys(("val/loss", "val/bits_per_byte", "val/elapsed_seconds"), 10),
        **dict.fromkeys(("profile/steps", "profile/ms"), 1),
        "val/best_loss": len(log(real, "best")),
    }
    assert from_tensorboard(real) == fp32(expected)
    assert from_csv(real / "csv") == floats(expected)
    assert floats(from_wandb(real)) == floats(expected)


def test_samples_come_back(real):
    expected = {event["step"]: event["prompt"] + event["text"] for event in log(real, "sample")}
    assert sorted(expected) == [100, 200] and all(text.startswith("  <b>a|b\n") for text in expected.values())
    assert samples_from_wandb(real) == expected
    with open(real / "csv/samples.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {int(row["step"]): row["prompt"] + row["text"] for row in rows} == expected
    texts = texts_from_tensorboard(real, "sample")
    assert {step: text.split("\n")[0] for step, text in texts.items()} == dict.fromkeys(expected, "  <b>a|b")


def test_configuration_and_provenance_come_back(real):
    (event,), (final,) = log(real, "config"), log(real, "final")
    _, config, summary, code = wandb_file.read_finished(wandb_folder(real))
    assert code == 0
    chosen = {key: value for key, value in event["config"].items() if value is not None}
    assert {key: config[key] for key in chosen} == chosen
    for key in ("model", "provenance", "parameters", "command"):
        assert config[key] == event[key]
    assert config["rules"] == event["parametrization"]
    assert summary["final"] == {key: value for key, value in final.items() if key not in ("event", "step")}
    with open(real / "csv/runs.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["lr"]) == chosen["lr"] and json.loads(row["train_data"]) == chosen["train_data"]
    assert row["host"] == event["provenance"]["host"] and row["command"] == event["command"]
    assert row["final_reason"] == "done" and float(row["final_val_loss"]) == final["val_loss"]
    from tbparse import SummaryReader

    reader = SummaryReader(str(real))
    hparams = dict(zip(reader.hparams["tag"], reader.hparams["value"], strict=True))
    assert set(hparams) == set(chosen) and float(hparams["lr"]) == chosen["lr"]
    text = dict(zip(reader.text["tag"], reader.text["value"], strict=True))
    assert f"| lr | {chosen['lr']} |" in text["config"] and "  <b>a\\|b  |" in text["config"]
    assert f"| host | {event['provenance']['host']} |" in text["provenance"]
    assert len(text["parametrization"].splitlines()) == 2 + len(event["parametrization"]["tensors"])
    assert "| reason | done |" in text["final"]


def test_times_are_those_of_the_log(tmp_path):
    events = [config_event(), train_event(1), train_event(2), {"event": "sample", "step": 2, "prompt": "", "text": "x"}]
    later = config_event(2, resumed_from="x")
    later["provenance"] = {"started": "2023-11-15T22:13:20Z"}
    write_log(tmp_path, [*events, later, train_event(3)])
    exported(tmp_path, "tensorboard", "wandb", "csv")
    expected = [START + 0.25, START + 0.5, START + 86400 + 0.75]
    from tbparse import SummaryReader

    frame = SummaryReader(str(tmp_path), extra_columns={"wall_time"}).scalars
    assert list(frame[frame["tag"] == "train/loss"]["wall_time"]) == expected
    assert [row["_timestamp"] for row in wandb_file.read_finished(wandb_folder(tmp_path))[0].values()] == expected
    with open(tmp_path / "csv/scalars.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "train/loss"]
    assert [float(row["wall_time"]) for row in rows] == expected
    assert [row["tokens"] for row in rows] == ["4096", "8192", "12288"]


def test_more_points_than_an_event_accumulator_keeps(tmp_path):
    """tensorboard 2.21.0: EventAccumulator keeps 10,000 of a curve's points, at random, unless its size_guidance for
    scalars is 0. The file has them all."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = [{"event": "train", "step": step, "loss": 1 / step} for step in range(1, 12_001)]
    write_log(tmp_path, [config_event(), *events])
    exported(tmp_path, "tensorboard", "csv")
    expected = scalars_of_log(tmp_path)
    assert len(expected["train/loss"]) == 12_000
    assert from_tensorboard(tmp_path) == fp32(expected)
    assert from_csv(tmp_path / "csv") == floats(expected)
    for guidance, count in ((None, 10_000), ({"scalars": 0}, 12_000)):
        reader = EventAccumulator(str(tmp_path), size_guidance=guidance).Reload()
        assert len(reader.Scalars("train/loss")) == count


def test_numbers_that_are_not_finite(tmp_path):
    write_log(
        tmp_path, [config_event(), train_event(1), train_event(2) | {"loss": None, "skipped": True}, train_event(3)]
    )
    exported(tmp_path, "tensorboard", "wandb", "csv")
    for read in (from_tensorboard(tmp_path), from_csv(tmp_path / "csv"), from_wandb(tmp_path)):
        assert [math.isnan(value) for value in read["train/loss"].values()] == [False, True, False]
        assert read["train/skipped"] == {2: 1}


def test_steps_that_a_resume_repeated(tmp_path):
    """wandb 0.31.0 drops a step that goes back, in silence; TensorBoard draws a line back. Here the last event of a
    step counts, in a log that was appended to, too."""
    first = [config_event(), *(train_event(step, loss=1.5) for step in range(1, 11)), {"event": "final", "step": 10}]
    second = [config_event(6, resumed_from="x"), *(train_event(step, loss=2.5) for step in range(7, 15))]
    write_log(tmp_path, first + second)
    exported(tmp_path, "tensorboard", "wandb", "csv")
    expected = {step: 1.5 if step <= 6 else 2.5 for step in range(1, 15)}
    for read in (from_tensorboard(tmp_path), from_csv(tmp_path / "csv"), from_wandb(tmp_path)):
        assert read["train/loss"] == expected
    assert wandb_file.read_finished(wandb_folder(tmp_path))[1]["resumed_from"] == "x"


def test_exporting_again_replaces_and_leaves_other_files(tmp_path):
    path = write_log(tmp_path, [config_event(), train_event(1)])
    other = tmp_path / "events.out.tfevents.1.other"
    other.write_bytes(b"")
    exported(tmp_path, "tensorboard", "wandb", "csv")
    with open(path, "a") as file:
        file.write(lines([train_event(2), {"event": "hellaswag", "step": 2, "acc": 0.5, "elapsed": 0.75}]))
    for _ in range(2):
        exported(tmp_path, "tensorboard", "wandb", "csv")
    expected = scalars_of_log(tmp_path)
    assert from_tensorboard(tmp_path) == fp32(expected)
    assert from_wandb(tmp_path) == expected and from_csv(tmp_path / "csv") == floats(expected)
    sizes = sorted(file.stat().st_size for file in tmp_path.glob("events.out.tfevents.*.llmc"))
    assert len(sizes) == 2 and sizes[0] == 0 and other.exists()


@pytest.mark.parametrize("name", ["scalars", "runs", "samples"])
def test_files_of_others_stay(tmp_path, name):
    write_log(tmp_path / "run", [config_event(), train_event(1)])
    (tmp_path / f"{name}.csv").write_text("step,mine\n1,2\n")
    with pytest.raises(Error, match=rf"{name}.csv exists and was not written by llmc log export: give another --out"):
        export.main([str(tmp_path / "run"), "--to", "csv", "--out", str(tmp_path)])
    assert [(file.name, file.read_text()) for file in tmp_path.glob("*.csv")] == [(f"{name}.csv", "step,mine\n1,2\n")]


def test_several_runs_and_a_folder_for_them(tmp_path, capsys):
    for name in ("a", "b"):
        write_log(tmp_path / name, [config_event(), train_event(1, loss=ord(name))])
    (tmp_path / "loss.png").write_bytes(b"\x89PNG")  # of runs/*, no run
    runs = [str(tmp_path / path) for path in ("a", "b/log.jsonl", "b", "loss.png")]
    export.main([*runs, "--to", "tensorboard", "--out", str(tmp_path / "tb")])
    for name in ("a", "b"):
        assert from_tensorboard(tmp_path / "tb" / name)["train/loss"] == {1: ord(name)}
    export.main([*runs, "--to", "csv"])
    with open(tmp_path / "csv/scalars.csv", newline="") as file:
        rows = [(row["run"], row["value"]) for row in csv.DictReader(file) if row["name"] == "train/loss"]
    assert rows == [("a", "97"), ("b", "98")]
    printed = capsys.readouterr().out
    assert "a: 1 step in " in printed and f"note: left out, without a log.jsonl: {tmp_path}/loss.png\n" in printed
    cli.main(["log", "export", *runs, "--to", "wandb", "--out", str(tmp_path / "w"), "--project", "p"])
    assert len(list((tmp_path / "w/wandb").glob("offline-run-*"))) == 2


def test_text_that_is_not_valid_unicode(tmp_path):
    """The JSON of a log may have half a surrogate pair: a file name of the command line that is not UTF-8."""
    event = config_event(command="train \udcff") | {"config": {"out": "\udcff"}}
    write_log(tmp_path, [event, {"event": "sample", "step": 0, "prompt": "\ud800", "text": "é\r\n\0"}])
    exported(tmp_path, "tensorboard", "wandb", "csv")
    assert wandb_file.read_finished(wandb_folder(tmp_path))[1]["out"] == "?"
    assert samples_from_wandb(tmp_path) == {0: "?é\r\n\0"}
    with open(tmp_path / "csv/samples.csv", newline="") as file:
        assert [row["prompt"] + row["text"] for row in csv.DictReader(file)] == ["?é\r\n\0"]
    assert texts_from_tensorboard(tmp_path, "sample") == {0: "?é\r\n\0"}


# --- Wrong use, and missing packages ---


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["missing", "--to", "csv"], 3, "missing/log.jsonl is missing: give the log.jsonl of a run, or its folder"),
        (["empty", "--to", "csv"], 3, "empty/log.jsonl has no complete line of a log"),
        (
            ["good", "good/copy.jsonl", "--to", "tensorboard"],
            2,
            "are in one folder, which TensorBoard takes as one run",
        ),
        (["good", "--to", "wandb", "--mode", "online"], 1, "W&B cannot start the run good (online): No API key"),
        (["good", "--to", "csv", "--out", "good/log.jsonl"], 1, "good/log.jsonl: File exists"),
        (["good"], 2, "--to"),
    ],
)
def test_wrong_use_is_one_sentence(tmp_path, words, code, message):
    path = write_log(tmp_path / "good", [config_event(), train_event(1)])
    (tmp_path / "good/copy.jsonl").write_bytes(path.read_bytes())
    write_log(tmp_path / "empty", [])
    done = run_script("dev/log_export.py", *words, cwd=tmp_path, env={"HOME": str(tmp_path)})
    assert done.returncode == code, done.stderr
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


HIDE = """import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Hide())
"""


@pytest.mark.parametrize("package", ["tensorboard", "wandb"])
def test_a_missing_package_is_named(tmp_path, package):
    write_log(tmp_path / "run", [config_event(), train_event(1)])
    (tmp_path / "sitecustomize.py").write_text(HIDE.format(package=package))
    hidden = {"PYTHONPATH": str(tmp_path)}
    message = (
        f"error: the package {package} is missing: install it by .venv/bin/pip install -r requirements-track.txt\n"
    )
    for words in (
        ["dev/log_export.py", tmp_path / "run", "--to", package],
        ["dev/log_follow.py", tmp_path / "run", f"--{package}"],
    ):
        done = run_script(*words, env=hidden)
        assert (done.returncode, done.stderr) == (1, message)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["log.jsonl"]
    assert run_script("dev/log_export.py", tmp_path / "run", "--to", "csv", env=hidden).returncode == 0


def test_a_full_disk_leaves_no_half_record(tmp_path):
    """A limit of the size of files is the same to the writer: an OSError in the middle."""
    write_log(tmp_path, [config_event(), *map(train_event, range(1, 3000))])
    code = "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (20_000, 20_000))\n"
    hidden = tmp_path / "limit"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(code)
    for tracker in ("tensorboard", "csv"):
        done = run_script("dev/log_export.py", tmp_path, "--to", tracker, env={"PYTHONPATH": str(hidden)})
        assert done.returncode == 1
        assert done.stderr == "error: while writing: File too large\n"
    assert from_tensorboard(tmp_path) == {}
    assert not list((tmp_path / "csv").iterdir())


@pytest.mark.parametrize("script", ["dev/log_export.py", "dev/log_follow.py"])
def test_help_starts_quickly(script):
    assert not imported_by_help(script) & {"tensorboard", "wandb", "numpy", "torch"}
