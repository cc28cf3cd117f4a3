"""How often a loop runs whose count the compiler knew but that it did not unroll."""

from __future__ import annotations

import re
import struct

from llmc.bench.paths import Loop
from llmc.bench.sass import Graph, Instruction, branch_target

MOST = 4096
COMPARE = {
    "GE": int.__ge__, "GT": int.__gt__, "LE": int.__le__, "LT": int.__lt__, "NE": int.__ne__, "EQ": int.__eq__,
}  # fmt: skip


def number(text: str) -> int | None:
    if re.fullmatch(r"U?RZ|SRZ|-?0x[0-9a-f]+", text):
        return 0 if text.endswith("RZ") else signed(int(text, 16))
    return None


def signed(bits: int) -> int:
    return bits - (1 << 32) if bits >= 1 << 31 else bits


def operands(i: Instruction) -> list[str]:
    return [operand.strip().removesuffix(".reuse") for operand in i.operands.split(",")]


def constant_trips(graph: Graph, loop: Loop) -> int | None:
    """For `counter = a; do { ...; counter += b; } while (counter < c);` with a branch back under one predicate, where
    a, b, c are constants; else None."""
    body = [i for start, block in graph.blocks.items() if start in loop.body for i in block.instructions]
    if len(loop.latches) != 1:
        return None
    branch = graph.blocks[next(iter(loop.latches))].instructions[-1]
    condition = re.fullmatch(r"(!?)(U?P\d)", branch.guard or operands(branch)[0])
    tests = [i for i in body if condition and i.name in ("ISETP", "UISETP") and operands(i)[0] == condition[2]]
    if not condition or branch.name != "BRA" or branch_target(branch) != loop.header or not tests:
        return None
    counter, limit = operands(tests[-1])[2], number(operands(tests[-1])[3])
    steps = [i for i in body if operands(i)[0] == counter]
    if limit is None or len(steps) != 1:
        return None
    step = number(operands(steps[0])[2]) if operands(steps[0])[1] == counter else None
    start = start_value(graph, loop, counter)
    if steps[0].name not in ("IADD3", "VIADD", "UIADD3") or step is None or start is None:
        return None
    compare = COMPARE.get(tests[-1].opcode.split(".")[1])
    early = tests[-1].address < steps[0].address  # compares before the step
    for n in range(1, MOST):
        value = start + (n - 1 if early else n) * step
        if compare and compare(value, limit) == (condition[1] == "!"):
            return n
    return None


def start_value(graph: Graph, loop: Loop, register: str) -> int | None:
    """The constant that the last write before the loop gives to a register."""
    before = [i for start, block in graph.blocks.items() if start < loop.header for i in block.instructions]
    writes = [i for i in before if operands(i)[0] == register]
    if not writes or writes[-1].guard:
        return None
    last, values = writes[-1], operands(writes[-1])[1:]
    if last.name in ("MOV", "UMOV", "CS2R") and len(values) == 1:
        return number(values[0])
    if last.name == "HFMA2" and values[:2] == ["-RZ", "RZ"]:  # two halves, whose bits are the constant's
        low, high = (struct.unpack("<H", struct.pack("<e", float(value)))[0] for value in (values[3], values[2]))
        return int(low) | int(high) << 16
    if last.opcode.startswith("IMAD.MOV") and values[:2] == ["RZ", "RZ"]:
        return number(values[2])
    return None
