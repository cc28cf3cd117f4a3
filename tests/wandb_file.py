"""Reads what W&B wrote offline: the records of run-*.wandb. wandb 0.31 has no Python reader of this file any more."""

import json
import struct
import time

from wandb.proto.wandb_internal_pb2 import Record

BLOCK = 32768
FIRST, LAST = 2, 4  # parts of a record; 1: it is whole, 3: a part between


def records(folder):
    """The records of an offline run's folder: a LevelDB log of protocol buffers, after a header of 7 bytes."""
    (path,) = folder.glob("run-*.wandb")
    data = path.read_bytes()
    assert data[:4] == b":W&B"
    position, parts = 7, b""
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:  # no record's header fits: zeros
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        part = data[position + 7 : position + 7 + length]
        if len(part) < length or kind == 0:  # a killed process left an incomplete record
            return
        position += 7 + length
        parts = part if kind in (1, FIRST) else parts + part
        if kind in (1, LAST):
            yield Record.FromString(parts)


def items(updates):
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in updates}


def read_finished(folder, seconds=30):
    """read(), when the file has the run's end: wandb 0.31.0's finish() returns some milliseconds before."""
    deadline = time.monotonic() + seconds
    while True:
        result = read(folder)
        if result[-1] is not None:
            return result
        assert time.monotonic() < deadline, f"{folder} is not finished"
        time.sleep(0.01)


def read(folder):
    """(history rows by step, config, summary, exit code or None) of an offline run."""
    rows, config, summary, code = [], {}, {}, None
    for record in records(folder):
        kind = record.WhichOneof("record_type")
        if kind == "history":
            rows.append(items(record.history.item))
        elif kind == "run":
            config |= items(record.run.config.update)
        elif kind == "config":
            config |= items(record.config.update)
        elif kind == "summary":
            summary |= items(record.summary.update)
        elif kind == "exit":
            code = record.exit.exit_code
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps)), "steps go back or repeat"
    return {row["_step"]: row for row in rows}, config, summary, code
