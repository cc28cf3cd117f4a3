"""What the compiler made of each kernel, from objects or cubins and ptxas's reports; no GPU is needed.

facts(paths) returns {kernel: {architecture: {...}}} of plain numbers for JSON; a kernel is its readable name without
arguments. Of each:
  registers, stack, spilled, shared   from FILE.ptxas beside FILE.o (bytes; static shared memory)
  threads                             of a block, from __launch_bounds__; resident: blocks of a multiprocessor
  path                                counts on the hot path through the whole kernel
  loops                               counts of once round each loop, with start (its address), innermost, and trips:
                                      how often it runs if that is a constant, else None
  loop                                that of the main loop, or None
  epilogue                            counts from the main loop to its next start or the kernel's end, or None
  in_flight                           {first, most}: {loads, bytes} that a thread waits for
The counts are those of sass.totals: instructions, tensor (instructions), tensor_flops (of a warp), async_copies, ldsm,
bar, shfl, sel, mufu, mufu_ex2, ..., ffma, lds, sts, loads, load_bytes, stores, store_bytes, local (accesses of spilled
registers and arrays), for one thread (an instruction whose guard is false is issued, and counts).

    python -m llmc.bench.compiled OBJECT... [--kernel PATTERN] [--arch sm_90a] [--json]

Definitions. Blocks are basic blocks; sass.mark_slow says which accesses and calls are slow (single elements of vectors,
calls), and all paths below first have the fewest of them. A path runs through a loop once; its instructions then count
as often as the loop runs if that is a constant (trips.py), else once; `uncounted_loops` says of how many loops inside.
- Hot path: of the paths from the start to the end of the kernel the one with the most instructions; an EXIT with a
  guard is not taken (nor in the epilogue).
- Main loop: the loop with the most tensor-core instructions once round, the inner of two nested loops unless the outer
  has more than twice as many (an outer loop over tiles may have a few of its own). The way round has the most
  tensor-core instructions and copies by cp.async, then the fewest instructions. Only blocks with at least a quarter as
  many tensor-core instructions as the largest must be visited: the few of column sums, which have conditions of their
  own, are not. Without tensor cores: the innermost loop with the most instructions once round, by the longest way.
- Epilogue: the longest path that leaves that way round and returns to its header, or ends the kernel, without another
  of its blocks. It has the work between two main loops, also the start of the next tile, but nothing that only detours
  from the main loop (such as the address of the next tile to load) and comes back in its middle. `elements` is the
  number of accumulators of a thread, `per_element` the instructions over that.
- Loads in flight: along the hot path and twice round the main loop, an instruction that names a register of a load that
  is still awaited waits for that load; DEPBAR.LE SB0, n waits for the cp.async groups but for the last n. `first` is
  what was awaited at the first such instruction, `most` the largest such number. Copies by TMA are not seen.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from llmc.bench.occupancy import LIMITS, capability_of, resident_blocks
from llmc.bench.paths import Loop, Weight, best_cycle, best_path, loops
from llmc.bench.sass import EXIT, Graph, Instruction, parse, totals
from llmc.bench.toolkit import Key, launch_bounds, listings, resources, short_name
from llmc.bench.trips import constant_trips
from llmc.errors import run_main

Facts = dict[str, Any]


class Kernel:
    def __init__(self, lines: Iterable[str]) -> None:
        self.graph = Graph(parse(lines))
        self.loops = loops(self.graph.next, self.graph.entry)
        self.trips = {loop: constant_trips(self.graph, loop) for loop in self.loops}

    def instructions(self, path: Iterable[int], once_round: int | None = None) -> list[Instruction]:
        """Those of the blocks; of an inner loop as often as it runs. once_round: the header of a loop, which counts
        once, as do those around it."""
        return [i for node in path for i in self.graph.blocks[node].instructions * self.times(node, once_round)]

    def times(self, node: int, once_round: int | None) -> int:
        return prod(n or 1 for loop, n in self.trips.items() if node in loop.body and once_round not in loop.body)

    def totals(self, path: list[int], once_round: int | None = None) -> Facts:
        inside = [loop for loop in self.loops if loop.header in path and once_round not in loop.body]
        uncounted = sum(loop.header != once_round and self.trips[loop] is None for loop in inside)
        return {**totals(self.instructions(path, once_round)), "uncounted_loops": uncounted}

    def longest(self, node: int) -> Weight:
        block = self.graph.blocks[node]
        return -block.slow, len(block.instructions)

    def hot_path(self) -> list[int]:
        ways = [best_path(graph, self.graph.entry, [EXIT], self.longest) for graph in self.graphs()]
        return ways[0] or ways[1] or [self.graph.entry]

    def graphs(self) -> list[dict[int, list[int]]]:
        return [self.graph.next_if_working, self.graph.next]

    def tensor(self, cycle: list[int]) -> int:
        return sum(self.graph.blocks[node].tensor * self.times(node, cycle[0]) for node in cycle)

    def main_loop(self) -> list[int] | None:
        """The blocks of the way round the main loop."""
        best: tuple[Loop, list[int]] | None = None
        for loop in self.loops:  # inner loops first
            cycle = self.round_of(loop)
            if best is None:
                best = loop, cycle
                continue
            encloses = best[0].body < loop.body
            if self.tensor(cycle) or self.tensor(best[1]):
                better = self.tensor(cycle) > self.tensor(best[1]) * (2 if encloses else 1)
            else:
                better = not encloses and self.work(cycle) > self.work(best[1])
                better &= not any(other.body < loop.body for other in self.loops)
            if better:
                best = loop, cycle
        return best and best[1]

    def work(self, cycle: list[int]) -> tuple[bool, int]:
        slow = any(self.graph.blocks[node].slow for node in cycle)
        return not slow, len(self.instructions(cycle, cycle[0]))

    def round_of(self, loop: Loop) -> list[int]:
        blocks = self.graph.blocks
        heavy = max(blocks[node].tensor for node in loop.body) / 4

        def shortest(node: int) -> Weight:
            block = blocks[node]
            products = block.tensor if block.tensor >= heavy else 0
            copies = sum(i.name == "LDGSTS" for i in block.instructions)  # bulk copies are one thread's
            return -block.slow, products + copies, -len(block.instructions)

        return best_cycle(self.graph.next, loop, shortest if heavy else self.longest)

    def epilogue(self, cycle: list[int]) -> list[int] | None:
        with_products = [n for n, node in enumerate(cycle) if self.graph.blocks[node].tensor]
        before = cycle[: with_products[0]] if with_products else cycle
        after = cycle[with_products[-1] :] if with_products else []
        for graph in self.graphs():
            paths = self.paths_outside(graph, cycle, before, []) + self.paths_outside(graph, cycle, after, after[1:])
            if paths:
                return max(paths, key=lambda path: tuple(map(sum, zip(*map(self.longest, path), strict=True))))
        return None

    def paths_outside(
        self, graph: dict[int, list[int]], cycle: list[int], leaving: list[int], ends: list[int]
    ) -> list[list[int]]:
        """From some blocks of a way round a loop to its header, the end of the kernel, or `ends`, by other blocks."""
        inside = set(cycle)
        outside = {node: [] if node in inside else children for node, children in graph.items()}
        starts = {c for node in leaving for c in graph[node] if c != EXIT and c not in inside}
        paths = [best_path(outside, start, [cycle[0], EXIT, *ends], self.longest) for start in sorted(starts)]
        return [[node for node in path if node not in inside] for path in paths if path]


def accumulators(instructions: Iterable[Instruction]) -> int:
    """fp32 sums that a thread carries round a loop: of the tensor-core instructions those that add to registers that no
    other of them wrote since (they may be scaled in between). Sums that begin with zeros are not carried."""
    products: set[int] = set()  # results and zeros, by their first registers
    carried = 0
    for i in instructions:
        if not i.is_tensor:
            products = products | i.written if i.is_zero else products - i.written
            continue
        registers = [re.fullmatch(r"R(\d+)(?:\.reuse)?", operand.strip()) for operand in i.operands.split(",")]
        added = [int(match[1]) for match in registers[2:] if match]  # B and C, or C alone
        is_sum = bool(added) and (i.name == "HGMMA" or len(added) == 2 or registers[-1] is not None)
        if is_sum and added[-1] not in products:
            columns = re.search(r"\.64x(\d+)x", i.opcode)
            carried += int(columns[1]) // 2 if columns else 4
        if registers[0]:
            products.add(int(registers[0][1]))
    return carried


@dataclass
class InFlight:
    """Loads of a thread that have no result yet, while its instructions pass."""

    first: tuple[int, int] | None = None  # loads, bytes
    most: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        self.pending: list[tuple[frozenset[int], int]] = []  # registers, bytes
        self.groups: list[list[int]] = [[]]  # bytes of the copies of each cp.async group, the last is open

    def awaited(self) -> None:
        sizes = [size for _, size in self.pending] + [size for group in self.groups for size in group]
        if sizes:
            now = len(sizes), sum(sizes)
            self.first = self.first or now
            self.most = max(self.most, now)

    def issue(self, i: Instruction) -> None:
        if any(i.registers & registers for registers, _ in self.pending):
            self.awaited()
            self.pending = [(registers, size) for registers, size in self.pending if not i.registers & registers]
        if i.is_load:
            first_operand = Instruction(0, "", i.opcode, i.operands.partition("[")[0].replace("desc", ""))
            self.pending.append((first_operand.registers, i.width))
        elif i.name == "LDGSTS":
            self.groups[-1].append(i.width)
        elif i.name == "LDGDEPBAR":
            self.groups.append([])
        elif i.name == "DEPBAR" and (match := re.search(r"SB\d+, 0x(\w+)", i.operands)):
            kept = int(match[1], 16) + 1
            if any(self.groups[:-kept]):
                self.awaited()
            self.groups = self.groups[-kept:]


def in_flight(path: list[Instruction], cycle: list[Instruction]) -> Facts:
    once, round_and_round = InFlight(), InFlight()
    for i in path:
        once.issue(i)
    for i in [*cycle, *cycle]:
        round_and_round.issue(i)
    first, most = once.first or round_and_round.first or (0, 0), max(once.most, round_and_round.most)
    return {name: {"loads": pair[0], "bytes": pair[1]} for name, pair in (("first", first), ("most", most))}


def code_facts(lines: Iterable[str]) -> Facts:
    """path, loops, loop, epilogue, in_flight of one kernel's SASS."""
    kernel = Kernel(lines)
    path, main = kernel.hot_path(), kernel.main_loop() or []
    found: Facts = {"path": kernel.totals(path), "loop": None, "epilogue": None, "loops": []}
    for loop in sorted(kernel.loops, key=lambda loop: loop.header):
        cycle = kernel.round_of(loop)
        facts_of = kernel.totals(cycle, loop.header)
        facts_of |= {"start": loop.header, "trips": kernel.trips[loop]}
        facts_of["innermost"] = not any(other.body < loop.body for other in kernel.loops)
        found["loops"].append(facts_of)
        if main and loop.header == main[0]:
            found["loop"] = facts_of
            if facts_of["tensor"]:
                facts_of["per_tensor"] = facts_of["instructions"] / facts_of["tensor"]
    if main and (after := kernel.epilogue(main)) is not None:
        found["epilogue"] = kernel.totals(after, main[0])
        elements = accumulators(kernel.instructions(main, main[0]))
        found["epilogue"] |= {"elements": elements}
        if elements:
            found["epilogue"]["per_element"] = found["epilogue"]["instructions"] / elements
    plain = [[i for node in nodes for i in kernel.graph.blocks[node].instructions] for nodes in (path, main)]
    return found | {"in_flight": in_flight(*plain)}


