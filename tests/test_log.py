"""log.jsonl: which lines are events, which events count, what a resumed run keeps."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from track_tools import config_event, lines, train_event

from llmc.log import parse_event, read_events, run_names, without_repeats
from llmc.log_writer import LogWriter


def test_events_that_count():
    events = [config_event(), train_event(1), train_event(2), train_event(3), {"event": "final", "step": 3}]
    again = [
        config_event(1, resumed_from="x"),
        train_event(2),
        {"event": "eval", "step": 2},
        {"event": "eval", "step": 2},
    ]
    kinds = [(event["event"], event["step"]) for event in without_repeats(events + again)]
    assert kinds == [("config", 0), ("train", 1), ("config", 1), ("train", 2), ("eval", 2)]
    assert without_repeats([train_event(2), train_event(1)]) == [train_event(1), train_event(2)]


@pytest.mark.parametrize("step", ["Infinity", "NaN", "1.0", '"1"', "true", "-1", "null", "[]", "[" * 100_000])
def test_a_step_is_a_whole_number(step):
    assert parse_event(f'{{"event": "train", "step": {step}}}') is None


def test_names_of_runs_are_relative():
    """OUT/NAME is a folder for TensorBoard."""
    assert run_names([Path("/r/log.jsonl"), Path("/a/r/log.jsonl")]) == ["r", "a/r"]
    assert run_names([Path("/a/r/log.jsonl"), Path("/a/r/b.jsonl"), Path("/a/s/log.jsonl")]) == [
        *("r (log.jsonl)", "r (b.jsonl)", "s")
    ]
    assert run_names([Path(os.fsdecode(b"/a/\xe9/log.jsonl")), Path("/a/\ufffd/log.jsonl")]) == ["\\xe9", "\ufffd"]


def test_a_resumed_run_keeps_the_lines_until_its_step(tmp_path):
    """Also with texts that have other separators of lines, as train_gpt2 writes them. The last line is incomplete."""
    sample = {"event": "sample", "step": 2, "prompt": "", "text": "a\u2028b\u0085c\n"}
    kept = [config_event(), train_event(1), train_event(2), sample]
    text = "".join(json.dumps(event, ensure_ascii=False) + "\n" for event in kept)
    final = lines([{"event": "final", "step": 2}])
    (tmp_path / "log.jsonl").write_text(text + lines([train_event(3)]) + final + '{"event": "train", "step": 2')
    writer = LogWriter(tmp_path, 2)
    writer.write("train", 3, {"loss": 1.0})
    writer.file.close()
    assert writer.at_resume == {"train": train_event(2), "sample": sample}
    assert read_events(tmp_path / "log.jsonl") == [*kept, {"event": "train", "step": 3, "loss": 1.0}]
    assert (tmp_path / "log.jsonl").read_text().startswith(text)
