#!/usr/bin/env bash
# matplotlib 3.11.2: two SVG figures put into one HTML page share their ids, and each sets a style for the whole page.
#
# Expected: with svg.hashsalt the ids of a figure are hashes, so that figures inlined into one page do not meet.
# Happens:  only ids of clip paths, markers and glyphs are hashes; groups are named figure_1, axes_1, patch_2, line2d_1 in
#           every file. Each figure has a <style> "*{stroke-linejoin: round; stroke-linecap: butt}", which in an HTML page
#           applies to all elements of the page, other SVGs and icons included.
# Matters:  a page of several figures is invalid HTML (an id must be unique), and rules of a page's own SVGs change. This
#           project's report renames the ids of each figure and drops the style.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check matplotlib==3.11.2 2>/dev/null
echo "Two different figures by the SVG backend of matplotlib 3.11.2. Expected: no id in both, no style beyond the figure."
"$folder/venv/bin/python" - <<'PY'
import io, re, sys
import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "page"
from matplotlib import pyplot


def figure(values):
    drawn, axes = pyplot.subplots()
    axes.plot(values, marker="o")
    text = io.StringIO()
    drawn.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


one, two = figure([1, 2, 3]), figure([5, 1, 4, 2])
shared = sorted(set(re.findall(r' id="([^"]+)"', one)) & set(re.findall(r' id="([^"]+)"', two)))
named = [name for name in shared if re.fullmatch(r"[a-z0-9]+_\d+", name)]
style = re.search(r"<style[^>]*>(.*?)</style>", one)[1]
print(f"ids in both: {len(shared)}, of which {len(named)} are names: {', '.join(named[:4])}, ...")
print(f"style: {style}")
sys.exit("changed: not what the head of this file says" if not named or not style.startswith("*{") else 0)
PY