def resident(facts: Facts, architecture: str, dynamic_shared: int = 0, threads: int | None = None) -> int | None:
    """Blocks of a multiprocessor; None if the block's size or the architecture is not known."""
    threads = threads or facts.get("threads")
    if not threads or "registers" not in facts or capability_of(architecture) not in LIMITS:
        return None
    return resident_blocks(architecture, threads, facts["registers"], facts["shared"] + dynamic_shared)


def facts(paths: Sequence[Path], kernel: str = "", architecture: str = "") -> dict[str, dict[str, Facts]]:
    """See the head of this file. kernel: a regular expression of those that are wanted, of names without arguments.
    `resident` is there without dynamic shared memory: the function of that name takes it."""
    found: dict[str, dict[str, Facts]] = {}

    def entry(key: Key) -> Facts | None:
        name = short_name(key[1])
        wanted = re.search(kernel, name) and architecture in ("", key[0])
        return found.setdefault(name, {}).setdefault(key[0], {}) if wanted else None

    for path in paths:
        report = path.with_suffix(".ptxas")
        for key, used in (resources(report.read_text()) if report.exists() else {}).items():
            if (of_kernel := entry(key)) is not None:
                of_kernel |= used
        for key, threads in launch_bounds(path).items():
            if (of_kernel := entry(key)) is not None:
                of_kernel["threads"] = threads
                of_kernel["resident"] = resident(of_kernel, key[0])
        for key, lines in listings(path).items():
            if (of_kernel := entry(key)) is not None:
                of_kernel |= code_facts(lines)
    return found


