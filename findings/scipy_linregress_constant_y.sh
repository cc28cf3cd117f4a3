#!/usr/bin/env bash
# SciPy 1.17.1: linregress of exactly constant y has a standard error of NaN, not 0.
#
# Expected: y = 5 at every x lies on a line; the fit is exact, and its standard error is 0.
# Happens:  stderr and pvalue are NaN. For y = 0.1 they are numbers, because the mean of three 0.1 is not 0.1.
# Matters:  a check of the form "the error is larger than the bound: too noisy" is false for NaN, so a curve that is
#           exactly flat passes or fails by a rounding error. A slope of a coordinate check is such a fit.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check scipy==1.17.1 2>/dev/null
echo "scipy.stats.linregress of SciPy 1.17.1 on three equal values. Expected: stderr 0. What happens:"
"$folder/venv/bin/python" - <<'PY'
import math, sys
from scipy.stats import linregress

found = {}
for y in (5.0, 0.0, 0.1):
    fit = linregress([1.0, 2.0, 3.0], [y] * 3)
    found[y] = fit.stderr
    print(f"y = {y}: slope {fit.slope}, stderr {fit.stderr}, pvalue {fit.pvalue}, stderr > 0.1 is {fit.stderr > 0.1}")
changed = not (math.isnan(found[5.0]) and math.isnan(found[0.0]) and not math.isnan(found[0.1]))
sys.exit("changed: the standard error of equal values is no longer NaN" if changed else 0)
PY
