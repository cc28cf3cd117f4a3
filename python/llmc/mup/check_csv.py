"""The CSV that `--coord-check` writes (doc/formats.md), and whether its runs are enough to judge."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmc.errors import DataError
from llmc.mup.findings import Verdict
from llmc.mup.theory import GRADIENT_STEP, SCHEMES
from llmc.wording import plural

COLUMNS = (
    "program,parametrization,base_width,width,base_depth,depth,heads,seed,lr,step,kind,tensor,role,multiplier,"
    "mean_abs,std,delta"
).split(",")
LEAST_STEPS = GRADIENT_STEP  # zero head and query: step 1 changes the head, 2 the query, 3 the key; in 4 all differ
BLOCK_ACTIVATIONS = (
    "ln_1 attn.q attn.k attn.v attn.logits attn attn.c_proj resid_attn ln_2 mlp.c_fc mlp.gelu mlp.c_proj resid_mlp"
).split()
BLOCK_LAYERS = "ln_1 attn.c_attn attn.c_proj ln_2 mlp.c_fc mlp.c_proj".split()


class Row(NamedTuple):
    program: str
    parametrization: str
    base_width: int
    width: int
    base_depth: int
    depth: int
    heads: int
    seed: int
    lr: float
    step: int
    kind: str
    tensor: str
    role: str
    multiplier: float
    mean_abs: float
    std: float
    delta: float | None


# --- Reading ---


def read_csv(paths: list[Path]) -> list[Row]:
    """The rows of one or several CSVs. `survey` checks whether they are enough to judge."""
    rows = []
    for path in paths:
        try:
            with open(path, newline="", encoding="utf-8") as file:
                rows += read_rows(csv.reader(file), path)
        except OSError as error:
            raise DataError(f"{path}: {error.strerror}: give the file that --coord-check wrote") from None
        except (UnicodeDecodeError, csv.Error):
            raise DataError(f"{path} is not text: give the file that --coord-check wrote") from None
    return rows


def read_rows(lines: Iterator[list[str]], path: Path) -> list[Row]:
    header = next(lines, None)
    if header != COLUMNS:
        raise DataError(f"{path}: its first line is not {','.join(COLUMNS)!r}: is it a file that --coord-check wrote?")
    rows = []
    for number, line in enumerate(lines, start=2):
        if len(line) != len(COLUMNS):
            raise DataError(
                f"{path}, line {number}: {plural(len(line), 'column')}, not {len(COLUMNS)}: was the run cut off?"
            )
        try:
            rows.append(row_of(line))
        except ValueError as error:
            raise DataError(f"{path}, line {number}: {error}: the file is damaged, repeat the run") from None
    if not rows:
        raise DataError(f"{path} has no rows: repeat the run")
    return rows


def row_of(fields: list[str]) -> Row:
    program, scheme, base_width, width, base_depth, depth, heads, seed, lr, step, kind, tensor, role, *numbers = fields
    multiplier, mean_abs, std, delta = numbers
    return Row(
        program,
        scheme,
        int(base_width),
        int(width),
        int(base_depth),
        int(depth),
        int(heads),
        int(seed),
        float(lr),
        int(step),
        kind,
        tensor,
        role,
        float(multiplier),
        float(mean_abs),
        float(std),
        float(delta) if delta else None,
    )


def groups(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Rows by program and parametrization: each is one check."""
    found = defaultdict(list)
    for row in rows:
        found[row.program, row.parametrization].append(row)
    order = {scheme: position for position, scheme in enumerate(SCHEMES)}
    return dict(sorted(found.items(), key=lambda item: (order.get(item[0][1], len(order)), item[0])))


def parameter_names(depth: int) -> set[str]:
    layers = [f"h.{block}.{layer}" for block in range(depth) for layer in BLOCK_LAYERS] + ["ln_f"]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")} | {
        "wte.weight",
        "wpe.weight",
        "lm_head.weight",
    }


def activation_names(depth: int) -> set[str]:
    return {f"h.{block}.{name}" for block in range(depth) for name in BLOCK_ACTIVATIONS} | {
        "embedding",
        "ln_f",
        "logits",
    }


