"""A kernel's machine code as a control-flow graph: instructions, basic blocks and branches of what cuobjdump prints."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property

EXIT = -1  # the node after every EXIT and RET

LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*([^;]*);")
REGISTER = re.compile(r"(?<![\w.])R(\d+)(\.64)?")
ADDRESS = re.compile(r"\[R(\d+)(?:\.\w+)*(?:\+UR\w+)?(?:\+(-?)0x([0-9a-f]+))?\]")
JUMPS, TABLES, ENDS = ("BRA", "JMP"), ("BRX", "JMX", "BRXU"), ("EXIT", "RET", "KILL")
LOADS, STORES = ("LDG", "LD"), ("STG", "ST")


@dataclass(frozen=True)
class Instruction:
    address: int
    guard: str  # P0, !P3, UP1 or ""
    opcode: str  # with its modifiers: LDG.E.128
    operands: str

    @cached_property
    def name(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def is_load(self) -> bool:
        """Of global memory into registers."""
        return self.name in LOADS

    @property
    def is_store(self) -> bool:
        return self.name in STORES

    @property
    def is_async_copy(self) -> bool:
        return self.name in ("LDGSTS", "UTMALDG", "UBLKCP")

    @property
    def is_tensor(self) -> bool:
        return self.name in ("HMMA", "HGMMA", "IMMA", "IGMMA", "QGMMA", "UTCHMMA", "QMMA", "OMMA")

    @cached_property
    def flops(self) -> int:
        """Of a tensor-core instruction, a warp's share: HMMA.16816 is 16 x 8 x 16, HGMMA.64x256x16 is of four warps."""
        if match := re.search(r"\.64x(\d+)x(\d+)", self.opcode):
            return 2 * 64 * int(match[1]) * int(match[2]) // 4
        if match := re.match(r"HMMA\.16(8)(\d+)\.", self.opcode):
            return 2 * 16 * int(match[1]) * int(match[2])
        return 0

    @property
    def is_zero(self) -> bool:
        """Writes nothing but zeros."""
        return bool(re.fullmatch(r"R\d+(, (S?RZ|-RZ|0))+", self.operands)) and self.guard == ""

    @cached_property
    def width(self) -> int:
        """Bytes of memory that one thread accesses."""
        parts = self.opcode.split(".")
        sizes = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
        return next((sizes[part] for part in parts if part in sizes), 4)

    @cached_property
    def registers(self) -> frozenset[int]:
        """All registers that it names, read or written, with those that wide operands imply."""
        named: set[int] = set()
        in_brackets = re.sub(r"[^\[\]]*(\[[^\]]*\])?", r"\1", self.operands)
        for match in REGISTER.finditer(in_brackets):
            named |= {int(match[1]), int(match[1]) + (1 if match[2] else 0)}
        outside = re.sub(r"\[[^\]]*\]", "", self.operands)
        for i, match in enumerate(REGISTER.finditer(outside)):
            count = 2 if match[2] else 1
            if self.name in ("LDG", "STG", "LD", "ST", "LDS", "STS", "LDL", "STL"):
                count = max(1, min(self.width, 16) // 4)
            elif self.name == "HMMA":
                count = 2 if i == 2 else 4
            named |= set(range(int(match[1]), int(match[1]) + count))
        return frozenset(named)

    @cached_property
    def written(self) -> frozenset[int]:
        """Registers that it writes, as far as its first operands say."""
        if self.is_store or self.name in ("STS", "STL", "RED", *JUMPS, *TABLES, *ENDS, "CALL"):
            return frozenset()
        match = re.match(r"(?:!?U?P[\dT], )*R(\d+)", self.operands)
        if not match:
            return frozenset()
        count = 4 if self.name == "HMMA" else 2 if re.search(r"\.WIDE|CS2R|\.64", self.opcode) else 1
        if self.is_load or self.name == "LDS":
            count = max(1, self.width // 4)
        return frozenset(range(int(match[1]), int(match[1]) + count))

    @property
    def base(self) -> tuple[int, int] | None:
        """Register and offset of its last address."""
        found = ADDRESS.findall(self.operands)
        if not found:
            return None
        register, sign, offset = found[-1]
        return int(register), int(offset or "0", 16) * (-1 if sign else 1)


def parse(lines: Iterable[str]) -> list[Instruction]:
    return [
        Instruction(int(match[1], 16), match[2] or "", match[3], match[4].strip())
        for line in lines
        if (match := LINE.match(line))
    ]


def branch_target(instruction: Instruction) -> int | None:
    match = re.search(r"(?:^|[\s,(])0x([0-9a-f]+)\)?$", instruction.operands)
    return int(match[1], 16) if match else None


def is_conditional(instruction: Instruction) -> bool:
    return instruction.guard not in ("", "PT", "UPT") or bool(re.search(r"\bU?P\d", instruction.operands))


@dataclass
class Block:
    start: int
    instructions: list[Instruction]
    next: list[int] = field(default_factory=list)
    calls: bool = False  # ends with a CALL that returns
    slow: int = 0  # accesses of single elements of a vector, and calls

    def count(self, *names: str) -> int:
        return sum(instruction.name in names for instruction in self.instructions)

    @cached_property
    def tensor(self) -> int:
        return sum(i.is_tensor for i in self.instructions)


class Graph:
    """Basic blocks by address. `next` are the blocks that may follow; EXIT is the end of the thread.

    Branches: BRA, JMP with a guard or a predicate operand have two followers; BRX and JMX (jump tables) have all blocks
    that no other branch and no fall-through reaches; BRA.DIV, taken only if the threads of a warp went different ways
    before, is never taken here; BSYNC and WARPSYNC go on to the next instruction. CALL returns to the next instruction,
    and its function (the slow path of a division, say) is no part of the graph; but a CALL of code that reaches no RET
    is a jump (ptxas leaves loops so).
    """

    def __init__(self, instructions: list[Instruction]) -> None:
        if not instructions:
            raise ValueError("no instructions")
        self.entry = instructions[0].address
        self.blocks = {block.start: block for block in split(instructions)}
        starts = [*self.blocks, EXIT]
        for block, after in zip(self.blocks.values(), starts[1:], strict=True):
            block.next = followers(block.instructions[-1], after)
            block.next = [b for b in dict.fromkeys(block.next) if b == EXIT or b in self.blocks]
        self.follow_tables()
        self.follow_jumps()
        mark_slow(self.blocks.values())

    def follow_tables(self) -> None:
        tables = [block for block in self.blocks.values() if block.instructions[-1].name in TABLES]
        if tables:
            reached = {b for block in self.blocks.values() for b in block.next} | {self.entry}
            for block in tables:
                block.next = [b for b in self.blocks if b not in reached] or [EXIT]

    def follow_jumps(self) -> None:
        returning = {block.start for block in self.blocks.values() if block.instructions[-1].name == "RET"}
        added = True
        while added:
            new = {b.start for b in self.blocks.values() if b.start not in returning and returning & {*b.next}}
            returning |= new
            added = bool(new)
        for block in self.blocks.values():
            last = block.instructions[-1]
            target = branch_target(last)
            if last.name == "CALL" and target in self.blocks:
                assert target is not None
                block.calls = target in returning
                if not block.calls:
                    block.next = [target, *block.next] if is_conditional(last) else [target]

    @property
    def next(self) -> dict[int, list[int]]:
        return {start: block.next for start, block in self.blocks.items()}

    @property
    def next_if_working(self) -> dict[int, list[int]]:
        """For threads that have work: no EXIT with a guard is taken."""
        return {start: [n for n in after if n != EXIT or len(after) == 1] for start, after in self.next.items()}


def followers(last: Instruction, after: int) -> list[int]:
    if last.name in JUMPS and not last.opcode.startswith("BRA.DIV"):
        target = branch_target(last)
        if target is None:
            raise ValueError(f"a branch without a target: {last}")
        return [target, after] if is_conditional(last) else [target]
    if last.name in TABLES:
        return []
    if last.name in ENDS:
        return [EXIT, after] if is_conditional(last) else [EXIT]
    return [after]


def split(instructions: list[Instruction]) -> list[Block]:
    leaders = {instructions[0].address}
    for i, instruction in enumerate(instructions):
        if instruction.name in (*JUMPS, *TABLES, *ENDS, "CALL"):
            if (target := branch_target(instruction)) is not None and instruction.name != "RET":
                leaders.add(target)
            if i + 1 < len(instructions):
                leaders.add(instructions[i + 1].address)
    blocks: list[Block] = []
    for instruction in instructions:
        if instruction.address in leaders:
            blocks.append(Block(instruction.address, []))
        blocks[-1].instructions.append(instruction)
    return blocks


NEAR = 48  # instructions
RUN = 4  # elements


def mark_slow(blocks: Iterable[Block]) -> None:
    """Counts what only unaligned rows, the ends of rows and rare operands need.

    An access of global memory is that of a single element of a vector if the kernel also accesses 16 bytes at a time,
    and if it is one of at least four of the same kind and width at offsets that follow each other: from the same
    register, without a write of that register in between, or at most 48 instructions away. From the same register two
    are enough if one has a guard (elements that may not exist). Other narrow accesses (a row's mean, a token, fields of
    a struct) are not slow. Calls are slow, unless they have a guard: those are skipped.
    """
    blocks = list(blocks)
    instructions = [i for block in blocks for i in block.instructions]
    wide = any(i.width >= 16 for i in instructions if i.is_load or i.is_store or i.is_async_copy)
    elements = elements_of_vectors(instructions) if wide else set()
    for block in blocks:
        block.slow = sum(i.address in elements for i in block.instructions)
        block.slow += block.calls and not block.instructions[-1].guard


def elements_of_vectors(instructions: list[Instruction]) -> set[int]:
    """The addresses of accesses of single elements of vectors."""
    writes: Counter[int] = Counter()  # of a register so far
    same_register: dict[tuple[str, int, int, int, int], list[tuple[int, Instruction]]] = defaultdict(list)
    kinds: dict[tuple[str, int], list[tuple[int, int, int]]] = defaultdict(list)  # number, offset, address
    for number, i in enumerate(instructions):
        if (i.is_load or i.is_store) and i.width <= 4 and i.base:
            register, offset = i.base
            value = i.name, i.width, register, writes[register], writes[register + 1]
            same_register[value].append((offset, i))
            kinds[i.name, i.width].append((number, offset, i.address))
        writes.update(i.written)
    found: set[int] = set()
    for value, places in same_register.items():
        offsets, guarded = {offset for offset, _ in places}, {offset for offset, i in places if i.guard}
        for offset, i in places:
            vector = run(offsets, offset, value[1])
            if len(vector) >= RUN or (len(vector) > 1 and not guarded.isdisjoint(vector)):
                found.add(i.address)
    for (_, width), accesses in kinds.items():
        for number, offset, address in accesses:
            if len(run({o for n, o, _ in accesses if abs(n - number) <= NEAR}, offset, width)) >= RUN:
                found.add(address)
    return found


def run(offsets: set[int], offset: int, width: int) -> range:
    """The offsets that follow each other, with one of them."""
    first = last = offset
    while first - width in offsets:
        first -= width
    while last + width in offsets:
        last += width
    return range(first, last + 1, width)


def totals(instructions: Iterable[Instruction]) -> dict[str, int]:
    """Counts of what the report names; `mufu_*` by function."""
    instructions = list(instructions)
    names = Counter(i.name for i in instructions)
    found = {"instructions": len(instructions), "tensor": sum(i.is_tensor for i in instructions)}
    found["tensor_flops"] = sum(i.flops for i in instructions)
    found["async_copies"] = sum(i.is_async_copy for i in instructions)
    for name in ("LDSM", "BAR", "SHFL", "SEL", "MUFU", "FFMA", "LDS", "STS"):
        found[name.lower()] = names[name]
    found["loads"] = sum(i.is_load for i in instructions)
    found["load_bytes"] = sum(i.width for i in instructions if i.is_load)
    found["stores"] = sum(i.is_store for i in instructions)
    found["store_bytes"] = sum(i.width for i in instructions if i.is_store)
    found["local"] = names["LDL"] + names["STL"]
    for kind, count in sorted(Counter(i.opcode.split(".")[1] for i in instructions if i.name == "MUFU").items()):
        found[f"mufu_{kind.lower()}"] = count
    return found
