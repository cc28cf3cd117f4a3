"""Writes python/llmc/config.py from python/llmc/options.json, which `./train_gpt2 --options-json` printed.

python dev/generate_options.py     (`make options` does both)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent / "python" / "llmc"
LINE = 120
TYPES = {"flag": "bool", "integer": "int", "number": "float", "text": "str"}
HEADER = '''\
"""Every option as a typed field. dev/generate_options.py makes this file: do not edit it, run `make options`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypedDict
'''
CONFIG = '''
@dataclass(frozen=True)
class Config:
    """The options of a run. None: not given, its default depends on other options."""
'''
MODEL_OPTIONS = '''
class ModelOptions(TypedDict, total=False):
    """Keyword arguments: the options of a model and its optimizer. What is left out has Config's default."""
'''


def type_of(option: dict[str, Any]) -> list[str]:
    """The words of a Literal, or one type."""
    if "choices" in option:
        unset = [""] if option["default"] == "" else []
        return [json.dumps(choice) for choice in unset + option["choices"]]
    return [TYPES[option["type"]] + (" | None" if option["default"] is None else "")]


def field(option: dict[str, Any], default: str) -> str:
    """One field, and its help as the docstring of the field."""
    name, words = option["name"].replace("-", "_"), type_of(option)
    literal = "choices" in option
    line = f"    {name}: " + (f"Literal[{', '.join(words)}]" if literal else words[0]) + default
    if len(line) > LINE:
        line = f"    {name}: Literal[\n" + "".join(f"        {word},\n" for word in words) + f"    ]{default}"
    text = option["help"] + (f" [{option['default_text']}]" if "default_text" in option else "")
    return f'{line}\n    """{text}"""\n'


def config_py() -> str:
    options = json.loads((PACKAGE / "options.json").read_text())["options"]
    out, group = HEADER + "\n" + CONFIG, ""
    for option in options:
        if option["group"] != group:
            group = option["group"]
            out += f"\n    # {group}\n"
        default = option["default"]
        out += field(option, " = " + (json.dumps(default) if isinstance(default, str) else repr(default)))
    out += "\n" + MODEL_OPTIONS + "\n"
    return out + "".join(field(option, "") for option in options if "model" in option["scope"])


if __name__ == "__main__":
    (PACKAGE / "config.py").write_text(config_py())
