#!/usr/bin/env bash
# toml++ 3.3.0 (Debian bookworm's libtomlplusplus-dev): parsing the two characters "[}" ends the program (SIGABRT).
#
# Expected: toml::parse throws toml::parse_error, as for every other text that is not TOML.
# Happens:  where a key should begin after "[" or "[[", any other character fails an assertion of
#           parser::parse_key(); with NDEBUG it is an assumption given to the compiler instead, which is undefined.
# Matters:  a file of options with a typing error ends the program with "Assertion ... failed" and a core dump instead
#           of a sentence; a server that reads TOML from others can be stopped. llmc (llmc/train/options/toml.cpp)
#           defines TOML_ASSERT to throw.
# Needs Debian bookworm with apt-get and g++.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq libtomlplusplus-dev=3.3.0+ds-1 2>/dev/null && dpkg -x libtomlplusplus-dev_*.deb toml)
cat >"$folder/try.cpp" <<'CPP'
#include <toml++/toml.h>
#include <iostream>
int main(int, char** argv) {
    try {
        (void)toml::parse(argv[1]);
        std::cout << "parsed\n";
    } catch (const toml::parse_error& error) {
        std::cout << "parse_error: " << error.description() << "\n";
    }
}
CPP
g++ -std=c++17 -isystem "$folder/toml/usr/include" "$folder/try.cpp" -o "$folder/try"
echo "toml++ 3.3.0. Expected of [} and [[=]]: parse_error. What happens:"
for text in '[!' '[}' '[[=]]'; do
    result=$("$folder/try" "$text" 2>&1) && code=0 || code=$?
    printf '  %-6s exit %s  %s\n' "$text" "$code" "${result##*: }"
    [[ $code == 134 ]] || { echo "changed: no assertion fails on $text"; exit 1; }
done
