"""The kernel report as tables for people."""

from __future__ import annotations

from typing import Any

Row = list[str]


def aligned(rows: list[Row], left: tuple[int, ...] = (0,)) -> str:
    """Lines with columns under each other; those of `left` are words, the others numbers."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Row) -> str:
        cells = (c.ljust(w) if i in left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return "\n".join(map(line, rows))


def number(x: float | None, digits: int = 2, suffix: str = "") -> str:
    return "" if x is None else f"{x:.{digits}f}{suffix}"


def worst(op: dict[str, Any], what: str) -> float | None:
    return max((x for kernel in op["kernels"] for x in kernel[what].values() if x is not None), default=None)


STEP_HEAD = ["op", "calls", "floor us", "bound us", "% of floor", "(was)", "unit", "products", "wavefronts", "sectors",
             "bytes", "measured us"]  # fmt: skip


def op_row(name: str, op: dict[str, Any], was: float | None) -> Row:
    return [
        name,
        str(op["calls"]),
        number(op["floor_us"], 1),
        number(op["bound_us"], 1),
        number(op["percent"], 0),
        "" if was is None else f"({was:.0f})",
        op["unit"],
        number(op["products_over_ideal"], suffix="x"),
        number(worst(op, "wavefronts_over_ideal"), suffix="x"),
        number(worst(op, "sectors_over_ideal"), suffix="x"),
        number(op["bytes_over_ideal"], suffix="x"),
        number(op["measured_us"], 1),
    ]


def step_table(report: dict[str, Any], before: dict[str, Any]) -> str:
    """A line for each op of a step. `before`: another report, whose percentages stand in brackets."""
    parts = []
    for model, of in report["models"].items():
        old = before.get("models", {}).get(model, {})
        others = "".join(f"; {gpu}: {n:,}" for gpu, n in of["step"].get("others_tokens_per_s", {}).items())
        step, was = of["step"], old.get("step", {}).get("percent")
        rows = [op_row(name, op, old.get("ops", {}).get(name, {}).get("percent")) for name, op in of["ops"].items()]
        parts.append(
            f"GPT-2 {model}, {step['tokens']:,} tokens, bf16, {report['gpu']}: counted, not timed\n"
            + aligned([STEP_HEAD, *rows], left=(0, 6))
            + f"\nstep: floor {step['floor_us'] / 1e3:.1f} ms, bound {step['bound_us'] / 1e3:.1f} ms, floor / bound "
            f"{step['percent']:.0f}%{'' if was is None else f' (was {was:.0f}%)'}: at most {step['tokens_per_s']:,} "
            f"tokens/s{others}\n"
        )
    return "\n".join(parts)


def kernel_table(report: dict[str, Any], architectures: tuple[str, ...]) -> str:
    """What the compiler made of each kernel, in the first op that launches it."""
    seen: dict[str, dict[str, Any]] = {}
    for of in report["models"].values():
        for op in of["ops"].values():
            for kernel in op["kernels"]:
                seen.setdefault(kernel["kernel"], kernel)
    short = [a.removeprefix("sm_") for a in architectures]
    rows = [["kernel", "threads", "shared", *(f"regs {a}" for a in short), *(f"blocks {a}" for a in short), "waves",
             "per product", "products/ldmatrix", "per element", "bytes in flight"]]  # fmt: skip
    for name, k in sorted(seen.items()):
        of_architecture = [str(k[what].get(a, "")) for what in ("registers", "resident_blocks") for a in architectures]
        rows.append([
            name, str(k["threads"]), str(k["shared_bytes"]), *of_architecture, number(k["waves"]),
            number(k.get("instructions_per_product")), number(k.get("products_per_ldmatrix")),
            number(k.get("instructions_per_element"), 1), str(k.get("loads_in_flight", {}).get("bytes", "")),
        ])  # fmt: skip
    return aligned(rows)
