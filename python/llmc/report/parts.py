"""What a page consists of: items (the runs, a check, a sweep), each with its verdict and its parts."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from llmc.report.html import Cell, Node, el


class Part(NamedTuple):
    """One heading of an item and what is below it."""

    title: str
    content: list[Node]


NAME = "report.html"  # of a page beside the files of a run, a check or a sweep


@dataclass
class Item:
    """title: its heading; name: its folder's, for titles that occur twice; verdict: for the top of the page."""

    title: str
    name: str
    summary: str
    verdict: list[Node]
    parts: list[Part] = field(default_factory=list)


@dataclass
class Page:
    """What the items need to know of the page: its path, for relative links, and how many figures it has so far."""

    path: Path
    figures: int = 0

    def next_figure(self) -> int:
        self.figures += 1
        return self.figures

    def links(self, paths: list[Path]) -> list[Node]:
        """A list of those that exist: links if they are in the page's folder or below it, otherwise their paths."""
        others = [path for path in dict.fromkeys(paths) if path.exists() and path.resolve() != self.path.resolve()]
        found = [self.link(path) for path in others]
        return [el("ul", *(el("li", link) for link in found))] if found else []

    def link(self, path: Path) -> Node:
        folder, target = self.path.resolve().parent, path.resolve()
        if not target.is_relative_to(folder):
            return el("code", str(path))
        inside = target.relative_to(folder)
        return el("a", str(inside), href=quote(os.fsencode(inside)))


LOOKS = {"PASS": "good", "FAIL": "bad", "UNDECIDED": "open"}


def verdict_box(word: str, look: str, sentence: str, *below: Node) -> Node:
    """A sentence that begins with the verdict's word."""
    first = el("p", el("span", word, class_="word"), f" {sentence}" if sentence else "", class_=look)
    return el("div", first, *below, class_=f"verdict {look}")


def facts(pairs: list[tuple[str, str, str]]) -> Node:
    """Names, values and units, beside each other."""
    boxes = []
    for name, value, unit in pairs:
        shown: Cell = [value, el("span", f" {unit}", class_="unit")] if unit else [value]
        boxes.append(el("div", el("dt", name), el("dd", *shown)))
    return el("dl", *boxes, class_="facts")
