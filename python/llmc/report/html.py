"""Elements of the page. They are built as a tree, so that every text from outside is escaped when it is written."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import TypeAlias

Node: TypeAlias = "ET.Element | str"
Cell: TypeAlias = "Node | list[Node]"

# elements after which a line ends, so that the file can be read and compared
BLOCKS = set(
    "head meta title style body header nav main footer section article figure figcaption table caption".split()
)
BLOCKS |= set("thead tbody tr div p h1 h2 h3 h4 ul li dl pre details summary svg".split())


def clean(text: str) -> str:
    """Text that HTML can hold: control characters become visible signs, what is no character becomes U+FFFD."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f]", lambda match: chr(0x2400 + ord(match[0])), text)
    return re.sub(r"[\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]|[\ufffe\uffff]", "\ufffd", text)


def el(tag: str, *children: Node, **attributes: str) -> ET.Element:
    """An element. Names of attributes: class_ is class, aria_label is aria-label."""
    names = {name.rstrip("_").replace("_", "-"): clean(value) for name, value in attributes.items()}
    element = ET.Element(tag, names)
    add(element, *children)
    return element


def add(element: ET.Element, *children: Node) -> None:
    for child in children:
        if not isinstance(child, str):
            element.append(child)
        elif len(element):
            element[-1].tail = (element[-1].tail or "") + clean(child)
        else:
            element.text = (element.text or "") + clean(child)


def nodes(cell: Cell) -> list[Node]:
    return cell if isinstance(cell, list) else [cell]


def slug(text: str) -> str:
    """Text as part of an id."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "x"


def preformatted(*children: Node) -> ET.Element:
    return el("pre", "\n", *children)  # a browser drops a line feed at the start


def scrolling(child: ET.Element, label: str) -> ET.Element:
    """A box that scrolls where the page is too narrow, also by keyboard."""
    return el("div", child, class_="scroll", role="group", tabindex="0", aria_label=label)


def table(head: Sequence[Cell], groups: Iterable[tuple[str, Sequence[Sequence[Cell]]]], caption: str) -> ET.Element:
    """A table. groups: (title or "", rows); the first cell of a row is its header."""
    top = el("tr", *(el("th", *nodes(cell), scope="col") if cell != "" else el("td") for cell in head))
    result = el("table", el("caption", caption), el("thead", top))
    for title, rows in groups:
        body = el("tbody")
        if title:
            body.append(el("tr", el("th", title, scope="rowgroup", colspan=str(len(head)), class_="group")))
        for first, *rest in rows:
            body.append(el("tr", el("th", *nodes(first), scope="row"), *(el("td", *nodes(cell)) for cell in rest)))
        result.append(body)
    return scrolling(result, caption)


def more(summary: str, *children: Node) -> ET.Element:
    """What is shown when it is opened; printed as it is on the screen."""
    return el("details", el("summary", summary), *children)


def write(root: ET.Element) -> str:
    """The document as text."""
    for element in root.iter():
        if element.tag in BLOCKS and not (element.tail or "").endswith("\n"):
            element.tail = (element.tail or "") + "\n"
    text: str = ET.tostring(root, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text.rstrip()}\n"
