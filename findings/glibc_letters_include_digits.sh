#!/usr/bin/env bash
# glibc 2.36 (Debian bookworm), locale C.UTF-8: iswalpha says yes to 650 digits and 236 letter numbers.
#
# Expected: iswalpha, iswdigit and iswspace are what a C++ program needs for the pattern of GPT-2's tokenizer, which
#           splits text into runs of letters (\p{L}), of numbers (\p{N}) and of white space (\s).
# Happens:  ISO C allows iswdigit only 0 to 9, and iswalnum is iswalpha or iswdigit: so glibc makes all other decimal
#           digits letters, and letter numbers (Roman numerals) too. Fractions and superscripts are neither. The
#           no-break spaces U+00A0, U+2007 and U+202F are no white space.
# Matters:  "x٣" or "xⅧ" is then one run where tiktoken makes two, "²" is punctuation, and text with no-break spaces is
#           split elsewhere: other tokens, in silence. llmc/data/character_classes.h is generated from Unicode's
#           categories instead (tests/test_text.py compares the ends of all runs of a category).
# Needs g++ and python3; nothing is downloaded.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/try.cpp" <<'CPP'
#include <clocale>
#include <cstdio>
#include <cwctype>
int main() {
    if (!setlocale(LC_ALL, "C.UTF-8")) return 2;
    for (wint_t c = 0; c < 0x110000; ++c) std::printf("%d %d\n", iswalpha(c) != 0, iswspace(c) != 0);
}
CPP
g++ "$folder/try.cpp" -o "$folder/try"
"$folder/try" >"$folder/classes"
ldd --version | sed -n 1p
python3 - "$folder/classes" <<'PY'
import sys, unicodedata
wrong = {"Nd": 0, "Nl": 0, "No": 0, "Zs": 0}
for code, line in enumerate(open(sys.argv[1])):
    alpha, space = line.split()
    category = unicodedata.category(chr(code))
    if category in ("Nd", "Nl", "No") and alpha == "1" or category == "Zs" and space == "0":
        wrong[category] += 1
print(f"iswalpha is true for {wrong['Nd']} decimal digits, {wrong['Nl']} letter numbers, {wrong['No']} other numbers")
print(f"iswspace is false for {wrong['Zs']} spaces")
if not (wrong["Nd"] > 600 and wrong["Nl"] > 200 and wrong["No"] == 0 and wrong["Zs"] == 3):
    sys.exit("changed: glibc's classes are others")
PY
