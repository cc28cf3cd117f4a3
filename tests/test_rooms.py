"""The C++ rooms: a file includes only files of its own room and of rooms below it, by their full path."""

import re
from pathlib import Path

from program import ROOT

# From the bottom. Rooms on one line are backends, which do not include each other.
ROOMS = [["core"], ["emulator"], ["ops"], ["cpu", "cuda"], ["comm"], ["mup"], ["gpt2"], ["data"], ["train"], ["bind"]]
LEVEL = {room: level for level, rooms in enumerate(ROOMS) for room in rooms}
INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.M)


def sources():
    return [p for p in sorted((ROOT / "llmc").rglob("*")) if p.suffix in (".h", ".cpp", ".cu")]


def room_of(path):
    return Path(path).parts[1]


def wrong_includes(path, text):
    """Includes of `path` that go up, sideways, or do not start at the root of the project."""
    for include in INCLUDE.findall(text):
        if not include.startswith("llmc/"):
            yield f"{path}: {include} is not a full path"
            continue
        here, there = room_of(path), room_of(include)
        if here != there and LEVEL[there] >= LEVEL[here]:
            yield f"{path}: {here} may not include {there} ({include})"


def test_rooms_include_only_what_is_below():
    found = [line for path in sources() for line in wrong_includes(path.relative_to(ROOT), path.read_text())]
    assert not found, "\n".join(found)


def test_there_is_no_other_room():
    assert {p.name for p in (ROOT / "llmc").iterdir() if p.is_dir() and p.name != "__pycache__"} == set(LEVEL)
    loose = [p.name for p in (ROOT / "llmc").iterdir() if p.is_file()]
    assert loose == ["__init__.py"], "the C++ sources are in rooms"


def test_the_search_finds_wrong_includes():
    wrong = lambda path, text: list(wrong_includes(Path(path), text))  # noqa: E731
    assert wrong("llmc/gpt2/a.cpp", '#include "llmc/train/config.h"\n#include "llmc/core/error.h"\n')
    assert wrong("llmc/cpu/a.cpp", '#include "llmc/cuda/host.h"\n')
    assert wrong("llmc/gpt2/a.cpp", '#include "gpt2.h"\n')
    assert not wrong("llmc/train/a.cpp", '#include <vector>\n#include "llmc/train/b.h"\n#include "llmc/core/error.h"\n')
