"""Loops and paths of a control-flow graph, given as {node: following nodes}."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from llmc.bench.sass import EXIT

Next = Mapping[int, list[int]]
Weight = tuple[int, ...]  # of a node; paths compare by the sums of the first, then the second, ...


@dataclass(frozen=True)
class Loop:
    header: int
    body: frozenset[int]  # with the header
    latches: frozenset[int]  # where the edges back to the header start


def order(following: Next, root: int) -> list[int]:
    """The nodes that root reaches, in reverse postorder of a depth-first search."""
    seen, done = {root}, []
    stack = [(root, iter(following.get(root, ())))]
    while stack:
        node, children = stack[-1]
        for child in children:
            if child not in seen:
                seen.add(child)
                stack.append((child, iter(following.get(child, ()))))
                break
        else:
            done.append(node)
            stack.pop()
    return done[::-1]


def preceding(following: Next, nodes: Iterable[int]) -> dict[int, list[int]]:
    before: dict[int, list[int]] = {node: [] for node in nodes}
    for node in before:
        for child in following.get(node, ()):
            if child in before:
                before[child].append(node)
    return before


def dominators(following: Next, root: int) -> dict[int, int]:
    """{node: its immediate dominator} (Cooper, Harvey and Kennedy's iteration); the root's is itself."""
    nodes = order(following, root)
    place = {node: i for i, node in enumerate(nodes)}
    before = preceding(following, nodes)
    immediate = {root: root}
    changed = True
    while changed:
        changed = False
        for node in nodes[1:]:
            known = [b for b in before[node] if b in immediate]
            new = known[0]
            for other in known[1:]:
                while new != other:
                    if place[new] > place[other]:
                        new = immediate[new]
                    else:
                        other = immediate[other]
            if immediate.get(node) != new:
                immediate[node], changed = new, True
    return immediate


def loops(following: Next, root: int) -> list[Loop]:
    """The natural loops, those with the same header as one, inner loops first. A cycle that can be entered at two nodes
    (nvcc makes none of structured code) is none."""
    immediate = dominators(following, root)

    def dominates(a: int, b: int) -> bool:
        while b != a and b != immediate[b]:
            b = immediate[b]
        return a == b

    back: dict[int, set[int]] = {}
    for node in immediate:
        for child in following.get(node, ()):
            if child != EXIT and dominates(child, node):
                back.setdefault(child, set()).add(node)
    before = preceding(following, immediate)
    found = []
    for header, latches in back.items():
        body, waiting = {header}, list(latches)
        while waiting:
            node = waiting.pop()
            if node not in body:
                body.add(node)
                waiting += before[node]
        found.append(Loop(header, frozenset(body), frozenset(latches)))
    return sorted(found, key=lambda loop: len(loop.body))


def unrolled(following: Next, root: int) -> dict[int, list[int]]:
    """The graph without cycles: each loop runs once. Its edges back to the header lead to where the loop's exits lead,
    so that a path runs through the body even if the loop is left from its header."""
    graph = {node: list(following.get(node, ())) for node in order(following, root)}
    for loop in loops(following, root):
        exits = [c for node in loop.body for c in graph.get(node, ()) if c not in loop.body]
        for node in loop.body:
            if loop.header in graph.get(node, ()):
                graph[node] = list(dict.fromkeys([c for c in graph[node] if c != loop.header] + exits))
    place = {node: i for i, node in enumerate(order(graph, root))}
    return {node: [c for c in children if place[c] > place[node]] for node, children in graph.items() if node in place}


def best_path(following: Next, start: int, ends: Iterable[int], weight: Callable[[int], Weight]) -> list[int] | None:
    """The heaviest path without cycles from start to one of ends, both included (EXIT is not)."""
    graph = unrolled(following, start)
    ends = set(ends)
    nothing = (0,) * len(weight(start))
    best: dict[int, tuple[Weight, int | None]] = {}  # node: weight of the best path from there, and its second node
    for node in reversed(order(graph, start)):
        rests: list[tuple[Weight, int | None]] = [(best[c][0], c) for c in graph.get(node, ()) if c in best]
        if node in ends:
            rests.append((nothing, None))
        if rests:
            rest, second = max(rests, key=lambda r: r[0])
            own = nothing if node == EXIT else weight(node)
            best[node] = tuple(a + b for a, b in zip(own, rest, strict=True)), second
    path: list[int] = []
    node_or_none: int | None = start if start in best else None
    while node_or_none is not None and node_or_none != EXIT:
        path.append(node_or_none)
        node_or_none = best[node_or_none][1]
    return path or None


def best_cycle(following: Next, loop: Loop, weight: Callable[[int], Weight]) -> list[int]:
    """The heaviest way once round a loop, from its header to one of its latches."""
    inside = {node: [c for c in following[node] if c in loop.body and c != loop.header] for node in loop.body}
    return best_path(inside, loop.header, loop.latches, weight) or [loop.header]
