"""The page's style, and the colours of its figures on light and dark paper."""

from __future__ import annotations

import colorsys
import re

PAPER = {"light": "#ffffff", "dark": "#14171b"}
LINE, TEXT = 3.0, 4.5  # least contrast against the paper: WCAG 2.2, 1.4.11 and 1.4.3 at level AA


def rgb(colour: str) -> tuple[float, float, float]:
    """The parts of #rrggbb, from 0 to 1."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return red, green, blue


def luminance(colour: str) -> float:
    """Relative luminance as WCAG defines it."""
    parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def readable(colour: str, paper: str, least: float) -> str:
    """The colour, or the nearest in lightness with the same hue that has this contrast against the paper."""
    hue, lightness, saturation = colorsys.rgb_to_hls(*rgb(colour))
    step = -0.01 if luminance(paper) > 0.5 else 0.01
    while contrast(colour, paper) < least and 0 < lightness < 1:
        lightness = min(1.0, max(0.0, lightness + step))
        colour = "#" + "".join(f"{round(255 * c):02x}" for c in colorsys.hls_to_rgb(hue, lightness, saturation))
    return colour


def colour_rules(page: str) -> str:
    """Custom properties for the colours that figures use: --l-rrggbb of lines, --t-rrggbb of text."""
    used = sorted(set(re.findall(r"var\(--([lt])-([0-9a-f]{6})\)", page)))

    def rules(paper: str) -> str:
        pairs = ((k, c, readable(f"#{c}", paper, LINE if k == "l" else TEXT)) for k, c in used)
        return "".join(f"--{kind}-{colour}:{found};" for kind, colour, found in pairs)

    light, dark = rules(PAPER["light"]), rules(PAPER["dark"])
    return f":root{{{light}}}\n@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"


STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --ink: #1a1d21; --soft: #555c66; --rule: #d5d9de; --grid: #e6e6e6; --panel: #f5f6f8;
  --link: #0b57a4; --good: #14713d; --bad: #b3261e; --open: #855300;
}
@media screen and (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --ink: #e4e7eb; --soft: #a7aeb8; --rule: #3a4048; --grid: #2b3037; --panel: #1d2126;
    --link: #7db8f5; --good: #5fd08f; --bad: #ff8f85; --open: #f0b35a;
  }
}
@media print { :root { color-scheme: light; } }
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem 1.25rem 4rem; max-width: 72rem;
  background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
a { color: var(--link); }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -100vw; }
.skip:focus { position: static; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--rule); }
h2, h3, h4 { line-height: 1.3; overflow-wrap: anywhere; }
h3 { font-size: 1.0625rem; margin: 1.75rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.25rem 0 .5rem; color: var(--soft); }
p, ul { margin: .5rem 0; }
.lead { color: var(--soft); margin-top: 0; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; margin: 1rem 0 0; padding: 0; }
code, pre { font: .875em/1.45 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; }
code { overflow-wrap: anywhere; }
pre { margin: .5rem 0; padding: .75rem 1rem; background: var(--panel); border-radius: .375rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.verdict { margin: 1rem 0; padding: .75rem 1rem; background: var(--panel); border-left: .3rem solid var(--soft);
  border-radius: .25rem; }
.verdict > :first-child { margin-top: 0; } .verdict > :last-child { margin-bottom: 0; }
.verdict pre { padding: 0; background: none; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); }
.verdict.open { border-color: var(--open); }
.word { font-weight: 700; } .good > .word { color: var(--good); } .bad > .word { color: var(--bad); }
.open > .word { color: var(--open); }
td .good, td.good { color: var(--good); } td .bad { color: var(--bad); } td .open { color: var(--open); }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); gap: .75rem 1.25rem;
  margin: 1rem 0; }
.facts dt { color: var(--soft); font-size: .8125rem; }
.facts dd { margin: 0; font-size: 1.125rem; font-weight: 600; font-variant-numeric: tabular-nums;
  overflow-wrap: anywhere; }
.facts .unit { font-size: .8125rem; font-weight: 400; color: var(--soft); }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; min-width: 40%; }
caption { text-align: left; color: var(--soft); padding-bottom: .35rem; max-width: calc(100vw - 1.5rem); }
th, td { text-align: left; vertical-align: top; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid var(--rule); }
thead th, thead td { border-bottom-width: 2px; vertical-align: bottom; }
tbody th { font-weight: 400; }
th[scope=row] { position: sticky; left: 0; background: var(--paper); white-space: nowrap; }
th[scope=row] code { overflow-wrap: normal; }
th.group { font-weight: 600; padding-top: 1rem; }
td { white-space: nowrap; } .wrap td { white-space: normal; min-width: 6rem; overflow-wrap: anywhere; }
td .long { display: inline-block; min-width: 20rem; }
td .same { color: var(--soft); }
figure { margin: 1rem 0 1.5rem; }
figcaption { color: var(--soft); font-size: .875rem; max-width: 50rem; }
figure svg { display: block; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { fill: currentColor; font-family: "DejaVu Sans", Verdana, Geneva, sans-serif; }
details { margin: .75rem 0; }
summary { cursor: pointer; color: var(--link); width: fit-content; }
footer { margin-top: 3rem; padding-top: .75rem; border-top: 1px solid var(--rule); color: var(--soft);
  font-size: .875rem; }
@media (max-width: 30rem) { body { padding: 1rem .75rem 3rem; } }
@media print {
  html { font-size: 9.5pt; } body { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  figure, tr, .verdict, .facts > div { break-inside: avoid; } h2, h3, h4, caption, .lead { break-after: avoid; }
  .scroll { overflow: visible; }
  th[scope=row] { position: static; white-space: normal; }
  figure svg { min-width: 0 !important; max-width: 100% !important; }
  table { font-size: 7pt; } td .long { min-width: 0; } a { color: inherit; }
}
"""
