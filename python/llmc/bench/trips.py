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
    a, b, c are constants; else None. A loop of two rounds may have a predicate instead of the counter."""
    body = [i for start, block in graph.blocks.items() if start in loop.body for i in block.instructions]
    if len(loop.latches) != 1:
        return None
    branch = graph.blocks[next(iter(loop.latches))].instructions[-1]
    condition = re.fullmatch(r"(!?)(U?P\d)", branch.guard or operands(branch)[0])
    if not condition or branch.name != "BRA" or branch_target(branch) != loop.header:
        return None
    before = [i for start, block in graph.blocks.items() if start < loop.header for i in block.instructions]
    if flag_of_two_rounds(condition[0], body, before):
        return 2
    tests = [i for i in body if i.name in ("ISETP", "UISETP") and operands(i)[0] == condition[2]]
    return rounds(tests[-1], condition[1] == "!", body, before) if tests else None


def rounds(test: Instruction, until: bool, body: list[Instruction], before: list[Instruction]) -> int | None:
    counter, limit = operands(test)[2], number(operands(test)[3])
    steps = [i for i in body if operands(i)[0] == counter]
    start = start_value(before, counter)
    if limit is None or start is None or len(steps) != 1 or steps[0].name not in ("IADD3", "VIADD", "UIADD3"):
        return None
    added = [operand for operand in operands(steps[0])[1:] if operand not in ("PT", "UPT")]
    step = number(added[1]) if added[0] == counter else None
    compare = COMPARE.get(test.opcode.split(".")[1])
    if step is None or compare is None:
        return None
    value = start if test.address < steps[0].address else start + step  # compares before the step, or after it
    for n in range(1, MOST):
        if compare(value, limit) == until:
            return n
        value += step
    return None


def flag_of_two_rounds(flag: str, body: list[Instruction], before: list[Instruction]) -> bool:
    """`first = true; do { flag = first; ...; first = false; } while (flag);`"""

    def value(instructions: list[Instruction], predicate: str) -> list[str]:
        return next((operands(i)[1:] for i in reversed(instructions) if operands(i)[0] == predicate), [])

    true, false = ["PT"] * 4 + ["0x80", "0x8"], ["PT"] * 4 + ["0x8", "0x80"]
    copy = value(body, flag)
    if len(copy) != 6 or [copy[0], *copy[2:]] != true[1:]:
        return False
    return value(body, copy[1]) == false and value(before, copy[1]) == true


def start_value(before: list[Instruction], register: str) -> int | None:
    """The constant that the last write before the loop gives to a register."""
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