def row(name: str, architecture: str, of: Facts) -> list[str]:
    loop, epilogue = of.get("loop") or {}, of.get("epilogue") or {}
    per_tensor = f"{loop['per_tensor']:.2f}" if "per_tensor" in loop else ""
    per_element = f"{epilogue['per_element']:.1f}" if "per_element" in epilogue else ""
    most = of.get("in_flight", {}).get("most", {})
    numbers = [of.get("registers"), of.get("spilled"), of.get("stack"), of.get("threads"), of.get("resident")]
    numbers += [of.get("path", {}).get("instructions"), loop.get("instructions"), loop.get("tensor"), per_tensor]
    numbers += [loop.get(key) for key in ("ldsm", "async_copies", "bar", "mufu", "shfl")]
    numbers += [epilogue.get("instructions"), per_element, most.get("loads"), most.get("bytes")]
    return [name, architecture, *("" if n is None else str(n) for n in numbers)]


HEAD = ["kernel", "arch", "regs", "spill", "stack", "threads", "resident", "path", "loop", "tensor", "/tensor", "LDSM",
        "copies", "BAR", "MUFU", "SHFL", "epilogue", "/element", "loads", "bytes"]  # fmt: skip


def table(found: dict[str, dict[str, Facts]]) -> str:
    """For people: one line for each kernel and architecture."""
    lines = [row(name, a, of) for name, by_architecture in sorted(found.items()) for a, of in by_architecture.items()]
    lines = [HEAD, *([re.sub(r"llmc::|cuda::|\(anonymous namespace\)::", "", cell) for cell in line] for line in lines)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m llmc.bench.compiled", description="what nvcc made of the kernels")
    parser.add_argument("objects", nargs="+", type=Path, help="objects or cubins; FILE.ptxas beside them is read")
    parser.add_argument("--kernel", default="", metavar="PATTERN", help="only kernels whose names match")
    parser.add_argument("--arch", default="", help="only this architecture, such as sm_90a")
    parser.add_argument("--json", action="store_true", help="all counts, as JSON")
    args = parser.parse_args(arguments)
    found = facts(args.objects, args.kernel, args.arch)
    print(json.dumps(found, indent=1, sort_keys=True) if args.json else table(found))
    return 0


if __name__ == "__main__":
    run_main(main)
