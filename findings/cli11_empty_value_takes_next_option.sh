#!/usr/bin/env bash
# CLI11 2.1.2 (Debian bookworm's libcli11-dev): `--out= --dry-run` sets --out to "--dry-run".
#
# Expected: --out is empty, as with getopt_long and argparse, and --dry-run is on; or an error.
# Happens:  the empty text behind = is dropped, the next word becomes the value even if it is an option, and that
#           option is not set. `--dry-run=7` is accepted as true.
# Matters:  a script with --out=$OUT and an empty variable trains for real into a folder named --dry-run. llmc's own
#           parser (llmc/train/options/command_line.cpp) looks at the words before CLI11 does.
# Needs Debian bookworm with apt-get and g++.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
(cd "$folder" && apt-get download -qq libcli11-dev=2.1.2+ds-1 2>/dev/null && dpkg -x libcli11-dev_*.deb cli)
cat >"$folder/try.cpp" <<'CPP'
#include <CLI/CLI.hpp>
#include <iostream>
int main(int argc, char** argv) {
    CLI::App app;
    std::string out = "(unset)";
    bool dry_run = false;
    app.add_option("--out", out);
    app.add_flag("--dry-run", dry_run);
    CLI11_PARSE(app, argc, argv);
    std::cout << "out '" << out << "', dry-run " << (dry_run ? "on" : "off") << "\n";
}
CPP
g++ -std=c++17 -isystem "$folder/cli/usr/include" "$folder/try.cpp" -o "$folder/try"
echo "CLI11 2.1.2. Expected of --out= --dry-run: out '', dry-run on. What happens:"
first=$("$folder/try" --out= --dry-run)
second=$("$folder/try" --dry-run=7)
echo "  --out= --dry-run    $first"
echo "  --dry-run=7         $second"
[[ $first == "out '--dry-run', dry-run off" && $second == *"dry-run on" ]] ||
    { echo "changed: an empty value no longer takes the next option"; exit 1; }
