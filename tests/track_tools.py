"""Logs and what trackers made of them, as plain dictionaries: {name of a scalar: {step: value}}."""

from __future__ import annotations

import csv
import html
import json
import math
import socket
import textwrap
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import wandb_file
from tbparse import SummaryReader

NAMES = {
    ("train", "loss"): "train/loss",
    ("train", "grad_norm"): "train/grad_norm",
    ("train", "lr"): "train/lr",
    ("train", "tokens"): "train/tokens",
    ("train", "skipped"): "train/skipped",
    ("train", "tokens_per_second"): "perf/tokens_per_second",
    ("train", "elapsed"): "perf/elapsed_seconds",
    ("eval", "val_loss"): "val/loss",
    ("eval", "bits_per_byte"): "val/bits_per_byte",
    ("eval", "elapsed"): "val/elapsed_seconds",
    ("hellaswag", "acc"): "hellaswag/acc",
    ("hellaswag", "elapsed"): "hellaswag/elapsed_seconds",
    ("best", "val_loss"): "val/best_loss",
    ("profile", "steps"): "profile/steps",
    ("profile", "ms"): "profile/ms",
}
DEFAULTS = {"config": {"lr": 0.001, "train_data": ["a", "b"], "attn_mult": None, "schedule": "cosine"}, "parameters": 7}
START = 1_700_000_000  # seconds since 1970 of 2023-11-14T22:13:20Z


def config_event(step=0, **fields):
    provenance = {"program": "train_gpt2", "host": "here", "started": "2023-11-14T22:13:20Z"}
    return {"event": "config", "step": step, **DEFAULTS, "provenance": provenance, **fields}


def train_event(step, loss=None):
    """loss: a value that is no fp32 number and differs at every step, unless given"""
    loss = 5 / (1 + step / 7) if loss is None else loss
    numbers = {"loss": loss, "grad_norm": 0.1 * step, "lr": 1e-3 / step, "tokens": 4096 * step}
    return {"event": "train", "step": step, **numbers, "tokens_per_second": 1e5, "elapsed": 0.25 * step}


def lines(events):
    return "".join(json.dumps(event) + "\n" for event in events)


def write_log(folder, events):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log.jsonl").write_text(lines(events))
    return folder / "log.jsonl"


def scalars_of_log(folder):
    """Of a log whose steps do not repeat. Every number of its curves must have a name."""
    found = defaultdict(dict)
    for line in (Path(folder) / "log.jsonl").read_text().splitlines():
        event = json.loads(line)
        kind, step = event.pop("event"), event.pop("step")
        if kind in ("train", "eval", "hellaswag", "best", "profile"):
            for key, value in event.items():
                if not isinstance(value, (str, list)):
                    found[NAMES[kind, key]][step] = math.nan if value is None else value
    return dict(found)


def as_dictionaries(rows):
    found = defaultdict(dict)
    last = defaultdict(lambda: -1)
    for name, step, value in rows:
        assert step > last[name], f"{name}: step {step} comes after step {last[name]}"
        last[name] = int(step)
        found[name][int(step)] = value
    return dict(found)


def from_tensorboard(folder):
    """Of the only event file with anything in it; tbparse reads a folder with all that is below, checkpoints too."""
    files = [path for path in Path(folder).glob("events.out.tfevents.*.llmc") if path.stat().st_size]
    assert len(files) <= 1
    if not files:
        return {}
    frame = SummaryReader(str(files[0])).scalars
    return as_dictionaries(zip(frame["tag"], frame["step"], frame["value"], strict=True)) if len(frame) else {}


def texts_from_tensorboard(folder, tag):
    frame = SummaryReader(str(folder)).text
    rows = frame[frame["tag"] == tag]
    return {step: textwrap.dedent(text) for step, text in zip(rows["step"], rows["value"], strict=True)}


def from_csv(folder):
    with open(folder / "scalars.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    return as_dictionaries((row["name"], int(row["step"]), float(row["value"])) for row in rows)


def wandb_folder(run):
    (folder,) = (Path(run) / "wandb").glob("offline-run-*")
    return folder


def from_wandb(run):
    rows, *_ = wandb_file.read_finished(wandb_folder(run))
    return as_dictionaries(
        (name, step, value)
        for step, row in rows.items()
        for name, value in row.items()
        if not name.startswith(("_", "sample"))
    )


def samples_from_wandb(run):
    rows, *_ = wandb_file.read_finished(wandb_folder(run))
    files = {
        step: wandb_folder(run) / "files" / row["sample/path"] for step, row in rows.items() if "sample/path" in row
    }
    texts = {step: path.read_bytes().decode() for step, path in files.items()}
    return {step: html.unescape(text.removeprefix("<pre>").removesuffix("</pre>")) for step, text in texts.items()}


@contextmanager
def offline():
    """W&B offline, and a proxy that must not be asked: wandb's service process reads these variables, too."""
    with socket.create_server(("127.0.0.1", 0)) as server, pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
            patch.setenv(name, address)
        patch.setenv("WANDB_MODE", "offline")
        for name in ("NO_PROXY", "no_proxy", "WANDB_PROJECT", "WANDB_DIR", "WANDB_API_KEY"):
            patch.delenv(name, raising=False)
        yield
        server.settimeout(0)
        with pytest.raises(BlockingIOError):
            server.accept()


def floats(scalars):
    return {name: {step: float(value) for step, value in curve.items()} for name, curve in scalars.items()}


def fp32(scalars):
    return {name: {step: float(np.float32(value)) for step, value in curve.items()} for name, curve in scalars.items()}


@pytest.fixture(autouse=True, scope="module")
def no_network():
    """Of the modules that import it."""
    with offline():
        yield


@pytest.fixture(autouse=True)
def services_of_their_own(monkeypatch):
    """wandb names its service process in the environment; programs started by a test would use the test's own."""
    monkeypatch.delenv("WANDB_SERVICE", raising=False)
