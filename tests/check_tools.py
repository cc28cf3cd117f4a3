"""Statistics of coordinate checks in which every power of the width is known."""

from __future__ import annotations

import math
import random
from pathlib import Path

from llmc.mup.check_csv import COLUMNS, Row, activation_names, parameter_names

WIDTHS = (64, 128, 256, 512)
# Multiplier, init, Adam's learning rate, as powers of the width: the rules of mup.md
RULES = {
    "mup": {"input": (0, 0, 0), "vector": (0, 0, 0), "hidden": (0, -0.5, -1), "output": (-1, 0, 0)},
    "mup-table3": {"input": (0, 0, 0), "vector": (0, 0, 0), "hidden": (0, -0.5, -1), "output": (0, -1, -1)},
    "mup-table9": {
        "input": (0.5, -0.5, -0.5),
        "vector": (0.5, -0.5, -0.5),
        "hidden": (0, -0.5, -1),
        "output": (-0.5, -0.5, -0.5),
    },
    "u-mup": {"input": (0, 0, -0.5), "vector": (0, 0, -0.5), "hidden": (-0.5, 0, -0.5), "output": (-1, 0, 0)},
}
RULES["completep"] = RULES["mup"]
RULES["sp"] = {role: (0, 0, 0) for role in RULES["mup"]}


def role_of(name: str) -> str:
    if name in ("wte.weight", "wpe.weight"):
        return "input"
    if name == "lm_head.weight":
        return "output"
    return "hidden" if name.endswith("weight") and ".ln_" not in name and "ln_f" not in name else "vector"


def rows_of(
    scheme: str = "mup",
    *,
    rules: dict | None = None,
    slopes: dict | None = None,
    gradients: float = 0.0,
    program: str = "train_gpt2",
    sizes=WIDTHS,
    seeds=(1, 2),
    steps: int = 4,
    noise: float = 0.01,
    heads: int | None = None,
    axis: str = "width",
    base_size: int | None = None,
    draw: int = 0,
) -> list[Row]:
    """rules: by role, instead of the scheme's; slopes: of activations by the end of their names; gradients: added to
    the slopes of gradients below the head; base_size: where all powers are 1 [the first size]; draw: of
    the noise."""
    rules, slopes = {**RULES[scheme], **(rules or {})}, slopes or {}
    rows, generator = [], random.Random(draw)
    for size in sizes:
        width, depth = (size, 2) if axis == "width" else (64, size)
        m = size / (base_size or sizes[0])
        base = width if scheme in ("sp", "u-mup") else 64

        def value(power: float, m: float = m) -> float:
            return m**power * math.exp(generator.gauss(0, noise))

        for seed in seeds:
            base_depth = 2 if scheme == "completep" else depth
            head = (program, scheme, base, width, base_depth, depth, heads or width // 16, seed, 1e-3)
            for step in range(1, steps + 1):
                for name in sorted(activation_names(depth)):
                    slope = next((s for end, s in slopes.items() if name.endswith(end)), 0.0)
                    rows.append(Row(*head, step, "activation", name, "", 1.0, value(slope), 1.0, value(slope)))
                for name in sorted(parameter_names(depth)):
                    role = role_of(name)
                    a, b, c = rules[role] if axis == "width" else (0, 0, 0)
                    multiplier = m**a
                    gain = role == "vector" and name.endswith("weight")
                    zero = role == "vector" or (role == "output" and scheme != "u-mup")
                    std = 0.0 if zero else value(b)
                    delta = 0.0 if step == 1 else value(c)
                    rows.append(
                        Row(
                            *head,
                            step,
                            "parameter",
                            name,
                            role,
                            multiplier,
                            m**b if gain else std,
                            std,
                            delta,
                        )
                    )
                    below = 0.0 if scheme == "u-mup" else a + (0.0 if role == "output" else gradients - 1)
                    rows.append(Row(*head, step, "gradient", name, role, multiplier, value(below), 1.0, None))
    return rows


def write(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)

    def text(value) -> str:
        return "" if value is None else f"{value:.7g}" if isinstance(value, float) else str(value)

    lines = [",".join(map(text, row)) for row in rows]
    path.write_text("\n".join([",".join(COLUMNS), *lines]) + "\n")
    return path
