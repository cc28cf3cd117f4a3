"""The page: verdicts first, then the parts of each item, with links between them."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections import Counter

from llmc.report.html import add, el, slug, write
from llmc.report.parts import Item, Part
from llmc.report.theme import STYLE, colour_rules
from llmc.version import VERSION

GENERATOR = "llmc report"
MARK = f'<meta name="generator" content="{GENERATOR}'  # a page with it may be replaced by a newer one


def page_text(items: list[Item]) -> str:
    """The whole file."""
    distinguish(items)
    title = items[0].title if len(items) == 1 else "Report"
    summary = items[0].summary if len(items) == 1 else ", ".join(item.title for item in items)
    sections = [verdicts(items), *(section for item in items for section in item_sections(item, len(items) == 1))]
    links = [el("li", el("a", section[0].text or "", href=f"#{section.attrib['id']}")) for section in sections]
    body = el(
        "body",
        el("a", "Skip to the verdict", href="#verdict", class_="skip"),
        el("header", el("h1", title), el("p", summary, class_="lead")),
        el("nav", el("ul", *links), aria_label="Contents"),
        el("main", *sections),
        el("footer", f"Written by llmc report {VERSION}."),
    )
    style = el("style")
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", name="generator", content=f"{GENERATOR} {VERSION}"),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("title", title),
        style,
    )
    root = el("html", head, body, lang="en")
    style.text = STYLE + colour_rules(write(body))
    return write(root)


def distinguish(items: list[Item]) -> None:
    """Adds the folder's name to titles that occur twice, and a number where that is not enough."""
    counts = Counter(item.title for item in items)
    for item in items:
        item.title += f", {item.name}" if counts[item.title] > 1 else ""
    counts = Counter(slug(item.title) for item in items)
    for number, item in enumerate(items, 1):
        item.title += f" ({number})" if counts[slug(item.title)] > 1 else ""


def verdicts(items: list[Item]) -> ET.Element:
    alone = len(items) == 1
    section = el("section", el("h2", "Verdict" if alone else "Verdicts"), id="verdict")
    for item in items:
        if not alone:
            add(section, el("h3", el("a", item.title, href=f"#{slug(item.title)}")))
        add(section, *item.verdict)
    return section


def item_sections(item: Item, alone: bool) -> list[ET.Element]:
    """A section for each part; of one of several items, one section with all its parts."""
    parts = [part for part in item.parts if part.content]
    if alone:
        return [part_section(part, "h2", slug(part.title)) for part in parts]
    name = slug(item.title)
    section = el("section", el("h2", item.title), el("p", item.summary, class_="lead"), id=name)
    add(section, *(part_section(part, "h3", f"{name}-{slug(part.title)}") for part in parts))
    return [section]


def part_section(part: Part, heading: str, name: str) -> ET.Element:
    """Headings in the content are h4: of a part that is h2 they become h3, because no level may be left out."""
    for node in part.content:
        if heading == "h2" and not isinstance(node, str) and node.tag == "h4":
            node.tag = "h3"
    return el("section", el(heading, part.title), *part.content, id=name)