# --- Is it enough to judge? ---


def require_one(group: list[Row], column: str, name: str) -> None:
    values = sorted({getattr(row, column) for row in group})
    if len(values) > 1:
        raise DataError(
            f"{name} has runs of several {column} ({', '.join(map(str, values[:4]))}): "
            f"give the runs of one, because only the width (or the depth) may differ"
        )


def survey(group: list[Row], name: str) -> Verdict:
    """Finds the axis. DataError for a missing run, step or tensor: a check must not pass for lack of data."""
    program, scheme, lr = group[0].program, group[0].parametrization, group[0].lr
    if scheme not in SCHEMES:
        raise DataError(f"{name}: the parametrization is unknown: {', '.join(SCHEMES)}")
    require_one(group, "lr", name)
    widths, depths = sorted({row.width for row in group}), sorted({row.depth for row in group})
    if len(widths) > 1 and len(depths) > 1:
        raise DataError(
            f"{name} has runs of {len(widths)} widths and {len(depths)} depths: give the runs of one "
            f"depth, or of one width"
        )
    axis, sizes = ("depth", depths) if len(depths) > 1 else ("width", widths)
    if len(sizes) < 2:
        raise DataError(
            f"{name} has runs of one width ({widths[0]}) and one depth ({depths[0]}): a slope needs at "
            f"least two widths or depths"
        )
    seeds = sorted({row.seed for row in group})
    if len(sizes) * len(seeds) < 3:
        raise DataError(f"{name} has runs of two {axis}s and one seed: an interval needs a third run")
    require_complete(group, name, axis, sizes, seeds)
    if axis == "width" and scheme not in ("sp", "u-mup"):  # these two have no base
        require_one(group, "base_width", name)
    if scheme == "completep":
        require_one(group, "base_depth", name)
    grows = len({row.width / row.heads for row in group}) > 1
    if grows and len({row.heads for row in group}) > 1:
        raise DataError(f"{name}: neither the number of heads nor their size is the same at all widths: fix one")
    return Verdict(program, scheme, axis, sizes, seeds, max(row.step for row in group), lr, grows)


def require_complete(group: list[Row], name: str, axis: str, sizes: list[int], seeds: list[int]) -> None:
    runs: dict[tuple[int, int], set[tuple[int, str, str]]] = defaultdict(set)
    for row in group:
        key = (row.step, row.kind, row.tensor)
        run = runs[getattr(row, axis), row.seed]
        if key in run:
            raise DataError(
                f"{name}: {row.kind} {row.tensor} at {axis} {getattr(row, axis)}, seed {row.seed}, step "
                f"{row.step} is there twice: give each run once"
            )
        run.add(key)
    steps = max(row.step for row in group)
    if steps < LEAST_STEPS:
        raise DataError(
            f"{name} has {plural(steps, 'step')}: a head and queries that start at zero need {LEAST_STEPS} steps "
            f"until everything changes; run at least that many"
        )
    for size in sizes:
        depth = size if axis == "depth" else group[0].depth
        needed = {("activation", tensor) for tensor in activation_names(depth)} | {
            (kind, tensor) for kind in ("parameter", "gradient") for tensor in parameter_names(depth)
        }
        for seed in seeds:
            if (size, seed) not in runs:
                raise DataError(f"{name} lacks the run of {axis} {size}, seed {seed}: every {axis} needs every seed")
            absent = [
                (step, kind, tensor)
                for step in range(1, steps + 1)
                for kind, tensor in sorted(needed)
                if (step, kind, tensor) not in runs[size, seed]
            ]
            if absent:
                step, kind, tensor = absent[0]
                hint = "give it an untied head, --no-tie-embeddings" if tensor == "lm_head.weight" else "repeat it"
                raise DataError(
                    f"{name}: the run of {axis} {size}, seed {seed} lacks {kind} {tensor} at step {step} "
                    f"(and {plural(len(absent) - 1, 'more row')}): {hint}"
                )
