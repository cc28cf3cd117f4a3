"""A matplotlib figure as an SVG element of the page that follows its colours, light or dark."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

from llmc.report.html import el, scrolling

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SALT = "llmc"  # of the names of clip paths and markers: random without one
PIXELS = 4 / 3  # of CSS, for a point
DROPPED = ("metadata", "style")
ROUNDED = ("x", "y", "width", "height", "transform")
BLACK, WHITE, GRID = "#000000", "#ffffff", "#e6e6e6"


def figure_element(figure: Figure, number: int, label: str, caption: str) -> ET.Element:
    """<figure> with the drawing and its caption. number: of the figure in the page; label: what it shows, for readers
    who do not see it. Closes the figure."""
    svg = convert(svg_text(figure), f"f{number}")
    svg.attrib |= {"role": "img", "aria-label": label}
    return el("figure", scrolling(svg, f"figure {number}"), el("figcaption", caption))


def svg_text(figure: Figure) -> str:
    import matplotlib.pyplot as plt

    buffer = io.StringIO()
    with plt.rc_context({"svg.hashsalt": SALT, "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return buffer.getvalue()


def convert(text: str, prefix: str) -> ET.Element:
    """The drawing without what the page has already: fonts, colours, namespaces, and names that nothing refers to."""
    root = ET.fromstring(text)
    for element in root.iter():
        element.tag = local(element.tag)
        element.attrib = {local(name): value for name, value in element.attrib.items()}
    width = float(root.attrib["width"].removesuffix("pt")) * PIXELS
    names = references(root)
    for element in root.iter():
        tidy(element, {name: f"{prefix}-{i}" for i, name in enumerate(names)})
    prune(root)
    size = f"width:100%;min-width:{0.6 * width:.0f}px;max-width:{1.3 * width:.0f}px"
    root.attrib = {"viewBox": root.attrib["viewBox"], "style": size}
    return root


def local(name: str) -> str:
    """The name without its namespace."""
    return name.rpartition("}")[2]


def references(root: ET.Element) -> list[str]:
    """Names that the drawing uses, in their order."""
    values = (value for element in root.iter() for value in element.attrib.values())
    found = (re.match(r"#(\w+)$|url\(#(\w+)\)$", value) for value in values)
    return list(dict.fromkeys(match[1] or match[2] for match in found if match))


def tidy(element: ET.Element, names: dict[str, str]) -> None:
    """Shortens one element: two digits after the point are a hundredth of a pixel."""
    attributes = {}
    is_text = element.tag in ("text", "tspan")
    for name, value in element.attrib.items():
        if name == "id":
            if value in names:
                attributes[name] = names[value]
        elif name == "d":
            attributes[name] = " ".join(rounded(value).split())
        elif name == "style":
            style = ";".join(filter(None, (declaration(part, is_text) for part in value.split(";"))))
            if style:
                attributes[name] = style
        elif name in ROUNDED and not value.startswith("rotate(-0 "):
            attributes[name] = rounded(value)
        elif name not in ROUNDED:
            attributes[name] = re.sub(r"#(\w+)", lambda match: f"#{names[match[1]]}", value)
    element.attrib = attributes
    if not is_text:
        element.text = None
    if element.tag != "tspan":
        element.tail = None


def rounded(text: str) -> str:
    return re.sub(r"-?\d+\.\d+", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), text)


def declaration(text: str, is_text: bool) -> str:
    """A declaration of a style, with colours as variables of the page; "" if the page has it already."""
    name, _, value = (part.strip() for part in text.partition(":"))
    if not name or name == "font-family":
        return ""
    if name in ("fill", "stroke") and value.startswith("#"):
        if value == BLACK or (is_text and value[1:3] == value[3:5] == value[5:7]):
            return "" if is_text else f"{name}:currentColor"
        known = {WHITE: "paper", GRID: "grid"}
        value = f"var(--{known.get(value) or ('t' if is_text else 'l') + '-' + value[1:]})"
    return f"{name}:{value}"


def prune(element: ET.Element) -> None:
    """Leaves out what is empty, and groups without attributes around their content; gives a group the style that all
    its markers have."""
    kept: list[ET.Element] = []
    for child in element:
        prune(child)
        if child.tag in DROPPED or (child.tag in ("g", "defs") and not len(child)):
            continue
        kept += list(child) if child.tag == "g" and not child.attrib else [child]
    element[:] = kept
    styles = {child.get("style", "") for child in kept}
    if element.tag == "g" and len(kept) > 1 and len(styles) == 1 and {child.tag for child in kept} == {"use"}:
        element.set("style", ";".join(filter(None, (element.get("style"), *styles))))
        for child in kept:
            child.attrib.pop("style", None)
