// The command line, parsed by CLI11 with the table of options.
#pragma once
#include <string>
#include <vector>

#include "llmc/train/options/settings.h"

namespace llmc {

struct CommandLine {
    enum class Command { train, sample, eval, info } command = Command::train;
    Config config;
    Given given;
    bool dry_run = false;
    bool all_tensors = false;  // --dry-run --all: a row for every block
    std::string checkpoint;    // of the other commands
};

// Parses and validates; the command line wins over --config. Prints and exits 0 for --help, --version, --print-config
// and --options-json; usage error for invalid input.
CommandLine parse_command_line(int argc, char** argv);

}  // namespace llmc
