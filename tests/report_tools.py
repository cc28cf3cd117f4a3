"""Runs, a coordinate check and a sweep for pages of llmc report, and what such a page has."""

from __future__ import annotations

import json
import math
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote

import check_tools
import sweep_tables

import llmc
from llmc.config import Config
from llmc.options import stored_options
from llmc.report.command import write_report

# Elements without an end tag
VOID = set("area base br col embed hr img input link meta source track wbr".split())


def config_event(width: int = 256, **options) -> dict:
    """As the programs write it."""
    rules = llmc.parametrization(
        width=width, head_dim=32, depth=3, vocab_size=257, parametrization="mup", base_width=128, lr=0.01
    )
    chosen = {"width": width, "depth": 3, "heads": width // 32, "seq_len": 128, "lr": 0.01, "parametrization": "mup"}
    return {
        "event": "config",
        "step": 0,
        "config": stored_options(Config()) | chosen | {"steps": 400, "prompt": "def "} | options,
        "model": {"num_layers": 3, "channels": width, "num_heads": width // 32, "vocab_size": 257},
        "parametrization": rules,
        "provenance": {"program": "train_gpt2", "version": "9.9.9", "commit": "abc123", "host": "a <b>host</b> & more"},
        "parameters": 1234567,
        "command": "./train_gpt2 --lr 0.01",
    }


def events(steps: int = 400, end: str | None = "done", floor: float = 1.5, **options) -> list[dict]:
    """A run with an evaluation at every 100th step. end: the reason of its last event; None: it has none."""
    lines = [config_event(**options)]
    for step in range(1, steps + 1):
        loss = floor + 4 * (1 + step / 8) ** -0.6 + 0.05 * math.sin(7.0 * step)
        elapsed, tokens = 0.5 * step, 2048 * step
        lines.append(train_event(step, loss, tokens=tokens, tokens_per_second=4000 + step, elapsed=elapsed))
        if step % 100 == 0:
            val = {"val_loss": loss + 0.01, "bits_per_byte": (loss + 0.01) / math.log(2)}
            lines.append({"event": "eval", "step": step, **val, "elapsed": elapsed})
    lines.append({"event": "sample", "step": steps, "prompt": "def ", "text": "<b>x</b> & 1 < 2\n\tend"})
    if end:
        lines.append({"event": "final", "step": steps, "elapsed": 0.5 * steps + 1, "reason": end})
    return lines


def train_event(step: int, loss: float | None, grad_norm: float | None = 0.5, **fields) -> dict:
    return {"event": "train", "step": step, "loss": loss, "grad_norm": grad_norm, "lr": 0.01 / step} | fields


def write_run(folder: Path, lines: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "log.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def write_check(folder: Path, **options) -> Path:
    options = {"sizes": (64, 128, 256)} | options
    rows = [row for scheme in ("sp", "mup") for row in check_tools.rows_of(scheme, **options)]
    check_tools.write(folder / "coordinate_check.csv", rows)
    return folder


def write_sweep(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    sweep_tables.table(folder, exponents=range(-11, -5), seeds=(1, 2), logs=True)
    return folder


class Page(HTMLParser):
    """A page that is well-formed: every element is closed where it was opened. Text by element, and attributes."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.pieces: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> in {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.pieces).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def rows(self) -> list[list[str]]:
        """The cells of all table rows."""
        found, parts = [], self.source.split("<tr>")[1:]
        for part in parts:
            row = part[: part.index("</tr>")].replace("<br>", " ")
            found.append(["".join(cell.itertext()).strip() for cell in ET.fromstring(f"<tr>{row}</tr>")])
        return found


def page_of(*paths: Path, out: Path | None = None) -> Page:
    return Page(write_report(list(paths), out))


def check_markup(page: Page, folder: Path) -> None:
    """What holds for every page."""
    tags = [tag for tag, _ in page.elements]
    assert page.source.startswith("<!DOCTYPE html>\n")
    assert page.all("html") == [{"lang": "en"}]
    assert [tags.count(tag) for tag in ("h1", "title", "main", "nav", "style")] == [1] * 5
    assert not {"script", "link", "iframe", "image", "img", "object", "base"} & set(tags)
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
    assert all(after <= before + 1 for before, after in pairwise(levels)), levels
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(set(ids)) == len(ids)
    assert all(svg["role"] == "img" and len(svg["aria-label"]) > 20 for svg in page.all("svg"))
    assert tags.count("figcaption") == tags.count("figure") == tags.count("svg") > 0
    assert all("scope" in header for header in page.all("th"))
    assert tags.count("caption") == tags.count("table")
    references = re.findall(r"url\(([^)]*)\)", page.source)
    for tag, attributes in page.elements:
        assert not {"src", "srcset", "data", "onload", "onclick"} & set(attributes), tag
        references += [attributes["href"]] if "href" in attributes else []
    for reference in references:
        if reference.startswith("#"):
            assert reference[1:] in ids
        else:  # a file beside the page
            assert (folder / unquote(reference)).exists() and ".." not in reference
    assert "http" not in page.source and "@import" not in page.source
